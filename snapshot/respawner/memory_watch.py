"""Sees memory run out before the kernel is killed for it: an early snapshot, and a warning.

A thread looks once a second at how much of the container's memory is used (`container_memory`). It decides nothing but
when to call; what is done then is the engine's.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from . import container_memory
from .container_memory import MemoryUse
from .contract import MEMORY_ALERT_ENV
from .errors import SettingError

DEFAULT_SHARE = 0.9
_LOOK_SECONDS = 1.0
_STALLED_PERCENT = 10.0
_EARLIER_WHERE_STALLED = 0.1
"""Where everything waits for memory, the alert comes this much before the threshold."""
_CALM = 0.05
"""It is over when the share is this much below the threshold."""
_FIRST_TO_BE_KILLED = 300
"""Added to how much a process is worth killing, in thousandths of the memory (proc(5), ``oom_score_adj``)."""


def alert_share() -> float:
    """The threshold that the environment says; 0 for none. Raises `SettingError`."""
    text = os.environ.get(MEMORY_ALERT_ENV, "").strip()
    if not text:
        return DEFAULT_SHARE
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise SettingError(f"{MEMORY_ALERT_ENV} is {text!r}: it must be a part, from 0 to 1 (0.9: 90 %)")
    return share


class Alert:
    """Whether memory is short, with some slack so that it does not come and go. Pure."""

    def __init__(self, share: float) -> None:
        self._share = share
        self.on = False

    def changes(self, use: MemoryUse, stalled_percent: float) -> bool:
        """Take a look into account; whether `on` is another than before."""
        threshold = self._share - (_EARLIER_WHERE_STALLED if stalled_percent >= _STALLED_PERCENT else 0)
        before = self.on
        self.on = use.share >= (threshold - _CALM if before else threshold)
        return self.on != before


class MemoryWatch:
    """Runs from construction to `stop`. In its thread it calls ``short(use)``, and ``over()`` when that has passed."""

    def __init__(self, share: float, short: Callable[[MemoryUse], None], over: Callable[[], None]) -> None:
        self._alert = Alert(share)
        self._short = short
        self._over = over
        self._ended = threading.Event()
        if share:
            with contextlib.suppress(RuntimeError):  # no more threads
                threading.Thread(target=self._run, name="respawner-memory", daemon=True).start()

    def stop(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            with contextlib.suppress(Exception):
                use = container_memory.memory_use()
                if use is not None and self._alert.changes(use, container_memory.stalled_percent()):
                    self._short(use) if self._alert.on else self._over()


def be_killed_before_the_server() -> None:
    """Let the system's killer take this kernel, and what it starts, before Jupyter. Needs no right: it is no favour."""
    path = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        if int(path.read_text()) < _FIRST_TO_BE_KILLED:
            path.write_text(str(_FIRST_TO_BE_KILLED))
