"""GPU-hours by user, group, GPU and day; what was held and what was really used; how long people waited.

Days are UTC, and a lease across midnight counts in both. Whole GPUs count as 1, MIG devices and shares by their part of
the memory. Somebody in several groups counts fully in each, so groups may add up to more than users do. Used means
utilisation integrated over time (of a share, its part of it, so that used never exceeds held); what no agent saw
counts as held and not as used, `sampled_hours` tells how much was seen. Plain functions on rows; the queries are at
the end.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import or_, select

from . import schema
from .history import split_by_day
from .ledger import Ledger


class By(StrEnum):
    """What hours are added up by."""

    USER = "user"
    GROUP = "group"
    GPU = "gpu"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class Held:
    """A device in somebody's hands on one day, with what it computed on that day."""

    user: str
    groups: tuple[str, ...]
    uuid: str
    day: str
    """UTC, as "2026-11-25"."""
    held_seconds: float
    part: float = 1.0
    busy_seconds: float = 0.0
    sampled_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Hours:
    """A row of the account; what it was not grouped by is ""."""

    user: str = ""
    group: str = ""
    gpu: str = ""
    day: str = ""
    held_hours: float = 0.0
    used_hours: float = 0.0
    sampled_hours: float = 0.0


@dataclass(frozen=True, slots=True)
class Waits:
    """How long requests waited for their grant, in seconds."""

    group: str
    """"" is everybody."""
    requests: int
    p50_seconds: float
    p95_seconds: float
    longest_seconds: float


def add_up(held: Iterable[Held], by: Sequence[By]) -> list[Hours]:
    """One row for each combination of what it is grouped by, sorted by it."""
    sums: dict[tuple[str, ...], list[float]] = {}
    for part in held:
        for group in part.groups or ("",) if By.GROUP in by else ("",):
            values = {By.USER: part.user, By.GROUP: group, By.GPU: part.uuid, By.DAY: part.day}
            row = sums.setdefault(tuple(values[key] if key in by else "" for key in By), [0.0, 0.0, 0.0])
            row[0] += part.held_seconds * part.part
            row[1] += part.busy_seconds * part.part
            row[2] += part.sampled_seconds * part.part
    return [_row(key, values) for key, values in sorted(sums.items())]


def _row(key: tuple[str, ...], seconds: list[float]) -> Hours:
    user, group, gpu, day = key
    held, used, sampled = (round(value / 3600, 4) for value in seconds)
    return Hours(user, group, gpu, day, held, used, sampled)


def waits_of(waited: Iterable[tuple[Sequence[str], float]]) -> list[Waits]:
    """Everybody, then each group.

    :param waited: (groups, seconds) of each granted request.
    """
    by_group: dict[str, list[float]] = {}
    for groups, seconds in waited:
        for group in {"", *groups}:
            by_group.setdefault(group, []).append(seconds)
    return [
        Waits(group, len(found), percentile(found, 50), percentile(found, 95), max(found))
        for group, found in sorted(by_group.items())
    ]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def as_json(rows: Sequence[Any]) -> str:
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=1)


def as_csv(rows: Sequence[Any]) -> str:
    """With a line of names; empty without rows."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(
            text, [field.name for field in dataclasses.fields(rows[0])], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(
            {name: _unarmed(value) for name, value in dataclasses.asdict(row).items()} for row in rows
        )
    return text.getvalue()


def _unarmed(value: Any) -> Any:
    """Spreadsheets run what begins like a formula; users choose their names."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def hours(ledger: Ledger, since: float, until: float, by: Sequence[By] = (By.DAY, By.USER)) -> list[Hours]:
    """GPU-hours between two moments (unix seconds). `used_hours` counts whole UTC days: choose midnights."""
    return add_up(held_between(ledger, since, min(until, ledger.clock())), by)


def held_between(ledger: Ledger, since: float, until: float) -> list[Held]:
    h, u, r = schema.holdings.c, schema.use.c, schema.requests.c
    touching = (h.since < until, or_(h.until.is_(None), h.until > since))
    query = select(h.request_id, h.uuid, h.part, h.since, h.until, r.user, r.groups)
    with ledger.database.read() as connection:
        holdings = connection.execute(
            query.join(schema.requests, r.id == h.request_id).where(*touching).order_by(h.id)
        ).all()
        used_query = (
            select(schema.use)
            .join(schema.holdings, (h.request_id == u.request_id) & (h.uuid == u.uuid))
            .where(*touching)
        )
        used = {(row.request_id, row.uuid, row.day): row for row in connection.execute(used_query)}
    found = []
    for row in holdings:
        end = until if row.until is None else min(until, row.until)
        for day, seconds, _ in split_by_day(max(since, row.since), end):
            use = used.get((row.request_id, row.uuid, day))
            busy, sampled = (use.busy_seconds, use.sampled_seconds) if use else (0.0, 0.0)
            found.append(Held(row.user, tuple(row.groups), row.uuid, day, seconds, row.part, busy, sampled))
    return found


def waits(ledger: Ledger, since: float, until: float) -> list[Waits]:
    """Waiting times of the requests that were granted between two moments."""
    r = schema.requests.c
    query = select(r.groups, r.granted_at, r.submitted).where(r.granted_at >= since, r.granted_at < until)
    with ledger.database.read() as connection:
        return waits_of(
            (row.groups, max(0.0, row.granted_at - row.submitted)) for row in connection.execute(query)
        )
