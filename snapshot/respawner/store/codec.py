"""How a chunk's bytes lie in a pack: as they are, or compressed where that pays."""

from __future__ import annotations

import zlib
from typing import Any

from ..errors import DamagedError, StoreError

RAW = "raw"
ZLIB = "zlib"


def encode(data: Any) -> tuple[str, Any]:
    """Compress with zlib's fastest level (in the standard library of every reader), if it shrinks."""
    compressed = zlib.compress(data, 1)
    return (ZLIB, compressed) if len(compressed) < len(data) else (RAW, data)


def decode(encoding: str, stored: bytes, length: int, place: str) -> bytes:
    """The chunk's bytes. ``place`` names the chunk in messages."""
    if encoding != ZLIB:
        raise StoreError(f"{place} is stored as {encoding!r}, which this Respawner cannot read")
    try:
        data = zlib.decompress(stored)
    except zlib.error as error:
        raise DamagedError(f"{place} does not decompress: {error}") from error
    if len(data) != length:
        raise DamagedError(f"{place} has {len(data)} bytes, not {length}")
    return data
