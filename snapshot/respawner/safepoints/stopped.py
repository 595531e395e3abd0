"""Where a cell was when a snapshot inside it was taken: what is needed beside the variables to go on from there.

Kept by every snapshot from then on until the cell has gone on (see `Engine.stopped`), because a person may run other
cells first, and the kernel may die again. In the pickle it is a plain dict, so that classes may change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..pickling.pickler import Entry
from ..unsaved import first_line_of


@dataclass
class LoopPosition:
    """One running `respawner.resume` loop."""

    name: str
    named: bool
    """Whether the user has named it; else the name is where it stands."""
    site: str
    count: int
    """Items that are done; the iteration in which a loop inside it runs is not."""
    start: dict[str, Any] = field(default_factory=dict)
    """Random states when it began (see `positions`)."""
    iterable: Any = None
    """What it runs over, None for an iterator: that cannot be saved, and is made again by the cell."""


@dataclass
class Stopped:
    """``functions``: name and variables of the notebook's functions that ran, outermost first."""

    number: int
    source: str
    at: str
    """``loop`` or ``optimizer``: what kind of safe point it was."""
    steps: int
    variables: dict[str, Any] = field(default_factory=dict)
    """Plain ones that say how far it was, for people."""
    around: dict[str, Any] = field(default_factory=dict)
    """Variables of the plain ``for`` loops around the innermost resumable one."""
    loops: list[LoopPosition] = field(default_factory=list)
    done: list[list[tuple[str, str]]] = field(default_factory=list)
    """For each level of loops, the keys of those that had ended by then."""
    functions: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    base: str | None = None
    """The snapshot that is put in place, where a run of the cell has failed on the way and changed variables since."""

    @property
    def first_line(self) -> str:
        return first_line_of(self.source)

    def facts(self) -> dict[str, Any]:
        """What the manifest says of it, for people and tools that do not unpickle."""
        return {
            "at": self.at,
            "steps": self.steps,
            "variables": self.variables,
            "loops": [{"name": loop.name, "iteration": loop.count} for loop in self.loops],
            "functions": [name for name, _ in self.functions],
        }

    def to_pickle(self) -> dict[str, Any]:
        """What may hold what cannot be saved is an `Entry`, so that it is found by the function's or loop's name."""
        return {
            **vars(self),
            "loops": [
                {**vars(loop), "iterable": Entry(f"respawner.resume({loop.name!r})", loop.iterable)}
                for loop in self.loops
            ],
            "functions": [Entry(f"{name}()", variables) for name, variables in self.functions],
        }

    @classmethod
    def from_pickle(cls, saved: dict[str, Any]) -> Stopped:
        loops = [LoopPosition(**{**loop, "iterable": loop["iterable"][1]}) for loop in saved["loops"]]
        functions = [(name.removesuffix("()"), variables) for name, variables in saved["functions"]]
        return cls(**{**saved, "loops": loops, "functions": functions})
