"""`respawner.resume`: loops between whose iterations a state can be saved, and which go on from it.

A boundary, before an item is fetched, is the only moment from which a loop can go on exactly: of the iteration before
everything has run, of the next one nothing. When the cell is run again after a restore, everything before the loop runs
again too (it may make the model anew). So the state is put in place when the loop begins: the variables, those of the
functions that run, the random states. Loops around it go on with the iteration that had not ended; loops beside it
that had ended are passed over.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from ..errors import ResumeError
from ..pickling.placeholder import Placeholder
from ..processstate import put_random_state
from ..reports import say
from ..restoring import Loaded
from .edits import bound_names, edited_defaults, edited_names, loop_headers, names_in_header
from .ends import put_end, values_at_end
from .frames import (
    header_around,
    is_function,
    loop_variables,
    name_of,
    notebook_frames,
    parameters_of,
    path_of,
    site_of,
    text_of,
)
from .positions import (
    at_position,
    in_order,
    is_longer_or_shorter,
    refuse_begun_loaders,
    reuses_workers,
    start_of,
    worth_saving,
)
from .refusals import places_of, refuse_what_cannot_go_on
from .stopped import LoopKey, LoopPosition, Stopped, title_of

_LINES = re.compile(r":-?\d+(?= > |$)")


class ResumableLoop:
    """An iterable that tells `Loops` of its iterations."""

    def __init__(
        self, loops: Loops, iterable: Iterable[Any], name: str | None, count_from: int | None
    ) -> None:
        self._loops = loops
        self._iterable = iterable
        self._name = name
        self._count_from = count_from

    def __iter__(self) -> Iterator[Any]:
        return self._loops.enter(self._iterable, self._name, self._count_from)

    def __len__(self) -> int:
        return len(self._iterable)  # type: ignore[arg-type]

    def __reduce__(self) -> Any:
        from .. import resume

        counted = self._count_from is not None
        return resume, (self._iterable, self._name, counted, self._count_from or 0)


@dataclass
class Level:
    """The loops that are next to each other: in one iteration of the loop around them, or in the cell.

    Keys of those that have ended, and of all that have begun: one that was left by ``break`` never ends.
    """

    done: list[LoopKey] = field(default_factory=list)
    begun: list[LoopKey] = field(default_factory=list)
    ends: dict[LoopKey, dict[str, Any]] = field(default_factory=dict)
    """What those that have ended left in plain variables."""


class RunningLoop:
    """One iteration over the iterable, from its first item to its end. ``count``: items that are done."""

    def __init__(
        self, loops: Loops, iterable: Any, name: str | None, frames: list[FrameType], count_from: int | None
    ) -> None:
        self.site = site_of(frames)
        self.path = path_of(frames)
        self.header = header_around(frames[-1]) if frames else ""
        self.places = places_of(frames)
        self.name = name or self.site
        self.named = name is not None
        self.iterable = iterable
        self.count = 0
        self.start: dict[str, Any] = {}
        self.inside = Level()
        """Of the iteration that runs."""
        self.strays = False
        """It has begun anew on the way, and the run that stopped did not have it."""
        self._loops = loops
        self._count_from = count_from
        self._iterator: Iterator[Any] | None = None
        self._runs = False

    @property
    def key(self) -> LoopKey:
        return self.name, self.site, self.header

    def begin(self) -> None:
        self.iterable = in_order(self.iterable)
        self.start = start_of(self.iterable)
        self._iterator = iter(self.iterable)

    def go_on(self, position: LoopPosition, range_is_edited: bool) -> None:
        """Begin behind the items that are done."""
        usable = position.iterable is not None and not isinstance(position.iterable, Placeholder)
        if usable and worth_saving(self.iterable):
            other = is_longer_or_shorter(self.iterable, position.iterable)
            if other and self.iterable != position.iterable:
                self._tell_of_range(position.iterable, range_is_edited)
            if not (other and range_is_edited):
                self.iterable = position.iterable
        self.count, self.start = position.count, position.start
        self._iterator = at_position(self.iterable, self.count, self.start)

    def _tell_of_range(self, saved: range, edited: bool) -> None:
        runs, which = (
            (self.iterable, "as edited") if edited else (saved, "as it was, since no code of it was edited")
        )
        say(
            f"{title_of(self)} runs over {runs!r}, {which} (now {self.iterable!r}, when it stopped {saved!r})"
        )

    def position(self) -> LoopPosition:
        iterable = self.iterable if worth_saving(self.iterable) else None
        return LoopPosition(
            self.name, self.named, self.site, self.count, self.start, iterable, self.path, self.header
        )

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._iterator is None:  # it has ended
            raise StopIteration
        if self._runs:
            self._runs = False
            self.count += 1
            if self.inside.begun:
                self.inside = Level()
        self._loops.at_boundary(self)
        try:
            item = next(self._iterator)
        except StopIteration:
            self._iterator = None
            self._loops.ended(self)
            raise
        self._runs = True
        return item if self._count_from is None else (self._count_from + self.count, item)

    def __reduce__(self) -> Any:
        """A progress bar around it may be a variable; its cell makes a new one."""
        return iter, ((),)


class Loops:
    """The loops of the running cell. ``boundary()`` is called where a state could be saved.

    In ``put_back(going, frames)`` the state of the safe point is in place; what fails inside leaves the place as it is.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        boundary: Callable[[], None],
        put_back: Callable[[Stopped, list[FrameType]], AbstractContextManager[Loaded]],
    ) -> None:
        self._namespace = namespace
        self._boundary = boundary
        self._put_back = put_back
        self._source = ""
        self._going: Stopped | None = None
        self._begins_anew: Stopped | None = None
        """Where the cell was, if it has been edited since and none of its loops could be found again by name."""
        self._matched = 0
        """How many of the loops that were around the safe point have been entered again."""
        self._passed: list[LoopKey] = []
        """Of the ended loops at the level that is looked at, those that have been passed over."""
        self._running: list[weakref.ref[RunningLoop]] = []
        self._level = Level()

    def cell_begins(self, source: str, cell_id: str | None, stopped: Stopped | None) -> None:
        self._source = source
        self._running, self._level, self._passed, self._matched = [], Level(), [], 0
        self._going = self._begins_anew = None
        if stopped is None or not stopped.loops or stopped.is_another_cell(source, cell_id):
            return
        if stopped.source == source or any(loop.named for loop in stopped.loops):
            self._going = stopped.light()
        elif stopped.is_cell(source, cell_id):
            self._begins_anew = stopped.light()

    def cell_ends(self) -> None:
        self._going = self._begins_anew = None

    @property
    def to_come(self) -> Stopped | None:
        """Where the cell may still go on, and has not yet."""
        return self._going

    @property
    def on_the_way(self) -> bool:
        """Whether the cell runs towards the place where it stopped: what it is until then is no state to save.

        Not so in loops that the run before did not have, nor where its code was edited and none of its loops has
        come yet: that may be all there is.
        """
        if self._going is None:
            return False
        if self._matched:
            return True
        strays = any(loop.strays for loop in self.running())
        return not strays and not self._is_edited(notebook_frames(self._namespace))

    def start_over(self) -> None:
        """The loops of the running cell that are yet to come begin anew."""
        self.cell_ends()

    def running(self) -> list[RunningLoop]:
        """Outermost first. A loop that was left by ``break`` or an exception is nobody's any more, and so is gone."""
        return [loop for reference in self._running if (loop := reference()) is not None]

    def positions(self) -> tuple[list[LoopPosition], list[Level]]:
        """Where all of them are, and each level: the cell's, and that of every loop but the innermost."""
        running = self.running()
        levels = [self._level, *(loop.inside for loop in running[:-1])]
        return [loop.position() for loop in running], levels

    def resumable(self, iterable: Iterable[Any], name: str | None, count_from: int | None) -> ResumableLoop:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"the name of a loop is a text, not {name!r}")
        return ResumableLoop(self, iterable, name, count_from)

    def enter(self, iterable: Any, name: str | None, count_from: int | None) -> Iterator[Any]:
        frames = notebook_frames(self._namespace)
        refuse_begun_loaders(iterable)
        self._refuse_older_iterator(iterable)
        loop = RunningLoop(self, iterable, name, frames, count_from)
        around = [other for other in self.running() if other.site != loop.site]
        refuse_what_cannot_go_on(frames, {place for other in around for place in other.places})
        level = len(around)
        beside = around[-1].inside if around else self._level
        going = self._going
        if going is None or level != self._matched:
            self._tell_that_it_begins_anew(loop)
            loop.begin()
        else:
            edited = self._is_edited(frames)
            by_order = edited and not loop.named
            ended = self._had_ended(loop, going.done[level], edited) if by_order else None
            if ended is None and self._is_the_same(loop, going.loops[level], frames, edited):
                self._go_on(loop, around, frames)
            elif (ended := ended or self._had_ended(loop, going.done[level], edited)) is not None:
                self._pass_over(loop, beside, frames, going.ends[level].get(ended, {}) if going.ends else {})
                return iter(())
            else:
                self._stray(loop, going, edited)
                loop.begin()
        if loop.key not in beside.begun:
            beside.begun.append(loop.key)
        self._running = [weakref.ref(other) for other in (*around, loop)]
        return loop

    def _refuse_older_iterator(self, iterable: Any) -> None:
        """One that another cell has made is not made again: it comes back where it stood, and would be passed over twice."""
        if not hasattr(type(iterable), "__next__"):
            return
        names = [name for name, value in self._namespace.items() if value is iterable]
        if names and not bound_names(self._source) & set(names):
            raise ResumeError(
                f"{names[0]} is an iterator ({type(iterable).__name__}) that another cell has made, so running this cell again "
                f"does not begin it. Make it in this cell, or let the loop run over something that can begin anew, as a list"
            )

    def _pass_over(
        self, loop: RunningLoop, beside: Level, frames: list[FrameType], end: dict[str, Any]
    ) -> None:
        beside.done.append(loop.key)
        beside.begun.append(loop.key)
        beside.ends[loop.key] = end
        others = put_end(frames[-1], end) if frames else []
        if others:
            say(
                f"{title_of(loop)} had ended and is passed over; until a loop goes on, what it left in "
                f"{', '.join(others)} is not there, and the code behind it may fail for that"
            )

    def at_boundary(self, loop: RunningLoop) -> None:
        if self._running and self._running[-1]() is not loop:  # what was inside it is over
            running = [reference() for reference in self._running]
            if loop in running:
                del self._running[running.index(loop) + 1 :]
        if self._going is not None and self._matched:
            self._check_that_inner_loop_came(self._going, loop)
        self._boundary()

    def ended(self, loop: RunningLoop) -> None:
        running = self.running()
        around = running[: running.index(loop)] if loop in running else running
        beside = around[-1].inside if around else self._level
        if loop.key not in beside.done:
            beside.done.append(loop.key)
        frames = notebook_frames(self._namespace)
        beside.ends[loop.key] = values_at_end(frames[-1]) if frames else {}
        self._running = [weakref.ref(other) for other in around]

    def _check_that_inner_loop_came(self, going: Stopped, loop: RunningLoop) -> None:
        """Raises `ResumeError` at the end of an iteration in which the innermost loop should have gone on."""
        level = next((n for n, other in enumerate(self.running()) if other is loop), self._matched)
        if level < self._matched and loop.count > going.loops[level].count:
            raise ResumeError(
                f"{title_of(loop)} has gone on with item {loop.count}, and {title_of(going.loops[-1])} inside it, in "
                "which the cell stopped, did not come in that iteration. Let it run there as before; "
                "respawner.start_over() lets all loops begin anew, with the variables as they are"
            )

    # Finding a loop again ---------------------------------------------------------------------------------

    def _is_edited(self, frames: list[FrameType]) -> bool:
        """Whether the cell or one of these functions is another than in the run that stopped."""
        going = self._going
        return going is not None and (going.source != self._source or bool(edited_functions(going, frames)))

    def _is_the_same(
        self, loop: RunningLoop, wanted: LoopPosition, frames: list[FrameType], edited: bool
    ) -> bool:
        if loop.named != wanted.named:
            return False
        if not edited:
            return (loop.name, loop.site) == (wanted.name, wanted.site)
        # A named loop is found again in edited code, wherever it stands now; another by what it is.
        return loop.name == wanted.name if loop.named else self._is_like(loop, wanted, frames)

    def _is_like(self, loop: RunningLoop, wanted: LoopPosition, frames: list[FrameType]) -> bool:
        """Whether it is that one in a function that was edited: the same statement, or the same one of as many."""
        going = self._going
        if going is None or going.source != self._source or not loop.header or loop.path != wanted.path:
            return False
        if loop.header == wanted.header:
            return True
        depth = len(functions_of(frames)) - 1
        if not 0 <= depth < len(going.texts):
            return False
        before, now = loop_headers(going.texts[depth]), loop_headers(text_of(frames[-1]))
        if len(before) != len(now) or wanted.header not in before or loop.header not in now:
            return False
        return before.index(wanted.header) == now.index(loop.header)

    def _had_ended(self, loop: RunningLoop, done: list[LoopKey], edited: bool) -> LoopKey | None:
        """The key that it had, where it is one of those."""
        if not edited:
            return loop.key if loop.key in done else None
        if loop.named:
            return next((key for key in done if key[0] == loop.name), None)
        # Lines have moved: as many of the same statements as had ended are passed over, in order.
        same = [
            key for key in done if key not in self._passed and _without_lines(key) == _without_lines(loop.key)
        ]
        self._passed += same[:1]
        return same[0] if same else None

    def _go_on(self, loop: RunningLoop, around: list[RunningLoop], frames: list[FrameType]) -> None:
        going = self._going
        if going is None:
            raise AssertionError("nothing to go on from")
        level = len(around)
        self._passed = []
        edited = self._range_is_edited(going, loop, going.loops[level], frames)
        if level < len(going.loops) - 1:
            loop.go_on(going.loops[level], edited)
            self._matched += 1
            return
        _check_loops_around(loop, going, frames)
        with self._put_back(going, frames) as loaded:
            state = loaded.stopped or going
            loop.go_on(state.loops[level], edited)
            put_random_state(loaded.random)  # passing over has drawn numbers
        if reuses_workers(loop.start):
            say(
                f"{title_of(loop)}: its persistent workers began anew. Their items are the same but for what "
                "they draw at random themselves"
            )
        places = [self._level, *(other.inside for other in around)]
        for place, done, begun in zip(places, state.done, state.begun, strict=False):
            place.done, place.begun = list(done), list(begun)
        for place, ends in zip(places, state.ends, strict=False):
            place.ends = dict(ends)
        self._going = None

    def _range_is_edited(
        self, going: Stopped, loop: RunningLoop, wanted: LoopPosition, frames: list[FrameType]
    ) -> bool:
        """Whether another end of a ``range`` is an edit, and not what the code makes of variables that are to be put back."""
        if not frames or not loop.header or loop.header != wanted.header:
            return True
        functions = functions_of(frames)
        texts = [(self._source, going.source)]
        texts += [(text_of(frame), before) for frame, before in zip(functions, going.texts, strict=False)]
        inside = is_function(frames[-1])
        now, before = texts[-1] if inside else texts[0]
        given = set(parameters_of(frames[-1])) if inside else set()
        names, computes = names_in_header(loop.header)
        if names & (edited_names(before, now) | edited_defaults(before, now)):
            return True
        if names & given and any(one != other for one, other in texts[:-1]):
            return True
        others = names - bound_names(now) - given
        cell_bound = bound_names(self._source)
        return not computes and bool(others & edited_names(going.source, self._source) or others - cell_bound)

    # Telling ----------------------------------------------------------------------------------------------

    def _stray(self, loop: RunningLoop, going: Stopped, edited: bool) -> None:
        """A loop that is not the one to go on with begins anew: told where the run before did not have it."""
        level = self._matched
        begun = going.begun[level] if level < len(going.begun) else []
        known = loop.key in begun or (
            edited and any(_without_lines(key) == _without_lines(loop.key) for key in begun)
        )
        if known:
            return
        loop.strays = True
        wanted = going.loops[level]
        say(
            f"{title_of(loop)} begins anew: it is none of the loops that there were when cell "
            f"[{going.number}] stopped. Where {title_of(wanted)} comes, that goes on with item {wanted.count + 1}"
        )

    def _tell_that_it_begins_anew(self, loop: RunningLoop) -> None:
        stopped, self._begins_anew = self._begins_anew, None
        if stopped is not None:
            say(
                f"{title_of(loop)} begins anew, because the cell was edited since it stopped before item "
                f"{stopped.loops[-1].count + 1} of {title_of(stopped.loops[-1])}. A loop with a name goes on in an "
                "edited cell too: respawner.resume(…, name='epochs')"
            )


def functions_of(frames: list[FrameType]) -> list[FrameType]:
    return [frame for frame in frames if is_function(frame)]


def edited_functions(stopped: Stopped, frames: list[FrameType]) -> list[str]:
    """Names of the running functions whose source is another than when the cell stopped."""
    pairs = zip(functions_of(frames), stopped.functions, stopped.texts, strict=False)
    return [
        name
        for frame, (name, _), before in pairs
        if name_of(frame) == name and before and (now := text_of(frame)) and now != before
    ]


def _without_lines(key: LoopKey) -> LoopKey:
    name, site, header = key
    bare = _LINES.sub("", site)
    return bare if name == site else name, bare, header


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
