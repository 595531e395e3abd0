"""What `respawner-hub gpu` shows, as tables for a terminal. From the dicts of `gpus.views`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..gpus import views, words

Table = tuple[Sequence[str], list[list[str]], str]
"""Names of the columns, rows, and what is said where there are none."""


def _devices_table(found: Any, now: float) -> Table:
    rows = [
        [
            device["uuid"],
            device["host"],
            f"{device['model']}{' ' + device['profile'] if device['profile'] else ''}",
            words.size_text(device["memory_bytes"]),
            ", ".join(_who(holder) for holder in device["holders"]) or "free",
            views.reading_words(device["reading"]),
            device["cordon"],
        ]
        for device in found
    ]
    return (
        ("GPU", "HOST", "MODEL", "MEMORY", "HOLDER", "USE", "CORDONED"),
        rows,
        "No agent has told of a GPU.",
    )


def _leases_table(found: Any, now: float) -> Table:
    rows = [
        [
            _who(lease),
            lease["state"],
            ", ".join(lease["devices"]),
            words.duration(now - lease["since"]),
            "a cell runs" if lease["cell_running"] else words.duration(lease["idle_seconds"]),
            lease["flag"] or views.suspend_words(lease, now) or lease["warning"] or "",
        ]
        for lease in found
    ]
    return ("SESSION", "STATE", "GPUS", "FOR", "IDLE", "NOTE"), rows, "Nobody has a GPU."


def _queue_table(found: Any, now: float) -> Table:
    rows = [
        [
            str(request["position"] or ""),
            _who(request),
            request["ask"],
            words.duration(now - request["submitted"]),
            words.clock(request["expected"], now) if request["expected"] else "",
            request["reason"],
        ]
        for request in found
    ]
    return ("", "SESSION", "ASKS FOR", "WAITS", "EXPECTED", "WHY"), rows, "Nobody waits."


def _limits_table(found: Any, now: float) -> Table:
    rows = [
        [
            limit["subject"],
            "" if limit["most"] is None else f"{limit['most']:g}",
            f"{limit['guarantee']:g}",
            "" if limit["priority"] is None else str(limit["priority"]),
        ]
        for limit in found
    ]
    return ("FOR", "MOST", "GUARANTEE", "PRIORITY"), rows, "No limits."


def _reservations_table(found: Any, now: float) -> Table:
    rows = [
        [
            str(r["id"]),
            r["group"],
            str(r["count"]),
            r["model"],
            words.clock(r["start"], now),
            words.clock(r["end"], now),
            r["note"],
        ]
        for r in found
    ]
    return ("ID", "GROUP", "GPUS", "MODEL", "FROM", "UNTIL", "NOTE"), rows, "No reservations."


TABLES: dict[str, Callable[[Any, float], Table]] = {
    "list": _devices_table,
    "leases": _leases_table,
    "queue": _queue_table,
    "limits": _limits_table,
    "reservations": _reservations_table,
}


def _who(found: Any) -> str:
    return f"{found['user']}/{found['server']}" if found["server"] else str(found["user"])


def print_table(names: Sequence[str], rows: list[list[str]], nothing: str) -> None:
    if not rows:
        print(nothing)
        return
    widths = [max(len(str(row[column])) for row in (names, *rows)) for column in range(len(names))]
    for row in (names, *rows):
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
