"""Reads the streams of one snapshot and checks every chunk's length and digest on the way."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from ..errors import DamagedError
from ..manifest import RAW, ZERO, Manifest, Stream
from .codec import decode
from .digest import ALGORITHMS
from .mapping import can_be_mapped, map_stream, read_ahead
from .pack import PackReader
from .timeline import Timeline

_CHECK_BYTES = 4 << 20


class SnapshotReader:
    """Use as a context manager. Every method raises `DamagedError` at the first chunk that is not right.

    ``verified`` is False where the snapshot's hash is not installed here: then only lengths are checked.
    """

    def __init__(self, timeline: Timeline, manifest: Manifest) -> None:
        self.manifest = manifest
        self._timeline = timeline
        self._packs: dict[int, PackReader] = {}
        self._digest = ALGORITHMS.get(manifest.hash)
        self.verified = self._digest is not None

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

    def map(self, stream: Stream) -> Any | None:
        """The stream's bytes as a writable buffer that is filled when it is touched, not verified; None
        where it must be read."""
        return map_stream(stream, self._pack) if can_be_mapped(stream) else None

    def check(self, stream: Stream) -> Iterator[int]:
        """Read a stream and verify it, some megabytes at a time; yields how many bytes were good."""
        buffer = memoryview(bytearray(_CHECK_BYTES))
        for extent_chunks in _batches(stream, _CHECK_BYTES):
            first, *_ = extent_chunks
            total = sum(chunk[-1] for chunk in extent_chunks)
            if first[1].encoding == RAW:
                pack = self._pack(first[1].pack)
                pack.read_into(buffer[:total], first[2])
                position = 0
                for digest, _, offset, _, length in extent_chunks:
                    if self._digest and self._digest(buffer[position : position + length]) != digest:
                        raise DamagedError(_wrong_digest(f"chunk at {offset} of {pack.path}"))
                    position += length
            else:
                for chunk in extent_chunks:
                    self._read_chunk(chunk, buffer[: chunk[-1]])
            yield total

    def read(self, stream: Stream) -> bytearray:
        buffer = bytearray(stream.length)
        self.read_into(stream, buffer)
        return buffer

    def open(self, stream: Stream) -> io.BufferedReader:
        """The stream as a file that never seeks, for unpickling without a second copy of it in memory."""
        return io.BufferedReader(_StreamFile(self, stream), 256 * 1024)

    def verify(self) -> None:
        """Read everything once."""
        for _, stream in self.manifest.streams():
            for _ in self.check(stream):
                pass

    def _read_chunk(self, chunk: Any, target: memoryview) -> None:
        digest, extent, offset, stored, length = chunk
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
            raise DamagedError(_wrong_digest(place))

    def _pack(self, number: int) -> PackReader:
        pack = self._packs.get(number)
        if pack is None:
            pack = self._packs[number] = PackReader(self._timeline.packs, number)
            read_ahead(pack.descriptor)
        return pack


def _wrong_digest(place: str) -> str:
    return f"{place} does not have the digest that its manifest says"


def _batches(stream: Stream, most_bytes: int) -> Iterator[list[Any]]:
    """Chunks that lie one after the other in a pack, together; encoded ones alone."""
    batch: list[Any] = []
    size = 0
    for chunk in stream.chunks():
        _, extent, offset, _, length = chunk
        follows = batch and extent is batch[-1][1] and extent.encoding == RAW and size + length <= most_bytes
        if batch and not (follows and offset == batch[-1][2] + batch[-1][4]):
            yield batch
            batch, size = [], 0
        batch.append(chunk)
        size += length
    if batch:
        yield batch


class _StreamFile(io.RawIOBase):
    """Chunk after chunk of one stream."""

    def __init__(self, reader: SnapshotReader, stream: Stream) -> None:
        self._reader = reader
        self._chunks = stream.chunks()
        self._rest = memoryview(b"")

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
