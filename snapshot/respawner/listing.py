"""Snapshots as plain dicts, lines and tables, for `respawner.snapshots`, `%snapshots` and the command line.

Standard library only.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from .manifest import Manifest
from .readable import age_seconds, readable_age, readable_size
from .store.timeline import Damage

Pins = Mapping[str, str]
"""Ids of snapshots that retention leaves alone, with the reason."""


def describe(found: Manifest | Damage, pins: Pins | None = None) -> dict[str, Any]:
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
        "kept": (pins or {}).get(found.id),
        "variables": len(found.names),
        "bytes": found.size_bytes,
        "added_bytes": found.added_bytes,
        "skipped": len(found.skipped),
    }


def one_line(found: Manifest | Damage, pins: Pins | None = None) -> str:
    """The same in one line."""
    if isinstance(found, Damage):
        return f"{found.sequence:>5}  damaged: {found.reason}"
    label = f"  {labels}" if (labels := _labels(found, pins)) else ""
    count = found.cell.get("execution_count")
    cell = f"[{count}] {found.cell.get('first_line', '')}" if count else found.kind
    age = readable_age(age_seconds(found.created))
    return (
        f"{found.id}  {readable_size(found.size_bytes):>9}  {_changed(found):>9} changed  {age:>14}  "
        f"{found.state:<11}  {cell[:60]}{label}"
    )


def _changed(found: Manifest) -> str:
    return "" if found.added_bytes is None else readable_size(found.added_bytes)


_HEADS = ("id", "saved at", "age", "after cell", "state", "variables", "size", "changed", "labels")
_RIGHT = ("variables", "size", "changed")
_CODE = ("id", "after cell")
_CELL_SHOWN = 48


def table(found: Sequence[Manifest | Damage], pins: Pins | None = None) -> dict[str, str]:
    """All of them with column heads, as what IPython displays: HTML, and aligned text."""
    if not found:
        return {"text/plain": "This notebook has no snapshot yet."}
    rows = [_row(item, pins) for item in found]
    return {"text/plain": _as_text(rows), "text/html": _as_html(rows)}


def _labels(found: Manifest, pins: Pins | None) -> str:
    kept = (pins or {}).get(found.id)
    return ", ".join([*found.labels, *([f"kept: {kept}"] if kept else [])])


def _row(found: Manifest | Damage, pins: Pins | None) -> tuple[str, ...]:
    if isinstance(found, Damage):
        return (f"number {found.sequence}", "", "", "", f"damaged: {found.reason}", "", "", "", "")
    count = found.cell.get("execution_count")
    cell = f"[{count}] {found.cell.get('first_line', '')}" if count else f"({found.kind})"
    return (
        found.id,
        datetime.fromisoformat(found.created).astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        readable_age(age_seconds(found.created)),
        cell if len(cell) <= _CELL_SHOWN else cell[: _CELL_SHOWN - 1] + "…",
        found.state,
        str(len(found.names)),
        readable_size(found.size_bytes),
        _changed(found),
        _labels(found, pins),
    )


def _as_text(rows: list[tuple[str, ...]]) -> str:
    """A damaged snapshot's reason takes what is left of its line, and no column grows for it."""
    whole = [_HEADS, *(row for row in rows if row[1])]
    widths = [max(len(row[column]) for row in whole) for column in range(len(_HEADS))]
    lines = []
    for row in [_HEADS, *rows]:
        if not row[1]:
            lines.append(f"{row[0]:<{widths[0]}}  {row[4]}")
            continue
        cells = (
            f"{text:>{width}}" if head in _RIGHT else f"{text:<{width}}"
            for head, text, width in zip(_HEADS, row, widths, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _as_html(rows: list[tuple[str, ...]]) -> str:
    heads = "".join(_cell("th", head, head) for head in _HEADS)
    body = []
    for row in rows:
        if row[1]:
            cells = "".join(_cell("td", head, text) for head, text in zip(_HEADS, row, strict=True))
        else:
            rest = (
                f'<td colspan="{len(_HEADS) - 1}" style="text-align:left">&#9888; {html.escape(row[4])}</td>'
            )
            cells = _cell("td", "id", row[0]) + rest
        body.append(f"<tr>{cells}</tr>")
    # The frontend's own table style has its colours, so the table is right in light and dark.
    return f'<table style="font-size:90%;color:inherit"><thead><tr>{heads}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _cell(tag: str, head: str, text: str) -> str:
    align = "right" if head in _RIGHT else "left"
    shown = f"<code>{html.escape(text)}</code>" if tag == "td" and head in _CODE else html.escape(text)
    return f'<{tag} style="text-align:{align};white-space:nowrap">{shown}</{tag}>'
