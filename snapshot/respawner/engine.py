"""One kernel's Respawner: decides when to restore and when to capture.

Decisions are made on the kernel's main thread; writing goes on beside it (see `recorder`). Nothing raised
here reaches the user's cell, except from the calls that the user makes (`save`, `restore`).

The life of a timeline's head, step by step:

1. `start` (first cell that stores history): the clean marker, the policy and the guard say whether to
   restore; the guard counts the attempt, the newest whole snapshot is loaded and put into the namespace.
2. `before_execution`: what is pending is captured, and no byte of it depends any more on what may change now.
3. `cell_begins`: the cell is noted as running, the status file says dirty.
4. `cell_ends`: the moment is noted, and captured by `capture_pending` once the reply is out.
5. The saver publishes the snapshot; markers are cleared, the status file says saved.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from . import device_memory, reports
from .capture import Moment
from .claim import Claim
from .container_memory import MemoryUse
from .death import LastWords
from .ending import SaveOnTerminate
from .errors import DamagedError, NoSnapshotError, SettingError
from .guard import Guard
from .listing import describe
from .manifest import Manifest
from .memory_watch import DEFAULT_SHARE, MemoryWatch, alert_share
from .namespace import user_names
from .pickling.limits import another_chance
from .pickling.survivors import SURVIVORS
from .progress import Screen, shown
from .recorder import Recorder, explain
from .restoring import Loaded, load, load_latest, put
from .safepoints.going_on import GoingOn
from .safepoints.stopped import Stopped
from .safepoints.watch import SafePoints
from .store.timeline import Timeline
from .unsaved import first_line_of, note_of_unsaved, tell_running
from .verification import Verification

_LAST_SECONDS = 10.0
"""So long the end of a cell that failed waits for its last safe point. What is not written by then is none."""
_DURABLE_SECONDS = 60.0
"""So long a cell's end waits for the state before, where the memory of a device is used up."""


