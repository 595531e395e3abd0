"""Reads the streams of one snapshot and checks every chunk's length and digest on the way."""

from __future__ import annotations

import io
from typing import Any

from ..errors import DamagedError
from ..manifest import RAW, ZERO, Manifest, Stream
from .codec import decode
from .digest import ALGORITHMS
from .pack import PackReader
from .timeline import Timeline


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
            for chunk in stream.chunks():
                self._read_chunk(chunk, memoryview(bytearray(chunk[-1])))

    def _read_chunk(self, chunk: Any, target: memoryview) -> None:
        digest, extent, offset, stored, length = chunk
        if extent.encoding == ZERO:
            target[:] = bytes(length)
            return
        pack = self._packs.get(extent.pack)
        if pack is None:
            pack = self._packs[extent.pack] = PackReader(self._timeline.packs, extent.pack)
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
