"""Runs a function where it may recurse about a million levels deep.

The pickler recurses in C for every level of nesting. The main thread's stack cannot grow on request, so the
work is done in a thread with a large one while the caller waits; nothing else of ours runs meanwhile.
On Python 3.12 and 3.13 a limit on C recursion that cannot be raised ends this near 10,000 levels.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

_STACK_BYTES = (2 << 30, 512 << 20, 64 << 20)
"""Tried in this order: address space, of which only what is used takes memory."""
_BYTES_PER_LEVEL = 2048


def run_deep(function: Callable[[], Result]) -> Result:
    """Call ``function`` in a thread with a large stack and return or raise what it does."""
    outcome: list[tuple[bool, Any]] = []
    may_start = threading.Event()

    def call() -> None:
        may_start.wait()
        try:
            outcome.append((True, function()))
        except BaseException as error:
            outcome.append((False, error))

    thread, stack_bytes = _start_with_large_stack(call)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, stack_bytes // _BYTES_PER_LEVEL))
    try:
        may_start.set()
        thread.join()
    finally:
        sys.setrecursionlimit(limit)
    succeeded, value = outcome[0]
    if not succeeded:
        raise value
    return value


def _start_with_large_stack(target: Callable[[], None]) -> tuple[threading.Thread, int]:
    for size in _STACK_BYTES:
        before = threading.stack_size(size)
        try:
            thread = threading.Thread(target=target, name="respawner-deep", daemon=True)
            thread.start()
        except RuntimeError:  # no address space for a stack of that size
            continue
        finally:
            threading.stack_size(before)
        return thread, size
    raise RecursionError("no thread with a larger stack could be started")
