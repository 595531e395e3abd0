"""How a chunk's bytes lie in a pack: as they are, compressed where that pays, or not at all where all are zero.

Only zlib is written: it is in the standard library of every Python that may have to restore, while a state
compressed with zstandard would be lost to an image that lacks that. Reading knows both.

Large memory stays raw, because raw chunks are mapped on restoring; compressed ones must be read eagerly.
"""

from __future__ import annotations

import zlib
from typing import Any

from ..errors import DamagedError, StoreError
from ..manifest import RAW, ZERO

ZLIB = "zlib"
ZSTD = "zstd"

MAPPED_BYTES = 1 << 20
"""Streams from this size on are mapped on restoring, unless one of their chunks is compressed: so none is."""
_LEVEL = 1
_WORTH = 0.75
_SAMPLE_BYTES = 1536


def encode(data: Any) -> tuple[str, Any]:
    """Compress, if that shrinks it at all."""
    compressed = zlib.compress(data, _LEVEL)
    return (ZLIB, compressed) if len(compressed) < len(data) else (RAW, data)


def encode_payload(chunk: memoryview, stream_bytes: int) -> tuple[str, Any]:
    """``(encoding, bytes to store)`` for a chunk of a payload; one that stays raw is returned itself, not copied."""
    if stream_bytes >= MAPPED_BYTES or _ratio_of_sample(chunk) > _WORTH:
        return RAW, chunk
    compressed = zlib.compress(chunk, _LEVEL)
    return (ZLIB, compressed) if len(compressed) <= len(chunk) * _WORTH else (RAW, chunk)


def _ratio_of_sample(chunk: memoryview) -> float:
    """What share of three pieces (beginning, middle, end) compression leaves."""
    places = (0, max(0, len(chunk) // 2 - _SAMPLE_BYTES // 2), max(0, len(chunk) - _SAMPLE_BYTES))
    sample = b"".join(chunk[place : place + _SAMPLE_BYTES] for place in places)
    return len(zlib.compress(sample, _LEVEL)) / len(sample)


def decode(encoding: str, stored: bytes, length: int, place: str) -> bytes:
    """The chunk's bytes. ``place`` names the chunk in messages. Allocates no more than ``length`` needs."""
    if encoding == ZERO:
        return bytes(length)
    if encoding == ZLIB:
        data = _inflate(stored, length, place)
    elif encoding == ZSTD:
        data = _unzstd(stored, length, place)
    else:
        raise StoreError(f"{place} is stored as {encoding!r}, which this Respawner cannot read")
    if len(data) != length:
        raise DamagedError(f"{place} has {len(data)} bytes, not {length}")
    return data


def _inflate(stored: bytes, length: int, place: str) -> bytes:
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(stored, length + 1)
    except zlib.error as error:
        raise DamagedError(f"{place} does not decompress: {error}") from error
    if not inflater.eof and len(data) <= length:
        raise DamagedError(f"{place} does not decompress: it ends too early")
    return data


def _unzstd(stored: bytes, length: int, place: str) -> bytes:
    try:
        import zstandard
    except ImportError as error:
        raise StoreError(
            f"{place} is compressed with zstandard, which is not installed here: `pip install zstandard`"
        ) from error
    try:
        if zstandard.frame_content_size(stored) > length:  # it would be allocated as the frame says
            raise DamagedError(f"{place} says that it has more than {length} bytes")
        return zstandard.ZstdDecompressor().decompress(stored, max_output_size=length)
    except zstandard.ZstdError as error:
        raise DamagedError(f"{place} does not decompress: {error}") from error
