"""Reads the skeleton back; what cannot be made costs only itself.

The fast way is the C unpickler, with stand-ins for classes that cannot be imported any more. Where an
object's own code raises (``__setstate__``, a constructor), the pickle is read once more in Python, which
can put a `Placeholder` in the object's place and go on.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import pickle
from types import CodeType
from typing import Any, ClassVar

from ..errors import StoreError
from . import late_hashes, memory
from .limits import TakesTooLong, memory_is_left, object_seconds
from .pickler import entry
from .placeholder import Placeholder, lost, lost_class
from .unpicklable import one_line_reason, type_name
from .watch import too_long


class _Finding:
    """Finds classes and functions by name, and books what is missing under the variable that needs it.

    ``failures`` are the placeholders to report; ``_unnamed`` those whose variable is not complete yet.
    ``names`` gets each variable once it is complete: see `early_names`.
    """

    def _start(self) -> None:
        self.failures: list[Placeholder] = []
        self._unnamed: list[Placeholder] = []
        self.names: dict[str, Any] = {}

    def finish(self) -> None:
        """Let go of the memo: it would hold every object until the next garbage collection, because it
        refers to this unpickler."""
        self.memo: Any = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            found = _imported(module, name)
        except BaseException as error:  # importing runs the module's own code, which may even say sys.exit()
            reason = f"{module}.{name} cannot be imported: {one_line_reason(error)}"
            self.lose(f"{module}.{name}", reason)
            return lost_class(module, name, reason, self._unnamed)
        if found is entry:
            return self._complete
        if found is Placeholder:  # as lost objects were written by the first versions
            return lost
        if (late := late_hashes.current()) is not None:
            late.class_is_there(found)
        return _fresh_class(found) if name in _CLASS_MAKERS and "cloudpickle" in module else found

    def lose(self, what: str, reason: str) -> Placeholder:
        placeholder = Placeholder("?", what, reason[:300])
        self.failures.append(placeholder)
        self._unnamed.append(placeholder)
        return placeholder

    def _complete(self, name: str, value: Any) -> tuple[str, Any]:
        """Stands for `entry`: failures since the last variable was complete were reached through this one."""
        for placeholder in self._unnamed:
            placeholder.__dict__["respawner_path"] = name
        self._unnamed.clear()
        memory.current().variable_is_complete(name)
        if name != "Out":  # the history, which is no variable
            self.names[name] = value
        return name, value


def _imported(module: str, name: str) -> Any:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        package, _, private = module.rpartition(".")
        if not private.startswith("_") or not package:
            raise
        found = importlib.import_module(package)  # another version keeps it elsewhere, under the public name
    for part in _RENAMED.get((module, name), name).split("."):
        found = getattr(found, part)
    return found


_RENAMED = {("enum", "EnumType"): "EnumMeta"}
"""The name of Python 3.11 is an alias there, and unknown before."""


def _fresh_class(make_class: Any) -> Any:
    """cloudpickle finds a class that it made earlier in this process and would change it in place.

    A restore must make its own: the class in the namespace may have been changed since the snapshot.
    """

    def make(*arguments: Any) -> Any:
        *first, _tracker_id, extra = arguments
        return make_class(*first, None, extra)

    return make


_CLASS_MAKERS = ("_make_skeleton_class", "_make_skeleton_enum")


def seed_pickle(count: int) -> bytes:
    """A pickle that puts that many live objects first into the memo of whoever loads it, and is None.

    The C unpickler drops what is assigned to its ``memo`` from a dict (CPython, seen in 3.10 to 3.13).
    """
    memoized = b"".join(b"J" + number.to_bytes(4, "little") + b"Q\x940" for number in range(count))
    return b"\x80\x05" + memoized + b"N."


class FastUnpickler(_Finding, pickle.Unpickler):
    """The C unpickler. ``live`` are the objects that stand first in its memo.

    ``file`` begins with `seed_pickle`, which is loaded here.
    """

    def __init__(self, file: Any, live: list[Any]) -> None:
        super().__init__(file)
        self._live = live
        self._start()
        self.load()

    def persistent_load(self, number: int) -> Any:
        """Only the seed refers to objects in this way."""
        return self._live[number]


_PYTHON: Any = pickle._Unpickler


class PatientUnpickler(_Finding, _PYTHON):
    """The same in Python, about 50 times slower, with every call guarded."""

    dispatch: ClassVar[dict[int, Any]] = dict(_PYTHON.dispatch)

    def __init__(self, file: Any, live: list[Any]) -> None:
        super().__init__(file)
        self._live = live
        self._start()
        self._replaced: list[tuple[Any, Placeholder]] = []
        self._too_slow: set[Any] = set()
        self.load()

    def persistent_load(self, number: int) -> Any:
        """Only the seed refers to objects in this way."""
        return self._live[number]

    def load(self) -> Any:
        found = super().load()
        _replace_in_containers(self._replaced)
        self._replaced.clear()
        return found

    def _guarded_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        made = self.stack[-1] = self._make(function, arguments)
        is_setter = len(arguments) == 2 and len(self.stack) > 1 and self.stack[-2] is arguments[0]
        if is_setter and any(made is failure for failure in self.failures[-1:]):
            # A state setter: called for an object that is on the stack already, its result is dropped.
            self._replace(arguments[0], made)

    def _guarded_newobj(self) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        self.append(self._make(cls.__new__, (cls, *arguments)))

    def _guarded_newobj_ex(self) -> None:
        keywords, arguments, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.append(self._make(functools.partial(cls.__new__, cls, **keywords), arguments))

    def _make(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        cls = next((part for part in arguments[:1] if issubclass(type(part), type)), None)
        what = type_name(cls) if cls else getattr(function, "__qualname__", repr(function))
        if what in self._too_slow:
            return self.lose(what, _LIKE_ANOTHER)
        try:
            return function(*arguments)
        except BaseException as error:
            return self.lose(what, self._reason(error, what))

    def _guarded_build(self) -> None:
        instance = self.stack[-2]
        what = type_name(type(instance))
        if what in self._too_slow:
            self.stack.pop()
            self._replace(instance, self.lose(what, _LIKE_ANOTHER))
            return
        try:
            _PYTHON.load_build(self)
        except BaseException as error:
            self._replace(instance, self.lose(what, self._reason(error, what)))

    def _guarded_items(self, opcode: Any, container: Any) -> None:
        """Items for a container, which takes them by its own code if its class is the user's."""
        try:
            opcode(self)
        except BaseException as error:
            what = type_name(type(container))
            reason = self._reason(error, what)
            if not isinstance(container, Placeholder):
                self._replace(container, self.lose(what, reason))

    def _reason(self, error: BaseException, what: str) -> str:
        """Why that object is lost; raises what is not its own fault. Ctrl-C is held back during a restore."""
        if isinstance(error, StoreError) or (isinstance(error, MemoryError) and not memory_is_left()):
            raise error
        if isinstance(error, TakesTooLong):
            self._too_slow.add(what)
            return too_long(object_seconds(restoring=True))
        return one_line_reason(error)

    def _replace(self, left: Any, placeholder: Placeholder) -> None:
        """Put the placeholder where ``left`` is on the stack, and where later references look."""
        for index, item in enumerate(self.stack):
            if item is left:
                self.stack[index] = placeholder
        for key, item in self.memo.items():
            if item is left:
                self.memo[key] = placeholder
        self._replaced.append((left, placeholder))


