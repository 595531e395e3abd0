"""Writes the whole namespace as one pickle, and goes on where an object fails.

An object whose reduction raises becomes a `Placeholder`, wherever it is nested, in the same pass: the C
pickler asks `reducer_override` for everything but built-in containers and scalars, and what an object would
do there is tried before the pickler sees it. That costs a Python call per object of a type that does
anything of its own; plain instances are only tried once a type.
"""

from __future__ import annotations

import copyreg
import enum
import importlib
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Any

import cloudpickle
from cloudpickle.cloudpickle import _should_pickle_by_reference as is_importable

from ..readable import readable_size
from . import containers, libraries, standard_library, synchronization, weak_references
from .attributes import attributes_of, made_by, may_share_its_dict, set_attributes, set_whole_dict
from .built_in_types import reduce_built_in
from .limits import OVERDONE, Again, TakesTooLong, memory_is_left, object_seconds
from .lineage import Lineage, weight
from .notebook_classes import reduce_class, reduce_enum_member
from .notebook_code import CodeReducer, reduce_cell, reduce_function, reduce_made_module
from .open_files import FILE_TYPES, NotSafeError, reduce_file
from .placeholder import Placeholder, lost
from .regions import RegionTable
from .segments import SegmentFile, Sizes
from .survivors import SURVIVORS
from .unpicklable import one_line_reason, reason_against, type_name
from .watch import too_long


class Entry:
    """A variable on its way into the pickle; comes back as the tuple ``(name, value)``."""

    __slots__ = ("name", "value")

    def __init__(self, name: str, value: Any) -> None:
        self.name = name
        self.value = value


class Failure:
    """An object that got a placeholder, and the variable through which it was reached first."""

    def __init__(self, name: str, obj: Any, reason: str) -> None:
        self.name = name
        self.obj = obj
        self.reason = reason


def entry(name: str, value: Any) -> tuple[str, Any]:
    """What an `Entry` is pickled as a call of."""
    return name, value


# Iterators that cannot raise, and so need not be unrolled to find out.
_SAFE_FOR_ITEMS: tuple[type, ...] = (type(iter([])), type(iter(())))
_SAFE_FOR_PAIRS: tuple[type, ...] = (type(iter({}.items())),)
_MOST_ITEMS = 50_000_000
"""Of an iterator that a ``__reduce__`` returns; one that never ends would take all memory."""


