"""Which snapshots stay: the newest, then one an hour, then one a day, inside a quota. What no manifest names goes.

Never deleted by themselves: labelled and pinned snapshots, and the state that the next start would restore. Chunks that
a snapshot that stays shares with one that goes stay as well: packs are deleted only when no manifest names them.

Whoever deletes holds the timeline's lock. Packs may be mapped by a restored kernel: they are unlinked whole, never
cut or overwritten.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ..contract import (
    KEEP_DAILY_ENV,
    KEEP_HOURLY_ENV,
    KEEP_LATEST_ENV,
    KEEP_SAFEPOINTS_ENV,
    STORE_QUOTA_ENV,
    TIMELINE_QUOTA_ENV,
)
from ..errors import NoSnapshotError, StoreError
from ..manifest import Manifest
from .facts import Facts, facts_of
from .files import remove
from .timeline import Timeline

KEEP_LATEST = 20
KEEP_PINS = 3
"""Pins are set by the engine (before a clean start); older ones give way."""
_HOUR, _DAY = 3600.0, 86400.0
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True)
class Rules:
    latest: int = KEEP_LATEST
    """So many of the newest stay, whatever their age."""
    hourly: int = 24
    """The newest of each hour, for so many hours."""
    daily: int = 14
    """The newest of each day, for so many days."""
    safepoints: int = 3
    """So many of the newest that were taken inside a cell, for as long as there is none after its end."""
    timeline_bytes: int = 50 * 10**9
    store_bytes: int = 200 * 10**9

    @classmethod
    def from_environment(cls) -> Rules:
        """The defaults, changed by what `respawner.contract` names. Raises `StoreError` for what is no number."""
        plain = cls()
        return cls(
            latest=max(1, int_setting(KEEP_LATEST_ENV, plain.latest)),
            hourly=int_setting(KEEP_HOURLY_ENV, plain.hourly),
            daily=int_setting(KEEP_DAILY_ENV, plain.daily),
            safepoints=max(1, int_setting(KEEP_SAFEPOINTS_ENV, plain.safepoints)),
            timeline_bytes=int_setting(TIMELINE_QUOTA_ENV, plain.timeline_bytes),
            store_bytes=int_setting(STORE_QUOTA_ENV, plain.store_bytes),
        )


def int_setting(name: str, default: int) -> int:
    """A count or a size (``20``, ``50GB``) from the environment."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.lower())
    if match is None:
        raise StoreError(f"{name} is {text!r}: it must be a number, or a size such as 50GB")
    return int(float(match[1]) * _UNITS[match[2]])


