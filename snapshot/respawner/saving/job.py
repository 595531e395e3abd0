"""One captured state on its way to the disk.

Memory of arrays and tensors is not copied when it is captured, only hashed: between two cells nothing
changes it. The writing thread reads it where it lies. When the next cell is about to begin, `freeze` copies
what has not been read yet. Whatever is read is hashed again on the way: a chunk that somebody changed
meanwhile (a thread or a callback of the user) is never written under the digest of what it was; the state
is then given up as torn and captured anew, this time "restless": taking what is read as what it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import TornError
from ..manifest import CHUNK_BYTES, DIGEST_BYTES, Manifest, Stream
from .arena import Arena
from .hashing import in_parallel, thread_count
from .ranges import Ranges

if TYPE_CHECKING:
    from ..device.memory import DeviceMemory

BATCH = 64
"""Chunks of a device that are read at once: 16 MiB."""
LIVE, COPYING, FROZEN, GONE = range(4)


class Source:
    """Where the bytes of one chunk are until they are written. ``memory``: of a device, whose addresses cannot be read.

    ``aside``: that memory is a copy of ours, which no cell changes; it is let go of when the chunk has been read.
    """

    __slots__ = ("address", "aside", "device", "length", "memory", "number", "slot", "state")

    def __init__(self, address: int, length: int, memory: DeviceMemory | None = None) -> None:
        self.address = address
        self.length = length
        self.memory = memory
        self.number = 0
        """Its place among the sources of its job."""
        self.slot: int | None = None
        self.state = LIVE
        self.aside = False
        self.device = None if memory is None else memory.device


@dataclass
class PlannedStream:
    """A payload: the digests of its chunks, and the bytes of those that the store does not have.

    ``memory``: of a device. What has changed there has no digest before it is read.
    """

    length: int
    digests: bytes
    sources: dict[int, Source]
    stored: Stream | None = None
    """The stream itself, where the last snapshot had the same."""
    memory: DeviceMemory | None = None

    def chunks(self) -> Iterator[tuple[bytes | None, int, Source | None]]:
        """Yield ``(digest or None, length, source or None)``."""
        for index, start in enumerate(range(0, self.length, CHUNK_BYTES)):
            digest: bytes | None = self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
            source = self.sources.get(index)
            if source is not None and source.device is not None:
                digest = None
            yield digest, min(CHUNK_BYTES, self.length - start), source


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
    guessed: bool = False
    """Memory is read while a cell runs that is only thought to leave it alone: nothing else may build on this job."""
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
        for number, source in enumerate(self.sources):
            source.number = number
        self._live = len(self.sources)
        self._given_up = False
        self._lost: BaseException | None = None
        """Why a device's memory could not be read: there is no such state then."""
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
        """What this job will add to the store, as far as that is known."""
        return {
            (digest, length)
            for payload in self.payloads
            if payload.stream.sources
            for digest, length, source in payload.stream.chunks()
            if source is not None and digest is not None
        }

    # The writing thread's side -------------------------------------------------------------------------

    def published(self, manifest: Manifest) -> None:
        self.seconds = time.monotonic() - self._captured
        self.manifest = manifest

    def take(self, source: Source, arena: Arena, target: int) -> None:
        """Copy the chunk's bytes to the address ``target``, from wherever they are; they are gone then."""
        with self._changed:
            self._changed.wait_for(lambda: source.state != COPYING)
            if self._lost is not None:
                raise self._lost
            was_live = source.state == LIVE
            if was_live:
                source.state = COPYING
        if was_live and source.memory is not None:
            self._read_on(source, arena, target)
        elif was_live:
            ctypes.memmove(target, source.address, source.length)
            self._left(source, GONE)
        else:
            ctypes.memmove(target, source.address if source.slot is None else source.slot, source.length)
            self._give_back(source, arena)

    def _read_on(self, source: Source, arena: Arena, target: int) -> None:
        """Read a chunk of a device's memory, and in the same go those behind it into the arena."""
        following = self.sources[source.number + 1 : source.number + BATCH]
        behind = self._claim([s for s in following if s.device == source.device], arena)
        self._read(
            [source, *behind], [target, *(s.slot or 0 for s in behind)], [GONE] + [FROZEN] * len(behind)
        )

    def _claim(self, sources: list[Source], arena: Arena) -> list[Source]:
        """Those chunks of one device that nobody has read, each with a slot now, as far as there are any: to be read."""
        claimed: list[Source] = []
        with self._changed:
            for source in sources:
                if source.state != LIVE or source.memory is None or self._given_up:
                    continue
                if claimed and claimed[0].device != source.device:
                    break
                source.slot = arena.take()
                if source.slot is None:
                    break
                source.state = COPYING
                claimed.append(source)
        return claimed

    def _read(self, sources: list[Source], targets: list[int], states: list[int]) -> None:
        """Copy chunks of one device, which the caller has claimed. When it fails, the whole state is given up."""
        from ..device.memory import copy_out  # needs torch, which is there where such a chunk is

        places = [(s.memory, s.address, s.length) for s in sources if s.memory is not None]
        try:
            self._expect_same(copy_out(places, targets))
        except BaseException as error:
            self._lost = error
            raise
        finally:
            for source, state in zip(sources, states, strict=True):
                self._left(source, state)

    def _expect_same(self, same: bool) -> None:
        """``same``: whether what was read of a device is what was there at the capture."""
        if not same and not self.restless:
            raise TornError("a device's memory changed between its capture and its reading")

    def forget(self, arena: Arena) -> None:
        """Nothing is needed of the job any more, however it ended."""
        with self._changed:
            self._given_up = True
            self._changed.wait_for(lambda: all(source.state != COPYING for source in self.sources))
            for source in self.sources:
                if source.state == LIVE:
                    source.state = GONE
            self._live = 0
            self._changed.notify_all()
        for source in self.sources:
            self._give_back(source, arena)
            source.memory = None
        self._let_go()

    def _let_go(self) -> None:
        """Of the state's own memory: nothing will be read there any more."""
        self.owners = None
        for payload in self.payloads:
            if payload.stream.memory is not None:
                payload.stream.memory.let_go()

    def _give_back(self, source: Source, arena: Arena) -> None:
        if source.slot is not None:
            slot, source.slot, source.state = source.slot, None, GONE
            arena.give(slot)

    # The main thread's side ----------------------------------------------------------------------------

    def freeze(
        self,
        arena: Arena,
        but: Ranges | None = None,
        threads: int | None = None,
        *,
        on_devices: bool = False,
    ) -> None:
        """Return when no byte of this state lies in memory that a cell may change.

        From the end backwards into the arena, while the writer comes from the front; what does not fit
        into the arena is waited for. ``but``: memory of the host that stays as it is until this is called without it.
        ``on_devices``: what lies on devices is copied there, as far as there is room. Several threads may call it at once.
        """
        if self._live == 0:
            self._let_go()
            return
        unread = self.sources
        if but:
            unread = [s for s in unread if s.device is not None or not but.cover(s.address, s.length)]
        if on_devices:
            self._put_aside()
        self._freeze_devices(arena)
        waiting = [source for source in unread if source.device is None]

        def copy_from_the_end(_: int) -> None:
            while waiting:
                try:
                    source = waiting.pop()
                except IndexError:
                    return
                if not self._copy(source, arena):
                    return

        if waiting:
            in_parallel(copy_from_the_end, range(threads or thread_count()))
        left = [source for source in unread if not source.aside]

        def all_are_read() -> bool:
            while left and left[-1].state not in (LIVE, COPYING):
                left.pop()
            return not left

        with self._changed:
            self._changed.wait_for(all_are_read)
        if self._live == 0:
            self._let_go()

    def _freeze_devices(self, arena: Arena) -> None:
        """The same for what lies on devices, batch after batch. A failure ends the job, in the writing thread."""
        waiting = [source for source in self.sources if source.device is not None and not source.aside]
        while waiting and self._lost is None:
            batch = waiting[-BATCH:]
            claimed = self._claim(batch, arena)
            if not claimed and any(source.state == LIVE for source in batch):
                return  # the arena is full: the writer reads the rest
            if claimed:
                with contextlib.suppress(Exception):
                    self._read(claimed, [s.slot or 0 for s in claimed], [FROZEN] * len(claimed))
            if not any(source.state == LIVE for source in batch):
                del waiting[-BATCH:]

    def _put_aside(self) -> None:
        """Copy what lies on devices to other places there. A failure ends the job, in the writing thread."""
        devices = dict.fromkeys(s.device for s in self.sources if s.device is not None)
        if not devices:
            return
        from ..device.memory import copy_there  # needs torch, which is there where such a chunk is

        for device in devices:
            with self._changed:
                mine = [] if self._given_up else [s for s in self.sources if s.device == device]
                unread = [s for s in mine if s.state == LIVE and not s.aside]
                for source in unread:
                    source.state = COPYING
            if not unread:
                continue
            copies: list[DeviceMemory] = []
            try:
                copies, same = copy_there([(s.memory, s.address, s.length) for s in unread if s.memory])
                self._expect_same(same)
            except BaseException as error:
                self._lost = error
                if not isinstance(error, Exception):
                    raise
            finally:
                self._now_aside(unread, copies)

    def _now_aside(self, sources: list[Source], copies: list[DeviceMemory]) -> None:
        """The chunks are unread as before, the first ones in the copies, each of which has as many as fill it."""
        with self._changed:
            for source in sources:
                source.state = LIVE
            rest = iter(sources)
            for copy in copies:
                filled = 0
                while filled < copy.length:
                    source = next(rest)
                    source.memory, source.aside = copy, True
                    filled += source.length
                    self._live -= 1
            self._changed.notify_all()

    def _copy(self, source: Source, arena: Arena) -> bool:
        """Whether there was room in the arena."""
        with self._changed:
            if source.state != LIVE or self._given_up:
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
            if source.aside:
                source.memory = None  # of its last chunk: the device has the room back
            else:
                self._live -= 1
            self._changed.notify_all()
