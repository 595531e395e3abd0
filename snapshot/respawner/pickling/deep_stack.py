"""Runs a function where it may recurse about a million levels deep.

The pickler recurses in C for every level of nesting. The main thread's stack cannot grow on request, so the
work is done in a thread with a large one while the caller waits; nothing else of ours runs meanwhile.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

_STACK_BYTES = (2 << 30, 512 << 20, 64 << 20)
"""Tried in this order: address space, of which only what is used takes memory."""
_BYTES_PER_LEVEL = 2048
_MOST_WORDS = 48
"""Of a thread's state that are looked at; it has several hundred bytes."""
_MOST_IN_C = 20_000


def run_deep(function: Callable[[], Result]) -> Result:
    """Call ``function`` in a thread with a large stack and return or raise what it does."""
    outcome: list[tuple[bool, Any]] = []
    may_start = threading.Event()

    def call() -> None:
        may_start.wait()
        if sys.version_info[:2] in ((3, 12), (3, 13)):
            _allow_recursion_in_c()
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


def _allow_recursion_in_c() -> None:
    """As much as in Python code, for this thread.

    These versions count calls of C down from about 10,000, however large the stack is, and have no function to
    change that. The count is in the thread's state, an ``int`` behind the limit for Python code, which
    identifies it (``struct _ts`` in CPython's Include/cpython/pystate.h). Where it is not found nothing is
    changed, and nesting deeper than that is reported as lost.
    """
    state_of_thread: Any = ctypes.PyDLL(None).PyThreadState_Get
    state_of_thread.restype = ctypes.c_void_p
    words = (ctypes.c_int * _MOST_WORDS).from_address(state_of_thread())
    limit = sys.getrecursionlimit()
    for index in range(1, _MOST_WORDS - 1):
        left, found, left_in_c = words[index - 1 : index + 2]
        if found == limit and 0 < left <= limit and 0 < left_in_c <= _MOST_IN_C:
            words[index + 1] = limit
            return


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
