"""Levels of loggers, and the plain handlers that ``logging.basicConfig`` gives the root logger."""

from __future__ import annotations

import logging
import sys
from typing import Any

_STREAMS = ("stderr", "stdout")


def now(shell: Any) -> dict[str, Any]:
    named = logging.root.manager.loggerDict.items()
    levels = {name: item.level for name, item in list(named) if isinstance(item, logging.Logger)}
    return {"levels": {"": logging.root.level, **levels}, "handlers": _handlers()}


def changed(shell: Any, before: dict[str, Any]) -> dict[str, Any]:
    present = now(shell)
    levels = {
        name: level
        for name, level in present["levels"].items()
        if level != before["levels"].get(name, logging.NOTSET)
    }
    handlers = [handler for handler in present["handlers"] if handler not in before["handlers"]]
    return {key: value for key, value in (("levels", levels), ("handlers", handlers)) if value}


def put(shell: Any, key: str, value: Any) -> None:
    match key:
        case "levels":
            for name, level in value.items():
                logging.getLogger(name).setLevel(level)
        case "handlers":
            for stream, level, layout, dates in value:
                if (stream, level, layout, dates) not in _handlers():
                    handler = logging.StreamHandler(getattr(sys, stream))
                    handler.setLevel(level)
                    if layout is not None:
                        handler.setFormatter(logging.Formatter(layout, dates))
                    logging.root.addHandler(handler)
        case _:
            raise KeyError("this version of Respawner does not know it")


def _handlers() -> list[tuple[Any, ...]]:
    """Those of the root logger that write to a standard stream in a plain layout."""
    found = []
    for handler in logging.root.handlers:
        streams = [name for name in _STREAMS if getattr(handler, "stream", None) is getattr(sys, name)]
        layout = handler.formatter
        plain = layout is None or (type(layout) is logging.Formatter and layout._fmt is not None)
        if type(handler) is logging.StreamHandler and streams and plain:
            form = (layout._fmt, layout.datefmt) if layout else (None, None)
            found.append((streams[0], handler.level, *form))
    return found