class NamespacePickler(cloudpickle.Pickler):
    """One capture. ``live`` maps ids of objects that the next kernel has itself to their memo number.

    ``failures``, ``notes`` and ``bytes_by_name`` are filled while `dump` runs.
    """

    def __init__(self, file: SegmentFile, sizes: Sizes, live: list[Any], namespace: dict[str, Any]) -> None:
        super().__init__(file, protocol=5)
        self.memo = {id(obj): (number, obj) for number, obj in enumerate(live)}
        self.regions = RegionTable()
        self.failures: list[Failure] = []
        self.notes: dict[str, None] = {}
        self.bytes_by_name: dict[str, int] = {}
        self.deep = False
        self.careful = False
        """Look for objects whose reduction never ends; set by `watch` as well."""
        self.abandoned = False
        """Another pass has taken over, this one's thread was stuck."""
        self.variable = ""
        self._file = file
        self._sizes = sizes
        self._namespace = namespace
        self._lineage = Lineage()
        self._overdone = OVERDONE.types()
        self._counted = 0
        self._plain: set[type] = set()
        self._reducers: dict[type, Callable[[Any], Any]] = {
            Entry: self._reduce_entry,
            types.FunctionType: self._reduce_any_function,
            types.CellType: reduce_cell,
            types.CodeType: CodeReducer(),
            types.ModuleType: self._reduce_module,
            OrderedDict: self._reduce_ordered_dictionary,
            **standard_library.REDUCERS,
            **weak_references.REDUCERS,
        }
        self._add_library_reducers()

    def reducer_override(self, obj: Any) -> Any:
        cls = type(obj)
        if cls in self._plain:
            return NotImplemented
        try:
            reducer = self._reducers.get(cls) or self._choose_reducer(cls)
            return reducer(obj)
        except BaseException as error:
            return self._failed(obj, error)

    def _failed(self, obj: Any, error: BaseException) -> tuple[Any, ...]:
        """An object's own code raised ``error``, whatever that is; Ctrl-C is held back during a capture."""
        if self.abandoned or isinstance(error, Again):
            raise error
        if isinstance(error, RecursionError):
            if not self.deep:
                raise error
            return self.give_up(obj, "nested too deeply")
        if isinstance(error, MemoryError) and not memory_is_left():
            raise error
        if isinstance(error, TakesTooLong):
            reason = too_long(object_seconds())
            OVERDONE.remember(obj, reason)
            self._reducers[type(obj)] = self._try_warily
            return self.give_up(obj, reason)
        return self.give_up(obj, str(error) if isinstance(error, NotSafeError) else one_line_reason(error))

    def give_up(self, obj: Any, reason: str) -> tuple[Any, ...]:
        """Report ``obj`` as lost and reduce it to a placeholder."""
        self.failures.append(Failure(self.variable, obj, reason))
        return lost, (self.variable, type_name(type(obj)), reason, SURVIVORS.token(obj))

    def note(self, text: str) -> None:
        self.notes[f"{self.variable}: {text}"] = None

    # Which reducer a type gets ---------------------------------------------------------------------------

    def _add_library_reducers(self) -> None:
        """Only for libraries that the user has imported: this package imports none of them."""
        storage_of = None
        if "torch" in sys.modules and hasattr(sys.modules["torch"], "UntypedStorage"):
            import torch

            from . import torch_modules as modules
            from . import torch_tensors as tensors

            def storage_of(base: Any) -> Any:
                return tensors.storage_of(base, self.regions)

            self._reducers |= {
                torch.Tensor: lambda tensor: tensors.reduce_tensor(tensor, self.regions, self.note),
                torch.nn.Parameter: lambda tensor: tensors.reduce_tensor(tensor, self.regions, self.note),
                torch.UntypedStorage: lambda storage: tensors.reduce_storage(storage, self.regions),
                torch.TypedStorage: tensors.reduce_typed_storage,
                torch.Generator: tensors.reduce_generator,
            }
            self._prefer_for_functions(modules.reduce_compiled_function)
        if "numpy" in sys.modules and hasattr(sys.modules["numpy"], "ndarray"):
            import numpy as np

            from .mapped_files import MappedFiles
            from .numpy_arrays import reduce_array

            files = self.regions.shared(MappedFiles, self.note)
            self._reducers[np.ndarray] = lambda array: reduce_array(array, self.regions, storage_of, files)

    def _prefer_for_functions(self, reduce_special: Callable[[Any], Any]) -> None:
        """Ask ``reduce_special`` before the reducer of ordinary functions; it answers None for those."""
        otherwise = self._reducers[types.FunctionType]
        self._reducers[types.FunctionType] = lambda function: reduce_special(function) or otherwise(function)

    def _torch_reducer(self, cls: type) -> Callable[[Any], Any] | None:
        torch: Any = sys.modules.get("torch")
        if getattr(torch, "Tensor", None) not in self._reducers:
            return None
        if issubclass(cls, torch.Tensor):
            from .torch_tensors import reduce_subclass_tensor

            return lambda tensor: reduce_subclass_tensor(tensor, self._try, self.note)
        from .torch_modules import reducer_for

        return reducer_for(cls)

    def _choose_reducer(self, cls: type) -> Callable[[Any], Any]:
        """Decide once a type, and remember it."""
        if cls in FILE_TYPES:
            reducer: Callable[[Any], Any] = lambda file: reduce_file(file, self.variable)  # noqa: E731
        elif why_not := reason_against(cls):
            reducer = lambda obj: self.give_up(obj, why_not)  # noqa: E731
        elif cls in self._overdone:
            reducer = self._try_warily
        elif issubclass(cls, type):
            reducer = self._reduce_any_class
        elif issubclass(cls, enum.Enum) and not is_importable(cls):
            reducer = reduce_enum_member
        elif reduce_ours := standard_library.reducer_for(cls):
            reducer = reduce_ours
        elif reduce_contents := synchronization.reducer_for(cls):
            reducer = reduce_contents
        elif reduce_by_torch := self._torch_reducer(cls):
            reducer = reduce_by_torch
        elif of_library := libraries.reducer_for(cls, self.regions, self.note):
            reducer = of_library
        elif containers.has_code_of_its_own(cls) and not is_importable(cls):
            reducer = self._try_container
        elif _has_constructor(cls, self.dispatch_table):
            reducer = self._without_constructor(cls)
        elif _needs_setter(cls):
            reducer = self._try_with_setter
        elif _is_plain(cls, self.dispatch_table) and not is_importable(cls) and may_share_its_dict(cls):
            reducer = self._try_with_whole_dict
        elif _is_plain(cls, self.dispatch_table):
            reducer = self._try_plain
        else:
            reducer = self._try
        self._reducers[cls] = reducer
        return reducer

    def _reduce_entry(self, item: Entry) -> tuple[Any, ...]:
        self.count_bytes()
        self.variable = item.name
        self._file.begin_variable(item.name)
        if item.name in self._sizes.enormous:
            _, known = self.give_up(item.value, "it does not fit into memory a second time")
            return entry, (item.name, Placeholder(*known[:3]))
        return entry, (item.name, item.value)

    def _reduce_any_function(self, function: types.FunctionType) -> Any:
        if function.__globals__ is self._namespace or not is_importable(function):
            return reduce_function(function, self._namespace) or super().reducer_override(function)
        return NotImplemented

    def _reduce_module(self, module: types.ModuleType) -> Any:
        return self._try(module) if is_importable(module) else reduce_made_module(module)

    def _reduce_ordered_dictionary(self, mapping: OrderedDict[Any, Any]) -> Any:
        """A module has nine empty ones, for its hooks: a third of the calls that a model takes otherwise."""
        return self._try(mapping) if mapping or vars(mapping) else (OrderedDict, ())

    def _reduce_any_class(self, cls: Any) -> Any:
        if cls.__module__ == "builtins" or is_importable(cls):
            return super().reducer_override(cls)
        return reduce_built_in(cls) or reduce_class(cls, is_importable)

    def _try_plain(self, obj: Any) -> Any:
        reduced = self._try(obj)
        self._plain.add(type(obj))
        return reduced

    def _try_with_setter(self, obj: Any) -> Any:
        if sys.version_info < (3, 11) and _is_plain(type(obj), self.dispatch_table, asks=False):
            # There `object` has no __getstate__, and a __getattr__ of the user's may make one up.
            return copyreg.__newobj__, (type(obj),), attributes_of(obj), None, None, set_attributes  # type: ignore[attr-defined]
        reduced = self._try(obj)
        if isinstance(reduced, str) or reduced[2] is None or reduced[5] is not None:
            return reduced
        return (*reduced[:5], set_attributes)

    def _try_with_whole_dict(self, obj: Any) -> Any:
        function, arguments, state, *rest = self._try(obj)
        setter = set_whole_dict if state is not None and not hasattr(obj, "__setstate__") else rest[2]
        return function, arguments, state, *rest[:2], setter

    def _try_container(self, obj: Any) -> Any:
        return _checked(obj, containers.reduce_container(obj))

    def _without_constructor(self, cls: type) -> Callable[[Any], Any]:
        """Made by the ``__new__`` of the first class that is not the notebook's: its own may want arguments,
        or count and register what it makes."""
        base = next(base for base in cls.__mro__ if "__new__" in vars(base) and is_importable(base))
        try_it = self._try_with_setter if _needs_setter(cls) else self._try

        def reduce(obj: Any) -> Any:
            reduced = try_it(obj)
            if reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
                return reduced
            return (made_by, (base, *reduced[1]), *reduced[2:])

        return reduce

    def _try_warily(self, obj: Any) -> Any:
        """For types of which an object was given up for time or size."""
        why_not = OVERDONE.reason(obj)
        return self._try(obj) if why_not is None else self.give_up(obj, why_not)

    def _try(self, obj: Any) -> Any:
        """Reduce ``obj`` as the pickler would, and check what it would only find out too late."""
        by_type = self.dispatch_table.get(type(obj))
        reduced = by_type(obj) if by_type is not None else obj.__reduce_ex__(5)
        if isinstance(reduced, str):
            _check_global(obj, reduced)
            return reduced
        checked = _checked(obj, reduced)
        del reduced
        if self.careful:
            self._look_for_too_much(obj, checked)
        return checked

    def _look_for_too_much(self, obj: Any, reduced: tuple[Any, ...]) -> None:
        """Raises where this object, or the one that it was made by, is what makes the pickle too large."""
        culprit = self._lineage.never_ending(obj, reduced)
        if culprit is not None:
            OVERDONE.remember(culprit, "its __reduce__ makes new objects without end")
            raise Again
        if self.variable in self._sizes.large and weight(reduced) > self._sizes.most_bytes // 2:
            limit = readable_size(self._sizes.most_bytes)
            OVERDONE.remember(obj, f"its __reduce__ returns more than one object may hold ({limit})")
            raise Again

    def count_bytes(self) -> None:
        """Book the large memory that was found since the last call to the variable at hand."""
        total = self._file.large_bytes + sum(r.length for r in self.regions.regions[self._counted :])
        self._counted = len(self.regions.regions)
        self._file.large_bytes = 0
        self.bytes_by_name[self.variable] = self.bytes_by_name.get(self.variable, 0) + total


