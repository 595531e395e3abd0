"""Reads the skeleton back; what cannot be made costs only itself.

The fast way is the C unpickler, with stand-ins for classes that cannot be imported any more. Where an
object's own code raises (``__setstate__``, a constructor), the pickle is read once more in Python, which
can put a `Placeholder` in the object's place and go on.
"""

from __future__ import annotations

import functools
import importlib
import pickle
from typing import Any, ClassVar

from ..errors import StoreError
from . import memory
from .pickler import entry, one_line_reason, type_name
from .placeholder import Placeholder, lost_class


class _Finding:
    """Finds classes and functions by name, and books what is missing under the variable that needs it.

    ``failures`` are the placeholders to report; ``_unnamed`` those whose variable is not complete yet.
    """

    def _start(self) -> None:
        self.failures: list[Placeholder] = []
        self._unnamed: list[Placeholder] = []

    def find_class(self, module: str, name: str) -> Any:
        try:
            found = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except Exception as error:  # importing runs the module's own code
            reason = f"{module}.{name} cannot be imported: {error}"
            self.lose(f"{module}.{name}", reason)
            return lost_class(module, name, reason, self._unnamed)
        if found is entry:
            return self._complete
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
        return name, value


def _fresh_class(make_class: Any) -> Any:
    """cloudpickle finds a class that it made earlier in this process and would change it in place.

    A restore must make its own: the class in the namespace may have been changed since the snapshot.
    """

    def make(*arguments: Any) -> Any:
        *first, _tracker_id, extra = arguments
        return make_class(*first, None, extra)

    return make


_CLASS_MAKERS = ("_make_skeleton_class", "_make_skeleton_enum")


class FastUnpickler(_Finding, pickle.Unpickler):
    """The C unpickler. ``live`` are the objects that stand first in its memo."""

    def __init__(self, file: Any, live: list[Any]) -> None:
        super().__init__(file)
        self.memo = dict(enumerate(live))
        self._start()


_PYTHON: Any = pickle._Unpickler


class PatientUnpickler(_Finding, _PYTHON):
    """The same in Python, about 50 times slower, with every call guarded."""

    dispatch: ClassVar[dict[int, Any]] = dict(_PYTHON.dispatch)

    def __init__(self, file: Any, live: list[Any]) -> None:
        super().__init__(file)
        self.memo = dict(enumerate(live))
        self._start()

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
        try:
            return function(*arguments)
        except (StoreError, MemoryError):
            raise
        except Exception as error:
            cls = next((part for part in arguments[:1] if isinstance(part, type)), None)
            what = type_name(cls) if cls else getattr(function, "__qualname__", repr(function))
            return self.lose(what, one_line_reason(error))

    def _guarded_build(self) -> None:
        instance = self.stack[-2]
        try:
            _PYTHON.load_build(self)
        except (StoreError, MemoryError):
            raise
        except Exception as error:
            self._replace(instance, self.lose(type_name(type(instance)), one_line_reason(error)))

    def _guarded_items(self, opcode: Any, container: Any) -> None:
        """Items for a container, which takes them by its own code if its class is the user's."""
        try:
            opcode(self)
        except (StoreError, MemoryError):
            raise
        except Exception as error:
            if not isinstance(container, Placeholder):
                self._replace(container, self.lose(type_name(type(container)), one_line_reason(error)))

    def _replace(self, lost: Any, placeholder: Placeholder) -> None:
        """Put the placeholder where ``lost`` is on the stack, and where later references look."""
        for index, item in enumerate(self.stack):
            if item is lost:
                self.stack[index] = placeholder
        for key, item in self.memo.items():
            if item is lost:
                self.memo[key] = placeholder


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
