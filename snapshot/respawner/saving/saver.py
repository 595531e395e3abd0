"""The thread that makes captured states durable, in the order in which they were captured.

`submit` returns at once. When a job fails, everything behind it in the queue fails too (it may build on
chunks of the failed one), the store is as it was, and the next capture starts from there. Only on a job of which more is
guessed than usual (`Job.guessed`) nothing builds. One saver a kernel; whoever calls `wait` may be interrupted, the writing goes on.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ..device.known import KnownChunks
from ..errors import BuiltOnDamageError, CaptureError, TornError
from ..manifest import Manifest, Payload, Stream
from ..store.writer import PlannedChunk, TimelineWriter
from .arena import Arena
from .hashing import THREAD_PREFIX
from .job import Job, PlannedStream
from .ranges import Ranges

_LOG = logging.getLogger("respawner")
_COMPRESS_BELOW = 8 << 20
"""Skeletons below this are compressed: text shrinks to a quarter, in about 0.1 s."""
_QUIET_SECONDS = 300.0
"""After this long without a job the arena's memory is given back."""


class Stored:
    """Which chunks a new job need not bring along. ``writer`` is None where nothing on disk is trusted.

    ``known``: of devices' memory.
    """

    def __init__(
        self, writer: TimelineWriter | None, coming: set[tuple[bytes, int]], known: KnownChunks
    ) -> None:
        self.known = known
        self._writer = writer
        self._coming = coming

    def has(self, digest: bytes, length: int) -> bool:
        if (digest, length) in self._coming:
            return True
        return self._writer is not None and self._writer.knows(digest, length)

    def stream(self, digests: bytes, length: int) -> Stream | None:
        """A whole stream that is on disk."""
        return None if self._writer is None else self._writer.whole_stream(digests, length)


def _ring_bytes() -> int:
    """What the way from devices takes of the host's memory."""
    host_bytes = _of_lanes("host_bytes")
    return 0 if host_bytes is None else int(host_bytes())


def _trim_rings() -> None:
    if (trim := _of_lanes("trim")) is not None:
        trim()


def _of_lanes(name: str) -> Any | None:
    """A function of `device.lane`, which is there only where a device is used; another thread may be importing it just now."""
    return getattr(sys.modules.get("respawner.device.lane"), name, None)