def _has_constructor(cls: Any, dispatch_table: Any) -> bool:
    """Whether instances have a ``__new__`` of the notebook, and nothing of their own that minds pickling."""
    makers = [base for base in cls.__mro__ if isinstance(vars(base).get("__new__"), staticmethod)]
    return (
        bool(makers)
        and cls not in dispatch_table
        and not is_importable(makers[0])
        and cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__reduce__ is object.__reduce__
        and getattr(cls, "__getstate__", None) is getattr(object, "__getstate__", None)
        and not hasattr(cls, "__setstate__")
        and not any(
            isinstance(getattr(cls, name, None), types.FunctionType)
            for name in ("__getnewargs__", "__getnewargs_ex__")
        )
    )


def _is_plain(cls: type, dispatch_table: Any, asks: bool = True) -> bool:
    """Whether instances are reduced by `object` alone: if one of them works, all do.

    ``asks``: whether a ``__getattr__`` of the class counts, since it may answer for what the class lacks.
    """
    return (
        cls not in dispatch_table
        and cls.__reduce_ex__ is object.__reduce_ex__
        and cls.__reduce__ is object.__reduce__
        and getattr(cls, "__getstate__", None) is getattr(object, "__getstate__", None)
        and not any(hasattr(cls, name) for name in ("__getnewargs__", "__getnewargs_ex__"))
        and (not asks or _asks_nothing(cls))
        and not issubclass(cls, list | dict)  # a subclass may iterate in its own way
    )


