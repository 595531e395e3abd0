"""Writes snapshots to one timeline: each chunk once, the manifest last.

Call order: `add_stream` or `add_planned` for every stream, then `publish`; on any error `roll_back`, after which the
timeline is exactly what it was, and the next snapshot may be tried. Needs the timeline's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import TornError
from ..manifest import CHUNK_BYTES, Extent, Manifest, Stream
from .codec import RAW, encode
from .digest import ALGORITHMS, PREFERRED
from .pack import PackWriter
from .retention import Kept, delete_packs_unnamed_by, prune_known
from .timeline import Damage, Timeline

CopyTo = Callable[[int], None]
PlannedChunk = tuple[bytes, int, CopyTo | None]

PACK_BYTES = 1 << 30
"""A pack that has grown beyond this is followed by a new one: whole packs are what retention deletes."""


@dataclass(frozen=True)
class _Place:
    pack: int
    offset: int
    stored: int
    encoding: str


class TimelineWriter:
    """The one writer of a timeline, for as long as its lock is held."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.hash = PREFERRED
        self._digest = ALGORITHMS[PREFERRED]
        self._places: dict[tuple[bytes, int], _Place] = {}
        self._added: list[tuple[bytes, int]] = []
        self._pack: PackWriter | None = None
        self._snapshots: dict[int, Kept] = {}
        self._streams: dict[bytes, Stream] = {}
        self._read_manifests()

    def _read_manifests(self) -> None:
        """Learn which chunks are on disk, and where the last pack really ends."""
        sequences = self.timeline.sequences()
        self.next_sequence = sequences[0] + 1 if sequences else 1
        ends: dict[int, int] = {}
        whole = True
        for found in self.timeline.snapshots():
            self._snapshots[found.sequence] = Kept.of(found)
            if isinstance(found, Damage):
                whole = False
                continue
            for _, stream in found.streams():
                for digest, extent, offset, stored, length in stream.chunks():
                    ends[extent.pack] = max(ends.get(extent.pack, 0), offset + stored)
                    if found.hash == self.hash:
                        place = _Place(extent.pack, offset, stored, extent.encoding)
                        self._places.setdefault((digest, length), place)
        sizes = {int(path.stem): path.stat().st_size for path in self.timeline.packs.glob("*.pack")}
        short = {pack for pack, end in ends.items() if sizes.get(pack, 0) < end}
        self._places = {key: place for key, place in self._places.items() if place.pack not in short}
        self._committed_pack = max(ends, default=0)
        self._committed_end = ends.get(self._committed_pack, 0)
        if short or not whole:
            self._start_new_pack()

    def distrust(self) -> None:
        """Write everything anew from now on: a chunk that is on disk turned out to be damaged."""
        self.close()
        self._places.clear()
        self._streams.clear()
        self._start_new_pack()

    def _start_new_pack(self) -> None:
        """Leave the packs that exist alone, left-overs too: we do not know all of what they hold."""
        existing = [int(path.stem) for path in self.timeline.packs.glob("*.pack")]
        self._committed_pack, self._committed_end = max([self._committed_pack, *existing]) + 1, 0

    def add_stream(self, pieces: Iterable[Any], *, compress: bool = False) -> Stream:
        """Store a stream. Each piece (bytes-like) is cut at every `CHUNK_BYTES` from its own beginning,
        so that a large piece keeps its chunks when what stands before it in the stream grows."""
        digests: list[bytes] = []
        extents: list[Extent] = []
        total = 0
        for piece in pieces:
            view = memoryview(piece).cast("B")
            for start in range(0, len(view), CHUNK_BYTES):
                chunk = view[start : start + CHUNK_BYTES]
                digest = self._digest(chunk)
                place = self._places.get((digest, len(chunk)))
                if place is None:
                    place = self._append(digest, chunk, compress)
                digests.append(digest)
                _extend(extents, place, len(chunk))
            total += len(view)
        return Stream(total, b"".join(digests), tuple(extents))

    def add_planned(self, length: int, chunks: Iterable[PlannedChunk], *, restless: bool) -> Stream:
        """Store a stream whose chunks were hashed before. Each chunk comes with a function that copies its
        bytes to an address, or with None where the store has had it.

        What is written is hashed again. Where it is not what was hashed before, `TornError` is raised, or
        with ``restless`` the stream takes what was read.
        """
        digests: list[bytes] = []
        extents: list[Extent] = []
        for digest, size, copy_to in chunks:
            place = self._places.get((digest, size))
            if place is None:
                digest, place = self._copy(digest, size, copy_to, restless)
            digests.append(digest)
            _extend(extents, place, size)
        return Stream(length, b"".join(digests), tuple(extents))

    def whole_stream(self, digests: bytes, length: int) -> Stream | None:
        """The stream of the last snapshot that has these digests. May be asked by any thread."""
        found = self._streams.get(digests)
        return found if found is not None and found.length == length else None

    def knows(self, digest: bytes, length: int) -> bool:
        """Whether the chunk is on disk. May be asked by any thread: the answer may be old when it comes."""
        return (digest, length) in self._places

    def _copy(self, digest: bytes, size: int, copy_to: CopyTo | None, restless: bool) -> tuple[bytes, _Place]:
        if copy_to is None:
            raise TornError("a chunk that was on disk has been deleted since the capture")
        pack = self._open_pack()
        view, address = pack.room(size)
        copy_to(address)
        found = self._digest(view)
        if found != digest:
            if not restless:
                raise TornError("memory changed between its capture and its writing")
            if place := self._places.get((found, size)):
                return found, place
        place = _Place(pack.number, pack.added(size), size, RAW)
        self._places[found, size] = place
        self._added.append((found, size))
        return found, place

    def _append(self, digest: bytes, chunk: memoryview, compress: bool) -> _Place:
        encoding, data = encode(chunk) if compress else (RAW, chunk)
        pack = self._open_pack()
        offset = pack.append(data)
        place = _Place(pack.number, offset, len(data), encoding)
        self._places[digest, len(chunk)] = place
        self._added.append((digest, len(chunk)))
        return place

    def _open_pack(self) -> PackWriter:
        """The pack to append to; a full one is made durable and closed."""
        if self._pack is None:
            number = self._committed_pack or 1
            self._pack = PackWriter(self.timeline.packs, number, self.timeline.uuid, self._committed_end)
        if self._pack.end > PACK_BYTES:
            self._pack.sync()
            full, self._pack = self._pack, None
            full.close()
            self._pack = PackWriter(self.timeline.packs, full.number + 1, self.timeline.uuid)
        return self._pack

    def publish(self, manifest: Manifest) -> None:
        """Make the chunks durable, then the manifest. From here on the snapshot exists."""
        if self._pack is not None:
            self._pack.sync()
        self.timeline.publish(manifest)
        self._snapshots[manifest.sequence] = Kept.of(manifest)
        self._streams = {payload.stream.digests: payload.stream for payload in manifest.payloads}
        self.next_sequence = manifest.sequence + 1
        self._added.clear()
        if self._pack is not None:
            self._committed_pack, self._committed_end = self._pack.number, self._pack.end

    def roll_back(self) -> None:
        """Forget every chunk since the last `publish`, on disk too where the disk lets us."""
        for key in self._added:
            self._places.pop(key, None)
        self._added.clear()
        pack, self._pack = self._pack, None
        if pack is None:
            return
        try:
            if pack.number == self._committed_pack:
                pack.truncate(self._committed_end)
            else:
                pack.truncate(0)
        except OSError:
            pass  # the tail is unnamed, and is cut off when the pack is opened next
        finally:
            pack.close()

    def prune(self, keep_latest: int) -> list[int]:
        """Delete what retention does not keep, by what is known of this timeline; returns the numbers."""
        deleted = prune_known(self.timeline, self._newest_first(), keep_latest)
        for sequence in deleted:
            del self._snapshots[sequence]
        return deleted

    def drop_unnamed_packs(self) -> None:
        """Delete packs that no manifest names any more."""
        delete_packs_unnamed_by(self.timeline, self._newest_first(), keep=self._committed_pack)
        existing = {int(path.stem) for path in self.timeline.packs.glob("*.pack")}
        gone = [key for key, place in self._places.items() if place.pack not in existing]
        for key in gone:
            del self._places[key]

    def _newest_first(self) -> list[Kept]:
        return [self._snapshots[sequence] for sequence in sorted(self._snapshots, reverse=True)]

    def close(self) -> None:
        if self._pack is not None:
            self._pack.close()
            self._pack = None


def _extend(extents: list[Extent], place: _Place, length: int) -> None:
    """Add a chunk, to the last extent where it follows that in the same pack."""
    if extents and place.encoding == RAW:
        last = extents[-1]
        continues = (last.pack, last.encoding) == (
            place.pack,
            RAW,
        ) and last.offset + last.length == place.offset
        if continues and last.length % CHUNK_BYTES == 0:
            grown = last.length + length
            extents[-1] = Extent(last.pack, last.offset, grown, grown, RAW)
            return
    extents.append(Extent(place.pack, place.offset, length, place.stored, place.encoding))
