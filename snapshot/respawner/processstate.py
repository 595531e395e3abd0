"""State of the process that cells depend on without holding it in a variable.

Two parts, because they are needed at two moments: `Surroundings` before anything is unpickled (modules must
be found), generators of random numbers after everything else.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import os
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .device.hardware import started
from .settings import settings_now

_NOT_SAVED = re.compile(
    r"(RESPAWNER_|JPY_|JUPYTER|IPYKERNEL|NVIDIA_|CUDA_|KERNEL_)|(PWD|OLDPWD|_|SHLVL)$"
    r"|.*(SECRET|TOKEN|PASSW|CREDENTIAL|PRIVATE|(API|ACCESS|AUTH)_?KEY)",
    re.IGNORECASE,
)
"""The session's and the machine's own variables, and whatever looks like a secret: these never go to the disk."""


@dataclass
class Baseline:
    """What the process had when Respawner was switched on: only what differs is the user's."""

    path: list[str] = field(default_factory=lambda: list(sys.path))
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    settings: dict[str, dict[str, Any]] = field(default_factory=lambda: settings_now(_shell()))


def _shell() -> Any:
    from IPython import get_ipython

    return get_ipython()


def surroundings(baseline: Baseline, inputs: list[str]) -> dict[str, Any]:
    """Working folder, additions to ``sys.path``, changes of the environment, submodules imported by name.

    ``inputs`` are the cells run so far: ``import a.b`` binds only ``a``, yet ``a.b`` must work again.
    """
    environment = {key: value for key, value in os.environ.items() if not _NOT_SAVED.match(key)}
    before = {key: value for key, value in baseline.environment.items() if not _NOT_SAVED.match(key)}
    imported = dict.fromkeys(name for cell in inputs for name in _dotted_imports(cell))
    return {
        "cwd": _cwd(),
        "path_front": _additions(baseline.path)[0],
        "path_back": _additions(baseline.path)[1],
        "environ_set": {key: value for key, value in environment.items() if before.get(key) != value},
        "environ_unset": [key for key in before if key not in environment],
        "imports": [name for name in imported if name in sys.modules],
    }


@functools.cache
def _dotted_imports(cell: str) -> tuple[str, ...]:
    """Modules that ``import a.b`` statements of a cell name."""
    try:
        nodes = list(ast.walk(ast.parse(cell)))
    except (SyntaxError, ValueError, RecursionError):
        return ()
    names = (alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names)
    return tuple(name for name in names if "." in name)


def put_surroundings(saved: dict[str, Any]) -> list[str]:
    """Make this process's surroundings those; returns what could not be done, as notes."""
    notes = []
    os.environ.update(saved["environ_set"])
    for key in saved["environ_unset"]:
        os.environ.pop(key, None)
    sys.path[:0] = [entry for entry in saved["path_front"] if entry not in sys.path]
    sys.path.extend(entry for entry in saved["path_back"] if entry not in sys.path)
    if saved["cwd"] is not None:
        try:
            os.chdir(saved["cwd"])
        except OSError as error:
            notes.append(f"working folder {saved['cwd']} is not there any more ({error.strerror})")
    for name in saved["imports"]:
        try:
            importlib.import_module(name)
        except Exception as error:  # importing runs the module's own code
            notes.append(f"import {name} fails now: {error}")
    return notes


def random_state() -> dict[str, Any]:
    """State of the global generators of Python, numpy and torch, where they are imported."""
    state: dict[str, Any] = {"python": random.getstate()}
    if "numpy.random" in sys.modules:
        state["numpy"] = sys.modules["numpy.random"].get_state(legacy=False)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_rng_state"):
        state["torch"] = torch.get_rng_state()
        state["torch_dtype"] = torch.get_default_dtype()
        if on_devices := _states_on_devices():
            state["torch_devices"] = on_devices
    return state


def _states_on_devices() -> dict[str, Any]:
    """By device, of accelerators that have been started. Their generators are the host's objects: no bus is crossed."""
    return {
        f"{kind}:{index}": generator.get_state()
        for kind, module in started()
        for index, generator in enumerate(getattr(module, "default_generators", ()))
    }


def put_random_state(state: dict[str, Any]) -> list[str]:
    """The last step of a restore, for what runs before may draw numbers. Returns what failed, as notes."""
    notes = []
    for library, value in state.items():
        try:
            _SETTERS[library](value)
        except Exception as error:  # another version of the library, or a placeholder
            notes.append(f"random state of {library} could not be set: {error}")
    return notes


def _set_numpy(state: Any) -> None:
    import numpy as np

    np.random.set_state(state)


def _set_torch(state: Any) -> None:
    import torch

    torch.set_rng_state(state)


def _set_torch_devices(states: dict[str, Any]) -> None:
    """Starts no accelerator: where it has not been started, this is done then, in the place of seeds that were set before."""
    import torch

    by_kind: dict[str, dict[int, Any]] = {}
    for device, state in states.items():
        kind, _, index = device.partition(":")
        by_kind.setdefault(kind, {})[int(index)] = state
    missing = []
    for kind, its in by_kind.items():
        module: Any = getattr(torch, kind, None)
        count = 0 if module is None else module.device_count()
        there = {index: state for index, state in its.items() if index < count}
        missing += [f"{kind}:{index}" for index in its if index >= count]
        if there and not module.is_initialized() and hasattr(module, "_lazy_call"):
            module._lazy_call(functools.partial(_set_on, module, there), seed_all=True)
        else:
            _set_on(module, there)
    if missing:
        raise RuntimeError(f"there is no {', '.join(missing)} here")


def _set_on(module: Any, states: dict[int, Any]) -> None:
    for index, state in states.items():
        module.set_rng_state(state, index)


def _set_torch_dtype(dtype: Any) -> None:
    import torch

    torch.set_default_dtype(dtype)


_SETTERS: dict[str, Callable[[Any], None]] = {
    "python": random.setstate,
    "numpy": _set_numpy,
    "torch": _set_torch,
    "torch_devices": _set_torch_devices,
    "torch_dtype": _set_torch_dtype,
}


def _cwd() -> str | None:
    with contextlib.suppress(OSError):
        return str(Path.cwd())
    return None


def _additions(before: list[str]) -> tuple[list[str], list[str]]:
    """Entries of ``sys.path`` that are new: those before any old entry, and the others."""
    known = set(before)
    front: list[str] = []
    for entry in sys.path:
        if entry in known:
            break
        front.append(entry)
    back = [entry for entry in sys.path[len(front) :] if entry not in known]
    return front, back
