"""The cell that had stopped is run again: its variables are put back, its run is undone, or its place is let go of.

From the restore until the cell has gone on, three states can be meant by "the state to go on from": the snapshot that was
restored, the one that other cells have left since (`_before_cell`), and the safe point that a run has gone on from and is
not past yet (`_gone_on_from`). Which one counts when is decided here. `Loops` says where a loop goes on, `in_place` puts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

from .. import reports
from ..errors import ResumeError
from ..interrupts import interrupts_later
from ..manifest import Manifest
from ..pickling.placeholder import Placeholder
from ..recorder import Recorder, explain
from ..restoring import Loaded, load, put
from ..store.timeline import Timeline
from .frames import name_of
from .in_place import of_use, put_in_place
from .loops import functions_of
from .stopped import Stopped
from .watch import SafePoints

Snapshot = tuple[Timeline, Manifest]


class GoingOn:
    """One kernel's.

    ``newest()`` finds the newest snapshot; ``flush()`` saves all that cells have changed; ``progress(what)`` shows what
    takes long; ``goes_on_from(loaded)`` is told what the kernel's state is built on from now on.
    """

    safepoints: SafePoints
    """Set by who makes both, since each calls the other."""

    def __init__(
        self,
        shell: Any,
        recorder: Recorder,
        timeline: Timeline,
        newest: Callable[[], Snapshot],
        flush: Callable[[], bool],
        progress: Callable[[str], AbstractContextManager[None]],
        goes_on_from: Callable[[Loaded], None],
    ) -> None:
        self._shell = shell
        self._recorder = recorder
        self._timeline = timeline
        self._newest = newest
        self._flush = flush
        self._progress = progress
        self._goes_on_from = goes_on_from
        self._restored: Snapshot | None = None
        self._not_made: set[str] = set()
        """What the restore could not make of the bytes that it had: whoever goes on knows of it."""
        self._before_cell: Snapshot | None = None
        self._before_is_saved = False
        """Whether that is all of the state in which the running cell began."""
        self._again = False
        """Whether the cell that runs is the one that had stopped."""
        self._source = ""
        self._gone_on_from: tuple[Timeline, Manifest, Stopped] | None = None
        """Where the running cell has gone on: its last safe point until it has one of its own."""
        self._left: tuple[str, Stopped] | None = None
        """Id and place of the pinned safe point that a cell has failed behind, until a state with it is put back."""
        self._replaces = False
        """Whether the running cell's variables have begun to give way to those of the safe point."""
        self._passed_by: Stopped | None = None
        """The place of another cell, if it has been told that the running cell's safe points do not keep it."""

    # Steps of a cell -----------------------------------------------------------------------------------

    def restored(self, timeline: Timeline, loaded: Loaded) -> None:
        """That state has been put into the namespace."""
        self._recorder.stopped = loaded.stopped
        self._restored = timeline, loaded.manifest
        self._left = None
        self._not_made = {_told_as(placeholder) for placeholder in loaded.not_made}

    def cell_begins(self, number: int, source: str, cell_id: str | None) -> None:
        stopped = self._recorder.stopped
        self._again = stopped is not None and stopped.is_cell(source, cell_id)
        self._source = source
        if self._left is not None and stopped is None and self._left[1].is_cell(source, cell_id):
            reports.say(reports.begins_anew(*self._left))
            self._left = None
        self._gone_on_from, self._replaces, self._passed_by = None, False, None
        self._recorder.guarded(self.safepoints.cell_begins, number, source, cell_id, stopped)
        self._before_cell, self._before_is_saved = None, False
        if self._comes_again:
            self._recorder.guarded(self._save_before_cell)

    def cell_ends(self, state: str) -> None:
        if (self._again or self._replaces) and self._recorder.stopped is not None:
            # Half of it would be a torn state; what an interrupt asks for, the end of the cell, has come already.
            with contextlib.suppress(KeyboardInterrupt), interrupts_later():
                self._recorder.guarded(self._ran_again, self._recorder.stopped, state)
        self.safepoints.loops.cell_ends()

    @property
    def _comes_again(self) -> bool:
        """Whether the running cell is the one that had stopped, or may go on where that was."""
        return self._again or self.safepoints.loops.to_come is not None

    def tell_way_back(self, cell: dict[str, Any]) -> None:
        """Name the last safe point of a cell that failed. Notes in ``cell`` that a start goes back to it."""
        if self.safepoints.last is not None:
            reports.say(reports.way_back(*self.safepoints.last))
        elif self._gone_on_from is not None:
            timeline, manifest, stopped = self._gone_on_from
            if timeline is self._timeline:  # else this may be the only state that the next start finds
                cell["safepoints"] = 1
            reports.say(reports.way_back(manifest.id, stopped.facts()))
            self._left = manifest.id, stopped
            timeline.pin(manifest.id, "the last safe point of a cell that failed")

    # A run that has not gone on --------------------------------------------------------------------------

    def _ran_again(self, stopped: Stopped, state: str) -> None:
        """The cell that had stopped was run again, and has not gone on."""
        if state == "ok":
            if self.safepoints.loops.to_come is not None:
                kept = self._keep_before_cell()
                reports.say(reports.did_not_go_on(stopped, kept))
            self.let_go()
        elif self.safepoints.loops.to_come is not None:
            self._undo_run(stopped)

    def _undo_run(self, stopped: Stopped) -> None:
        """A run of the stopped cell has failed before its loop: what it has made anew gives way to the state to go on from.

        So what anybody changes after that is a change of that state, as it is before the run.
        """
        try:
            with self._progress("putting back the state to go on from"):
                self._check_before_cell()
                _, loaded = self._load_stopped()
                self._check_is_there(loaded)
                loaded.variables = of_use(loaded.variables, self._shell.user_ns)
                put(self._shell, loaded, replace=False, with_history=False)
        except Exception as error:
            self.let_go()
            self._gone_on_from = *(self._before_cell or self._newest()), stopped.light()
            reports.say(f"the variables are as this run has left them: {explain(error)}")
            return
        self._recorder.stopped = loaded.stopped
        self._goes_on_from(loaded)
        reports.say(reports.UNDONE)

    def runs_anew(self) -> None:
        """Before the running cell's own state is saved: where that is the cell that had stopped, it takes the place.

        The place of another cell stays, and is pinned: should the kernel die in this one too, its safe point comes back.
        """
        stopped = self._recorder.stopped
        if stopped is None or stopped is self._passed_by:
            return
        if not self._comes_again:
            if stopped.loops:  # this cell's safe points are about its own place
                self._passed_by = stopped
                reports.say(reports.passed_by(stopped, self._keep_before_cell()))
            return
        self.let_go()
        if stopped.loops:
            kept = self._keep_before_cell()
            reports.say(reports.saved_anew(kept))

    def _keep_before_cell(self) -> str:
        """Id of the state before this run of the stopped cell, which retention leaves alone from now on."""
        timeline, manifest = self._before_cell or self._newest()
        timeline.pin(manifest.id, "a cell that stopped was not continued from it")
        return manifest.id

    def let_go(self) -> None:
        """Where the cell stopped is nothing to go on from any more."""
        self._recorder.stopped = None

    def start_over(self) -> None:
        """Loops begin anew, with the variables as they are."""
        self.let_go()
        self.safepoints.loops.start_over()

    # One that goes on ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def put_back(self, going: Stopped, frames: list[FrameType]) -> Iterator[Loaded]:
        """Make the running cell's state that of the safe point at which it stopped, as far as that is variables.

        The caller does the rest inside; until that has succeeded too, the cell has not gone on. ``frames``: the
        functions that run. The state is taken from the snapshot that other cells since then have left, where there were
        any. Raises `ResumeError` where other functions run.
        """
        functions = functions_of(frames)
        names = [name_of(frame) for frame in functions]
        before = [name for name, _ in going.functions]
        if names != before:
            raise ResumeError(
                f"the loop ran in {' > '.join(before) or 'the cell itself'} when it stopped, and now in "
                f"{' > '.join(names) or 'the cell itself'}. Run it there, or respawner.start_over() lets it begin anew"
            )
        self._check_before_cell()
        self._replaces = True
        if self._recorder.stopped is not None:
            self._recorder.stopped = going  # without the variables: memory for one state less is needed
        with self._progress("going on"):
            timeline, loaded = self._load_stopped()
            self._check_is_there(loaded)
            told = put_in_place(
                self._shell, loaded.variables, loaded.stopped or going, functions, self._source
            )
        self._goes_on_from(loaded)
        yield loaded
        self.let_go()
        self._gone_on_from = timeline, loaded.manifest, going
        self.safepoints.steps = going.steps
        reports.say("\n  ".join([reports.goes_on(going), *told]))

    def _load_stopped(self) -> tuple[Timeline, Loaded]:
        """The state before this cell, and where it is kept."""
        if self._before_cell is not None:
            loaded = load(self._shell, *self._before_cell, eager=False)
            if loaded.stopped is not None:
                return self._before_cell[0], loaded
        if self._restored is None:
            raise ResumeError("there is no safe point to go on from")
        return self._restored[0], load(self._shell, *self._restored, eager=False)

    def _check_is_there(self, loaded: Loaded) -> None:
        """Raises `ResumeError` where something cannot be made now that the last restore has made.

        Without it the cell would go on with what it has just made anew, a fresh optimizer for instance.
        """
        new = [lost for lost in loaded.not_made if _told_as(lost) not in self._not_made]
        if new:
            what = "; ".join(f"{_told_as(lost)}: {lost.__dict__['respawner_reason']}" for lost in new)
            raise ResumeError(
                f"the loop does not go on, because something of its state cannot be made now ({what}). Put that right and "
                "run the cell again, after `%restore` where its output names a safe point"
            )

    def _save_before_cell(self) -> None:
        """Find the newest snapshot that this kernel has made of the state that it goes on from, or that one.

        Waits for as long as it takes until nothing is missing there; an interrupt or a failure is remembered.
        """
        try:
            self._before_is_saved = self._flush()
        finally:
            own = self._recorder.last if self._recorder.parent is None else None
            self._before_cell = self._restored if own is None else (self._timeline, own)

    def _check_before_cell(self) -> None:
        """Raises `ResumeError` where what other cells have changed since is not among what can be put in place."""
        if not self._before_is_saved:
            why = self._recorder.error or "the wait for it was interrupted"
            raise ResumeError(
                f"the loop does not go on, because the state before this cell could not be saved ({why}): what cells "
                "have changed since the safe point would be lost. Put that right, `%restore` the safe point, change it "
                "again and run the cell again"
            )


def _told_as(lost: Placeholder) -> str:
    return f"{lost.__dict__['respawner_path']} ({lost.__dict__['respawner_type']})"