def _asks_nothing(cls: type) -> bool:
    return not hasattr(cls, "__getattr__") and cls.__getattribute__ is object.__getattribute__


def _needs_setter(cls: Any) -> bool:
    """Whether unpickling would run the class's own code before the object has its attributes.

    It asks an instance for ``__setstate__``, which ``__getattr__`` may answer, and sets slots one by one.
    """
    if hasattr(cls, "__setstate__") or not cls.__flags__ & _HEAP_TYPE:
        return False
    slots = any(vars(base).get("__slots__") for base in cls.__mro__)
    return (
        hasattr(cls, "__getattr__")
        or cls.__getattribute__ is not object.__getattribute__
        or (slots and cls.__setattr__ is not object.__setattr__)
    )


_HEAP_TYPE = 1 << 9


def _check_global(obj: Any, name: str) -> None:
    module_name = pickle.whichmodule(obj, name)  # type: ignore[attr-defined]
    if module_name == "__main__":
        raise pickle.PicklingError(
            f"only its name {name!r} would be saved, and a new kernel has nothing there"
        )
    found = importlib.import_module(module_name)
    for part in name.split("."):
        found = getattr(found, part)
    if found is not obj:
        raise pickle.PicklingError(f"it is not the same object as {module_name}.{name}")


def _checked(obj: Any, reduced: Any) -> tuple[Any, ...]:
    """``reduced``, if the pickler will accept it; lazy parts are made now, while a failure costs only obj."""
    if not isinstance(reduced, tuple) or not 2 <= len(reduced) <= 6:
        raise pickle.PicklingError("its __reduce__ does not return a tuple of two to six items")
    function, arguments, *rest = reduced
    if not callable(function) or not isinstance(arguments, tuple):
        raise pickle.PicklingError("its __reduce__ does not return a callable and its arguments")
    if function is copyreg.__newobj__ and (not arguments or arguments[0] is not obj.__class__):  # type: ignore[attr-defined]
        raise pickle.PicklingError("its __reduce__ makes an object of another class")
    state, items, pairs, setter = (*rest, None, None, None, None)[:4]
    items, pairs = _unrolled(items, _SAFE_FOR_ITEMS), _unrolled(pairs, _SAFE_FOR_PAIRS)
    if isinstance(pairs, list) and not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        raise pickle.PicklingError("its __reduce__ has dict items that are no pairs")
    if setter is not None and not callable(setter):
        raise pickle.PicklingError("its __reduce__ has a state setter that is not callable")
    items, pairs = (part if part is None else iter(part) for part in (items, pairs))
    return function, arguments, state, items, pairs, setter


def _unrolled(iterator: Any, safe: tuple[type, ...]) -> Any:
    """A list of what a user's iterator yields; it may raise, which must happen before pickling goes on."""
    if iterator is None or type(iterator) in safe:
        return iterator
    items = list(islice(iterator, _MOST_ITEMS + 1))
    if len(items) > _MOST_ITEMS:
        raise pickle.PicklingError(f"its __reduce__ yields more than {_MOST_ITEMS:,} items")
    return items
