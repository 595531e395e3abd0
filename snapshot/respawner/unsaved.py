"""Names the cell whose state did not reach the disk: it was running, or being saved, when the kernel ended.

A small marker says which cell runs. It is not fsynced: it has to outlive the kernel, not the machine.
"""

from __future__ import annotations

from .manifest import Manifest
from .store.timeline import Timeline

_MARKER = "cell"


def first_line_of(source: str) -> str:
    """How a cell is told to people."""
    first, _, rest = source.strip().partition("\n")
    return (rest.strip() if first.startswith("%%resumable") and rest.strip() else first).partition("\n")[0][
        :120
    ]


def tell_running(timeline: Timeline, execution_count: int, first_line: str) -> None:
    """That cell begins."""
    content = {"execution_count": execution_count, "first_line": first_line}
    timeline.set_marker(_MARKER, content, durable=False)


def note_of_unsaved(timeline: Timeline, head: Manifest | None) -> list[str]:
    """One note where a cell began after the state in ``head`` and is in no completed snapshot."""
    begun = timeline.marker(_MARKER) or {}
    count = begun.get("execution_count")
    newest = timeline.latest()
    if (
        newest is not None
        and head is not None
        and newest.sequence > head.sequence
        and newest.cell.get("safepoints")
    ):
        how = "failed" if newest.state == "error" else "was interrupted"
        return [f"that cell {how}, and `%restore {newest.id}` brings back its state then"]
    saved = head.cell.get("next_count", 1) if head else 1
    if not isinstance(count, int) or count < saved:
        return []
    what = f"cell [{count}]"
    if first_line := begun.get("first_line"):
        what += f" `{first_line}`"
    if newest is not None and newest.state == "interrupted" and newest.cell.get("execution_count") == count:
        return [
            f"{what} was interrupted and is not in this state; `%restore {newest.id}` brings its state back"
        ]
    return [f"{what} had not been saved when the kernel ended; run it again if you need what it did"]
