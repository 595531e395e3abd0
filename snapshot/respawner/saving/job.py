"""One captured state on its way to the disk.

Memory of arrays and tensors is not copied when it is captured, only hashed: between two cells nothing
changes it. The writing thread reads it where it lies. When the next cell is about to begin, `freeze` copies
what has not been read yet. Whatever is read is hashed again on the way: a chunk that somebody changed
meanwhile (a thread or a callback of the user) is never written under the digest of what it was; the state
is then given up as torn and captured anew, this time "restless": taking what is read as what it is.
"""

from __future__ import annotations

import ctypes
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from ..manifest import CHUNK_BYTES, DIGEST_BYTES, Manifest, Stream
from .arena import Arena
from .hashing import in_parallel, thread_count

LIVE, COPYING, FROZEN, GONE = range(4)


class Source:
    """Where the bytes of one chunk are until they are written."""

    __slots__ = ("address", "length", "slot", "state")

    def __init__(self, address: int, length: int) -> None:
        self.address = address
        self.length = length
        self.slot: int | None = None
        self.state = LIVE


@dataclass
class PlannedStream:
    """A payload: the digests of its chunks, and the bytes of those that the store does not have."""

    length: int
    digests: bytes
    sources: dict[int, Source]
    stored: Stream | None = None
    """The stream itself, where the last snapshot had the same."""

    def chunks(self) -> Any:
        """Yield ``(digest, length, source or None)``."""
        for index, start in enumerate(range(0, self.length, CHUNK_BYTES)):
            digest = self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
            yield digest, min(CHUNK_BYTES, self.length - start), self.sources.get(index)


@dataclass
class PlannedPayload:
    kind: str
    about: str
    stream: PlannedStream


@dataclass
class Job:
    """``facts`` are the fields of the manifest that are known at capture; the writer adds the streams."""

    facts: dict[str, Any]
    skeleton: list[Any]
    regions: bytes
    small: bytes | bytearray
    payloads: list[PlannedPayload]
    restless: bool = False
    owners: Any = None
    """Keeps the live memory from being freed; dropped as soon as nothing is live any more."""
    sources: list[Source] = field(default_factory=list)
    manifest: Manifest | None = None
    error: BaseException | None = None
    seconds: float = 0.0
    """From the capture until it was on the disk."""
    done: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.sources = [source for p in self.payloads for source in p.stream.sources.values()]
        self._live = len(self.sources)
        self._changed = threading.Condition()
        self._captured = time.monotonic()

    @property
    def id(self) -> str:
        return str(self.facts["id"])

    @property
    def changed_bytes(self) -> int:
        return sum(source.length for source in self.sources)

    @property
    def taken_bytes(self) -> int:
        """How much of that has been read for writing. May be asked by any thread."""
        return sum(source.length for source in self.sources if source.state == GONE)

    def keys(self) -> set[tuple[bytes, int]]:
        """What this job will add to the store."""
        return {
            (digest, length)
            for payload in self.payloads
            if payload.stream.sources
            for digest, length, source in payload.stream.chunks()
            if source is not None
        }

    # The writing thread's side -------------------------------------------------------------------------

    def published(self, manifest: Manifest) -> None:
        self.seconds = time.monotonic() - self._captured
        self.manifest = manifest

    def take(self, source: Source, arena: Arena, target: int) -> None:
        """Copy the chunk's bytes to the address ``target``, from wherever they are; they are gone then."""
        with self._changed:
            self._changed.wait_for(lambda: source.state != COPYING)
            was_live = source.state == LIVE
            if was_live:
                source.state = COPYING
        ctypes.memmove(target, source.address if source.slot is None else source.slot, source.length)
        if was_live:
            self._left(source, GONE)
        else:
            self._give_back(source, arena)

    def forget(self, arena: Arena) -> None:
        """Nothing is needed of the job any more, however it ended."""
        with self._changed:
            self._changed.wait_for(lambda: all(source.state != COPYING for source in self.sources))
            for source in self.sources:
                if source.state == LIVE:
                    source.state = GONE
            self._live = 0
            self._changed.notify_all()
        for source in self.sources:
            self._give_back(source, arena)
        self.owners = None

    def _give_back(self, source: Source, arena: Arena) -> None:
        if source.slot is not None:
            slot, source.slot, source.state = source.slot, None, GONE
            arena.give(slot)

    # The main thread's side ----------------------------------------------------------------------------

    def freeze(self, arena: Arena) -> None:
        """Return when no byte of this state lies in memory that a cell may change.

        From the end backwards into the arena, while the writer comes from the front; what does not fit
        into the arena is waited for.
        """
        if self._live == 0:
            self.owners = None
            return
        waiting = list(self.sources)

        def copy_from_the_end(_: int) -> None:
            while waiting:
                try:
                    source = waiting.pop()
                except IndexError:
                    return
                if not self._copy(source, arena):
                    return

        in_parallel(copy_from_the_end, range(thread_count()))
        with self._changed:
            self._changed.wait_for(lambda: self._live == 0)
        self.owners = None

    def _copy(self, source: Source, arena: Arena) -> bool:
        """Whether there was room in the arena."""
        with self._changed:
            if source.state != LIVE:
                return True
            slot = arena.take()
            if slot is None:
                return False
            source.state = COPYING
        ctypes.memmove(slot, source.address, source.length)
        source.slot = slot
        self._left(source, FROZEN)
        return True

    def _left(self, source: Source, state: int) -> None:
        """The chunk's bytes have been copied out of live memory."""
        with self._changed:
            source.state = state
            self._live -= 1
            if self._live == 0 or state == FROZEN:
                self._changed.notify_all()
