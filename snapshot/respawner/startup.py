"""Switches Respawner on where it belongs: in a notebook's own kernel, and nowhere else.

The injected startup file and ``%load_ext respawner`` both come here. A kernel or a shell that was started
from a notebook inherits the environment, the session's name included; it must not write the notebook's
timeline. The first kernel therefore leaves its mark in the environment, and whoever finds the mark of a
living ancestor stays off.
"""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from typing import Any

from .claim import claim_timeline
from .contract import OWNER_ENV, RESTORE_ENV, SESSION_NAME_ENV, SWITCH_ENV, TIMELINE_ENV
from .engine import Engine
from .errors import RespawnerError
from .gpu.magic import GpuMagics
from .guard import ALWAYS, ASK, POLICIES
from .hooks import Hooks
from .magics import RespawnerMagics
from .memory_watch import be_killed_before_the_server
from .runtime import parent_of, process_start
from .store.layout import default_store, open_store

_active: tuple[Engine, Hooks] | None = None
_why_off = "it has not been switched on in this process: `%load_ext respawner`"


def active_engine() -> Engine | None:
    """This process's engine; None in a forked child as well."""
    return _active[0] if _active and _active[0].pid == os.getpid() else None


def why_off() -> str:
    """Why there is no engine in this process."""
    return _why_off


def activate(shell: Any) -> Engine | None:
    """Switch on, if this is a notebook's own kernel; returns the engine, or None and `why_off` says why.

    The first cell that stores history restores. Calling it twice is fine. A store that cannot be used is told in the first cell, not raised.
    """
    global _active, _why_off
    if engine := active_engine():
        return engine
    reason = _reason_to_stay_off(shell)
    if reason is not None:
        _why_off = reason
        return None
    shell.register_magics(GpuMagics)  # it works without a store
    name = timeline_name()
    try:
        claim = claim_timeline(open_store(default_store(), create=True), str(name), kernel_id(shell))
        policy, wrong = _policy()
        engine = Engine(shell, claim, policy)
        if wrong:
            engine.recorder.notice(wrong)
    except (RespawnerError, OSError) as error:
        _why_off = f"{type(error).__name__}: {error}"
        _say_in_first_cell(shell, f"Respawner is off, this session is not saved. {_why_off}")
        return None
    _active = engine, Hooks(shell, engine)
    shell.register_magics(RespawnerMagics(shell, engine))
    be_killed_before_the_server()
    os.environ[OWNER_ENV] = _mark(os.getpid(), str(name))
    atexit.register(engine.close)
    if shell.execution_count == 1:
        engine.continue_count()
    return engine


def deactivate() -> None:
    """Switch off: what has ended is saved, later cells are not."""
    global _active, _why_off
    if _active is None:
        return
    engine, hooks = _active
    engine.close()
    hooks.unregister()
    engine.release()
    atexit.unregister(engine.close)
    os.environ.pop(OWNER_ENV, None)
    _active, _why_off = None, "it was switched off by %unload_ext"


def timeline_name() -> str | None:
    return os.environ.get(TIMELINE_ENV) or os.environ.get(SESSION_NAME_ENV) or None


def kernel_id(shell: Any) -> str | None:
    """Jupyter's id of the kernel (from its connection file): the same after every restart of it."""
    connection_file = getattr(getattr(shell.kernel, "parent", None), "connection_file", "")
    return Path(connection_file).stem.removeprefix("kernel-") or None


def _reason_to_stay_off(shell: Any) -> str | None:
    if os.environ.get(SWITCH_ENV, "").strip().lower() == "off":
        return f"{SWITCH_ENV}=off is set"
    if getattr(shell, "kernel", None) is None or "ipykernel" not in sys.modules:
        return "this is not a Jupyter kernel"
    if timeline_name() is None:
        return f"no name for the timeline: neither {SESSION_NAME_ENV} nor {TIMELINE_ENV} is set"
    if owner := _living_owner(os.environ.get(OWNER_ENV, "")):
        return f"this kernel was started from the notebook of process {owner}, which keeps its own timeline"
    return None


def _living_owner(mark: str) -> int | None:
    """The pid of the marked kernel, if it lives, is not us, and is an ancestor or has our timeline's name."""
    pid_text, _, rest = mark.partition(":")
    start, _, name = rest.partition(":")
    if not pid_text.isdigit() or int(pid_text) == os.getpid():
        return None
    pid = int(pid_text)
    if process_start(pid) is None or (start and process_start(pid) != start):
        return None
    return pid if name == timeline_name() or pid in _ancestors() else None


def _ancestors() -> list[int]:
    found = []
    pid: int | None = os.getppid()
    while pid and pid not in found:
        found.append(pid)
        pid = parent_of(pid)
    return found


def _mark(pid: int, name: str) -> str:
    return f"{pid}:{process_start(pid) or ''}:{name}"


def _policy() -> tuple[str, str | None]:
    """When to restore, and what to tell where the setting is wrong: then nothing is lost by asking."""
    policy = os.environ.get(RESTORE_ENV, "").strip().lower() or ALWAYS
    if policy in POLICIES:
        return policy, None
    known = ", ".join(POLICIES)
    return ASK, f"{RESTORE_ENV} is {policy!r}; it must be one of {known}. Until then it counts as {ASK}."


def _say_in_first_cell(shell: Any, text: str) -> None:
    """Once, with the first thing that a person runs."""

    def say(info: Any) -> None:
        if info.store_history and not info.silent:
            shell.events.unregister("pre_run_cell", say)
            print(text)  # noqa: T201

    shell.events.register("pre_run_cell", say)
