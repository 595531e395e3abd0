"""Writes snapshots to one timeline: each chunk once, the manifest last.

Call order: `add_stream` or `add_planned` for every stream, then `publish`; on any error `roll_back`, after which the
timeline is exactly what it was, and the next snapshot may be tried. Needs the timeline's lock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StoreError, TornError
from ..manifest import CHUNK_BYTES, RAW, ZERO, Extent, Manifest, Stream
from .budget import Account
from .codec import encode, encode_payload
from .compaction import Moves, compact, next_pack_number
from .digest import ALGORITHMS, PREFERRED
from .facts import remember
from .fence import Fence
from .files import remove
from .lock import renew_lock
from .pack import PackWriter, align, pack_path
from .retention import delete, delete_unnamed_packs, prune
from .timeline import Damage, Timeline

CopyTo = Callable[[int], None]
PlannedChunk = tuple[bytes | None, int, CopyTo | None]

PACK_BYTES = 1 << 30
"""A pack that has grown beyond this is followed by a new one: whole packs are what retention deletes."""
SMALL_PACK_BYTES = 32 << 20
"""Before a snapshot begins, a pack larger than this and than a quarter of the state is left: what dies young (the
head that trains) should not share packs with what lives long."""

_FENCE_MARKER = "fence"


@dataclass(frozen=True)
class _Place:
    pack: int
    offset: int
    stored: int
    encoding: str

    def extent(self, length: int) -> Extent:
        return Extent(self.pack, self.offset, length, self.stored, self.encoding)


_NOWHERE = _Place(0, 0, 0, ZERO)


class TimelineWriter:
    """The one writer of a timeline, for as long as its lock is held and ``fence`` lets it."""

    def __init__(self, timeline: Timeline, fence: Fence | None = None) -> None:
        self.timeline = timeline
        self.fence = fence or Fence()
        self.hash = PREFERRED
        self._digest = ALGORITHMS[PREFERRED]
        self._zeros = {CHUNK_BYTES: self._digest(bytes(CHUNK_BYTES))}
        """Digests of chunks that are all zero, by their length: the whole ones, which are what counts."""
        self._places: dict[tuple[bytes, int], _Place] = {}
        self._added: set[tuple[bytes, int]] = set()
        """What no published snapshot has yet."""
        self._filled: list[int] = []
        """Packs that were left for being full since the last `publish`."""
        self._pack: PackWriter | None = None
        self._account = Account(timeline.folder)
        self._state_bytes = 0
        """Of the newest snapshot."""
        self._streams: dict[bytes, Stream] = {}
        self._deleted: set[int] = set()
        """Packs that retention or compaction has deleted since this writer was made."""
        self._read_manifests()

    def _read_manifests(self) -> None:
        """Learn which chunks are on disk, and where the last pack really ends."""
        sequences = self.timeline.sequences()
        self.next_sequence = sequences[0] + 1 if sequences else 1
        ends: dict[int, int] = {}
        whole = True
        for found in self.timeline.snapshots():
            if isinstance(found, Damage):
                whole = False
                continue
            remember(self.timeline, found)
            self._state_bytes = self._state_bytes or found.size_bytes
            for _, stream in found.streams():
                for digest, extent, offset, stored, length in stream.chunks():
                    if extent.encoding == ZERO:
                        continue
                    ends[extent.pack] = max(ends.get(extent.pack, 0), offset + stored)
                    if found.hash == self.hash:
                        place = _Place(extent.pack, offset, stored, extent.encoding)
                        self._places.setdefault((digest, length), place)
        sizes = {int(path.stem): path.stat().st_size for path in self.timeline.packs.glob("*.pack")}
        short = {pack for pack, end in ends.items() if sizes.get(pack, 0) < end}
        self._places = {key: place for key, place in self._places.items() if place.pack not in short}
        self._committed_pack = max(ends, default=0)
        self._committed_end = ends.get(self._committed_pack, 0)
        last = pack_path(self.timeline.packs, self._committed_pack)
        shared = last.exists() and last.stat().st_nlink > 1  # with a copy of the notebook (see `moves`)
        # Bytes that no manifest names any more may still be mapped by a kernel that restored one that did:
        # they are never cut off. What is left behind is compaction's.
        longer = sizes.get(self._committed_pack, 0) > align(self._committed_end)
        unnamed = not self._committed_pack and sizes
        if self._follows_another_session() or short or not whole or shared or longer or unnamed:
            self._start_new_pack()

    def _follows_another_session(self) -> bool:
        """Whether the session that wrote last was another one. It may still live, and append to the pack it had."""
        if not self.fence.number:
            return False
        last = (self.timeline.marker(_FENCE_MARKER) or {}).get("number")
        if not isinstance(last, int) or last < self.fence.number:
            with contextlib.suppress(OSError):
                self.timeline.set_marker(_FENCE_MARKER, {"number": self.fence.number}, durable=False)
        return last != self.fence.number

    def distrust(self) -> None:
        """Write everything anew from now on: a chunk that is on disk turned out to be damaged."""
        self.close()
        self._places.clear()
        self._streams.clear()
        self._start_new_pack()

    def _start_new_pack(self) -> None:
        """Leave the packs that exist alone, left-overs too: we do not know all of what they hold, nor who has
        mapped it."""
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
                place = self._place(digest, len(chunk))
                if place is None:
                    place = self._append(digest, chunk, compress)
                digests.append(digest)
                place.extent(len(chunk)).join(extents)
            total += len(view)
        return Stream(total, b"".join(digests), tuple(extents))

    def add_planned(self, length: int, chunks: Iterable[PlannedChunk], *, restless: bool) -> Stream:
        """Store a stream whose chunks were hashed before. Each chunk comes with a function that copies its
        bytes to an address, or with None where the store has had it. A digest of None is not known before that.

        What is written is hashed again. Where it is not what was hashed before, `TornError` is raised, or
        with ``restless`` the stream takes what was read.
        """
        digests: list[bytes] = []
        extents: list[Extent] = []
        for digest, size, copy_to in chunks:
            place = None if digest is None else self._place(digest, size)
            if place is None or digest is None:
                digest, place = self._copy(digest, size, copy_to, restless, length)
            digests.append(digest)
            place.extent(size).join(extents)
        return Stream(length, b"".join(digests), tuple(extents))

    def whole_stream(self, digests: bytes, length: int) -> Stream | None:
        """The stream of the last snapshot that has these digests. May be asked by any thread."""
        found = self._streams.get(digests)
        return found if found is not None and found.length == length else None

    def knows(self, digest: bytes, length: int) -> bool:
        """Whether the chunk is on disk for good. May be asked by any thread: the answer may be old when it comes."""
        return self._place(digest, length) is not None and (digest, length) not in self._added

    def _place(self, digest: bytes, length: int) -> _Place | None:
        """Where the chunk is. Zeros are everywhere: their digest tells them, so nothing has to be read."""
        if digest == self._zeros.get(length):
            return _NOWHERE
        return self._places.get((digest, length))

    def _copy(
        self, digest: bytes | None, size: int, copy_to: CopyTo | None, restless: bool, stream_bytes: int
    ) -> tuple[bytes, _Place]:
        if copy_to is None:
            raise TornError("a chunk that was on disk has been deleted since the capture")
        pack = self._open_pack()
        view, address = pack.room(size)
        copy_to(address)
        found = self._digest(view)
        if found != digest:
            if digest is not None and not restless:
                raise TornError("memory changed between its capture and its writing")
            if place := self._place(found, size):
                return found, place
        encoding, data = encode_payload(view, stream_bytes)
        if data is not view:
            view[: len(data)] = data
        place = _Place(pack.number, pack.added(len(data)), len(data), encoding)
        self._places[found, size] = place
        self._added.add((found, size))
        return found, place

    def _append(self, digest: bytes, chunk: memoryview, compress: bool) -> _Place:
        encoding, data = encode(chunk) if compress else (RAW, chunk)
        pack = self._open_pack()
        offset = pack.append(data)
        place = _Place(pack.number, offset, len(data), encoding)
        self._places[digest, len(chunk)] = place
        self._added.add((digest, len(chunk)))
        return place

    def _open_pack(self) -> PackWriter:
        """The pack to append to; a full one is made durable and closed."""
        if self._pack is None:
            self._pack = self._begin_pack() if not self._committed_end else self._committed()
        most = PACK_BYTES if self._added else min(PACK_BYTES, max(SMALL_PACK_BYTES, self._state_bytes // 4))
        if self._pack.end > most:
            self._pack.sync()
            full, self._pack = self._pack, None
            full.close()
            self._filled.append(full.number)
            self._pack = self._begin_pack(full.number)
        return self._pack

    def _committed(self) -> PackWriter:
        """The pack that was written last, cut where what is published ends."""
        try:
            return PackWriter(
                self.timeline.packs, self._committed_pack, self.timeline.uuid, self._committed_end
            )
        except FileNotFoundError as error:
            self._start_new_pack()
            raise StoreError(_deleted(Path(error.filename))) from error

    def _begin_pack(self, *taken: int) -> PackWriter:
        """A pack of its own. A session that was given up and still writes may take the same number first."""
        number = next_pack_number(self.timeline, *taken, self._committed_pack - 1)
        while True:
            try:
                return PackWriter(self.timeline.packs, number, self.timeline.uuid)
            except FileExistsError:
                number += 1

    @property
    def added_bytes(self) -> int:
        """What has been written to packs since the last `publish`."""
        return sum(self._places[key].stored for key in self._added)

    def publish(self, manifest: Manifest) -> None:
        """Make the chunks durable, then the manifest. From here on the snapshot exists.

        Raises `FencedError` where a newer session has taken over.
        """
        if self._pack is not None:
            self._pack.sync()
        if missing := self._missing(e.pack for _, stream in manifest.streams() for e in stream.extents):
            if all(int(path.stem) in self._deleted for path in missing):
                raise TornError("chunks that it shares with an earlier snapshot were moved since the capture")
            raise StoreError(_deleted(missing[0]))
        self.fence.check()
        self.timeline.publish(manifest)
        remember(self.timeline, manifest)
        self._streams = {payload.stream.digests: payload.stream for payload in manifest.payloads}
        self.next_sequence = manifest.sequence + 1
        self._account.add(self.added_bytes)
        self._added.clear()
        self._filled.clear()
        self._state_bytes = manifest.size_bytes
        if self._pack is not None:
            self._committed_pack, self._committed_end = self._pack.number, self._pack.end

    def roll_back(self) -> None:
        """Forget every chunk since the last `publish`, on disk too where the disk lets us."""
        for key in self._added:
            self._places.pop(key, None)
        self._added.clear()
        filled, self._filled = self._filled, []
        pack, self._pack = self._pack, None
        if not (self.timeline.folder / "manifests").is_dir() or self._missing(
            place.pack for place in self._places.values()
        ):
            if pack is not None:
                pack.close()
            self._begin_anew()
            return
        if pack is None and not filled:
            return
        if self.timeline.sequences()[:1] == [self.next_sequence]:
            # Published, but not known to be durable, and not removable: its chunks must stay.
            if pack is not None:
                pack.close()
            self._read_manifests()
            return
        self._give_back(pack, filled)

    def _give_back(self, pack: PackWriter | None, filled: list[int]) -> None:
        """Free what was written since the last `publish`: it has no name, and a disk that is full needs the room.

        What the disk does not let us take away is cut off when the pack is opened next, or is compaction's.
        """
        last = self._committed_pack if self._committed_end else 0
        if pack is not None:
            filled = [*filled, pack.number]
            with contextlib.suppress(OSError):
                pack.truncate(self._committed_end if pack.number == last else 0)
            pack.close()
        for number in set(filled) - {last}:
            with contextlib.suppress(OSError):
                remove(pack_path(self.timeline.packs, number))
        if last in filled[:-1]:
            with contextlib.suppress(OSError, StoreError):
                self._committed().close()

    def _missing(self, packs: Iterable[int]) -> list[Path]:
        """Which of these packs are gone: an open file is written without a word after its deletion."""
        paths = [pack_path(self.timeline.packs, number) for number in sorted(set(packs) - {0})]
        return [path for path in paths if not path.exists()]

    def _begin_anew(self) -> None:
        """The folder was deleted under us: the next snapshot writes everything into a new one.

        Raises `StoreError` where another kernel has made it its own meanwhile.
        """
        self.timeline.mend_folder()
        renew_lock(self.timeline.lock_path)
        self._places.clear()
        self._streams = {}
        self._read_manifests()

    def prune(self, keep_latest: int | None = None) -> list[int]:
        """Delete what retention does not keep; returns the numbers. Raises `FencedError` as `publish` does."""
        self.fence.check()
        return prune(self.timeline, keep_latest)

    def delete(self, wanted: str) -> Manifest:
        """Delete one snapshot (see `retention.delete`) and what only it needed. Call it between two snapshots."""
        self.fence.check()
        deleted = delete(self.timeline, wanted)
        self.close()
        self._start_new_pack()  # what lies in the open one could not be freed
        self.drop_unnamed_packs()
        return deleted

    def drop_unnamed_packs(self) -> None:
        """Delete packs that no manifest names any more, and empty those that are mostly dead.

        Call it between two snapshots. What a restored kernel has mapped stays with it: packs are unlinked.
        """
        before = self._existing_packs()
        delete_unnamed_packs(self.timeline, keep=self._committed_pack)
        moves = compact(self.timeline, keep=self._committed_pack)
        if moves:
            self._account.add(sum(p.stored for p in self._places.values() if (p.pack, p.offset) in moves))
            self._places = {key: _moved(place, moves) for key, place in self._places.items()}
            self._streams = {}
        existing = self._existing_packs()
        self._deleted |= before - existing
        for key in [key for key, place in self._places.items() if place.pack not in existing]:
            del self._places[key]

    def _existing_packs(self) -> set[int]:
        return {int(path.stem) for path in self.timeline.packs.glob("*.pack") if path.stem.isdigit()}

    def close(self) -> None:
        if self._pack is not None:
            self._pack.close()
            self._pack = None


def _moved(place: _Place, moves: Moves) -> _Place:
    pack, offset = moves.get((place.pack, place.offset), (place.pack, place.offset))
    return _Place(pack, offset, place.stored, place.encoding)


def _deleted(pack: Path) -> str:
    return f"{pack} was deleted under the kernel; the next snapshot writes everything anew"
