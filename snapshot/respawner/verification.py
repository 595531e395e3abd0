"""Checks in the background what a restore has mapped and nobody has read yet.

Reading it through the page cache is the read-ahead as well: while the user types the next cell, the state
comes into memory. Until it is `done` no snapshot that goes on from this one counts as good.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from .manifest import Payload
from .store.mapping import MappedMemory
from .store.reader import SnapshotReader
from .store.unwritten import forget

_LOG = logging.getLogger("respawner")


_DELAY_SECONDS = 0.1
"""The first cell gets the disk to itself for so long: most only look at a few elements."""
_EDGE_BYTES = 64 * 1024


@dataclass(eq=False)
class Mapped:
    """A payload that was mapped, and the variables that its memory was reached through.

    Does not keep the memory alive: what the user deletes must go.
    """

    payload: Payload
    memory: weakref.ref[MappedMemory]
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PayloadDamage:
    """``names``: variables that reach the damaged memory; one that only shares an object of theirs is not listed."""

    payload: int
    about: str
    names: tuple[str, ...]
    reason: str


class Verification:
    """Owns ``reader`` (its open packs outlive their deletion) and closes it at the end.

    `done` when everything has been checked, or after `stop`. ``damage`` grows before that.
    """

    def __init__(self, reader: SnapshotReader, mapped: list[Mapped]) -> None:
        self.manifest = reader.manifest
        self._done = threading.Event()
        self._then: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self.damage: list[PayloadDamage] = []
        self._reader = reader
        # In the order in which they lie on the disk.
        self._mapped = sorted(mapped, key=_place)
        self._total = sum(item.payload.stream.length for item in mapped)
        self._checked = 0
        self._stopped = False

    def start(self) -> None:
        if not self._mapped or not self._reader.verified:
            self._end()
            return
        for item in self._mapped:
            # Until it has been read: reading around a touched page would make one touch wait for megabytes.
            if (memory := item.memory()) is not None:
                memory.expect_random_access(True)
        threading.Thread(target=self._run, name="respawner-verify", daemon=True).start()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether everything has been checked within ``timeout`` seconds."""
        return self._done.wait(timeout)

    @property
    def done(self) -> bool:
        """Whether the check has ended, by itself or by `stop`."""
        return self._done.is_set()

    def is_good(self) -> bool:
        """Whether all of it is as it was written. Waits until that is known."""
        self._done.wait()
        return not self._stopped and not self.damage

    def when_done(self, call: Callable[[], object]) -> None:
        """Have ``call`` called in the verifying thread at the end, or at once if that has come."""
        with self._lock:
            if not self.done:
                self._then.append(call)
                return
        call()

    @property
    def remaining_bytes(self) -> int:
        return 0 if self.done else self._total - self._checked

    def progress(self) -> tuple[int, int]:
        """Bytes checked, and bytes to check."""
        return self._checked, self._total

    def stop(self) -> None:
        """The state is given up: end soon. It never becomes `good`."""
        self._stopped = True

    def _run(self) -> None:
        try:
            self._prefetch_edges()
            time.sleep(_DELAY_SECONDS)
            for item in self._mapped:
                if self._stopped:
                    break
                self._check(item)
        finally:
            self._end()

    def _prefetch_edges(self) -> None:
        """The first and the last elements are what a cell touches that only looks (``t[0]``, ``repr``)."""
        for item in self._mapped:
            stream = item.payload.stream
            self._reader.read_ahead(stream, 0, _EDGE_BYTES)
            self._reader.read_ahead(stream, stream.length - _EDGE_BYTES, stream.length)

    def _check(self, item: Mapped) -> None:
        payload = item.payload
        try:
            reason = self._reader.damage_in(payload.stream, self._advance)
        except Exception as error:  # what cannot be checked is not believed
            _LOG.debug("respawner: payload %s cannot be checked", payload.id, exc_info=True)
            reason = f"it cannot be checked: {error!r}"
        memory = item.memory()
        if memory is not None:
            memory.expect_random_access(False)
        if reason is not None:
            if memory is not None:
                forget(memory)
            self.damage.append(PayloadDamage(payload.id, payload.about, tuple(item.names), reason))

    def _advance(self, count: int) -> None:
        self._checked += count

    def _end(self) -> None:
        self._reader.close()
        with self._lock:
            self._done.set()
        for call in self._then:
            call()


def _place(item: Mapped) -> tuple[int, int]:
    first = item.payload.stream.extents[0]
    return first.pack, first.offset
