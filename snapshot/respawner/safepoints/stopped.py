"""Where a cell was when a snapshot inside it was taken: what is needed beside the variables to go on from there.

Kept by every snapshot from then on until the cell has gone on (see `Engine.stopped`), because a person may run other
cells first, and the kernel may die again. In the pickle it is a plain dict, so that classes may change.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..pickling.pickler import Entry
from ..unsaved import first_line_of

LoopKey = tuple[str, str, str]
"""Name, site and statement."""


@dataclass
class LoopPosition:
    """One running `respawner.resume` loop."""

    name: str
    named: bool
    """Whether the user has named it; else the name is where it stands."""
    site: str
    """Through which lines of which functions it is reached."""
    count: int
    """Items that are done; the iteration in which a loop inside it runs is not."""
    start: dict[str, Any] = field(default_factory=dict)
    """Random states when it began (see `positions`)."""
    iterable: Any = None
    """What it runs over, None for an iterator: that cannot be saved, and is made again by the cell."""
    path: str = ""
    """The site without lines, and the loop's statement: what it is found by where a function was edited."""
    header: str = ""


def title_of(loop: Any) -> str:
    """How a position, or a loop that runs, is told to people."""
    if loop.named:
        return f"loop {loop.name!r}"
    return f"`{loop.header}`" if loop.header else "the loop"


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
    done: list[list[LoopKey]] = field(default_factory=list)
    """For each level of loops, the keys of those that had ended by then."""
    begun: list[list[LoopKey]] = field(default_factory=list)
    """The same of all that had begun, those that were left by ``break`` too."""
    ends: list[dict[LoopKey, dict[str, Any]]] = field(default_factory=list)
    """For each level, what the loops that had ended left in plain variables (see `ends`)."""
    functions: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    """Sources of those functions (see `frames.text_of`)."""
    cell_id: str | None = None
    """Jupyter's, which stays when the cell is edited; None where the frontend does not tell."""

    def is_cell(self, source: str, cell_id: str | None) -> bool:
        """Whether that is the cell, as it was or edited."""
        return self.source == source or (cell_id is not None and cell_id == self.cell_id)

    def is_another_cell(self, source: str, cell_id: str | None) -> bool:
        """Whether that is certainly none of its runs. Ids alone do not say so: copied cells and old formats get new ones."""
        return self.source != source and None not in (cell_id, self.cell_id) and cell_id != self.cell_id

    def light(self) -> Stopped:
        """The place without the variables, which are large and can be loaded again."""
        return replace(self, functions=[(name, {}) for name, _ in self.functions])

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
        known = {item.name for item in fields(cls)}
        saved = {key: value for key, value in saved.items() if key in known}
        saved.setdefault("begun", saved["done"])
        for levels in ("done", "begun"):  # older ones lack the statement
            saved[levels] = [[(*key, "")[:3] for key in keys] for keys in saved[levels]]
        return cls(**{**saved, "loops": loops, "functions": functions})
