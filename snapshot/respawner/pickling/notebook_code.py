"""Functions, closures and code of the notebook, restored onto the live namespace.

cloudpickle gives a function a copy of the globals that it uses. A function of the notebook must see later
changes of its globals instead, so it is made of its code and *the* namespace; and functions that share a
closure's cell share it again. A wrapper that a library made around a function of the notebook keeps that
library's own globals. Classes are the business of `notebook_classes`; their methods come here.

Bytecode belongs to one version of Python (and another may crash on it), so code takes its source along:
another version compiles that again, without running it. Tracebacks and ``inspect.getsource`` need it too.
"""

from __future__ import annotations
import __future__

import ast
import functools
import gc
import importlib.util
import inspect
import linecache
import sys
import types
from collections.abc import Iterator
from typing import Any

_STATE = ("__defaults__", "__kwdefaults__", "__doc__", "__qualname__", "__module__")
_MOST_GLOBALS = 256
"""A namespace that is neither the notebook's nor a module's is kept whole up to this many names."""
_FUTURE_FLAGS = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)

Source = tuple[str, str, "int | None"]
"""File name that the code carries, text, and the cell's number; or a module's name as the text."""
_OF_A_MODULE = -1


def reduce_function(function: types.FunctionType, namespace: dict[str, Any]) -> tuple[Any, ...] | None:
    """For functions that cannot be found by their name; None where cloudpickle's copy must do.

    ``namespace`` is the user's, which the pickle's memo holds already.
    """
    its_globals = function.__globals__
    maker: Any = _function
    place: Any = its_globals
    if its_globals is not namespace:
        module_name = its_globals.get("__name__")
        if getattr(sys.modules.get(str(module_name)), "__dict__", None) is its_globals:
            maker, place = _function_of_module, module_name
        elif "__spec__" in its_globals and (module := _module_of(its_globals)) is not None:
            maker, place = _function_of_made_module, module
        elif len(its_globals) > _MOST_GLOBALS:
            return None
    state = {name: getattr(function, name) for name in _STATE}
    state["__dict__"] = dict(function.__dict__)
    state["__annotations__"] = _annotations(function)
    if parameters := getattr(function, "__type_params__", ()):
        state["__type_params__"] = parameters
    arguments = (function.__code__, place, function.__name__, function.__closure__)
    return maker, arguments, state, None, None, _set_function_state


def reduce_made_module(module: types.ModuleType) -> tuple[Any, ...]:
    """For modules that cannot be imported, such as ``types.ModuleType("helpers")``."""
    state = {name: value for name, value in vars(module).items() if name != "__builtins__"}
    return types.ModuleType, (module.__name__,), state, None, None, _fill_module


def _module_of(its_globals: dict[str, Any]) -> types.ModuleType | None:
    """The module that has this dictionary, for one that `sys.modules` does not know. Slow, and rare."""
    owners = (owner for owner in gc.get_referrers(its_globals) if isinstance(owner, types.ModuleType))
    return next((owner for owner in owners if vars(owner) is its_globals), None)


def reduce_cell(cell: types.CellType) -> tuple[Any, ...]:
    try:
        contents = cell.cell_contents
    except ValueError:
        return types.CellType, ()
    return types.CellType, (), (contents,), None, None, _set_cell


class CodeReducer:
    """Reduces code objects. One for each pickle: all code of a cell shares one copy of the source."""

    def __init__(self) -> None:
        self._sources: dict[str, Source | None] = {}

    def __call__(self, code: types.CodeType) -> tuple[Any, ...]:
        filename = code.co_filename
        if filename not in self._sources:
            self._sources[filename] = _source_of(filename)
        place = (_qualified_name(code), code.co_firstlineno, code.co_flags & _FUTURE_FLAGS)
        return _code, (_magic(), self._sources[filename], place, _arguments_of(code))


def _source_of(filename: str) -> Source | None:
    """The text of a cell; files on the disk are not taken along, but the name of their module is."""
    found = linecache.cache.get(filename)
    if found is None or len(found) != 4 or found[1] is not None:  # lazy, or a file with a time stamp
        module = None if filename.startswith("<") else _module_from(filename)
        return None if module is None else ("", module, _OF_A_MODULE)
    numbers = getattr(getattr(_shell(), "compile", None), "_filename_map", {})
    return filename, "".join(found[2]), numbers.get(filename)


def _module_from(filename: str) -> str | None:
    """The name of the module that was read from that file. Not by `getattr`: lazy modules import what is asked for."""
    for name, module in list(sys.modules.items()):
        if (
            isinstance(module, types.ModuleType)
            and types.ModuleType.__getattribute__(module, "__dict__").get("__file__") == filename
        ):
            return name
    return None


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _qualified_name(code: types.CodeType) -> str:
    return getattr(code, "co_qualname", code.co_name)  # since Python 3.11


def _magic() -> int:
    return int.from_bytes(importlib.util.MAGIC_NUMBER[:2], "little")


def _arguments_of(code: types.CodeType) -> tuple[Any, ...]:
    """What `types.CodeType` takes, which is the same for all that have the same magic number."""
    numbers = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_nlocals)
    body = (code.co_stacksize, code.co_flags, code.co_code, code.co_consts, code.co_names, code.co_varnames)
    if sys.version_info >= (3, 11):
        name: tuple[Any, ...] = (code.co_filename, code.co_name, code.co_qualname, code.co_firstlineno)
        tables: tuple[Any, ...] = (code.co_linetable, code.co_exceptiontable)
    else:
        name, tables = (code.co_filename, code.co_name, code.co_firstlineno), (code.co_linetable,)
    return (*numbers, *body, *name, *tables, code.co_freevars, code.co_cellvars)


