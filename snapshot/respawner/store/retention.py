"""Which snapshots stay: the newest, the labelled and the pinned. What no manifest names is deleted.

Simple on purpose; ages and bytes will come with asynchronous writing.
"""

from __future__ import annotations

from ..manifest import Manifest
from .timeline import Damage, Timeline

KEEP_LATEST = 20
KEEP_PINS = 3
"""Pins are set by the engine (before a clean start); older ones give way."""


def prune(timeline: Timeline, keep_latest: int = KEEP_LATEST) -> list[int]:
    """Delete manifests that nothing keeps, and return their numbers. Needs the timeline's lock.

    Damaged manifests count as snapshots: they go when they are old, not because they are damaged.
    """
    pins = list(timeline.pins())
    for old in pins[:-KEEP_PINS]:
        timeline.unpin(old)
    kept_ids = set(pins[-KEEP_PINS:])
    deleted = []
    good = 0
    for found in timeline.snapshots():
        if good < keep_latest or (isinstance(found, Manifest) and (found.labels or found.id in kept_ids)):
            good += isinstance(found, Manifest)
            continue
        timeline.manifest_path(found.sequence).unlink(missing_ok=True)
        deleted.append(found.sequence)
    return deleted


def delete_unnamed_packs(timeline: Timeline, keep: int | None = None) -> None:
    """Delete packs that no manifest names. Does nothing while a damaged manifest may name any of them."""
    named = set() if keep is None else {keep}
    for found in timeline.snapshots():
        if isinstance(found, Damage):
            return
        for _, stream in found.streams():
            named.update(extent.pack for extent in stream.extents if extent.pack)
    for path in timeline.packs.glob("*.pack"):
        if path.stem.isdigit() and int(path.stem) not in named:
            path.unlink(missing_ok=True)
