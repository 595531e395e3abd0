"""What the store has of a device's memory: for each chunk the digest that the device made of it, and that of its bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Place(NamedTuple):
    """A chunk's place in a device's memory."""

    device: str
    address: int
    length: int


class KnownChunks:
    """Of the newest snapshot. Filled in the writing thread, asked in the main thread."""

    def __init__(self) -> None:
        self._digests: dict[Place, tuple[bytes, bytes]] = {}

    def digest_of(self, place: Place, made_there: bytes) -> bytes | None:
        """The digest of the bytes, where the device's own digest says that they are the same as then."""
        found = self._digests.get(place)
        return found[1] if found is not None and found[0] == made_there else None

    def learn(self, chunks: Iterable[tuple[Place, bytes, bytes]]) -> None:
        """A snapshot is published; what earlier ones said of other places is forgotten."""
        self._digests = {place: (made_there, digest) for place, made_there, digest in chunks}
