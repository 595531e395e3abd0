"""Makes the running cell's variables those of the safe point, but for what a person has edited since.

The namespace first, then the variables of the notebook's functions that run. See `edits` for what stays as edited.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from types import FrameType
from typing import Any

from ..namespace import put_variables
from ..pickling.placeholder import Placeholder
from .edits import (
    arguments_of,
    bound_names,
    edited_defaults,
    edited_names,
    is_container,
    keeps_edit,
    mutated_in_loops,
)
from .frames import locals_of, parameters_of, put_locals, text_of
from .loops import edited_functions
from .positions import is_bar
from .stopped import Stopped


def put_in_place(
    shell: Any, variables: dict[str, Any], stopped: Stopped, functions: list[FrameType], source: str
) -> list[str]:
    """``stopped`` and ``variables`` as they were loaded. Returns lines that tell what is not as it was."""
    cell_edited = stopped.source != source
    names = edited_names(stopped.source, source) if cell_edited else set()
    kept = _as_edited(names, shell.user_ns, mutated_in_loops(source))
    put_variables(shell, _without(of_use(variables, shell.user_ns), kept), replace=False)
    told = [f"as edited: {', '.join(sorted(kept))}"] if kept else []
    if made := _lost_and_made_again(variables, shell.user_ns):
        told.append(f"could not be saved or restored, and so as the cell has made it: {', '.join(made)}")
    edited = edited_functions(stopped, functions)
    caller_edited, caller = cell_edited, (stopped.source, source, kept)
    texts = [*stopped.texts, *[""] * len(functions)]
    for frame, (name, saved), before in zip(functions, stopped.functions, texts, strict=False):
        live, now = locals_of(frame), text_of(frame)
        names = _arguments_of_now(frame, before, now, caller_edited)
        mutable = {name for name in names if is_container(live.get(name))}
        names -= mutable - _edited_arguments(frame, *caller)
        if name in edited:
            names |= edited_names(before, now)
        kept = _as_edited(names & saved.keys(), live, mutated_in_loops(now))
        new = sorted(live.keys() - saved.keys()) if name in edited else []
        made = _lost_and_made_again(saved, live)
        put_locals(frame, _without(of_use(saved, live), kept | _functions_inside(live, saved)))
        told += _lines(name, name in edited, sorted(kept), new, made)
        caller_edited, caller = name in edited, (before, now, kept)
    return told


def of_use(saved: dict[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """What takes the place of what a cell has made again: not what was lost, nor bars that stand in its output."""
    return {
        name: value
        for name, value in saved.items()
        if not isinstance(value, Placeholder) and not is_bar(live.get(name))
    }


def _arguments_of_now(frame: FrameType, before: str, now: str, caller_edited: bool) -> set[str]:
    """Parameters that an edit has given another value. Those that the function assigns itself are part of its state."""
    parameters = set(parameters_of(frame)) - bound_names(now)
    return parameters if caller_edited else parameters & edited_defaults(before, now)


def _edited_arguments(frame: FrameType, before: str, now: str, kept: set[str]) -> set[str]:
    """Parameters whose expression in the call was edited, or which are variables of the caller that stay as edited."""
    code = frame.f_code
    old, new = (arguments_of(text, code.co_name) for text in (before, now))
    names = [name for name in code.co_varnames[: code.co_argcount] if name not in ("self", "cls")]
    found = set()
    for position, by_name in new:
        given = {**dict(zip(names, position, strict=False)), **by_name}
        known = [{**dict(zip(names, args, strict=False)), **keywords} for args, keywords in old]
        found |= {
            name
            for name, text in given.items()
            if text in kept or all(text != other.get(name) for other in known)
        }
    return found


def _as_edited(names: set[str], live: Mapping[str, Any], mutated: set[str]) -> set[str]:
    """Those that keep what an edit gave them: not a container that a loop changes, which is part of the state."""
    return {
        name
        for name in names
        if name in live and keeps_edit(live[name]) and not (is_container(live[name]) and name in mutated)
    }


def _functions_inside(live: dict[str, Any], saved: dict[str, Any]) -> set[str]:
    """Functions that the running one has defined: they share its variables, which those of the state do not."""
    return {
        name
        for name, value in live.items()
        if isinstance(value, types.FunctionType)
        and "<locals>" in value.__qualname__
        and getattr(saved.get(name), "__qualname__", None) == value.__qualname__
    }


def _without(values: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _lost_and_made_again(saved: dict[str, Any], live: Mapping[str, Any]) -> list[str]:
    return sorted(
        name
        for name, value in saved.items()
        if isinstance(value, Placeholder)
        and name in live
        and not isinstance(live[name], Placeholder)
        and not is_bar(live[name])
    )


def _lines(function: str, edited: bool, kept: list[str], new: list[str], made: list[str]) -> list[str]:
    parts = ["was edited: its new code runs"] if edited else []
    parts += [f"as edited: {', '.join(kept)}"] if kept else []
    parts += [f"new, and so as its code has made it: {', '.join(new)}"] if new else []
    parts += (
        [f"could not be saved or restored, and so as its code has made it: {', '.join(made)}"] if made else []
    )
    return [f"{function}(): {'; '.join(parts)}"] if parts else []
