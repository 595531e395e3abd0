"""Which snapshots stay: the newest, the labelled and the pinned. What no manifest names is deleted.

The choice is made on `Kept`, what is known of a snapshot without its digests, so that the writer of a
timeline can make it after every few cells without reading manifests of a hundred kilobytes each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..manifest import Manifest
from .timeline import Damage, Timeline, is_target

KEEP_LATEST = 20
KEEP_PINS = 3
"""Pins are set by the engine (before a clean start); older ones give way."""


@dataclass(frozen=True)
class Kept:
    """One snapshot as retention sees it. ``packs`` is None where the manifest cannot be believed."""

    sequence: int
    id: str | None
    labelled: bool
    is_target: bool
    packs: frozenset[int] | None

    @classmethod
    def of(cls, found: Manifest | Damage) -> Kept:
        if isinstance(found, Damage):
            return cls(found.sequence, None, False, False, None)
        packs = frozenset(extent.pack for _, stream in found.streams() for extent in stream.extents)
        return cls(found.sequence, found.id, bool(found.labels), is_target(found), packs)


def prune(timeline: Timeline, keep_latest: int = KEEP_LATEST) -> list[int]:
    """Delete manifests that nothing keeps, and return their numbers. Needs the timeline's lock."""
    return prune_known(timeline, [Kept.of(found) for found in timeline.snapshots()], keep_latest)


def prune_known(timeline: Timeline, snapshots: Iterable[Kept], keep_latest: int) -> list[int]:
    """The same where it is known what there is, newest first."""
    pins = list(timeline.pins())
    for old in pins[:-KEEP_PINS]:
        timeline.unpin(old)
    deleted = superfluous(snapshots, set(pins[-KEEP_PINS:]), keep_latest)
    for sequence in deleted:
        timeline.manifest_path(sequence).unlink(missing_ok=True)
    return deleted


def superfluous(snapshots: Iterable[Kept], pinned: set[str], keep_latest: int) -> list[int]:
    """Numbers of the snapshots that may go. ``snapshots``: newest first.

    Damaged ones go when they are old, not because they are damaged. What a start would restore never goes.
    """
    deleted = []
    good = 0
    has_target = False
    for found in snapshots:
        first_target = found.is_target and not has_target
        has_target = has_target or found.is_target
        if good < keep_latest or found.labelled or found.id in pinned or first_target:
            good += found.packs is not None
        else:
            deleted.append(found.sequence)
    return deleted


def delete_unnamed_packs(timeline: Timeline, keep: int | None = None) -> None:
    """Delete packs that no manifest names. Does nothing while a damaged manifest may name any of them."""
    delete_packs_unnamed_by(timeline, [Kept.of(found) for found in timeline.snapshots()], keep)


def delete_packs_unnamed_by(timeline: Timeline, snapshots: Iterable[Kept], keep: int | None) -> None:
    named = set() if keep is None else {keep}
    for found in snapshots:
        if found.packs is None:
            return
        named.update(found.packs)
    for path in timeline.packs.glob("*.pack"):
        if path.stem.isdigit() and int(path.stem) not in named:
            path.unlink(missing_ok=True)
