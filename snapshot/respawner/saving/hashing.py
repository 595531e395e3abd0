"""Digests of large memory, on a few threads: hashing is as fast as memory can be read, by more than one core."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..manifest import CHUNK_BYTES
from ..pickling.regions import view_at
from ..store.digest import Digest

THREAD_PREFIX = "respawner"
"""Names of all of this package's threads begin with this."""

_WORTH_THREADS_BYTES = 2 << 30
"""From here on somebody may notice the wait. Two threads take 0.6 of one's time and 1.2 of its CPU time, because
one core cannot use all of the memory's bandwidth (1.1 GB: 0.055 and 0.087 s, CPU 0.107 and 0.087 s)."""
_WORTH_THREADS_TO_A_CELL_BYTES = 64 << 20
"""The same where a cell that runs is held up: its own threads have nothing to do meanwhile."""
_SPAN_BYTES = 16 << 20
_MOST_THREADS = 4

Task = TypeVar("Task")
Result = TypeVar("Result")


def thread_count() -> int:
    return max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0))))


def in_parallel(function: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
    """``map`` on as many threads as are worth it; ``function`` must let go of the GIL where it is slow."""
    waiting = list(tasks)
    with ThreadPoolExecutor(thread_count(), thread_name_prefix=THREAD_PREFIX) as pool:
        try:
            return list(pool.map(function, waiting))
        except RuntimeError:  # the interpreter is ending: pools start no more threads
            return [function(task) for task in waiting]


def digests_of(ranges: list[tuple[int, int]], digest: Digest, *, cell_waits: bool = False) -> list[bytes]:
    """For each ``(address, length)`` the digests of its chunks, joined. The memory must stay as it is."""
    spans: list[tuple[int, int, int]] = []
    for index, (address, length) in enumerate(ranges):
        for start in range(0, length, _SPAN_BYTES):
            spans.append((index, address + start, min(_SPAN_BYTES, length - start)))

    def of_span(span: tuple[int, int, int]) -> bytes:
        return digests_at(span[1], span[2], digest)

    total = sum(length for _, length in ranges)
    least = _WORTH_THREADS_TO_A_CELL_BYTES if cell_waits else _WORTH_THREADS_BYTES
    parallel = total >= least and thread_count() > 1
    found = in_parallel(of_span, spans) if parallel else [of_span(span) for span in spans]
    parts: list[list[bytes]] = [[] for _ in ranges]
    for (index, _, _), part in zip(spans, found, strict=True):
        parts[index].append(part)
    return [b"".join(part) for part in parts]


def digests_at(address: int, length: int, digest: Digest) -> bytes:
    """Digests of the chunks of one piece of memory."""
    view = view_at(address, length)
    return b"".join([digest(view[start : start + CHUNK_BYTES]) for start in range(0, length, CHUNK_BYTES)])