class Engine:
    """Made once a kernel, by `respawner.startup`."""

    def __init__(self, shell: Any, claim: Claim, policy: str) -> None:
        self.shell = shell
        self.timeline = claim.timeline
        self.pid = os.getpid()
        self.started = False
        self.report: dict[str, Any] = reports.nothing_report("no cell has run yet")
        self._loaded_late = False
        self._claim = claim
        self._verification: Verification | None = None
        self._guard = Guard(claim.timeline, policy)
        self.recorder = Recorder(shell, claim.timeline, self._guard.state_is_saved)
        self._terminate = SaveOnTerminate(self.close, lambda: self.recorder.busy)
        self.going_on = GoingOn(
            shell,
            self.recorder,
            self.timeline,
            partial(self._find, None),
            self.flush,
            self._progress,
            self._goes_on_from,
        )
        self.safepoints = SafePoints(
            shell,
            self.recorder,
            self.mine,
            partial(self.recorder.guarded, self._guard.cell_has_ended),
            self._terminate.check,
            self.going_on.runs_anew,
            self.going_on.put_back,
        )
        self.going_on.safepoints = self.safepoints
        self._last_words = LastWords(claim.timeline)
        self._context = contextvars.copy_context()
        """Of the running cell: ipykernel keeps there which cell an output belongs to."""
        self._memory = MemoryWatch(self._alert_share(), self._memory_is_short, self._memory_is_enough)

    # Steps of a cell -----------------------------------------------------------------------------------

    def mine(self) -> bool:
        """Whether this is the kernel's own process and main thread: no forked child, no subshell."""
        return os.getpid() == self.pid and threading.current_thread() is threading.main_thread()

    def before_execution(self, what_comes: Callable[[], tuple[str, list[str]]]) -> None:
        self.recorder.before_execution(what_comes)
        self._terminate.check()

    def cell_begins(self, source: str, cell_id: str | None = None) -> None:
        if not self.started:
            self.recorder.guarded(self.start)
        self.recorder.guarded(self._leave_damaged)
        # Whether execution_count is this cell's number already depends on IPython's version.
        number = len(self.shell.history_manager.input_hist_raw)
        self.recorder.guarded(tell_running, self.timeline, number, first_line_of(source))
        self.recorder.cell_begins()
        self._terminate.check()
        self._context = contextvars.copy_context()
        self.going_on.cell_begins(number, source, cell_id)

    def cell_ends(self, state: str, number: int, source: str, error: BaseException | None = None) -> None:
        if state != "ok" and self.safepoints.writes:  # whether its state is what comes back hangs on that
            with contextlib.suppress(KeyboardInterrupt):
                self.recorder.wait_written(_LAST_SECONDS)
        cell = {"execution_count": number, "first_line": first_line_of(source), **self.safepoints.cell_ends()}
        self.going_on.cell_ends(state)
        if state != "ok":
            self.recorder.guarded(self.going_on.tell_way_back, cell)
        self.recorder.guarded(self._guard.cell_has_ended)
        self.recorder.cell_ended(Moment(self.shell.execution_count, "cell", state, cell))
        if error is not None and device_memory.is_exhausted(error):  # last: somebody may interrupt the wait
            self.recorder.guarded(self._relieve_device, error)

    def _relieve_device(self, error: BaseException) -> None:
        """An accelerator's memory is used up: what is on its way becomes durable, caches are given back."""
        self.recorder.wait_written(_DURABLE_SECONDS)
        variables = device_memory.variables_of(error, self.shell.user_ns)
        found = device_memory.holders(variables)
        del variables
        reports.say(device_memory.told(found, device_memory.give_back(error)))

    # Memory that runs out, told by the thread of `MemoryWatch` ------------------------------------------------

    def _alert_share(self) -> float:
        """A wrong setting is told; it must not keep anything from being saved."""
        try:
            return alert_share()
        except SettingError as error:
            self.recorder.notice(f"{error}. Until then the default counts.")
            return DEFAULT_SHARE

    def _memory_is_short(self, use: MemoryUse) -> None:
        self.recorder.memory_is_short(True)
        self.safepoints.hurry()
        self.recorder.tell(reports.memory_is_short(use, self.recorder.last), self._context)

    def _memory_is_enough(self) -> None:
        self.recorder.memory_is_short(False)

    # The capture -----------------------------------------------------------------------------------------------

    def capture_when_quiet(self, later: Callable[[Callable[[], None]], object]) -> None:
        """Capture the state at the end of the last cell; ``later(call)`` puts a call on the kernel's loop.

        While restored memory is still being read from the disk, hashing it would only wait for the disk:
        the capture comes after that, or before the next cell.
        """
        if self._verification is None or self._verification.done:
            self.capture_pending()
        else:
            self._verification.when_done(lambda: later(self.capture_pending))

    def capture_pending(self) -> None:
        """Capture the state at the end of the last cell, if that has not been done."""
        self.recorder.capture_pending()
        self._terminate.check()

    def close(self) -> None:
        """At the kernel's exit: everything becomes durable."""
        if self.mine():
            self.recorder.close(self.shell.kernel.log.warning)
            self._last_words.end()

    def release(self) -> None:
        """Let another kernel have the timeline."""
        self._terminate.remove()
        self.safepoints.remove()
        self.recorder.release()
        self._memory.stop()
        self._last_words.remove()
        self._claim.lock.release()

    # Start ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Restore, or say why not. Shows the report in the cell that is about to run."""
        self.started = True
        source = self._claim.source
        head = source.target()
        why_not = self._guard.why_not_restore()
        if self._loaded_late and user_names(self.shell):
            why_not = "there are variables already, so nothing was restored"
        if why_not is None:
            self._restore_newest(head)
        else:
            # First what keeps the state and obeys the wish; naming all that is kept reads many files.
            self._guard.begin_clean(head if source is self.timeline else None, why_not)
            self.report = reports.nothing_report(why_not, offered=self._offered(head))
        if self._claim.note:
            self.report["notes"].insert(0, self._claim.note)
        self.report["notes"] += note_of_unsaved(source, head)
        if self._last_words.death is not None:
            self.report["notes"].append(self._last_words.death.told(head))
        self.recorder.prepare()
        if head is not None or any(self.report.get(key) for key in ("damaged", "notes", "offered")):
            reports.show(self.report)

    def start_late(self) -> None:
        """`start` in a running cell, by ``%load_ext``: spares variables that cells have made before."""
        if not self.started:
            self._loaded_late = True
            self.recorder.guarded(self.start)

    def continue_count(self) -> None:
        """Set the number of the first cell before the frontend is told it, which is before any hook runs."""
        head = self._claim.source.target()
        if head is None or self._guard.why_not_restore() is not None:
            return
        count = head.cell.get("next_count", 1)
        self.shell.execution_count = max(self.shell.execution_count, count)
        # Filled by the restore; until then In[n] must line up with the prompts all the same.
        history = self.shell.history_manager
        for inputs in (history.input_hist_parsed, history.input_hist_raw):
            inputs.extend([""] * (count - len(inputs)))

    def _offered(self, head: Manifest | None) -> list[dict[str, Any]]:
        """What `%restore` can bring back instead: the last state, and those that other starts did not continue."""
        offered = [] if head is None else [head]
        if pinned := self._claim.source.pins().keys() - {found.id for found in offered}:
            snapshots = self._claim.source.snapshots()
            offered += [found for found in snapshots if isinstance(found, Manifest) and found.id in pinned]
        return [describe(found) for found in offered]

    def user_restarts(self) -> None:
        """A user restarts the kernel, in order (see `guard`). Called in the kernel's control thread."""
        if os.getpid() == self.pid:
            self._guard.user_restarts()

    def _restore_newest(self, head: Manifest | None) -> None:
        if head is not None:
            self._guard.begin_attempt()
        try:
            with self._progress("restoring"):
                found = load_latest(self.shell, self._claim.source, eager=False)
                if isinstance(found, Loaded):
                    self._put(found, self._claim.source, "start")
        except Exception as error:
            self._guard.begin_clean(head, "could not be restored")
            self.report = reports.nothing_report(f"the last state could not be restored: {explain(error)}")
            raise
        damaged = found.damaged if isinstance(found, Loaded) else found
        if not isinstance(found, Loaded):
            which = "snapshot that is whole" if damaged else "snapshot yet"
            self.report = reports.nothing_report(f"this notebook has no {which}")
            self.report["damaged"] = [{"sequence": d.sequence, "reason": d.reason} for d in damaged]
        if damaged:
            self.recorder.distrust()

    def _put(self, loaded: Loaded, timeline: Timeline, how: str) -> None:
        at_start = how == "start"
        overwritten = put(self.shell, loaded, replace=not at_start, with_history=at_start)
        self.recorder.excluded |= set(loaded.excluded)
        self.recorder.parent = loaded.manifest.id
        self.going_on.restored(timeline, loaded)
        self.report = reports.restored_report(loaded, overwritten, how)
        self._goes_on_from(loaded)

    def _goes_on_from(self, loaded: Loaded) -> None:
        """What goes on from a state counts as good when that state does."""
        self._verification = loaded.verification
        self.recorder.hold(loaded.verification.is_good)

    def _leave_damaged(self) -> None:
        """Fall back where the state that was restored turned out to be damaged. Shows a report."""
        verification = self._verification
        if verification is None or not verification.damage:
            return
        self._verification = None
        verification.stop()
        self.recorder.flush()  # what has been captured of the damaged state ends at the gate
        self.recorder.hold(None)
        self.recorder.distrust()
        damaged = verification.manifest
        with self._progress("going back to the snapshot before"):
            found = load_latest(self.shell, self._claim.source, before=damaged.sequence)
            if isinstance(found, Loaded):
                self._put(found, self._claim.source, "in place")
        what = "; ".join(f"{', '.join(d.names)} ({d.about}): {d.reason}" for d in verification.damage)
        if isinstance(found, Loaded):
            self.report["notes"].append(
                "cells that ran since the restore are not in this state: it is the one before the damaged one"
            )
            self.report["notes"].append(
                f"`%restore --salvage {damaged.id}` brings back what of that is whole"
            )
        else:
            self.report = reports.nothing_report("no snapshot is whole; the variables stay as they are")
        self.report["damaged"].insert(0, {"sequence": damaged.sequence, "reason": what})
        reports.show(self.report)

    # Calls of the user ---------------------------------------------------------------------------------

    def save(self, label: str | None = None, kind: str = "manual") -> Manifest:
        """Capture now; returns when it is durable. Raises what goes wrong."""
        if kind == "manual":
            another_chance()
        moment = Moment(self.shell.execution_count, kind, labels=[label] if label else [])
        with self._progress("saving the state as it is" if kind == "undo" else "saving"):
            return self.recorder.save(moment)

    def forget(self, id_or_label: str) -> Manifest:
        """Delete a snapshot of this notebook for good, and what only it needed."""
        return self.recorder.delete(id_or_label)

    def restore(self, id_or_label: str | None = None, *, salvage: bool = False) -> dict[str, Any]:
        """Replace the namespace by a snapshot's. The state before is saved first, so this can be undone.

        With ``salvage`` a damaged snapshot is taken as well, with placeholders for what is damaged.
        """
        timeline, wanted = self._find(id_or_label)
        self.started = True
        with SURVIVORS.holding():
            undo = self.save(kind="undo")
        with self._progress("restoring"):
            try:
                loaded = load(self.shell, timeline, wanted, salvage=salvage)
            except DamagedError:
                self.recorder.distrust()
                raise
            self._put(loaded, timeline, "in place")
        self.report["notes"].append(f"`%restore {undo.id}` undoes this")
        return self.report

    def _find(self, id_or_label: str | None) -> tuple[Timeline, Manifest]:
        """In this kernel's timeline, or in the one that it started from. Raises `NoSnapshotError`."""
        try:
            return self.timeline, self.timeline.find_snapshot(id_or_label)
        except NoSnapshotError:
            return self._claim.source, self._claim.source.find_snapshot(id_or_label)

    def clean_next_start(self) -> None:
        """The next start of this notebook's kernel restores nothing. Snapshots stay."""
        self._guard.wish_clean_start()

    def stopped(self) -> Stopped | None:
        """Where a cell was when the kernel ended, until it has gone on or run again to its end."""
        return self.recorder.stopped

    def flush(self, timeout: float | None = None) -> bool:
        """Whether everything up to the last ended cell is durable; waits for that."""
        with self._progress("saving"):
            return self.recorder.flush(timeout)

    def _progress(self, what: str) -> AbstractContextManager[None]:
        """Shown in the cell that runs, where it takes long."""
        return shown(what, Screen(self.shell))

    def status(self) -> dict[str, Any]:
        return {
            "active": True,
            "timeline": self.timeline.name,
            "store": str(self.timeline.folder.parent.parent),
            "folder": str(self.timeline.folder),
            "note": self._claim.note,
            "variables": len(user_names(self.shell, self.recorder.excluded)),
            "verifying_bytes": self._verification.remaining_bytes if self._verification else 0,
            **self.recorder.status(),
            **self.safepoints.status(),
        }
