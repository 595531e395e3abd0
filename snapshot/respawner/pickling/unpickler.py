"""Reads the skeleton back; what cannot be made costs only itself.

The fast way is the C unpickler, with stand-ins for classes that cannot be imported any more. Where an
object's own code raises (``__setstate__``, a constructor), the pickle is read once more in Python, which
can put a `Placeholder` in the object's place and go on.
"""

from __future__ import annotations

import functools
import importlib
import pickle
from typing import Any

from ..errors import StoreError
from .pickler import entry, type_name
from .placeholder import Placeholder, lost_class


class _Finding:
    """Finds classes and functions by name, and notes what is missing."""

    failures: list[Placeholder]

    def find(self, module: str, name: str) -> Any:
        try:
            found = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (StoreError, MemoryError):
            raise
        except Exception as error:  # importing runs the module's own code
            reason = f"{module}.{name} cannot be imported: {error}"
            self.failures.append(Placeholder("?", f"{module}.{name}", reason))
            return lost_class(module, name, reason)
        return found


def _fresh_class(make_class: Any) -> Any:
    """cloudpickle finds a class that it made earlier in this process and would change it in place.

    A restore must make its own: the class in the namespace may have been changed since the snapshot.
    """

    def make(*arguments: Any) -> Any:
        *first, _tracker_id, extra = arguments
        return make_class(*first, None, extra)

    return make


_CLASS_MAKERS = ("_make_skeleton_class", "_make_skeleton_enum")


class FastUnpickler(pickle.Unpickler, _Finding):
    """The C unpickler. ``live`` are the objects that stand first in its memo."""

    def __init__(self, file: Any, live: list[Any]) -> None:
        super().__init__(file)
        self.memo = dict(enumerate(live))
        self.failures = []

    def find_class(self, module: str, name: str) -> Any:
        found = self.find(module, name)
        return _fresh_class(found) if name in _CLASS_MAKERS and "cloudpickle" in module else found


class PatientUnpickler(pickle._Unpickler, _Finding):  # type: ignore[name-defined]
    """The same in Python, about 50 times slower, with every call guarded."""

    dispatch = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]  # noqa: RUF012

    def __init__(self, file: Any, live: list[Any]) -> None:
        super().__init__(file)
        self.memo = dict(enumerate(live))
        self.failures = []
        self._reported = 0

    find_class = FastUnpickler.find_class

    def _guarded_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        made = self.stack[-1] = self._make(function, arguments)
        is_setter = len(arguments) == 2 and len(self.stack) > 1 and self.stack[-2] is arguments[0]
        if is_setter and any(made is failure for failure in self.failures[-1:]):
            # A state setter: called for an object that is on the stack already, its result is dropped.
            self._replace(arguments[0], made)
        if function is entry:
            self._name_failures(arguments[0])

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
            return self._lose(
                type_name(cls) if cls else getattr(function, "__qualname__", repr(function)), error
            )

    def _guarded_build(self) -> None:
        instance = self.stack[-2]
        try:
            pickle._Unpickler.load_build(self)  # type: ignore[attr-defined]
        except (StoreError, MemoryError):
            raise
        except Exception as error:
            self._replace(instance, self._lose(type_name(type(instance)), error))

    def _guarded_items(self, opcode: Any) -> None:
        """Items for a container: ``self.metastack`` holds the stack below the mark, the container last."""
        container = self.metastack[-1][-1]
        try:
            if isinstance(container, Placeholder):
                self.pop_mark()
            else:
                opcode(self)
        except (StoreError, MemoryError):
            raise
        except Exception as error:
            self._replace(container, self._lose(type_name(type(container)), error))

    def _lose(self, what: str, error: Exception) -> Placeholder:
        placeholder = Placeholder("?", what, f"{type(error).__name__}: {error}"[:300])
        self.failures.append(placeholder)
        return placeholder

    def _replace(self, lost: Any, placeholder: Placeholder) -> None:
        """Put the placeholder where ``lost`` is on the stack, and where later references look."""
        for index, item in enumerate(self.stack):
            if item is lost:
                self.stack[index] = placeholder
        for key, item in self.memo.items():
            if item is lost:
                self.memo[key] = placeholder

    def _name_failures(self, name: str) -> None:
        """Failures since the last variable was complete were reached through this one."""
        for placeholder in self.failures[self._reported :]:
            placeholder.__dict__["respawner_path"] = name
        self._reported = len(self.failures)


def _guard_opcodes() -> None:
    python = pickle._Unpickler  # type: ignore[attr-defined]
    table = PatientUnpickler.dispatch
    table[pickle.REDUCE[0]] = PatientUnpickler._guarded_reduce
    table[pickle.BUILD[0]] = PatientUnpickler._guarded_build
    table[pickle.NEWOBJ[0]] = PatientUnpickler._guarded_newobj
    table[pickle.NEWOBJ_EX[0]] = PatientUnpickler._guarded_newobj_ex
    for code, opcode in (
        (pickle.APPENDS, python.load_appends),
        (pickle.SETITEMS, python.load_setitems),
        (pickle.ADDITEMS, python.load_additems),
    ):
        table[code[0]] = lambda self, opcode=opcode: self._guarded_items(opcode)


_guard_opcodes()