class Saver:
    """``ended(job)`` is called in the writing thread after every job, before `Job.done` is set."""

    def __init__(self, open_writer: Callable[[], TimelineWriter], ended: Callable[[Job], None]) -> None:
        self.arena = Arena(beside=_ring_bytes)
        self._open_writer = open_writer
        self._ended = ended
        self._opening = threading.Lock()
        self._writer: TimelineWriter | None = None
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._running: Job | None = None
        self._thread: threading.Thread | None = None
        self._last_published: str | None = None
        self._gate: Callable[[], bool] | None = None
        self._distrusted = False
        self._frozen_bytes = 0
        self._awaken = False
        self._known = KnownChunks()

    # Any thread ---------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return self._running is None and not self._queue

    def unfinished(self) -> list[Job]:
        with self._changed:
            return [*([self._running] if self._running else []), *self._queue]

    def prepare(self) -> None:
        """Open the writer in its own thread, so that the first capture need not wait for it."""
        with self._changed:
            self._ensure_thread()

    def expect(self, size_bytes: int) -> None:
        """So much may have to be copied soon: have the memory for it ready, by the writing thread.

        Copying into memory that was never touched takes several times as long, and the cell waits for it.
        """
        with self._changed:
            self._frozen_bytes = max(self._frozen_bytes, size_bytes)
            self._awaken = True
            self._ensure_thread()
            self._changed.notify_all()

    def submit(self, job: Job) -> None:
        with self._changed:
            self._queue.append(job)
            self._ensure_thread()
            self._changed.notify_all()

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"{THREAD_PREFIX}-saver", daemon=True)
            self._thread.start()

    def _open(self) -> TimelineWriter:
        """The writer; whoever comes first opens it."""
        with self._opening:
            if self._writer is None:
                self._writer = self._open_writer()
            return self._writer

    def freeze(
        self, but: Ranges | None = None, threads: int | None = None, *, on_devices: bool = False
    ) -> None:
        """Return when nothing that is still to be written lies in memory that a cell may change.

        ``but``: memory that nobody changes before this has been called without it. ``on_devices``: see `Job.freeze`.
        """
        for job in self.unfinished():
            self._frozen_bytes = max(self._frozen_bytes, job.changed_bytes)
            job.freeze(self.arena, but, threads, on_devices=on_devices)

    def freeze_beside(self) -> None:
        """Begin `freeze` in a thread of its own: whoever has to call it later finds little left, or nothing."""
        name = f"{THREAD_PREFIX}-copy"
        with contextlib.suppress(RuntimeError):  # no thread is to be had
            threading.Thread(target=self.freeze, kwargs={"threads": 1}, name=name, daemon=True).start()

    def spare_memory(self, memory_is_short: bool) -> None:
        """See `Arena.spare`. Any thread."""
        self.arena.spare(memory_is_short)

    def wait(self, timeout: float | None = None) -> bool:
        """Whether everything submitted so far has ended, well or not, within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.idle, timeout)

    def hold(self, gate: Callable[[], bool] | None) -> None:
        """Before each publishing call ``gate`` (it may block); where it returns False, the job fails."""
        self._gate = gate

    def distrust(self) -> None:
        """Write everything anew from the next job on: a chunk on disk turned out to be damaged."""
        self._distrusted = True

    def stored(self) -> Stored:
        """For planning a job: what is on disk or on its way there."""
        writer = self._open()
        coming = set().union(*(job.keys() for job in self.unfinished() if not job.guessed))
        return Stored(None if self._distrusted else writer, coming, self._known)

    def delete(self, wanted: str) -> Manifest:
        """Delete a snapshot, when everything submitted so far has ended. Only who submits may call it."""
        self.wait()
        return self._open().delete(wanted)

    def close(self) -> None:
        """Write what is queued and close the files."""
        self.wait()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    # The writing thread -------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Between two jobs: delete what retention does not keep."""
        writer = self._open()
        if writer.prune():
            writer.drop_unnamed_packs()

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # the first capture meets the same, and tells it
            self._open()
        while True:
            if not self._queue:
                with contextlib.suppress(Exception):  # the thread must go on, or nothing is saved any more
                    self.arena.warm(self._frozen_bytes)
            with self._changed:
                if not self._changed.wait_for(lambda: self._queue or self._awaken, _QUIET_SECONDS):
                    self._frozen_bytes = 0
                    self.arena.trim()
                    _trim_rings()
                    continue
                self._awaken = False
                if not self._queue:
                    continue
                job = self._running = self._queue.popleft()
            try:
                job.published(self._save(job))
            except BaseException as error:  # also a MemoryError: the thread must go on
                job.error = error
                _LOG.debug("respawner: saving %s failed", job.id, exc_info=True)
            self._end(job)

    def _save(self, job: Job) -> Manifest:
        writer = self._open()
        writer.fence.check()
        if self._distrusted:
            self._distrusted = False
            writer.distrust()
            if any(payload.stream.stored for payload in job.payloads):
                raise TornError("it was to share chunks with a snapshot that turned out to be damaged")
        try:
            manifest = self._write(writer, job)
            if self._gate is not None and not self._gate():
                raise BuiltOnDamageError("it goes on from a snapshot that turned out to be damaged")
            writer.publish(manifest)
            self._learn(job, manifest)
        except BaseException:
            writer.roll_back()
            raise
        self._last_published = manifest.id
        return manifest

    def _learn(self, job: Job, manifest: Manifest) -> None:
        """What the next capture need not read from a device again. Of a restless state nobody knows what was read."""
        if job.restless:
            return
        self._known.learn(
            (place, made_there, digest)
            for planned, payload in zip(job.payloads, manifest.payloads, strict=False)
            if planned.stream.memory is not None
            for (place, made_there), (digest, *_) in zip(
                planned.stream.memory.chunks(), payload.stream.chunks(), strict=True
            )
            if made_there is not None
        )

    def _write(self, writer: TimelineWriter, job: Job) -> Manifest:
        """Store every stream; returns the manifest that names them, not published yet."""
        payloads = []
        for number, payload in enumerate(job.payloads, start=1):
            stream = self._store(writer, job, payload.stream)
            payloads.append(Payload(number, payload.kind, payload.about, stream))
        if job.small:
            small = writer.add_stream([job.small])
            payloads.append(Payload(0, "small", "all memory below 64 KiB", small))
        skeleton_bytes = sum(len(piece) for piece in job.skeleton)
        facts = {**job.facts, "parent": job.facts["parent"] or self._last_published}
        regions = writer.add_stream([job.regions], compress=True)
        skeleton = writer.add_stream(job.skeleton, compress=skeleton_bytes < _COMPRESS_BELOW)
        return Manifest(
            sequence=writer.next_sequence,
            timeline=writer.timeline.name,
            hash=writer.hash,
            regions=regions,
            skeleton=skeleton,
            payloads=payloads,
            added_bytes=writer.added_bytes,
            **facts,
        )

    def _store(self, writer: TimelineWriter, job: Job, planned: PlannedStream) -> Stream:
        if planned.stored is not None:
            return planned.stored

        def chunks() -> Iterator[PlannedChunk]:
            for digest, size, source in planned.chunks():
                if source is None:
                    yield digest, size, None
                else:
                    yield digest, size, partial(job.take, source, self.arena)

        return writer.add_planned(planned.length, chunks(), restless=job.restless)

    def _end(self, job: Job) -> None:
        failed = [job]
        with self._changed:
            if job.error is not None and not (job.guessed and isinstance(job.error, TornError)):
                failed += self._queue
                self._queue.clear()
        for behind in failed[1:]:
            kind = BuiltOnDamageError if isinstance(job.error, BuiltOnDamageError) else CaptureError
            behind.error = kind(f"the state before it could not be saved: {job.error}")
            behind.error.__cause__ = job.error
        for ended in failed:
            ended.forget(self.arena)
        # Not idle before the books are kept: whoever waits looks at them next.
        try:
            for ended in failed:
                self._ended(ended)
        finally:
            with self._changed:
                self._running = None
                self._changed.notify_all()
            for ended in failed:
                ended.done.set()
