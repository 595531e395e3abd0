"""The facts and the diagnosis for people, as text and as HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ..readable import readable_memory
from .diagnosis import Diagnosis
from .facts import Device, Facts, Host, Use
from .tensors import Held, Row

_SHOWN = 12


def shown(facts: Facts, found: Diagnosis, held: Held, probed: str = "") -> dict[str, str]:
    """What IPython displays."""
    first = headline(facts, found)
    lines = [line for finding in found.findings for line in (finding.what, f"→ {finding.next_step}")]
    if probed:
        lines.append(probed)
    about = [*device_lines(facts), *limit_lines(facts.host), *(f"note: {note}" for note in found.notes)]
    rows = [row for row in held.rows if row.own_bytes or row.shares_with]
    rest = _rest(facts, held)
    text = [f"GPU: {first}", *(f"  {line}" for line in [*lines, *about])]
    if rows:
        text += ["", *_text_table(rows[:_SHOWN])]
    tail = _tail(rows, held, rest)
    return {
        "text/plain": "\n".join([*text, *(f"  {line}" for line in tail)]),
        "text/html": _html(first, lines, about, rows, tail, is_bad=bool(found.findings)),
    }


def headline(facts: Facts, found: Diagnosis) -> str:
    """In a few words: does CUDA work here?"""
    if facts.torch and facts.torch.initialised:
        return "in use, and in trouble" if found.findings else "in use by this kernel"
    if found.findings:
        return f"torch cannot use CUDA here ({', '.join(finding.cause.value for finding in found.findings)})"
    return "nothing stands in CUDA's way (it has not been started; `%gpu --probe` tries it in a process of its own)"


def device_lines(facts: Facts) -> list[str]:
    lines = [_device_line(device, facts) for device in facts.own_devices]
    known = {device.uuid for device in facts.own_devices}
    if not lines:  # no NVML: PyTorch alone knows
        lines = [
            f"cuda:{use.index} {use.name}, {readable_memory(use.total)}{_own(use)}" for use in facts.uses
        ]
    elif unmatched := [use for use in facts.uses if not _matches(use, known) and len(facts.uses) > 1]:
        lines += [f"cuda:{use.index} {use.name}{_own(use)}" for use in unmatched]
    lease = facts.lease
    if lease.share_bytes:
        lines.append(
            f"limit: a share of {readable_memory(lease.share_bytes)}, held to by: {lease.share or 'nobody'}"
        )
    if lease.mps_threads:
        lines.append(f"limit: {lease.mps_threads} % of the GPU's threads, by MPS")
    return lines


def _device_line(device: Device, facts: Facts) -> str:
    if device.error:
        return f"{device.uuid}: does not answer"
    name = f"{device.name} ({device.uuid})"
    if device.mig_mode:
        return f"{name}: in MIG mode, computes only through its MIG devices"
    busy = "" if device.utilization_percent is None else f", {device.utilization_percent} % busy"
    used = f"{readable_memory(device.used_bytes)} of {readable_memory(device.memory_bytes)} in use{busy}"
    mine = [use for use in facts.uses if _matches(use, {device.uuid})]
    if not mine and len(facts.uses) == 1 and sum(not one.mig_mode for one in facts.own_devices) == 1:
        mine = list(facts.uses)
    return f"{name}: {used}{_own(mine[0]) if mine else ''}"


def _matches(use: Use, uuids: set[str]) -> bool:
    """PyTorch leaves the prefix of UUIDs out."""
    return bool(use.uuid) and any(uuid.partition("-")[2] == use.uuid for uuid in uuids)


def _own(use: Use) -> str:
    return (
        f"; this kernel: {readable_memory(use.allocated)} in tensors now, {readable_memory(use.peak_allocated)} at most, "
        f"{readable_memory(use.reserved)} reserved"
    )


def limit_lines(host: Host) -> list[str]:
    parts = []
    if host.memory_bytes:
        peak = f", {readable_memory(host.peak_bytes)} at most" if host.peak_bytes else ""
        parts.append(
            f"{readable_memory(host.used_bytes or 0)} of {readable_memory(host.memory_bytes)} RAM in use{peak}"
        )
    if host.cpus:
        parts.append(f"{host.cpus:g} CPUs")
    if host.shm_bytes:
        parts.append(f"/dev/shm {readable_memory(host.shm_bytes)}")  # noqa: S108
    return [f"this container: {', '.join(parts)}"] if parts else []


def _rest(facts: Facts, held: Held) -> int:
    """What PyTorch has allocated on GPUs and no name leads to."""
    allocated = sum(use.allocated for use in facts.uses)
    named = sum(row.own_bytes for row in held.rows if row.device.startswith("cuda"))
    return max(0, allocated - named)


def _tail(rows: Sequence[Row], held: Held, rest: int) -> list[str]:
    lines = []
    if len(rows) > _SHOWN:
        left = sum(row.own_bytes for row in rows[_SHOWN:])
        lines.append(f"and {len(rows) - _SHOWN} more with {readable_memory(left)}")
    if rest >= 1 << 20:
        lines.append(
            f"{readable_memory(rest)} that no variable leads to: autograd graphs, workspaces, rounding of blocks"
        )
    if held.cut_short:
        lines.append("looking took too long: not everything is listed")
    return lines


_HEADS = ("variable", "memory", "where", "what")


def _cells(row: Row) -> tuple[str, str, str, str]:
    what = row.kind if row.tensors == 1 else f"{row.kind}, {row.tensors} tensors"
    if row.shares_with:
        others = ", ".join(row.shares_with[:2]) + (" and others" if len(row.shares_with) > 2 else "")
        what += f"; shares memory with {others}"
    return row.name, readable_memory(row.own_bytes), row.device, what


def _text_table(rows: Sequence[Row]) -> list[str]:
    table = [_HEADS, *map(_cells, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    return [
        f"  {name:<{widths[0]}}  {memory:>{widths[1]}}  {where:<{widths[2]}}  {what}"
        for name, memory, where, what in table
    ]


def _html(
    first: str,
    lines: Sequence[str],
    about: Sequence[str],
    rows: Sequence[Row],
    tail: Sequence[str],
    *,
    is_bad: bool,
) -> str:
    """No colours of its own but the bar's, so that it is right in a light and in a dark theme."""
    bar = "#c77d0a" if is_bad else "#4a90a4"
    parts = [f"<b>GPU: {html.escape(first)}</b>"]
    parts += [f"<div>{html.escape(line)}</div>" for line in lines]
    if about:
        items = "".join(f"<li>{html.escape(line)}</li>" for line in about)
        parts.append(f'<ul style="margin:2px 0 2px 20px;padding:0">{items}</ul>')
    if rows:
        heads = "".join(f'<th style="text-align:left">{head}</th>' for head in _HEADS)
        body = "".join(f"<tr>{''.join(map(_html_cell, _cells(row)))}</tr>" for row in rows[:_SHOWN])
        parts.append(
            f'<table style="color:inherit"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
        )
    parts += [f"<div>{html.escape(line)}</div>" for line in tail]
    block = f"border-left:3px solid {bar};padding:2px 10px;font-size:90%;line-height:1.5"
    return f'<div style="{block}">{"".join(parts)}</div>'


def _html_cell(text: str) -> str:
    return f'<td style="text-align:left">{html.escape(text)}</td>'
