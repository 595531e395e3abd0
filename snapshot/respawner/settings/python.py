"""The interpreter's own settings, and the standard library's."""

from __future__ import annotations

import decimal
import gc
import importlib
import locale
import re
import sys
import warnings
from typing import Any


def now(shell: Any) -> dict[str, Any]:
    return {
        "recursion_limit": sys.getrecursionlimit(),
        "locale": locale.setlocale(locale.LC_ALL),
        "gc": (gc.isenabled(), gc.get_threshold()),
        "decimal": _of_decimal(decimal.getcontext()),
        "warnings": [_packed(rule) for rule in warnings.filters],
        "annotations": dict(shell.user_ns.get("__annotations__") or {}),
    }


def changed(shell: Any, before: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in now(shell).items() if value != before.get(key)}
    if "warnings" in found:
        removed = [rule for rule in before["warnings"] if rule not in found["warnings"]]
        found["warnings"] = (found["warnings"], removed)
    return found


def put(shell: Any, key: str, value: Any) -> None:
    match key:
        case "recursion_limit":
            sys.setrecursionlimit(value)
        case "locale":
            locale.setlocale(locale.LC_ALL, value)
        case "gc":
            (gc.enable if value[0] else gc.disable)()
            gc.set_threshold(*value[1])
        case "decimal":
            decimal.setcontext(_to_decimal(value))
        case "warnings":
            _put_warnings(*value)
        case "annotations":
            shell.user_ns["__annotations__"] = value
        case _:
            raise KeyError("this version of Respawner does not know it")


def _of_decimal(context: decimal.Context) -> dict[str, Any]:
    """Without the flags, which calculations set and nobody chooses."""
    names = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
    traps = sorted(signal.__name__ for signal, on in context.traps.items() if on)
    return {**{name: getattr(context, name) for name in names}, "traps": traps}


def _to_decimal(value: dict[str, Any]) -> decimal.Context:
    return decimal.Context(**{**value, "traps": [getattr(decimal, name) for name in value["traps"]]})


def _packed(rule: tuple[Any, ...]) -> tuple[Any, ...]:
    """A rule of ``warnings.filters`` that can be read without importing the category's module."""
    action, message, category, module, line = rule
    named: Any = (category.__module__, category.__qualname__)
    return (
        action,
        _text(message),
        category if category.__module__ == "__main__" else named,
        _text(module),
        line,
    )


def _text(pattern: Any) -> Any:
    return (pattern.pattern, pattern.flags) if isinstance(pattern, re.Pattern) else pattern


def _put_warnings(rules: list[Any], removed: list[Any]) -> None:
    """The saved rules come first, then those that libraries have added to this process since."""
    added = [rule for rule in warnings.filters if _packed(rule) not in rules + removed]
    unpacked = [rule for packed in rules if (rule := _unpacked(packed)) is not None]
    warnings.filters[:] = [*unpacked, *added]  # type: ignore[index]
    with warnings.catch_warnings():
        pass  # entering and leaving makes Python forget what it decided by the old rules


def _unpacked(packed: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """None where the category belongs to a library that this session does not use any more."""
    action, message, category, module, line = packed
    if isinstance(category, tuple):
        name, qualname = category
        if name.partition(".")[0] not in sys.modules:
            return None
        category = importlib.import_module(name)
        for part in qualname.split("."):
            category = getattr(category, part)
    return action, _pattern(message), category, _pattern(module), line


def _pattern(text: Any) -> Any:
    return re.compile(*text) if isinstance(text, tuple) else text
