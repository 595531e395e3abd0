"""Takes a snapshot of the running cell at a safe point, when one is due.

There are two kinds of safe points: the boundaries of `respawner.resume` loops, and, where no such loop runs, the end of
an optimizer's step. On the kernel's main thread; as long as none is due, one costs a look at the clock. A snapshot is
captured as between two cells, and before the cell goes on, what the saver has not read yet is copied (`Job.freeze`):
all but parameters and optimizers' state. These are copied beside the next pass, and the next step of an optimizer waits
for that.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

from ..capture import Moment
from ..device.recording import is_recording
from ..errors import OverBudgetError, SettingError, TornError
from ..manifest import SAFEPOINT
from ..recorder import Recorder
from ..restoring import Loaded
from ..saving.job import Job
from .frames import counters, is_function, locals_of, loop_variables, name_of, notebook_frames, text_of
from .loops import Loops
from .optimizer_steps import OptimizerSteps
from .pace import RETRY_SECONDS, Pace
from .positions import is_bar
from .stopped import Stopped

_LOG = logging.getLogger("respawner")


class SafePoints:
    """``mine()`` says whether this is the kernel's own process and main thread.

    ``reached()`` is called at the first safe point of a cell: the state that it began with can be worked with.
    ``before_capture()`` and ``captured()`` are called around every attempt. ``put_back`` is for `Loops`.
    """

    def __init__(
        self,
        shell: Any,
        recorder: Recorder,
        mine: Callable[[], bool],
        reached: Callable[[], None],
        captured: Callable[[], None],
        before_capture: Callable[[], None],
        put_back: Callable[[Stopped, list[FrameType]], AbstractContextManager[Loaded]],
    ) -> None:
        self.loops = Loops(shell.user_ns, self._at_boundary, put_back)
        self.steps = 0
        """Of all optimizers, in this cell; it goes on counting where the cell goes on."""
        self._shell = shell
        self._recorder = recorder
        self._mine = mine
        self._reached = reached
        self._captured = captured
        self._before_capture = before_capture
        self._pace = self._read_pace()
        self._number = 0
        self._source = ""
        self._cell_id: str | None = None
        self._written = 0
        self._job: Job | None = None
        """The newest of this cell, that may be on its way to the disk."""
        self._stall = self._wait = self._durable = 0.0
        """Seconds that the newest held the cell up, that are left until the next, and until one was on the disk."""
        self._seen = math.inf
        self._longest_gap = 0.0
        """When the last safe point of this cell was, and the most seconds between two."""
        self.last: tuple[str, dict[str, Any]] | None = None
        """Id and place (`Stopped.facts`) of the last snapshot of this cell that is on the disk."""
        self._due = math.inf
        """On the monotonic clock; 0 until the first safe point of a cell, infinite while no cell runs."""
        self._first_due = math.inf
        self._not_before = self._taken = 0.0
        """No snapshot before that; when the cell went on from the newest."""
        self._hurries = False
        self._pid = os.getpid()
        self._optimizers = OptimizerSteps(self._optimizer_steps, self._optimizer_stepped)

    def cell_begins(self, number: int, source: str, cell_id: str | None, stopped: Stopped | None) -> None:
        self._number, self._source, self._cell_id = number, source, cell_id
        self._written = self.steps = 0
        self.last = self._job = None
        self._seen, self._longest_gap = math.inf, 0.0
        self.loops.cell_begins(source, cell_id, stopped)
        self._first_due = max(time.monotonic() + self._pace.least_seconds, self._not_before)
        self._due = 0.0
        self._hurries = False

    def cell_ends(self) -> dict[str, Any]:
        """What is to be noted with the state at the cell's end: only what is on the disk can take a failed cell's place."""
        self._due = math.inf
        self._look_at_the_last()
        return {"safepoints": self._written} if self._written else {}

    def hurry(self) -> None:
        """The running cell's next safe point is due, whatever pace and budget say. Any thread."""
        if self._due != math.inf:
            self._hurries, self._first_due = True, 0.0
            self._due = min(self._due, time.monotonic())

    def status(self) -> dict[str, float | None]:
        """How often the running cell is saved, and how much of its work a kill would cost, in seconds.

        Both as the last snapshots inside cells went; None before the first is on the disk.
        """
        self._look_at_the_last()
        if not self._durable:
            return {"safepoint_every_seconds": None, "at_most_lost_seconds": None}
        every = self._stall + max(self._wait, self._durable) + self._longest_gap
        return {
            "safepoint_every_seconds": round(every, 3),
            "at_most_lost_seconds": round(every + self._durable, 3),
        }

    @property
    def writes(self) -> bool:
        """Whether a snapshot of this cell is on its way to the disk."""
        return self._job is not None and not self._job.done.is_set()

    def _look_at_the_last(self) -> None:
        job = self._job
        if job is not None and job.done.is_set():
            self._job = None
            if job.manifest is not None:
                self._durable = job.seconds
                self._written += 1
                self.last = job.id, job.facts["cell"]["safepoint"]
            elif job.guessed and isinstance(job.error, TornError) and self._due != math.inf:
                self._due = self._not_before = self._taken  # once more, and all is copied at once this time

    def remove(self) -> None:
        self._due = math.inf
        self._optimizers.remove()

    def _optimizer_steps(self) -> None:
        """An optimizer is about to change what the last snapshot has left to be read. Any thread; forked children too."""
        if not self._recorder.keeps or os.getpid() != self._pid:
            return
        started = time.monotonic()
        self._recorder.guarded(self._recorder.freeze_inside)
        self._held_up(time.monotonic() - started)

    def _held_up(self, seconds: float) -> None:
        """The cell waited for its newest snapshot once more: the next one is due accordingly later."""
        self._stall += seconds
        self._seen += seconds
        job = self._job
        if job is not None and self._due != math.inf and not self._hurries:
            self._wait = self._wait_seconds(job)
            self._due = self._not_before = self._taken + seconds + self._wait

    def _wait_seconds(self, job: Job) -> float:
        return self._pace.wait_seconds(self._stall, job.changed_bytes, self._recorder.day_bytes)

    def _optimizer_stepped(self) -> None:
        self.steps += 1
        if self._is_due() and not self.loops.running():
            self._arrive("optimizer")

    def _at_boundary(self) -> None:
        if self._is_due():
            self._arrive("loop")

    def _is_due(self) -> bool:
        self._look_at_the_last()
        now = time.monotonic()
        if now - self._seen > self._longest_gap:
            self._longest_gap = now - self._seen
        self._seen = now
        return now >= self._due

    def _arrive(self, at: str) -> None:
        if not self._mine():
            return
        if not self._due:
            self._due = self._first_due if self._pace.share else math.inf
            self._reached()
            if self._pace.share:
                self._recorder.expect_inside()
            if time.monotonic() < self._due:
                return
        if self._job is not None or self._recorder.writes or self._recorder.busy or self.loops.on_the_way:
            return  # the state before is still being written, or put in place: at the next safe point
        started = time.monotonic()
        try:
            if is_recording():
                return
            self._before_capture()
            moment = self._moment(at)
            job = self._recorder.capture_inside(moment, self._optimizers.memory, urgent=self._hurries)
            self._hurries = False
            self._job = job
            self._stall = time.monotonic() - started
            wait = self._wait_seconds(job)
        except OverBudgetError as deferred:
            wait = deferred.wait_seconds
        except Exception:  # the recorder tells it; the cell goes on
            _LOG.debug("respawner: no snapshot at a safe point", exc_info=True)
            wait = RETRY_SECONDS
        self._wait = wait
        self._seen = self._taken = time.monotonic()
        self._due = self._not_before = self._taken + wait
        self._captured()

    def _moment(self, at: str) -> Moment:
        frames = notebook_frames(self._shell.user_ns)
        around = loop_variables(frames)
        loops, levels = self.loops.positions()
        functions = [frame for frame in frames if is_function(frame)]
        stopped = Stopped(
            number=self._number,
            source=self._source,
            at=at,
            steps=self.steps,
            variables={**around, **counters(frames)},
            around=around,
            loops=loops,
            done=[list(level.done) for level in levels],
            begun=[list(level.begun) for level in levels],
            ends=[dict(level.ends) for level in levels],
            functions=[(name_of(frame), _state_of(frame)) for frame in functions],
            texts=[text_of(frame) for frame in functions],
            cell_id=self._cell_id,
        )
        cell = {
            "execution_count": self._number,
            "first_line": stopped.first_line,
            "safepoint": stopped.facts(),
        }
        return Moment(self._number + 1, SAFEPOINT, "running", cell, stopped=stopped)

    def _read_pace(self) -> Pace:
        """A wrong setting is told; it must not keep anything from being saved."""
        try:
            return Pace.from_environment()
        except SettingError as error:
            self._recorder.notice(f"{error}. Until then the default counts.")
            return Pace()


def _state_of(frame: FrameType) -> dict[str, Any]:
    """A function's variables but for progress bars, which belong to the output of the cell that made them."""
    return {name: value for name, value in locals_of(frame).items() if not is_bar(value)}
