"""Ends an object's own code that does not return: a loop, a sleep, a lock, a read from a socket.

While a `Watch` is open, a timer signal comes every fifth of the deadline. Its handler looks at the stack:
when the same call of one object's code is found there five times in a row, `TakesTooLong` is raised inside
it. So the way of every object costs nothing, a call into C that is merely long is counted once, and the
engine's own code is never hit, for it is not one of the calls looked for. Imports are not counted.

Out of reach is C code that neither returns nor minds signals. In the thread of `deep_stack` even ``sleep``
is such code; there the thread is left behind (`Abandoned`) and the pass begins again.

The user's own timer and handler are put back afterwards, the timer with what is left of it. Where that is
impossible (a handler that was not set from Python) and outside the main thread there is no deadline.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import threading
import time
from types import CodeType, FrameType
from typing import Any

from . import lineage
from .limits import OVERDONE, Again, TakesTooLong, object_seconds

_TICKS = 5
_MOST_FRAMES = 10_000
_NOT_COUNTED = ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>", lineage.__file__)
_OWN = __name__.partition(".")[0] + "."


class Abandoned(Again):
    """The thread that pickles is stuck for good; its object is remembered."""


class Watch:
    """Context manager. ``calls`` are the code objects of our functions that call an object's own code.

    ``around`` is one of ours from which the C unpickler is run: what it calls directly counts too.
    """

    def __init__(self, calls: set[CodeType], around: CodeType | None = None, restoring: bool = False) -> None:
        self._calls = calls
        self._around = around
        self._seconds = object_seconds(restoring)
        self._restoring = restoring
        self._armed = False
        self._last: FrameType | None = None
        self._seen = 0
        self._variable = ""
        self._variable_seen = 0

    def __enter__(self) -> Watch:
        main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGALRM) if main and self._seconds else None
        if before is not None:
            self._before = before
            self._started = time.monotonic()
            signal.signal(signal.SIGALRM, self._tick)
            interval = self._seconds / _TICKS
            self._timer = signal.setitimer(signal.ITIMER_REAL, interval, interval)
            self._armed = True
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._armed:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)
        left, interval = self._timer
        if left:
            passed = time.monotonic() - self._started
            signal.setitimer(signal.ITIMER_REAL, max(left - passed, 1e-6), interval)
        self._last = None

    def _tick(self, number: int, frame: FrameType | None) -> None:
        thread = threading.main_thread().ident
        call = self._call_in(frame)
        if call is None and not self._restoring:
            thread, call = self._call_in_other_thread(thread)
        if call is None or call is not self._last:
            self._last, self._seen = call, 1
        else:
            self._seen += 1
        if call is None:
            return
        if not self._restoring:
            self._be_careful(call)
        if self._seen < _TICKS:
            return
        if thread == threading.main_thread().ident:
            raise TakesTooLong
        self._end_in_other_thread(thread, call)

    def _call_in(self, frame: FrameType | None) -> FrameType | None:
        """The call of an object's code that a stack is in, None where the engine itself is at work."""
        above: FrameType | None = None
        for _ in range(_MOST_FRAMES):
            if frame is None or frame.f_code.co_filename in _NOT_COUNTED:
                return None
            if frame.f_code in self._calls or frame.f_code is self._around:
                break
            if (
                frame.f_code.co_filename != contextlib.__file__
            ):  # it ends a block of ours, and is nobody's own code
                above = frame
            frame = frame.f_back
        else:
            return None
        if self._restoring and above is not None and above.f_globals.get("__name__", "").startswith(_OWN):
            return None  # our own counterpart of a reducer, which may read gigabytes
        return above if frame.f_code is self._around and above is not None else frame

    def _call_in_other_thread(self, main: int | None) -> tuple[int | None, FrameType | None]:
        for thread, frame in sys._current_frames().items():
            if thread != main and (call := self._call_in(frame)) is not None:
                return thread, call
        return main, None

    def _be_careful(self, call: FrameType) -> None:
        """A variable that takes this long may be one that never ends: see `lineage`."""
        pickler = call.f_locals["self"]
        if pickler.variable != self._variable:
            self._variable, self._variable_seen = pickler.variable, 0
        self._variable_seen += 1
        if self._variable_seen >= _TICKS:
            pickler.careful = True

    def _end_in_other_thread(self, thread: int | None, call: FrameType) -> None:
        if self._seen < _TICKS + 2:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread or 0), ctypes.py_object(TakesTooLong)
            )
            return
        known: dict[str, Any] = call.f_locals
        known["self"].abandoned = True
        OVERDONE.remember(known["obj"], too_long(self._seconds))
        self._last = None
        raise Abandoned


def too_long(seconds: float) -> str:
    return f"its own code did not return within {seconds:g} s"
