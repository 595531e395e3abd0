"""Levels of loggers, the plain handlers that ``logging.basicConfig`` gives the root logger, and all that the
notebook gave loggers of its own: handlers, filters, whether they pass records on.

A logger is the notebook's own where its name is not that of an imported module: libraries set theirs up
again when they are imported.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from ..pickling.placeholder import Placeholder

_STREAMS = ("stderr", "stdout")


def now(shell: Any) -> dict[str, Any]:
    named = logging.root.manager.loggerDict.items()
    levels = {name: item.level for name, item in list(named) if isinstance(item, logging.Logger)}
    return {"levels": {"": logging.root.level, **levels}, "handlers": _handlers(), "loggers": _loggers()}


def changed(shell: Any, before: dict[str, Any]) -> dict[str, Any]:
    present = now(shell)
    levels = {
        name: level
        for name, level in present["levels"].items()
        if level != before["levels"].get(name, logging.NOTSET)
    }
    handlers = [handler for handler in present["handlers"] if handler not in before["handlers"]]
    loggers = {
        name: parts for name, parts in present["loggers"].items() if parts != before["loggers"].get(name)
    }
    parts = {"levels": levels, "handlers": handlers, "loggers": loggers}
    return {key: value for key, value in parts.items() if value}


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
        case "loggers":
            for name, parts in value.items():
                _put_logger(logging.getLogger(name), **parts)
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


def _loggers() -> dict[str, dict[str, Any]]:
    """What the notebook's own loggers have; for the root logger the handlers that are not in `_handlers`."""
    found = {
        name: {"handlers": [*item.handlers], **_rest_of(item)}
        for name, item in list(logging.root.manager.loggerDict.items())
        if isinstance(item, logging.Logger) and name.partition(".")[0] not in sys.modules
    }
    found[""] = {"handlers": _special(logging.root), **_rest_of(logging.root)}
    nothing = {"handlers": [], **_rest_of(logging.Logger(""))}
    return {name: parts for name, parts in found.items() if parts != nothing}


def _rest_of(logger: logging.Logger) -> dict[str, Any]:
    return {"filters": [*logger.filters], "propagate": logger.propagate, "disabled": logger.disabled}


def _special(logger: logging.Logger) -> list[Any]:
    """Handlers of the standard library's kinds or of the notebook's that write elsewhere."""
    streams = [getattr(sys, name) for name in _STREAMS]
    return [
        handler
        for handler in logger.handlers
        if type(handler).__module__ in ("logging", "logging.handlers", "__main__")
        and not any(getattr(handler, "stream", None) is stream for stream in streams)
    ]


def _put_logger(
    logger: logging.Logger, handlers: list[Any], filters: list[Any], propagate: bool, disabled: bool
) -> None:
    """In the place of what the logger has of that kind."""
    replaced = _special(logger) if logger is logging.root else [*logger.handlers]
    kept = [handler for handler in logger.handlers if not any(handler is other for other in replaced)]
    logger.handlers[:] = [*kept, *(h for h in handlers if not isinstance(h, Placeholder))]
    logger.filters[:] = [part for part in filters if not isinstance(part, Placeholder)]
    logger.propagate, logger.disabled = propagate, disabled
