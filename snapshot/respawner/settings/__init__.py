"""Settings that change how every cell behaves and that no variable holds: filters, options, modes.

A source is a module or class with ``changed(shell, before)``, what the user has set, as a dict, and
``put(shell, key, value)``. Only what differs from the kernel's beginning (or from a library's own defaults) is
saved. A library that is not imported is not imported to ask it.
"""

from __future__ import annotations

import logging
from typing import Any

from ..pickling.placeholder import Placeholder
from . import ipython, libraries, logs, python, torch

_LOG = logging.getLogger("respawner")
_SOURCES: dict[str, Any] = {
    "python": python,
    "logging": logs,
    "ipython": ipython,
    "numpy": libraries.Numpy,
    "pandas": libraries.Pandas,
    "matplotlib": libraries.Matplotlib,
    "torch": torch,
}
_WITH_BASELINE = ("python", "logging", "ipython")
_OF_BLOCKS = {"torch": ("grad_mode", "anomaly_mode")}
"""What ``with`` blocks set, mostly."""


def settings_now(shell: Any) -> dict[str, dict[str, Any]]:
    """What a kernel has before its first cell, for `changed_settings` to compare with."""
    return {name: _SOURCES[name].now(shell) for name in _WITH_BASELINE}


def changed_settings(
    shell: Any, before: dict[str, dict[str, Any]], *, inside_cell: bool = False
) -> dict[str, dict[str, Any]]:
    """What the user has set, by source. A source that cannot be asked costs only its own settings.

    ``inside_cell`` leaves out what a block of the running cell may have set for itself, as ``torch.no_grad``.
    """
    found = {}
    for name, source in _SOURCES.items():
        try:
            changed = source.changed(shell, before.get(name, {}))
        except Exception:  # a library that is half imported, or of a version with other insides
            _LOG.debug("the settings of %s cannot be read", name, exc_info=True)
            continue
        if inside_cell:
            changed = {key: value for key, value in changed.items() if key not in _OF_BLOCKS.get(name, ())}
        if changed:
            found[name] = changed
    return found


def put_settings(shell: Any, saved: dict[str, dict[str, Any]]) -> list[str]:
    """Set them again. Returns what this process does not take, as notes."""
    notes = []
    for name, values in saved.items():
        for key, value in values.items():
            if isinstance(value, Placeholder):
                continue  # the report tells of it already
            try:
                _SOURCES[name].put(shell, key, value)
            except Exception as error:  # another version, another machine, or a function of the user
                notes.append(f"{name} setting {key} could not be set: {error}")
    return notes
