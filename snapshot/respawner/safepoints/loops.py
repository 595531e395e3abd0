"""`respawner.resume`: loops between whose iterations a state can be saved, and which go on from it.

A boundary, before an item is fetched, is the only moment from which a loop can go on exactly: of the iteration before
everything has run, of the next one nothing. When the cell is run again after a restore, everything before the loop runs
again too (it may make the model anew). So the state is put in place when the loop begins: the variables, those of the
functions that run, the random states. Loops around it go on with the iteration that had not ended; loops beside it
that had ended are passed over.
"""

from __future__ import annotations

import ast
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

from ..errors import ResumeError
from ..pickling.placeholder import Placeholder
from ..processstate import put_random_state
from ..restoring import Loaded
from .frames import loop_variables, notebook_frames, site_of, source_tree
from .positions import at_position, start_of, worth_saving
from .stopped import LoopPosition, Stopped

_COUNT_FROM_ZERO = {
    "enumerate": "respawner.resume(…, counted=True)",
    "zip": "respawner.resume(zip(…))",
}


class ResumableLoop:
    """An iterable that tells `Loops` of its iterations."""

    def __init__(self, loops: Loops, iterable: Iterable[Any], name: str | None, counted: bool) -> None:
        self._loops = loops
        self._iterable = iterable
        self._name = name
        self._counted = counted

    def __iter__(self) -> Iterator[Any]:
        return self._loops.enter(self._iterable, self._name, self._counted)

    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]

    def __reduce__(self) -> Any:
        from .. import resume

        return resume, (self._iterable, self._name, self._counted)


class RunningLoop:
    """One iteration over the iterable, from its first item to its end. ``count``: items that are done."""

    def __init__(self, loops: Loops, iterable: Any, name: str | None, site: str, counted: bool) -> None:
        self.name = name or site
        self.named = name is not None
        self.site = site
        self.iterable = iterable
        self.count = 0
        self.start: dict[str, Any] = {}
        self.done: list[tuple[str, str]] = []
        """Keys of the loops that have ended in the iteration that runs."""
        self._loops = loops
        self._counted = counted
        self._iterator: Iterator[Any] | None = None
        self._runs = False

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.site

    def begin(self) -> None:
        self.start = start_of(self.iterable)
        self._iterator = iter(self.iterable)

    def go_on(self, position: LoopPosition) -> None:
        """Begin behind the items that are done."""
        usable = position.iterable is not None and not isinstance(position.iterable, Placeholder)
        if usable and worth_saving(self.iterable):
            self.iterable = position.iterable
        self.count, self.start = position.count, position.start
        self._iterator = at_position(self.iterable, self.count, self.start)

    def position(self) -> LoopPosition:
        iterable = self.iterable if worth_saving(self.iterable) else None
        return LoopPosition(self.name, self.named, self.site, self.count, self.start, iterable)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._iterator is None:  # it has ended
            raise StopIteration
        if self._runs:
            self._runs = False
            self.count += 1
            if self.done:
                self.done = []
        self._loops.at_boundary(self)
        try:
            item = next(self._iterator)
        except StopIteration:
            self._iterator = None
            self._loops.ended(self)
            raise
        self._runs = True
        return (self.count, item) if self._counted else item

    def __reduce__(self) -> Any:
        """A progress bar around it may be a variable; its cell makes a new one."""
        return iter, ((),)


