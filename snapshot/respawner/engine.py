"""One kernel's Respawner: decides when to restore and when to capture, and keeps the books.

Everything runs on the kernel's main thread. Nothing raised here reaches the user's cell, except from the
calls that the user makes (`save`, `restore`).

The life of a timeline's head, step by step:

1. `start` (first cell that stores history): the clean marker, the policy and the guard say whether to
   restore; the guard counts the attempt, the newest whole snapshot is loaded and put into the namespace.
2. `cell_begins`: what is pending is captured, the status file says dirty.
3. `cell_ends`: the moment is noted, and captured by `capture_pending` once the reply is out.
4. `capture_pending`: the snapshot is published, markers are cleared, the status file says saved.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from typing import Any

from . import reports
from .capture import Moment, capture
from .claim import Claim
from .errors import DamagedError, NoSnapshotError, RespawnerError
from .guard import Guard
from .interrupts import interrupts_later
from .manifest import Manifest
from .namespace import user_names
from .processstate import Baseline
from .restoring import Loaded, load, load_latest, put
from .runtime import DIRTY, FAILED, SAVED, StatusFile, runtime_folder
from .store.retention import KEEP_LATEST, prune
from .store.writer import TimelineWriter

_LOG = logging.getLogger("respawner")
_PRUNE_EVERY = 5
_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk reports errors",
}


class Engine:
    """Made once a kernel, by `respawner.startup`."""

    def __init__(self, shell: Any, claim: Claim, policy: str) -> None:
        self.shell = shell
        self.timeline = claim.timeline
        self.pid = os.getpid()
        self.started = False
        self.report: dict[str, Any] = reports.nothing_report("no cell has run yet")
        self.error: str | None = None
        self.excluded: set[str] = set()
        self._loaded_late = False
        self.last: Manifest | None = None
        self._claim = claim
        self._guard = Guard(claim.timeline, policy)
        self._baseline = Baseline()
        self._writer: TimelineWriter | None = None
        self._pending: Moment | None = None
        self._parent: str | None = None
        self._failing = False
        self._notices: list[str] = []
        self._capturing = threading.Lock()
        self._published = 0
        self._status = self._open_status()

    # Steps of a cell -----------------------------------------------------------------------------------

    def mine(self) -> bool:
        """Whether this is the kernel's own process and main thread: no forked child, no subshell."""
        return os.getpid() == self.pid and threading.current_thread() is threading.main_thread()

    def cell_begins(self) -> None:
        if not self.started:
            self._guarded(self.start)
        self._tell_status(DIRTY)
        for notice in self._notices:
            print(notice)  # noqa: T201
        self._notices.clear()

    def cell_ends(self, state: str, cell: dict[str, Any]) -> None:
        self._guarded(self._guard.cell_has_ended)
        self._pending = Moment(self.shell.execution_count, "cell", state, cell)

    def capture_pending(self) -> None:
        """Capture the state at the end of the last cell, if that has not been done."""
        moment, self._pending = self._pending, None
        if moment is not None:
            self._guarded(self._capture, moment)

    def close(self) -> None:
        """At the kernel's exit."""
        if self.mine():
            self.capture_pending()
            if self._status:
                self._guarded(self._status.remove)

    def release(self) -> None:
        """Let another kernel have the timeline."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._claim.lock.release()

    # Start ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Restore, or say why not. Shows the report in the cell that is about to run."""
        self.started = True
        source = self._claim.source
        head = source.latest()
        why_not = self._guard.why_not_restore()
        if self._loaded_late and user_names(self.shell):
            why_not = "there are variables already, so nothing was restored"
        if why_not is None:
            self._restore_newest(head)
        else:
            self._guard.begin_clean(head if source is self.timeline else None, why_not)
            self.report = reports.nothing_report(why_not)
            if head is not None:
                self.report["notes"].append(f"`%restore {head.id}` brings back the last state")
        if self._claim.note:
            self.report["notes"].insert(0, self._claim.note)
        if head is not None or self.report["damaged"] or self._claim.note:
            reports.show(self.report)

    def start_late(self) -> None:
        """`start` in a running cell, by ``%load_ext``: spares variables that cells have made before."""
        if not self.started:
            self._loaded_late = True
            self._guarded(self.start)

    def continue_count(self) -> None:
        """Set the number of the first cell before the frontend is told it, which is before any hook runs."""
        head = self._claim.source.latest()
        if head is None or self._guard.why_not_restore() is not None:
            return
        count = head.cell.get("next_count", 1)
        self.shell.execution_count = max(self.shell.execution_count, count)
        # Filled by the restore; until then In[n] must line up with the prompts all the same.
        history = self.shell.history_manager
        for inputs in (history.input_hist_parsed, history.input_hist_raw):
            inputs.extend([""] * (count - len(inputs)))

    def _restore_newest(self, head: Manifest | None) -> None:
        if head is not None:
            self._guard.begin_attempt()
        try:
            found = load_latest(self.shell, self._claim.source)
            if isinstance(found, Loaded):
                self._put(found, "start")
        except Exception as error:
            self._guard.begin_clean(head, "could not be restored")
            self.report = reports.nothing_report(f"the last state could not be restored: {_explain(error)}")
            raise
        damaged = found.damaged if isinstance(found, Loaded) else found
        if not isinstance(found, Loaded):
            which = "snapshot that is whole" if damaged else "snapshot yet"
            self.report = reports.nothing_report(f"this notebook has no {which}")
            self.report["damaged"] = [{"sequence": d.sequence, "reason": d.reason} for d in damaged]
        if damaged:
            self._open_writer().distrust()

    def _put(self, loaded: Loaded, how: str) -> None:
        at_start = how == "start"
        overwritten = put(self.shell, loaded, replace=not at_start, with_history=at_start)
        self.excluded |= set(loaded.excluded)
        self._parent = loaded.manifest.id
        self.report = reports.restored_report(loaded, overwritten, how)

    # Calls of the user ---------------------------------------------------------------------------------

    def save(self, label: str | None = None, kind: str = "manual") -> Manifest:
        """Capture now. Raises what goes wrong."""
        moment = Moment(self.shell.execution_count, kind, labels=[label] if label else [])
        return self._capture(moment)

    def restore(self, id_or_label: str | None = None) -> dict[str, Any]:
        """Replace the namespace by a snapshot's. The state before is saved first, so this can be undone."""
        timeline = self.timeline
        try:
            wanted = timeline.find_snapshot(id_or_label)
        except NoSnapshotError:
            timeline = self._claim.source
            wanted = timeline.find_snapshot(id_or_label)
        self.started = True
        undo = self.save(kind="undo")
        try:
            loaded = load(self.shell, timeline, wanted)
        except DamagedError:
            self._open_writer().distrust()
            raise
        self._put(loaded, "in place")
        self.report["notes"].append(f"`%restore {undo.id}` undoes this")
        return self.report

    def clean_next_start(self) -> None:
        """The next start of this notebook's kernel restores nothing. Snapshots stay."""
        self._guard.wish_clean_start()

    def flush(self) -> bool:
        """Whether everything up to the last ended cell is durable; captures it if it is still pending."""
        self.capture_pending()
        return self.error is None

    def status(self) -> dict[str, Any]:
        return {
            "active": True,
            "timeline": self.timeline.name,
            "store": str(self.timeline.folder.parent.parent),
            "folder": str(self.timeline.folder),
            "note": self._claim.note,
            "snapshot": self.last.id if self.last else None,
            "snapshot_bytes": self.last.size_bytes if self.last else None,
            "skipped": [vars(skipped) for skipped in self.last.skipped] if self.last else [],
            "pending": self._pending is not None,
            "variables": len(user_names(self.shell, self.excluded)),
            "excluded": sorted(self.excluded),
            "error": self.error,
        }

    # Capture -------------------------------------------------------------------------------------------

    def _capture(self, moment: Moment) -> Manifest:
        if not self._capturing.acquire(blocking=False):
            raise RespawnerError(
                "a snapshot is being taken at this moment (by another thread, or by what it pickles)"
            )
        try:
            moment.parent = self._parent
            with interrupts_later():
                manifest = capture(self.shell, self._open_writer(), moment, self._baseline, self.excluded)
            self._captured(manifest)
        except Exception as error:
            self._capture_failed(error)
            raise
        finally:
            self._capturing.release()
        return manifest

    def _captured(self, manifest: Manifest) -> None:
        self.last = manifest
        self._parent = manifest.id
        self.error = None
        if self._failing:
            self._failing = False
            self._notices.append("Respawner: saving works again.")
        self._tell_status(SAVED)
        self._guard.state_is_saved()
        self._published += 1
        if self._published % _PRUNE_EVERY == 0:
            self._guarded(self._prune)

    def _prune(self) -> None:
        if prune(self.timeline, KEEP_LATEST):
            self._open_writer().drop_unnamed_packs()

    def _capture_failed(self, error: Exception) -> None:
        self.error = _explain(error)
        self._tell_status(FAILED)
        if not self._failing:
            self._failing = True
            last = (
                f"the last good snapshot is {self.last.id}"
                if self.last
                else "there is no snapshot of this run"
            )
            self._notices.append(
                f"Respawner: the state could not be saved ({self.error}); {last}. Trying again after every cell."
            )

    def _open_writer(self) -> TimelineWriter:
        if self._writer is None:
            self._writer = TimelineWriter(self.timeline)
        return self._writer

    # Books ---------------------------------------------------------------------------------------------

    def _guarded(self, step: Any, *arguments: Any) -> None:
        """Run one step of ours; what it raises is told, never raised into the user's cell."""
        try:
            step(*arguments)
        except Exception as error:
            _LOG.debug("respawner: %s failed", getattr(step, "__name__", step), exc_info=True)
            if not self._failing:
                self.error = _explain(error)
                self._notices.append(f"Respawner: {self.error}. Your cells are not affected.")

    def _open_status(self) -> StatusFile | None:
        try:
            status = StatusFile(runtime_folder())
            status.write(SAVED, timeline=self.timeline.name, snapshot=None, error=None)
        except OSError as error:
            self._notices.append(f"Respawner: no status file for `respawner.flush` ({error}).")
            return None
        return status

    def _tell_status(self, state: str) -> None:
        if self._status is None or not self.mine():
            return
        snapshot = self.last.id if self.last else None
        with contextlib.suppress(OSError):
            self._status.write(state, timeline=self.timeline.name, snapshot=snapshot, error=self.error)


def _explain(error: Exception) -> str:
    """One line that says what happened and where."""
    known = _DISK_ERRORS.get(error.errno or 0) if isinstance(error, OSError) else None
    text = f"{type(error).__name__}: {error}"
    return f"{known} ({text})" if known else text
