"""What is told to the user: after a restore, and in `respawner.report`."""

from __future__ import annotations

import html
from typing import Any

from .container_memory import MemoryUse
from .manifest import SAFEPOINT, Manifest
from .readable import age_seconds, readable_age, readable_size
from .restoring import Loaded
from .safepoints.stopped import Stopped, title_of

_SHOWN = 12
_LARGEST = 3
_OPEN_LINES = 4
"""Up to so many lines the details need no click."""


def say(text: str) -> None:
    """A line of ours in the output of the cell that runs."""
    print(f"Respawner: {text}")  # noqa: T201


def restored_report(loaded: Loaded, overwritten: list[str], how: str) -> dict[str, Any]:
    """The report of a restore as a plain dict. ``how``: ``start`` or ``in place``."""
    manifest = loaded.manifest
    return {
        "restored": True,
        "how": how,
        "snapshot": manifest.id,
        "created": manifest.created,
        "age_seconds": age_seconds(manifest.created),
        "cell": manifest.cell,
        "state": manifest.state,
        "names": [name.name for name in manifest.names],
        "bytes": manifest.size_bytes,
        "seconds": round(loaded.seconds, 3),
        "skipped": [_loss(placeholder.__dict__) for placeholder in loaded.lost],
        "lost_before": sorted({p.__dict__["respawner_path"] for p in loaded.lost_before}),
        "alive": loaded.alive,
        "excluded": loaded.excluded,
        "notes": manifest.notes + loaded.notes,
        "damaged": [{"sequence": d.sequence, "reason": d.reason} for d in loaded.damaged],
        "overwritten": overwritten,
        "stopped": _stopped(loaded),
    }


def _stopped(loaded: Loaded) -> dict[str, Any] | None:
    """Where a cell was that has not gone on, as plain data."""
    stopped = loaded.stopped
    if stopped is None:
        return None
    here = loaded.manifest.kind == SAFEPOINT
    return {"cell": stopped.number, "first_line": stopped.first_line, "this_state": here, **stopped.facts()}


def _loss(known: dict[str, str]) -> dict[str, str]:
    return {key: known[f"respawner_{key}"] for key in ("path", "type", "reason", "origin")}


def nothing_report(why: str, **more: Any) -> dict[str, Any]:
    """The report of a start without a restore."""
    return {"restored": False, "why": why, "names": [], "skipped": [], "notes": [], "damaged": [], **more}


def lines_of(report: dict[str, Any]) -> list[str]:
    """The report as lines of text: first what happened, then everything that is not as it was."""
    if not report["restored"]:
        lines = [f"Respawner: {report['why']}"]
    else:
        first = (
            f"Respawner: restored {_count(len(report['names']), 'variable')} "
            f"({readable_size(report['bytes'])}) in {report['seconds']:.2f} s, "
            f"snapshot {report['snapshot']}, {readable_age(report['age_seconds'])}{_after(report)}"
        )
        lines = [first]
    if report.get("stopped"):
        lines += _lines_of_stop(report["stopped"])
    lines += _some("not restored", [_line_of_loss(s) for s in report["skipped"]])
    for label, key in (
        ("still missing since an earlier restore", "lost_before"),
        ("still the living objects, as they are now", "alive"),
        ("excluded, as asked", "excluded"),
    ):
        if report.get(key):
            lines.append(f"{label}: {', '.join(report[key])}")
    lines += [_line_of_offer(*numbered) for numbered in enumerate(report.get("offered", [])[:_SHOWN])]
    lines += _some("note", report["notes"])
    lines += _some(
        "damaged, passed over", [f"snapshot {d['sequence']}: {d['reason']}" for d in report["damaged"]]
    )
    if report.get("overwritten"):
        lines.append(f"replaced what the startup files had set: {', '.join(report['overwritten'])}")
    return lines


def _lines_of_stop(stopped: dict[str, Any]) -> list[str]:
    what = f"cell [{stopped['cell']}] `{stopped['first_line']}` had not ended"
    when = "this is its state" if stopped["this_state"] else "it has not gone on yet from its state"
    lines = [f"{what}; {when} {_place(stopped)}"]
    if stopped["loops"]:
        lines.append(
            "run that cell again and it goes on there; respawner.start_over() before it lets it begin anew"
        )
        return lines
    lines.append(
        "what comes after the step in that iteration (scheduler, averages, logging) had not run. Run again, the cell "
        "begins anew, unless you let its loops begin at these values. `for … in respawner.resume(…)` goes on by itself"
    )
    if stopped["functions"]:
        name = stopped["functions"][-1]
        lines.append(f"variables of {name}(): respawner.stopped()['functions'][{name!r}]")
    return lines


def way_back(snapshot: str, place: dict[str, Any]) -> str:
    """What is told in a cell that was interrupted or failed: its last safe point."""
    then = "; run this cell again then, and it goes on there" if place["loops"] else ""
    return f"`%restore {snapshot}` brings back the last safe point of this cell, {_place(place)}{then}"


def begins_anew(snapshot: str, stopped: Stopped) -> str:
    """What is told where a cell that failed after it had gone on is run again without the state to go on from."""
    return f"this run begins anew; {way_back(snapshot, stopped.facts())}"


