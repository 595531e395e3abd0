"""Functions and closures of the notebook, restored onto the live namespace.

cloudpickle gives a function a copy of the globals that it uses. A function of the notebook must see later
changes of its globals instead, so it is made of its code and *the* namespace; and functions that share a
closure's cell share it again. Classes are left to cloudpickle; their methods come here as functions.
"""

from __future__ import annotations

import functools
import types
from typing import Any

_STATE = ("__defaults__", "__kwdefaults__", "__doc__", "__qualname__", "__module__")


def reduce_function(function: types.FunctionType) -> tuple[Any, ...]:
    """For functions whose globals are the user's namespace, which the pickle's memo holds already."""
    state = {name: getattr(function, name) for name in _STATE}
    state["__dict__"] = dict(function.__dict__)
    state["__annotations__"] = _annotations(function)
    if parameters := getattr(function, "__type_params__", ()):
        state["__type_params__"] = parameters
    arguments = (function.__code__, function.__globals__, function.__name__, function.__closure__)
    return _function, arguments, state, None, None, _set_function_state


def reduce_cached_function(cached: Any) -> Any:
    """For ``functools.lru_cache`` of a function of the notebook; the cache itself starts empty again.

    Its own reduction names it by module and name, which finds nothing in ``__main__``.
    """
    if cached.__module__ != "__main__":
        return cached.__reduce__()
    return _cached_function, (cached.__wrapped__, cached.cache_parameters()), dict(cached.__dict__)


def reduce_cell(cell: types.CellType) -> tuple[Any, ...]:
    try:
        contents = cell.cell_contents
    except ValueError:
        return types.CellType, ()
    return types.CellType, (), (contents,), None, None, _set_cell


def _annotations(function: types.FunctionType) -> dict[str, Any]:
    """Evaluated annotations; Python 3.14 evaluates them late, and a name may be missing by now."""
    try:
        return dict(function.__annotations__)
    except NameError:
        return {}


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _function(code: types.CodeType, namespace: dict[str, Any], name: str, closure: Any) -> types.FunctionType:
    return types.FunctionType(code, namespace, name, None, closure)


def _cached_function(function: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _set_function_state(function: types.FunctionType, state: dict[str, Any]) -> None:
    function.__dict__.update(state.pop("__dict__"))
    for name, value in state.items():
        setattr(function, name, value)


def _set_cell(cell: types.CellType, state: tuple[Any]) -> None:
    cell.cell_contents = state[0]
