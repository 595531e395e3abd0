"""Gives back the dead space of packs: what is left in mostly dead ones is copied, then they are deleted whole.

A timeline of which only the head trains leaves behind packs in which one snapshot in twenty is still kept.
Order: the copies are durable in a new pack, then each manifest that names an old place is replaced by one that
names the new place, then the old packs are unlinked. After a kill at any moment every manifest names
bytes that exist; an unfinished run leaves some chunks twice, and the next one tidies up. Packs that a restored
kernel has mapped are only unlinked: the mapping keeps the bytes.

At most half of what is freed is copied, so writing grows by no more than that.
"""

from __future__ import annotations

import contextlib

from ..errors import DamagedError
from ..manifest import Extent, Stream, rewritten
from .facts import Facts, facts_of
from .files import remove, write_atomically
from .pack import ALIGNMENT, PackReader, PackWriter, align, pack_path
from .retention import size_of
from .timeline import Timeline

DEAD_SHARE = 0.5
"""A pack is emptied when more of it than this is dead."""
LEAST_BYTES = 64 << 20
"""Less dead space than this, or than an eighth of what lives, is not worth the writing."""

Moves = dict[tuple[int, int], tuple[int, int]]
"""(pack, offset) before → (pack, offset) after."""


def dead_packs(
    timeline: Timeline, keep: int, least_bytes: int = LEAST_BYTES
) -> dict[int, list[tuple[int, int]]]:
    """Packs worth emptying, each with the places (offset, stored bytes) of its living chunks in order.

    ``keep`` is the pack that is being written. Empty while a manifest is damaged: it may name anything.
    """
    snapshots = facts_of(timeline)
    if not all(facts.good for facts in snapshots):
        return {}
    sizes = {int(path.stem): size_of(path) for path in timeline.packs.glob("*.pack") if path.stem.isdigit()}
    extents = _living(snapshots)
    living = {pack: _covered(found) for pack, found in extents.items()}
    dead = {pack: size - ALIGNMENT - living.get(pack, 0) for pack, size in sizes.items()}
    chosen = [p for p in sorted(living) if p != keep and dead.get(p, 0) > DEAD_SHARE * sizes.get(p, 0)]
    if sum(dead[pack] for pack in chosen) < max(least_bytes, sum(living.values()) // 8):
        return {}
    return {pack: _chunks(extents[pack]) for pack in chosen}


def compact(timeline: Timeline, keep: int, least_bytes: int = LEAST_BYTES) -> Moves:
    """Empty what `dead_packs` names; returns where its chunks have gone. Needs the timeline's lock.

    Raises `OSError` where the disk does not take the copies: then nothing has changed but an unnamed pack.
    """
    chosen = dead_packs(timeline, keep, least_bytes)
    if not chosen:
        return {}
    try:
        moves = _copy(timeline, chosen, keep)
    except DamagedError:
        return {}  # what cannot be read stays where it is, for verification to name
    for facts in reversed(facts_of(timeline)):
        if any(extent.pack in chosen for extent in facts.extents):
            path = timeline.manifest_path(facts.sequence)
            write_atomically(path, rewritten(path.read_bytes(), lambda stream: _moved(stream, moves)))
    for pack in chosen:
        remove(pack_path(timeline.packs, pack))
    return moves


def next_pack_number(timeline: Timeline, *taken: int) -> int:
    """A number that no pack has had."""
    return max([0, *taken, *(int(p.stem) for p in timeline.packs.glob("*.pack") if p.stem.isdigit())]) + 1


def _copy(timeline: Timeline, chosen: dict[int, list[tuple[int, int]]], keep: int) -> Moves:
    """Copy in the order of the places, so that chunks that lay side by side do so again."""
    moves: Moves = {}
    number = next_pack_number(timeline, keep)
    writer = PackWriter(timeline.packs, number, timeline.uuid)
    try:
        for pack, places in chosen.items():
            reader = PackReader(timeline.packs, pack)
            try:
                for offset, stored in places:
                    room, _ = writer.room(stored)
                    reader.read_into(room, offset)
                    moves[pack, offset] = number, writer.added(stored)
            finally:
                reader.close()
        writer.sync()
    except BaseException:
        writer.close()
        with contextlib.suppress(OSError):
            remove(pack_path(timeline.packs, number))
        raise
    writer.close()
    return moves


def _living(snapshots: list[Facts]) -> dict[int, set[Extent]]:
    found: dict[int, set[Extent]] = {}
    for facts in snapshots:
        for extent in facts.extents:
            found.setdefault(extent.pack, set()).add(extent)
    return found


def _covered(extents: set[Extent]) -> int:
    """Bytes in whole pages that these extents cover together."""
    total = end = 0
    for start, stop in sorted((e.offset, align(e.offset + e.stored)) for e in extents):
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


def _chunks(extents: set[Extent]) -> list[tuple[int, int]]:
    places: dict[int, int] = {}
    for extent in extents:
        for offset, stored, _ in extent.chunks():
            places[offset] = max(stored, places.get(offset, 0))
    return sorted(places.items())


def _moved(stream: Stream, moves: Moves) -> Stream:
    extents: list[Extent] = []
    for _, extent, offset, stored, length in stream.chunks():
        pack, offset = moves.get((extent.pack, offset), (extent.pack, offset))
        Extent(pack, offset, length, stored, extent.encoding).join(extents)
    return Stream(stream.length, stream.digests, tuple(extents))