class Loops:
    """The loops of the running cell. ``boundary()`` is called where a state could be saved.

    ``put_back(frames)`` loads the state of the safe point and puts it in place.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        boundary: Callable[[], None],
        put_back: Callable[[list[FrameType]], Loaded],
    ) -> None:
        self._namespace = namespace
        self._boundary = boundary
        self._put_back = put_back
        self._source = ""
        self._going: Stopped | None = None
        self._matched = 0
        """How many of the loops that were around the safe point have been entered again."""
        self._running: list[weakref.ref[RunningLoop]] = []
        self._done: list[tuple[str, str]] = []

    def cell_begins(self, source: str, stopped: Stopped | None) -> None:
        self._source = source
        self._running, self._done, self._matched = [], [], 0
        comes_again = stopped is not None and (
            stopped.source == source or any(loop.named for loop in stopped.loops)
        )
        self._going = stopped if comes_again else None

    @property
    def to_come(self) -> bool:
        """Whether the cell may still go on where it stopped, and has not yet."""
        return self._going is not None and bool(self._going.loops)

    @property
    def on_the_way(self) -> bool:
        """Whether the cell runs towards the place where it stopped: what it is until then is no state to save."""
        return self.to_come and bool(self._matched or not self._changed())

    def start_over(self) -> None:
        """The loops of the running cell that are yet to come begin anew."""
        self._going = None

    def running(self) -> list[RunningLoop]:
        """Outermost first. A loop that was left by ``break`` or an exception is nobody's any more, and so is gone."""
        return [loop for reference in self._running if (loop := reference()) is not None]

    def positions(self) -> tuple[list[LoopPosition], list[list[tuple[str, str]]]]:
        """Where all of them are, and for each level what has ended there before."""
        running = self.running()
        levels = [self._done, *(loop.done for loop in running)]
        return [loop.position() for loop in running], [list(done) for done in levels[: max(1, len(running))]]

    def resumable(self, iterable: Iterable[Any], name: str | None, counted: bool) -> ResumableLoop:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"the name of a loop is a text, not {name!r}")
        return ResumableLoop(self, iterable, name, counted)

    def enter(self, iterable: Any, name: str | None, counted: bool) -> Iterator[Any]:
        frames = notebook_frames(self._namespace)
        _refuse_to_count_from_zero(frames)
        loop = RunningLoop(self, iterable, name, site_of(frames), counted)
        around = [other for other in self.running() if other.site != loop.site]
        level = len(around)
        if self._going is not None and level == self._matched and level < len(self._going.loops):
            if self._is_the_same(loop, self._going.loops[level]):
                self._go_on(loop, around, frames)
            elif self._had_ended(loop, self._going.done[level]):
                (around[-1].done if around else self._done).append(loop.key)
                return iter(())
            else:
                loop.begin()
        else:
            loop.begin()
        self._running = [weakref.ref(other) for other in (*around, loop)]
        return loop

    def at_boundary(self, loop: RunningLoop) -> None:
        if self._running and self._running[-1]() is not loop:  # what was inside it is over
            running = [reference() for reference in self._running]
            if loop in running:
                del self._running[running.index(loop) + 1 :]
        self._boundary()

    def ended(self, loop: RunningLoop) -> None:
        running = self.running()
        around = running[: running.index(loop)] if loop in running else running
        done = around[-1].done if around else self._done
        if loop.key not in done:
            done.append(loop.key)
        self._running = [weakref.ref(other) for other in around]

    def _changed(self) -> bool:
        return self._going is not None and self._going.source != self._source

    def _is_the_same(self, loop: RunningLoop, wanted: LoopPosition) -> bool:
        if loop.named != wanted.named or loop.name != wanted.name:
            return False
        # A named loop is found again in a cell that was changed, wherever it stands now.
        return loop.named if self._changed() else loop.site == wanted.site

    def _had_ended(self, loop: RunningLoop, done: list[tuple[str, str]]) -> bool:
        if self._changed():
            return loop.named and any(name == loop.name for name, _ in done)
        return loop.key in done

    def _go_on(self, loop: RunningLoop, around: list[RunningLoop], frames: list[FrameType]) -> None:
        going = self._going
        if going is None:
            raise AssertionError("nothing to go on from")
        level = len(around)
        if level < len(going.loops) - 1:
            loop.go_on(going.loops[level])
            self._matched += 1
            return
        _check_loops_around(loop, going, frames)
        loaded = self._put_back(frames)
        state = loaded.stopped or going
        loop.go_on(state.loops[level])
        put_random_state(loaded.random)  # passing over has drawn numbers
        self._done = list(state.done[0])
        for other, done in zip(around, state.done[1:], strict=False):
            other.done = list(done)
        self._going = None


def _check_loops_around(loop: RunningLoop, stopped: Stopped, frames: list[FrameType]) -> None:
    """Plain loops around a resumable one begin anew; it would run in their first iteration."""
    now = loop_variables(frames)
    for name, value in stopped.around.items():
        if name in now and now[name] != value:
            raise ResumeError(
                f"the loop {loop.name!r} stopped where {name} was {value!r}, and here it is {now[name]!r}. Let the loop "
                f"around it go on as well (`for {name.rpartition(' ')[2]} in respawner.resume(…)`) or begin at "
                f"{value!r}; respawner.start_over() lets all loops begin anew, with the variables as they are"
            )


def _refuse_to_count_from_zero(frames: list[FrameType]) -> None:
    """``enumerate(respawner.resume(x))`` would count from 0 again. Raises `ResumeError`."""
    tree = source_tree(frames[-1].f_code) if frames else None
    if tree is None:
        return
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in _COUNT_FROM_ZERO
            and node.lineno <= frames[-1].f_lineno <= (node.end_lineno or 0)
            and any(_calls_resume(argument) for argument in node.args)
        ):
            instead = _COUNT_FROM_ZERO[node.func.id]
            raise ResumeError(
                f"{node.func.id}(respawner.resume(…)) would begin at 0 where the loop goes on; write {instead}"
            )


def _calls_resume(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) == "resume"