_LIKE_ANOTHER = "like another one, its own code does not return"


def _replace_in_containers(replaced: list[tuple[Any, Placeholder]]) -> None:
    """Objects that refer back to a lost one got hold of it while it was made: they get the placeholder too."""
    for left, placeholder in replaced:
        for holder in gc.get_referrers(left):
            if isinstance(holder, dict):
                _replace_values(holder, left, placeholder)
            elif type(holder) is list:
                holder[:] = [placeholder if item is left else item for item in holder]
            elif holder is not left and not isinstance(holder, type):
                with contextlib.suppress(Exception):  # no __dict__, or a property of the user's
                    _replace_values(object.__getattribute__(holder, "__dict__"), left, placeholder)


def _replace_values(holder: dict[Any, Any], left: Any, placeholder: Placeholder) -> None:
    for key, value in dict.items(holder):
        if value is left:
            dict.__setitem__(holder, key, placeholder)  # an existing key: the dict keeps its shape


GUARDED_CALLS: set[CodeType] = {
    PatientUnpickler._make.__code__,
    PatientUnpickler._guarded_build.__code__,
    PatientUnpickler._guarded_items.__code__,
    *late_hashes.GUARDED_HASHES,
}
"""Those that call an object's own code."""


def _guard_opcodes() -> None:
    table = PatientUnpickler.dispatch
    table[pickle.REDUCE[0]] = PatientUnpickler._guarded_reduce
    table[pickle.BUILD[0]] = PatientUnpickler._guarded_build
    table[pickle.NEWOBJ[0]] = PatientUnpickler._guarded_newobj
    table[pickle.NEWOBJ_EX[0]] = PatientUnpickler._guarded_newobj_ex
    for code in (pickle.APPENDS, pickle.SETITEMS, pickle.ADDITEMS):
        # The container is the last thing below the mark.
        opcode = _PYTHON.dispatch[code[0]]
        table[code[0]] = lambda self, opcode=opcode: self._guarded_items(opcode, self.metastack[-1][-1])
    for code, depth in ((pickle.APPEND, -2), (pickle.SETITEM, -3)):
        opcode = _PYTHON.dispatch[code[0]]
        table[code[0]] = lambda self, opcode=opcode, depth=depth: self._guarded_items(
            opcode, self.stack[depth]
        )


_guard_opcodes()
