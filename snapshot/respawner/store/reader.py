"""Reads the streams of one snapshot and checks every chunk's length and digest on the way.

Or maps them: then the digests are checked later (see `respawner.verification`), the lengths at once.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from ..errors import DamagedError
from ..manifest import CHUNK_BYTES, RAW, ZERO, Manifest, Stream
from .codec import decode
from .digest import ALGORITHMS
from .mapping import MappedMemory, is_worth_mapping, may_map
from .pack import PackReader
from .timeline import Timeline
from .unwritten import is_truthful, remember


class SnapshotReader:
    """Use as a context manager. Every method raises `DamagedError` at the first chunk that is not right.

    ``verified`` is False where the snapshot's hash is not installed here: then only lengths are checked.
    """

    def __init__(self, timeline: Timeline, manifest: Manifest) -> None:
        self.manifest = manifest
        self._timeline = timeline
        self._packs: dict[int, PackReader] = {}
        self._digest = ALGORITHMS.get(manifest.hash)
        self._may_map: bool | None = None
        self._tells_writes: bool | None = None
        self.verified = self._digest is not None
        self.bytes_done = 0
        """How much has been read or mapped, each time that it was."""

    def __enter__(self) -> SnapshotReader:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    def close(self) -> None:
        for pack in self._packs.values():
            pack.close()
        self._packs.clear()

    def read_into(self, stream: Stream, buffer: Any) -> None:
        """Fill ``buffer``, which must be as long as the stream."""
        view = memoryview(buffer).cast("B")
        if len(view) != stream.length:
            raise ValueError(f"buffer of {len(view)} bytes for a stream of {stream.length}")
        position = 0
        for chunk in stream.chunks():
            length = chunk[-1]
            self._read_chunk(chunk, view[position : position + length])
            position += length

    def read(self, stream: Stream) -> bytearray:
        buffer = bytearray(stream.length)
        self.read_into(stream, buffer)
        return buffer

    def read_what_is_whole(self, stream: Stream) -> tuple[bytearray, list[tuple[int, int, str]]]:
        """The stream, and ``(from, to, reason)`` of each chunk that is damaged and not in it."""
        buffer = bytearray(stream.length)
        view = memoryview(buffer)
        holes = []
        position = 0
        for chunk in stream.chunks():
            end = position + chunk[-1]
            try:
                self._read_chunk(chunk, view[position:end])
            except DamagedError as error:
                holes.append((position, end, str(error)))
            position = end
        return buffer, holes

    def open(self, stream: Stream, before: bytes = b"") -> io.BufferedReader:
        """The stream as a file that never seeks, for unpickling without a second copy of it in memory.

        ``before`` is read first.
        """
        return io.BufferedReader(_StreamFile(self, stream, before), 256 * 1024)

    def map(self, stream: Stream) -> MappedMemory | None:
        """The stream as private memory whose pages are read when they are touched, None where it must be read.

        Chunks that lie in a pack as they are get mapped, and nobody has checked their digests yet; the
        others are read and checked.
        """
        if self._may_map is None:
            self._may_map = may_map(self._timeline.packs)
        if not self._may_map or not is_worth_mapping(stream):
            return None
        for extent in stream.extents:
            if extent.encoding == RAW:
                self._pack(extent.pack).check_length(extent.offset + extent.length)
        try:
            memory = self._laid_out(stream)
        except (OSError, ValueError):  # no room for it, or a file system that cannot map
            return None
        if any(extent.encoding not in (RAW, ZERO) for extent in stream.extents):
            self._read_encoded(stream, memoryview(memory))
        self.bytes_done += stream.length
        if self._digest is not None and self._tells_writes:
            remember(memory, stream, self.manifest.hash)
        return memory

    def _laid_out(self, stream: Stream) -> MappedMemory:
        memory = MappedMemory.reserve(stream.length)
        position = 0
        for extent in stream.extents:
            if extent.encoding == RAW:
                descriptor = self._pack(extent.pack).descriptor
                if self._tells_writes is None:
                    self._tells_writes = is_truthful(descriptor)
                memory.lay(position, descriptor, extent.offset, extent.length)
            position += extent.length
        return memory

    def _read_encoded(self, stream: Stream, view: memoryview) -> None:
        position = 0
        for chunk in stream.chunks():
            length = chunk[-1]
            if chunk[1].encoding not in (RAW, ZERO):  # reserved memory is zeros already
                self._read_chunk(chunk, view[position : position + length])
            position += length

    def damage_in(self, stream: Stream, progress: Callable[[int], None] | None = None) -> str | None:
        """Why the stream cannot be believed, None where all of it is as its manifest says. Any thread.

        Reads through the page cache, so that what has been checked need not be read again when it is
        touched. ``progress(bytes)`` is called after each chunk.
        """
        buffer = memoryview(bytearray(CHUNK_BYTES))
        for chunk in stream.chunks():
            if len(buffer) < chunk[-1]:  # an encoded extent may be longer than a chunk
                buffer = memoryview(bytearray(chunk[-1]))
            try:
                self._read_chunk(chunk, buffer[: chunk[-1]])
            except DamagedError as error:
                return str(error)
            if progress is not None:
                progress(chunk[-1])
        return None

    def read_ahead(self, stream: Stream, start: int, end: int) -> None:
        """Have the kernel read those bytes of the stream into its page cache, without waiting for it."""
        position = 0
        for extent in stream.extents:
            first, last = max(start, position), min(end, position + extent.length)
            if extent.encoding == RAW and first < last:
                self._pack(extent.pack).read_ahead(extent.offset + first - position, last - first)
            position += extent.length

    def verify(self) -> None:
        """Read everything once."""
        for _, stream in self.manifest.streams():
            if reason := self.damage_in(stream):
                raise DamagedError(reason)

    def _pack(self, number: int) -> PackReader:
        pack = self._packs.get(number)
        if pack is None:
            pack = self._packs[number] = PackReader(self._timeline.packs, number)
        return pack

    def _read_chunk(self, chunk: Any, target: memoryview) -> None:
        digest, extent, offset, stored, length = chunk
        self.bytes_done += length
        if extent.encoding == ZERO:
            target[:] = bytes(length)
            return
        pack = self._pack(extent.pack)
        place = f"chunk at {offset} of {pack.path}"
        if extent.encoding == RAW:
            pack.read_into(target, offset)
        else:
            encoded = bytearray(stored)
            pack.read_into(memoryview(encoded), offset)
            target[:] = decode(extent.encoding, bytes(encoded), length, place)
        if self._digest is not None and self._digest(target) != digest:
            raise DamagedError(f"{place} does not have the digest that its manifest says")


class _StreamFile(io.RawIOBase):
    """Chunk after chunk of one stream."""

    def __init__(self, reader: SnapshotReader, stream: Stream, before: bytes) -> None:
        self._reader = reader
        self._chunks = stream.chunks()
        self._rest = memoryview(before)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        if not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            length = chunk[-1]
            if length <= len(view):
                self._reader._read_chunk(chunk, view[:length])
                return length
            loaded = bytearray(length)
            self._reader._read_chunk(chunk, memoryview(loaded))
            self._rest = memoryview(loaded)
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
