"""`respawner.status` for people: the plain dict, shown as one block."""

from __future__ import annotations

import html
from typing import Any

from .readable import age_seconds, readable_age, readable_size


class Status(dict[str, Any]):
    """A plain dict but for how it is shown. Pickled, or once its owner has taken parts away, it is a plain dict
    altogether."""

    def __repr__(self) -> str:
        try:
            first, rows = parts_of(self)
        except KeyError:
            return dict.__repr__(self)
        return "\n".join([f"Respawner: {first}", *(f"  {label + ':':<11}{text}" for label, text in rows)])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))

    def _repr_html_(self) -> str | None:
        try:
            first, rows = parts_of(self)
        except KeyError:
            return None
        cell = '<td style="text-align:left">{}</td>'
        body = "".join(
            f"<tr>{cell.format(html.escape(label))}{cell.format(html.escape(text))}</tr>"
            for label, text in rows
        )
        bar = "#c77d0a" if self["error"] or not self["active"] else "#4a90a4"
        return (
            f'<div style="border-left:3px solid {bar};padding:2px 10px;font-size:90%;line-height:1.5">'
            f'<b>Respawner: {html.escape(first)}</b><table style="color:inherit">{body}</table></div>'
        )

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


def parts_of(status: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """What matters in a few words, and rows of a label and a text."""
    if not status["active"]:
        return f"off: {status['why']}", []
    rows = [
        ("snapshot", _snapshot(status)),
        ("timeline", status["timeline"]),
        ("folder", status["folder"]),
        ("stall", f"{status['stall_seconds']:.3f} s by the last attempt to save"),
        ("excluded", ", ".join(status["excluded"])),
        ("verifying", readable_size(bytes_) if (bytes_ := status["verifying_bytes"]) else ""),
        ("deferred", status["deferred"] or ""),
        ("note", status["note"] or ""),
        ("error", status["error"] or ""),
    ]
    return _first(status), [(label, text) for label, text in rows if text]


def _first(status: dict[str, Any]) -> str:
    variables = f"{status['variables']} variable{'' if status['variables'] == 1 else 's'}"
    if status["error"]:
        return f"the last attempt failed; {variables} now"
    if status["writing_bytes"]:
        return f"being saved, {readable_size(status['writing_bytes'])} to write; {variables}"
    if status["pending"]:
        return f"not saved yet; {variables}"
    if status["snapshot"] is None:
        return f"on; no cell of this run has been saved yet; {variables}"
    return f"saved up to the last cell that has ended; {variables}"


def _snapshot(status: dict[str, Any]) -> str:
    if status["snapshot"] is None:
        return ""
    size, age = readable_size(status["snapshot_bytes"]), readable_age(age_seconds(status["snapshot_created"]))
    lost = f", {len(status['skipped'])} not saved" if status["skipped"] else ""
    return f"{status['snapshot']}, {size}, {age}{lost}"
