"""SIGTERM: what is not durable yet is made durable, then the process ends as the signal says.

A kernel that is asked to shut down ends by itself and runs its exit handlers; a container's stop, a session
manager or ``kill`` may send SIGTERM instead, whose default action would end the process at once. A handler
that the user or ipykernel has set is left alone.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any


class SaveOnTerminate:
    """``busy()`` says that a capture is under way: then the signal waits until it is over."""

    def __init__(self, save: Callable[[], None], busy: Callable[[], bool]) -> None:
        self._save = save
        self._busy = busy
        self._pid = os.getpid()
        self._wanted = False
        self._installed = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        )
        if self._installed:
            signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self._pid:  # a forked child has nothing to save
            self._end()
        if self._busy():
            self._wanted = True
            return
        try:
            self._save()
        finally:
            self._end()

    def check(self) -> None:
        """Call after a capture: a signal may have come meanwhile."""
        if self._wanted:
            self._wanted = False
            self._handle(signal.SIGTERM, None)

    def remove(self) -> None:
        if self._installed and signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @staticmethod
    def _end() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
