"""Snapshots as plain dicts and as lines, for `respawner.snapshots` and the command line. Standard library only."""

from __future__ import annotations

from typing import Any

from .manifest import Manifest
from .readable import age_seconds, readable_age, readable_size
from .store.timeline import Damage


def describe(found: Manifest | Damage) -> dict[str, Any]:
    """The facts of one snapshot that a person chooses by."""
    if isinstance(found, Damage):
        return {"sequence": found.sequence, "damaged": found.reason}
    return {
        "id": found.id,
        "sequence": found.sequence,
        "created": found.created,
        "parent": found.parent,
        "kind": found.kind,
        "state": found.state,
        "cell": found.cell,
        "labels": found.labels,
        "variables": len(found.names),
        "bytes": found.size_bytes,
        "skipped": len(found.skipped),
    }


def one_line(found: Manifest | Damage) -> str:
    """The same in one line."""
    if isinstance(found, Damage):
        return f"{found.sequence:>5}  damaged: {found.reason}"
    label = f"  {', '.join(found.labels)}" if found.labels else ""
    count = found.cell.get("execution_count")
    cell = f"[{count}] {found.cell.get('first_line', '')}" if count else found.kind
    age = readable_age(age_seconds(found.created))
    return (
        f"{found.id}  {readable_size(found.size_bytes):>9}  {age:>14}  {found.state:<11}  {cell[:60]}{label}"
    )