def memory_is_short(use: MemoryUse, last: Manifest | None) -> str:
    """What is told where memory runs out. ``last``: the newest snapshot, whose sizes nobody has to ask for now."""
    largest = sorted(last.names, key=lambda name: -name.bytes)[:_LARGEST] if last is not None else []
    named = ", ".join(f"{name.name} ({readable_size(name.bytes)})" for name in largest)
    return (
        f"memory runs out: {readable_size(use.used_bytes)} of this {use.of}'s {readable_size(use.limit_bytes)} are used "
        f"({use.share:.0%}), and at its end the kernel is killed. This cell is saved at its next safe point (between "
        "iterations of respawner.resume, or after an optimizer's step), whenever the last one was"
        + (f". Largest when last saved: {named}" if named else "")
    )


def goes_on(stopped: Stopped) -> str:
    """What is told in a cell whose loop goes on."""
    loop = stopped.loops[-1]
    return f"{title_of(loop)} goes on with item {loop.count + 1}, after {stopped.steps} optimizer steps"


UNDONE = (
    "this run failed before its loop, so the variables are again those to go on from. Change what is to be changed, "
    "and run the cell again; respawner.start_over() before it lets it begin anew"
)


def saved_anew(kept: str) -> str:
    """What is told before a run that has begun anew is saved. ``kept``: the snapshot of the run before."""
    return f"this run is saved now; `%restore {kept}` brings back where the last one stopped"


def passed_by(stopped: Stopped, kept: str) -> str:
    """What is told before another cell than the one that stopped is saved inside. ``kept``: the snapshot to go on from."""
    return (
        f"cell [{stopped.number}] `{stopped.first_line}` has not gone on yet; should the kernel die in this cell too, "
        f"`%restore {kept}` brings back where it was"
    )


def did_not_go_on(stopped: Stopped, kept: str) -> str:
    """What is told where a cell was run again and its loop did not come. ``kept``: the snapshot to go on from."""
    return (
        f"the cell has run anew to its end: the loop at which it had stopped ({_place(stopped.facts())}) did not come. "
        f"`%restore {kept}` brings back where it was"
    )


def _place(stopped: dict[str, Any]) -> str:
    parts = [f"after {_count(stopped['steps'], 'optimizer step')}"] if stopped["steps"] else []
    parts += [f"before item {loop['iteration'] + 1} of a loop" for loop in stopped["loops"][-1:]]
    parts += [f"{name} = {value!r}" for name, value in list(stopped["variables"].items())[:_SHOWN]]
    return ", ".join(parts)


def _line_of_loss(loss: dict[str, str]) -> str:
    made_by = f"; made by {loss['origin']}" if loss.get("origin") else ""
    return f"{loss['path']} ({loss['type']}): {loss['reason']}{made_by}"


def _line_of_offer(number: int, offer: dict[str, Any]) -> str:
    what = "the last state" if number == 0 else "an earlier state that was not continued"
    cell = offer["cell"]
    after = (
        f", after cell [{cell['execution_count']}] `{cell.get('first_line', '')}`"
        if "execution_count" in cell
        else ""
    )
    return (
        f"`%restore {offer['id']}` brings back {what}: {_count(offer['variables'], 'variable')}, "
        f"{readable_size(offer['bytes'])}, {readable_age(age_seconds(offer['created']))}{after}"
    )


def show(report: dict[str, Any]) -> None:
    """Display the report in the cell that runs."""
    from IPython.display import display

    first, *rest = lines_of(report)
    display(
        {"text/plain": "\n".join([first, *(f"  {line}" for line in rest)]), "text/html": html_of(report)},
        raw=True,
    )


def html_of(report: dict[str, Any]) -> str:
    """One block: what happened, how much is not as it was, and behind that, folded, what and why.

    It has no colours of its own but the bar's, so that it is right in a light and in a dark theme.
    """
    first, *rest = lines_of(report)
    bar = "#c77d0a" if report["skipped"] or report["damaged"] or not report["restored"] else "#4a90a4"
    block = f"border-left:3px solid {bar};padding:2px 10px;font-size:90%;line-height:1.5"
    inside = f"<div><b>{html.escape(first)}</b></div>"
    if rest:
        items = "".join(f"<li>{html.escape(line)}</li>" for line in rest)
        listed = f'<ul style="margin:2px 0 2px 20px;padding:0">{items}</ul>'
        opened = " open" if len(rest) <= _OPEN_LINES else ""
        summary = f'<summary style="cursor:pointer">{html.escape(_summary(report))}</summary>'
        inside += f"<details{opened}>{summary}{listed}</details>"
    return f'<div style="{block}">{inside}</div>'


def _summary(report: dict[str, Any]) -> str:
    lost, notes, damaged = (len(report[key]) for key in ("skipped", "notes", "damaged"))
    parts = [
        f"{lost} not restored" if lost else "",
        _count(damaged, "damaged snapshot") if damaged else "",
        _count(notes, "note") if notes else "",
    ]
    return ", ".join(part for part in parts if part) or "details"


def _after(report: dict[str, Any]) -> str:
    count = report["cell"].get("execution_count")
    if count is None:
        return ""
    if report["state"] == "running":
        return f" (inside cell [{count}])"
    how = {"error": ", which failed", "interrupted": ", which was interrupted"}.get(report["state"], "")
    return f" (after cell [{count}]{how})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _some(label: str, items: list[str]) -> list[str]:
    shown = [f"{label}: {item}" for item in items[:_SHOWN]]
    if len(items) > _SHOWN:
        shown.append(f"{label}: and {len(items) - _SHOWN} more, see respawner.report()")
    return shown