def _annotations(function: types.FunctionType) -> dict[str, Any]:
    """Evaluated annotations; Python 3.14 evaluates them late, and a name may be missing by now."""
    try:
        return dict(function.__annotations__)
    except NameError:
        return {}


_OF_NAMED_TUPLES = ("_make", "_replace", "_asdict")


class MissingCode:
    """Stands for code of another version of Python that cannot be compiled here. Harmless inside other code,
    which is compiled whole."""

    def __init__(self, reason: str, generated: bool) -> None:
        self.reason = reason
        self.generated = generated


class Unmade:
    """A method that a library generates for a class, such as a dataclass's: see `generated_methods`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _function(code: Any, namespace: dict[str, Any], name: str, closure: Any) -> Any:
    if isinstance(code, MissingCode):
        if code.generated and (name in _OF_NAMED_TUPLES or (name.startswith("__") and name.endswith("__"))):
            return Unmade(code.reason)
        raise ValueError(code.reason)
    return types.FunctionType(code, namespace, name, None, closure)


def _cached_function(function: Any, parameters: dict[str, Any]) -> Any:
    """As version 0.1.0 wrote them first: without what is in the cache."""
    return functools.lru_cache(**parameters)(function)


def _function_of_module(code: Any, module: str, name: str, closure: Any) -> Any:
    return _function(code, importlib.import_module(module).__dict__, name, closure)


def _function_of_made_module(
    code: types.CodeType, module: types.ModuleType, name: str, closure: Any
) -> types.FunctionType:
    return types.FunctionType(code, vars(module), name, None, closure)


def _fill_module(module: types.ModuleType, state: dict[str, Any]) -> None:
    vars(module).update(state)


def _set_function_state(function: Any, state: dict[str, Any]) -> None:
    if isinstance(function, Unmade):
        return
    function.__dict__.update(state.pop("__dict__"))
    for name, value in state.items():
        setattr(function, name, value)


def _set_cell(cell: types.CellType, state: tuple[Any]) -> None:
    cell.cell_contents = state[0]


def _code(magic: int, source: Source | None, place: tuple[str, int, int], arguments: tuple[Any, ...]) -> Any:
    of_module = source is not None and source[2] == _OF_A_MODULE
    if source is not None and not of_module:
        _remember(source)
    if magic == _magic():
        return types.CodeType(*arguments)
    name, line, flags = place
    if source is None:
        reason = f"{name} was compiled by another version of Python, and its source is not known"
        return MissingCode(reason, generated=True)
    filename, text, _ = source
    if of_module:
        found = _code_of_module(text, name, arguments)
        return found or MissingCode(f"{name} is not found in this version of {text}", generated=True)
    flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    whole = compile(text, filename, "exec", flags, dont_inherit=True)
    there = [c for c in _all_code(whole) if c.co_firstlineno == line and _same_name(c, name)]
    if there:
        return max(there, key=lambda code: _likeness(code, arguments))
    return MissingCode(f"{name} is not found when its cell is compiled by this version of Python", False)


def _likeness(code: types.CodeType, arguments: tuple[Any, ...]) -> int:
    """How much is the same as in another version's code: several lambdas may stand in one line."""
    ours = _arguments_of(code)
    numbers, texts = ours[:3] == arguments[:3], ours[8:10] == arguments[8:10]
    constants = [{repr(part) for part in args[7] if _is_plain(part)} for args in (ours, arguments)]
    return sum(
        (numbers, texts, ours[9][: ours[0]] == arguments[9][: arguments[0]], constants[0] == constants[1])
    )


def _is_plain(constant: Any) -> bool:
    return constant is not None and not isinstance(constant, types.CodeType | MissingCode)


def _code_of_module(module: str, name: str, arguments: tuple[Any, ...]) -> types.CodeType | None:
    """That function's code in the module as it is here: of that name, with those parameters and free variables."""
    loaded = importlib.import_module(module)
    text, file = inspect.getsource(loaded), inspect.getsourcefile(loaded) or module
    parameters = arguments[9][: arguments[0] + arguments[2]]
    for code in _all_code(compile(text, file, "exec", dont_inherit=True)):
        same = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] == parameters
        if same and _same_name(code, name) and code.co_freevars == arguments[-2]:
            return code
    return None


def _remember(source: Source) -> None:
    """Let tracebacks and `inspect` show the text again, and say which cell it was."""
    filename, text, number = source
    linecache.cache.setdefault(filename, (len(text), None, text.splitlines(keepends=True), filename))
    numbers = getattr(getattr(_shell(), "compile", None), "_filename_map", None)
    if number is not None and numbers is not None:
        numbers.setdefault(filename, number)


def _all_code(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _all_code(constant)


def _same_name(code: types.CodeType, name: str) -> bool:
    found = _qualified_name(code)
    shorter = found if len(found) < len(name) else name  # one of the versions may know only the last part
    return found == name or (("." not in shorter) and found.rpartition(".")[2] == name.rpartition(".")[2])
