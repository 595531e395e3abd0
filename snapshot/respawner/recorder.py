"""Takes the state after every cell and sees to it that it becomes durable; keeps the books about both.

The capture runs on the kernel's main thread, between two cells; the writing in the saver's. What either of
them tells (`last`, `error`, the status file, notices for the next cell) is kept here under one lock.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from .bystanders import stands_by
from .capture import Moment, capture
from .errors import (
    BuiltOnDamageError,
    DeviceError,
    FencedError,
    OverBudgetError,
    RespawnerError,
    StoreError,
    TornError,
)
from .interrupts import interrupts_later
from .manifest import Manifest
from .processstate import Baseline
from .progress import PATIENCE_SECONDS, Step, step
from .readable import readable_size
from .runtime import DIRTY, FAILED, SAVED, StatusFile, flush_wanted_since, runtime_folder
from .safepoints.stopped import Stopped
from .saving.job import Job
from .saving.ranges import Ranges
from .saving.saver import Saver
from .store.budget import DAY_BYTES, day_bytes, decide, written_in_a_day
from .store.fence import Fence
from .store.timeline import Timeline
from .store.writer import TimelineWriter

_LOG = logging.getLogger("respawner")
_PRUNE_EVERY = 5
_LOOK_SECONDS = 0.5
_LOG_SECONDS = 5.0
_UNBUDGETED_BYTES = 16 << 20
"""Less is always written: a notebook of small states never comes near the budget."""
_HOPES: dict[type[BaseException], str] = {
    FencedError: "",
    DeviceError: " Nothing more is saved in this kernel: restart it, and it comes back with that snapshot.",
}
"""What is to be expected after a failure, where it is not another attempt."""
_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk reports errors",
}


class Recorder:
    """``saved(manifest)`` is called in the writing thread after each publish."""

    def __init__(self, shell: Any, timeline: Timeline, saved: Callable[[], None]) -> None:
        self.shell = shell
        self.timeline = timeline
        self.excluded: set[str] = set()
        self.last: Manifest | None = None
        self.error: str | None = None
        self.pending: Moment | None = None
        self.parent: str | None = None
        """The snapshot that the next one comes from, where that is not the one saved before it."""
        self.stopped: Stopped | None = None
        """Where a cell was that has not gone on: every snapshot keeps it until then."""
        self.stall_seconds = 0.0
        """How long the last capture, and the wait before the cell after it, held the kernel up."""
        self.again: Callable[[], object] | None = None
        """Called in the writing thread where the last state must be captured anew."""
        self.deferral: str | None = None
        """Why the last state has been put off, where the budget of writes is short."""
        self._deferred_since: float | None = None
        self._flush_wanted = False
        self._saved = saved
        self._baseline = Baseline()
        self._failing = False
        self._given_up = False
        """The last state goes on from damage: nothing can be saved of it, and nothing is tried before the next cell."""
        self._cell_runs = False
        self._handing_over = False
        self._notices: list[str] = []
        self._capturing = threading.Lock()
        self._books = threading.RLock()
        self._published = 0
        self._last_moment: Moment | None = None
        self._torn_inside = False
        self.keeps = False
        """Whether memory is still to be copied that the running cell was left to go on with."""
        self._guesses_hold = True
        """Until such memory was changed all the same."""
        self._saver = Saver(lambda: TimelineWriter(timeline, Fence.of_session()), self._job_ended)
        self._status = self._open_status()
        self.day_bytes = self._read_budget()

    # Steps of a cell -----------------------------------------------------------------------------------

    def cell_begins(self) -> None:
        self._cell_runs = True
        self._tell_status()
        with self._books:
            notices, self._notices = self._notices, []
        for notice in notices:
            print(notice)  # noqa: T201

    def cell_ended(self, moment: Moment) -> None:
        """Note the moment: it is captured by `capture_pending` once the reply is out."""
        self.pending = moment
        self._cell_runs = False

    def capture_pending(self, *, force: bool = False) -> None:
        """Capture the state at the end of the last cell, if that has not been done.

        Without ``force`` it may be put off for the sake of the disk (see `store.budget`).
        """
        if self.pending is None:
            return
        self._handing_over = True  # until the job is the saver's: meanwhile nobody is told that all is saved
        moment, self.pending = self.pending, None
        wanted, self._flush_wanted = self._flush_wanted, False
        self.guarded(self._capture_or_defer, moment, force or wanted)
        self._handing_over = False
        self._tell_status()

    def _capture_or_defer(self, moment: Moment, force: bool) -> None:
        try:
            self.capture(moment, within_budget=not force)
            self._deferred_since = None
        except OverBudgetError as deferred:
            # The next cell's end or the timer asks again; whoever flushes gets it at once.
            self._deferred_since = self._deferred_since or time.monotonic()
            self.deferral = str(deferred)
            self.pending = moment
            arguments = (moment, deferred.wait_seconds)
            threading.Thread(
                target=self._ask_again, args=arguments, name="respawner-later", daemon=True
            ).start()

    def _ask_again(self, moment: Moment, seconds: float) -> None:
        """After that time, or as soon as somebody outside wants everything on the disk."""
        began = time.time()
        while self.pending is moment and time.time() < began + seconds:
            if flush_wanted_since(runtime_folder(), began):
                self._flush_wanted = True
                break
            time.sleep(_LOOK_SECONDS)
        if self.again is not None and self.pending is moment:
            self.again()

    def before_execution(self, what_comes: Callable[[], tuple[str, list[str]]]) -> None:
        """Something is about to run in the namespace: nothing may be read from its memory after this.

        Unless it stands by: then the writer reads on, and notices if that was wrong (`bystanders`).
        """
        self.capture_pending()
        if not self._saver.idle and not self._stands_by(what_comes):
            started = time.perf_counter()
            with interrupts_later():
                self.guarded(self._saver.freeze)
            self.stall_seconds += time.perf_counter() - started

    def _stands_by(self, what_comes: Callable[[], tuple[str, list[str]]]) -> bool:
        try:
            code, expressions = what_comes()
            return stands_by(code, expressions, self.shell.user_ns)
        except Exception:  # a request that says no code, a frontend's own shell
            return False

    def capture(self, moment: Moment, *, within_budget: bool = False) -> Job:
        """Capture now and leave the writing to the saver. Raises what goes wrong with the capture.

        With ``within_budget`` it raises `OverBudgetError` where so much should not be written yet.
        """
        if not self._capturing.acquire(blocking=False):
            raise RespawnerError(
                "a snapshot is being taken at this moment (by another thread, or by what it pickles)"
            )
        started = time.perf_counter()
        try:
            moment.parent = self.parent
            moment.stopped = moment.stopped or self.stopped
            with interrupts_later():
                job = capture(self.shell, moment, self._baseline, self.excluded, self._saver.stored())
                if within_budget:
                    self._check_budget(job.changed_bytes)
                self._last_moment = moment
                self._saver.submit(job)
            self.parent = None
        except OverBudgetError:
            raise
        except Exception as error:
            self._note_failure(error)
            raise
        finally:
            self._capturing.release()
            self.stall_seconds = time.perf_counter() - started
        return job

    def expect_inside(self) -> None:
        """A cell has safe points: it may change all memory of the state that it began with."""
        if self.last is not None:
            self._saver.expect(sum(payload.stream.length for payload in self.last.payloads))

    def capture_inside(self, moment: Moment, kept: Callable[[], Ranges], *, urgent: bool = False) -> Job:
        """Capture a running cell, at a moment at which its state is consistent.

        When this returns, the cell may change everything but, where `keeps` says so, what lies in ``kept()``: that is copied
        while the cell goes on, and `freeze_inside` must be called before it changes. That nothing else changed it is not
        believed: digests tell, as with all that is read late. After one such snapshot was lost nothing is left for later
        in this kernel. Raises `OverBudgetError` unless it is urgent, and what goes wrong.
        """
        moment.restless, self._torn_inside = self._torn_inside, False
        try:
            with interrupts_later():
                job = self.capture(moment, within_budget=not urgent)
                may_wait = kept() if self._guesses_hold and not moment.restless and not urgent else Ranges()
                job.guessed = self.keeps = bool(may_wait)
                # The cell has been running: most of a device's memory that it needs it has.
                self._saver.freeze(may_wait, on_devices=True)
                if self.keeps:
                    self._saver.freeze_beside()
        except OverBudgetError as deferred:
            self._deferred_since = self._deferred_since or time.monotonic()
            self.deferral = str(deferred)
            raise
        finally:
            moment.stopped = None  # it holds variables of functions, which the cell may want to be rid of
        self._deferred_since = None
        self.pending = None  # a state that has been put off until now is older
        return job

    def freeze_inside(self) -> None:
        """What `capture_inside` has kept may be changed when this returns."""
        with interrupts_later():
            self._saver.freeze()
            self.keeps = False

    def _check_budget(self, changed_bytes: int) -> None:
        if changed_bytes < _UNBUDGETED_BYTES:
            return
        age = time.monotonic() - self._deferred_since if self._deferred_since else 0.0
        written = written_in_a_day(self.timeline.folder.parent.parent)
        decision = decide(written, age, changed_bytes, self.day_bytes)
        if not decision.save:
            raise OverBudgetError(decision.reason, decision.wait_seconds)
        self.deferral = None

    def save(self, moment: Moment) -> Manifest:
        """Capture, and return when it is durable. Raises what goes wrong with either."""
        self.capture_pending()
        job = self.capture(moment)
        self._tell_step()
        job.done.wait()
        if isinstance(job.error, TornError):
            moment.restless = True
            job = self.capture(moment)
            job.done.wait()
        if job.manifest is None:
            raise job.error or RespawnerError("the state was not saved")
        return job.manifest

    def memory_is_short(self, short: bool) -> None:
        """Take no more memory for as long as that is so, and put nothing off. Any thread."""
        self._saver.spare_memory(short)
        if short and self.pending is not None and not self._cell_runs:
            self._flush_wanted = True
            if self.again is not None:
                self.again()

    def tell(self, text: str, context: contextvars.Context) -> None:
        """In the cell that runs, which ``context`` is of, else with the next one. Any thread."""
        if self._cell_runs:
            context.run(print, f"Respawner: {text}", flush=True)
        else:
            self.notice(text)

    def delete(self, wanted: str) -> Manifest:
        """Delete one snapshot for good. Raises `StoreError` where that cannot be."""
        self.flush()
        return self._saver.delete(wanted)

    def flush(self, timeout: float | None = None) -> bool:
        """Whether everything up to the last ended cell is durable, waiting for it at most ``timeout`` s."""
        self.capture_pending(force=True)
        self._tell_step()
        return self._saver.wait(timeout) and not self._unsaved

    def _tell_step(self) -> Step:
        """Of the states that are on their way to the disk now."""
        jobs = self._saver.unfinished()
        return step(
            "writing", lambda: sum(job.taken_bytes for job in jobs), sum(job.changed_bytes for job in jobs)
        )

    def prepare(self) -> None:
        """Get ready to save, in the writing thread: it may have to read many manifests."""
        self._saver.prepare()

    def distrust(self) -> None:
        self._saver.distrust()

    def hold(self, gate: Callable[[], bool] | None) -> None:
        self._saver.hold(gate)

    def close(self, log: Callable[[str], object] = lambda text: None) -> None:
        """Make everything durable; take the status file away. What takes long is told to ``log``."""
        self.capture_pending(force=True)
        writing = self._tell_step()
        if not self._saver.wait(PATIENCE_SECONDS):
            log(f"Respawner: saving the last state before the kernel ends, {writing}")
            while not self._saver.wait(_LOG_SECONDS):
                log(f"Respawner: {writing}")
            log(f"Respawner: {self.error if self._unsaved else 'saved'}")
        if self._status:
            self.guarded(self._status.remove)

    def release(self) -> None:
        self._saver.close()

    def wait_written(self, timeout: float | None = None) -> None:
        """Until everything captured so far is durable, or has failed to become so; at most ``timeout`` seconds."""
        self._saver.wait(timeout)

    @property
    def writes(self) -> bool:
        """Whether a state is on its way to the disk."""
        return not self._saver.idle

    @property
    def busy(self) -> bool:
        """Whether a capture is under way in this very moment (a signal handler may ask).

        Or the books are being kept by the asking thread: what waits for the writing thread, which needs them, would wait
        for ever.
        """
        owned: bool = self._books._is_owned()  # type: ignore[attr-defined]  # no public way to ask
        return self._capturing.locked() or owned

    def status(self) -> dict[str, Any]:
        last = self.last
        writing = self._saver.unfinished()
        return {
            "saved": self._state() == SAVED,
            "snapshot": last.id if last else None,
            "snapshot_created": last.created if last else None,
            "snapshot_bytes": last.size_bytes if last else None,
            "skipped": [vars(skipped) for skipped in last.skipped] if last else [],
            "pending": self.pending is not None or bool(writing),
            "writing_bytes": sum(job.changed_bytes for job in writing),
            "stall_seconds": round(self.stall_seconds, 4),
            "arena_bytes": self._saver.arena.size_bytes,
            "arena_limit_bytes": self._saver.arena.limit_bytes,
            "excluded": sorted(self.excluded),
            "deferred": self.deferral,
            "error": self.error,
        }

    # The writing thread ---------------------------------------------------------------------------------

    def _job_ended(self, job: Job) -> None:
        if job.manifest is not None:
            self._note_success(job.manifest)
        elif isinstance(job.error, TornError) and job.guessed:
            self._guesses_hold = False
        elif isinstance(job.error, TornError) and not job.restless:
            self._capture_anew()
        elif isinstance(job.error, BuiltOnDamageError):
            # The next cell begins with a state that is whole, and its report says why.
            self._given_up, self.error = True, explain(job.error)
            self._tell_status()
        elif job.error is not None:
            self._note_failure(job.error)

    def _note_success(self, manifest: Manifest) -> None:
        with self._books:
            self.last = manifest
            self.error = None
            self._given_up = False
            if self._failing:
                self._failing = False
                self._notices.append("Respawner: saving works again.")
            self._published += 1
            prune_now = self._published % _PRUNE_EVERY == 0
        self.guarded(self._saved)
        if prune_now:
            self.guarded(self._saver.tidy)
        self._tell_status()

    def _capture_anew(self) -> None:
        """A thread or a callback of the user changed memory while it was written."""
        with self._books:
            if self._cell_runs:
                self._torn_inside = True  # the next safe point takes what is read
                return
            if self.pending is not None or self._last_moment is None:
                return  # the end of that cell is captured anyway
            moment = self._last_moment
            moment.restless = True
            self.pending = moment
        if self.again is not None:
            self.again()

    # Books ---------------------------------------------------------------------------------------------

    def guarded(self, step: Any, *arguments: Any) -> None:
        """Run one step of ours; what it raises is told, never raised into the user's cell."""
        try:
            step(*arguments)
        except Exception as error:
            _LOG.debug("respawner: %s failed", getattr(step, "__name__", step), exc_info=True)
            with self._books:
                if not self._failing:
                    self.error = explain(error)
                    self.notice(f"{self.error}. Your cells are not affected.")

    def notice(self, text: str) -> None:
        """Tell it with the next cell."""
        with self._books:
            self._notices.append(f"Respawner: {text}")

    def _note_failure(self, error: BaseException) -> None:
        with self._books:
            self.error = explain(error)
            if not self._failing:
                self._failing = True
                last = (
                    f"the last good snapshot is {self.last.id}"
                    if self.last
                    else "there is no snapshot of this run"
                )
                hope = _HOPES.get(type(error), " Trying again after every cell.")
                self.notice(f"the state could not be saved ({self.error}); {last}.{hope}")
        self._tell_status()

    def _read_budget(self) -> int:
        """A wrong setting is told; it must not keep anything from being saved."""
        try:
            return day_bytes()
        except StoreError as error:
            self.notice(f"{error}. Until then it counts as {readable_size(DAY_BYTES)}.")
            return DAY_BYTES

    def _open_status(self) -> StatusFile | None:
        try:
            status = StatusFile(runtime_folder())
            status.write(SAVED, timeline=self.timeline.name, snapshot=None, error=None)
        except OSError as error:
            self.notice(f"no status file for `respawner.flush` ({error}).")
            return None
        return status

    @property
    def _unsaved(self) -> bool:
        return self._failing or self._given_up

    def _state(self) -> str:
        """An attempt under way counts as dirty, whatever became of the one before."""
        # The job that tells of its end is still running for the saver, and still in `unfinished`.
        waiting = [job for job in self._saver.unfinished() if job.manifest is None and job.error is None]
        if self._cell_runs or self.pending is not None or self._handing_over or waiting:
            return DIRTY
        return FAILED if self._unsaved else SAVED

    def _tell_status(self) -> None:
        if self._status is None or os.getpid() != self._status.pid:
            return
        with self._books, contextlib.suppress(OSError):
            snapshot = self.last.id if self.last else None
            self._status.write(
                self._state(), timeline=self.timeline.name, snapshot=snapshot, error=self.error
            )


def explain(error: BaseException) -> str:
    """One line that says what happened and where."""
    known = _DISK_ERRORS.get(error.errno or 0) if isinstance(error, OSError) else None
    text = f"{type(error).__name__}: {error}"
    return f"{known} ({text})" if known else text