def to_keep(snapshots: Sequence[Facts], pinned: Collection[str], now: float, rules: Rules) -> set[int]:
    """Numbers of the snapshots that stay by their age, labels and pins. ``snapshots``: newest first.

    The order is that of the numbers, not of the clock. What was made in the future (the clock has been set
    back) counts as made now. A damaged manifest counts as old as its neighbours.

    Those inside cells are counted by themselves, so that a long cell's never push out a finished one's.
    """
    kept = protected(snapshots, pinned)
    kept |= {facts.sequence for facts in _inside_the_last_cell(snapshots)[: rules.safepoints]}
    good = [facts for facts in snapshots if facts.good and not facts.safepoint]
    kept |= {facts.sequence for facts in good[: rules.latest]}
    for span, count in ((_HOUR, rules.hourly), (_DAY, rules.daily)):
        seen: set[int] = set()
        for facts in good:
            age = max(0.0, now - facts.created)
            bucket = int(min(facts.created, now) // span)
            if age < span * count and bucket not in seen:
                seen.add(bucket)
                kept.add(facts.sequence)
    oldest_of_latest = min((facts.sequence for facts in good[: rules.latest]), default=0)
    return kept | {f.sequence for f in snapshots if not f.good and f.sequence > oldest_of_latest}


def _inside_the_last_cell(snapshots: Sequence[Facts]) -> list[Facts]:
    """Those that no state after a cell has taken the place of, newest first."""
    ended = max((f.sequence for f in snapshots if f.good and f.target and not f.safepoint), default=0)
    return [facts for facts in snapshots if facts.good and facts.safepoint and facts.sequence > ended]


def protected(snapshots: Sequence[Facts], pinned: Collection[str]) -> set[int]:
    """What no quota deletes: labelled, pinned, the newest, and the newest that a start would restore."""
    good = [facts for facts in snapshots if facts.good]
    kept = {facts.sequence for facts in good if facts.labelled or facts.id in pinned}
    kept |= {facts.sequence for facts in good[:1]}
    kept |= {facts.sequence for facts in [f for f in good if f.target][:1]}
    return kept


def within_quota(
    snapshots: Sequence[Facts], kept: Collection[int], never: Collection[int], most_bytes: int
) -> set[int]:
    """Of ``kept``, drop the oldest that are not in ``never`` until what the rest names is ``most_bytes`` at most.

    First those inside cells: the newest of them is in ``never`` where it is what a start would restore.
    """
    users: dict[tuple[int, int], int] = {}
    chunks: dict[int, set[tuple[int, int, int]]] = {}
    for facts in snapshots:
        if facts.sequence in kept:
            own = chunks[facts.sequence] = set(_chunks(facts))
            for pack, offset, _ in own:
                users[pack, offset] = users.get((pack, offset), 0) + 1
    total = sum({(p, o): stored for own in chunks.values() for p, o, stored in own}.values())
    left = set(kept)
    for facts in sorted(snapshots, key=lambda facts: (not facts.safepoint, facts.sequence)):
        if total <= most_bytes:
            break
        if facts.sequence not in left or facts.sequence in never:
            continue
        left.discard(facts.sequence)
        for pack, offset, stored in chunks[facts.sequence]:
            users[pack, offset] -= 1
            if users[pack, offset] == 0:
                total -= stored
    return left


def _chunks(facts: Facts) -> list[tuple[int, int, int]]:
    return [(e.pack, offset, stored) for e in facts.extents for offset, stored, _ in e.chunks()]


def prune(
    timeline: Timeline,
    keep_latest: int | None = None,
    *,
    rules: Rules | None = None,
    now: float | None = None,
) -> list[int]:
    """Delete manifests that nothing keeps, and return their numbers. Needs the timeline's lock.

    The quota is looked at in what the packs take; only where that is too much are chunks counted.
    """
    rules = rules or Rules.from_environment()
    if keep_latest is not None:
        rules = replace(rules, latest=keep_latest)
    pins = list(timeline.pins())
    for old in pins[:-KEEP_PINS]:
        timeline.unpin(old)
    pinned = set(pins[-KEEP_PINS:])
    snapshots = facts_of(timeline)
    kept = to_keep(snapshots, pinned, time.time() if now is None else now, rules)
    most = _most_bytes(timeline, rules)
    if packs_bytes(timeline) > most:
        kept = within_quota(snapshots, kept, protected(snapshots, pinned), most)
    deleted = [facts.sequence for facts in reversed(snapshots) if facts.sequence not in kept]
    for sequence in deleted:  # oldest first: a kill in between leaves what a smaller number would have left
        remove(timeline.manifest_path(sequence))
    return deleted


def delete(timeline: Timeline, wanted: str) -> Manifest:
    """Delete one snapshot whatever keeps it, labels and pins too; returns what it was. Needs the timeline's lock.

    ``wanted``: an id, the only beginning of one, or a label that only one snapshot has. Raises `NoSnapshotError`,
    and `StoreError` where it is not clear which one is meant, or where the next start would restore it.
    """
    whole = [found for found in timeline.snapshots() if isinstance(found, Manifest)]
    fitting = [found for found in whole if found.id == wanted] or [
        found for found in whole if wanted in found.labels or (wanted and found.id.startswith(wanted))
    ]
    if not fitting:
        raise NoSnapshotError(f"{timeline.name} has no snapshot {wanted!r}; `%snapshots` lists what there is")
    if len(fitting) > 1:
        ids = ", ".join(found.id for found in fitting)
        raise StoreError(f"{wanted!r} fits {len(fitting)} snapshots ({ids}); nothing was deleted: give an id")
    [found] = fitting
    target = timeline.target()
    if found is whole[0] or (target is not None and found.id == target.id):
        raise StoreError(
            f"{found.id} is what the next start goes on from; nothing was deleted. "
            "It can be deleted as soon as there is a newer one"
        )
    remove(timeline.manifest_path(found.sequence))
    timeline.unpin(found.id)
    return found


def _most_bytes(timeline: Timeline, rules: Rules) -> int:
    """What this timeline may take: its own quota, and no more than the others leave of the store's."""
    everything = sum(size_of(path) for path in timeline.folder.parent.glob("*/packs/*.pack"))
    others = everything - packs_bytes(timeline)
    return max(0, min(rules.timeline_bytes, rules.store_bytes - others))


def packs_bytes(timeline: Timeline) -> int:
    return sum(size_of(path) for path in timeline.packs.glob("*.pack"))


def size_of(path: os.PathLike[str]) -> int:
    """0 where another process has deleted it meanwhile."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - any path
    except OSError:
        return 0


def delete_unnamed_packs(timeline: Timeline, keep: int | None = None) -> None:
    """Delete packs that no manifest names. Does nothing while a damaged manifest may name any of them."""
    named = set() if keep is None else {keep}
    for facts in facts_of(timeline):
        if not facts.good:
            return
        named.update(extent.pack for extent in facts.extents)
    for path in timeline.packs.glob("*.pack"):
        if path.stem.isdigit() and int(path.stem) not in named:
            remove(path)
