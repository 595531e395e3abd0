"""What retention and compaction need to know of each snapshot, kept between calls: manifests hardly ever change."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime

from ..errors import DamagedError
from ..manifest import SAFEPOINT, Extent, Manifest
from .timeline import Timeline, is_target


@dataclass(frozen=True)
class Facts:
    """One snapshot. ``good`` is False where its manifest cannot be believed; then the rest says nothing."""

    sequence: int
    good: bool
    id: str = ""
    created: float = 0.0
    """Seconds since 1970, as the clock said it then; it may have been wrong."""
    labelled: bool = False
    target: bool = False
    """Whether a start may restore it by itself."""
    safepoint: bool = False
    """Whether it was taken inside a running cell."""
    extents: tuple[Extent, ...] = ()
    """Where its bytes lie, each place once."""


def facts_of(timeline: Timeline) -> list[Facts]:
    """Every snapshot, newest first. Raises `NewerFormatError` where one is of a newer format."""
    cache = timeline.facts_cache
    found: dict[int, tuple[tuple[int, int], Facts]] = {}
    for sequence in timeline.sequences():
        try:
            status = timeline.manifest_path(sequence).stat()
        except FileNotFoundError:
            continue
        stamp = status.st_mtime_ns, status.st_size
        known = cache.get(sequence)
        if known is not None and known[0] == stamp:
            found[sequence] = known
        else:
            found[sequence] = stamp, _read(timeline, sequence)
    cache.clear()
    cache.update(found)
    return [facts for _, facts in found.values()]


def remember(timeline: Timeline, manifest: Manifest) -> None:
    """Spare `facts_of` the reading of a manifest that the caller has read or written just now."""
    with contextlib.suppress(OSError):
        status = timeline.manifest_path(manifest.sequence).stat()
        stamp = status.st_mtime_ns, status.st_size
        timeline.facts_cache[manifest.sequence] = stamp, _facts_of(manifest)


def _read(timeline: Timeline, sequence: int) -> Facts:
    try:
        return _facts_of(timeline.read(sequence))
    except DamagedError:
        return Facts(sequence, good=False)


def _facts_of(manifest: Manifest) -> Facts:
    places = dict.fromkeys(e for _, stream in manifest.streams() for e in stream.extents if e.stored)
    return Facts(
        manifest.sequence,
        good=True,
        id=manifest.id,
        created=datetime.fromisoformat(manifest.created).timestamp(),
        labelled=bool(manifest.labels),
        target=is_target(manifest),
        safepoint=manifest.kind == SAFEPOINT,
        extents=tuple(places),
    )
