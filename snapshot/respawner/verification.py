"""Checks the digests of what was mapped instead of read, beside the kernel's work.

Reading the packs from beginning to end also brings them into the page cache before the user's cells touch
them one page at a time. Until `done`, no snapshot that goes on from this state may count as good.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from .errors import DamagedError
from .manifest import Manifest, Payload
from .store.reader import SnapshotReader
from .store.timeline import Timeline


@dataclass(frozen=True)
class DamagedPayload:
    """``names``: the variables that reach this memory, first the one that did so first."""

    names: tuple[str, ...]
    about: str
    reason: str


class Verification:
    """Runs in a daemon thread from `start` on."""

    def __init__(self, timeline: Timeline, manifest: Manifest, names: dict[int, list[str]]) -> None:
        """``names``: for each mapped payload's id the variables that reach it."""
        self.manifest = manifest
        self.damage: list[DamagedPayload] = []
        self.checked_bytes = 0
        self._timeline = timeline
        self._names = names
        self._payloads = [payload for payload in manifest.payloads if payload.id in names]
        self.total_bytes = sum(payload.stream.length for payload in self._payloads)
        self._done = threading.Event()
        self._then: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        if not self._payloads:
            self._done.set()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def start(self) -> None:
        if not self.done:
            threading.Thread(target=self._run, name="respawner-verify", daemon=True).start()

    def is_good(self) -> bool:
        """Waits until it is known."""
        self._done.wait()
        return not self.damage

    def when_done(self, call: Callable[[], object]) -> None:
        """Have ``call`` called in the verifying thread at the end, or at once if that has come."""
        with self._lock:
            if not self.done:
                self._then.append(call)
                return
        call()

    def _run(self) -> None:
        try:
            with SnapshotReader(self._timeline, self.manifest) as reader:
                for payload in self._payloads:
                    self._check(reader, payload)
        finally:
            with self._lock:
                self._done.set()
            for call in self._then:
                call()

    def _check(self, reader: SnapshotReader, payload: Payload) -> None:
        try:
            for size in reader.check(payload.stream):
                self.checked_bytes += size
        except (DamagedError, OSError) as error:
            names = tuple(self._names[payload.id])
            self.damage.append(DamagedPayload(names, payload.about, str(error)))
