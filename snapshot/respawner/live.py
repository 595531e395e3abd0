"""Objects that every kernel has itself: a snapshot only says "that one".

They stand first in the pickler's memo, and their counterparts first in the unpickler's, so that a reference
to the namespace, to ``In`` or to ``get_ipython()`` anywhere in the state costs two bytes and comes back as
the new kernel's own. The manifest holds the list of names, in the order of the memo.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from typing import Any

_MODULE_ATTRIBUTES = (
    "random:_inst",  # `from random import random` is a method of it
    "numpy.random:mtrand._rand",  # `from numpy.random import rand` likewise
    "torch:default_generator",
    # A second name for the environment must not take its secrets to the disk.
    "os:environ",
    "os:environb",
    "sys:path",
    "sys:modules",
    "sys:argv",
    "sys:stdin",
    "sys:__stdin__",
    "sys:__stdout__",
    "sys:__stderr__",
)


class Missing:
    """Stands for a live object that this process does not have."""


def live_names(shell: Any) -> list[str]:
    """Names of the live objects of this process. Imports nothing.

    One name an object (the notebook may have set ``sys.stderr = sys.stdout``): the pickler counts on from
    the number of different objects.
    """
    names = list(_of_shell(shell))
    names += [name for name in _MODULE_ATTRIBUTES if name.partition(":")[0] in sys.modules]
    first_names: dict[int, str] = {}
    for name, obj in zip(names, live_objects(shell, names), strict=True):
        if obj is not None:
            first_names.setdefault(id(obj), name)
    return list(first_names.values())


def live_objects(shell: Any, names: list[str]) -> list[Any]:
    """The objects of those names, in that order, as this process has them; imports what a name needs."""
    return [_live_object(shell, name) for name in names]


def _live_object(shell: Any, name: str) -> Any:
    module, colon, path = name.partition(":")
    try:
        if colon:
            found: Any = importlib.import_module(module)
            for part in path.split("."):
                found = getattr(found, part)
            return found
        return _of_shell(shell)[name]
    except (ImportError, AttributeError, KeyError):
        return Missing()


def _of_shell(shell: Any) -> dict[str, Any]:
    history = shell.history_manager
    loop = getattr(getattr(getattr(shell, "kernel", None), "io_loop", None), "asyncio_loop", None)
    return {
        "user_ns": shell.user_ns,
        "user_module": shell.user_module,
        "shell": shell,
        "In": history.input_hist_parsed,
        "In_raw": history.input_hist_raw,
        "Out": history.output_hist,
        "dirs": history.dir_hist,
        "builtins": builtins.__dict__,
        "stdout": sys.stdout,
        "stderr": sys.stderr,
        **({} if loop is None else {"event_loop": loop}),
    }
