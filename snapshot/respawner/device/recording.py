"""CUDA graphs that the notebook records: nothing of ours may get into them, or break them."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator
from typing import Any

from .hardware import started

_RELAXED = 2
"""`cudaStreamCaptureModeRelaxed`."""


def is_recording() -> bool:
    """Whether a CUDA graph is being recorded: a copy or a wait would break that."""
    return any(
        module.is_current_stream_capturing()
        for _, module in started()
        if hasattr(module, "is_current_stream_capturing")
    )


@contextlib.contextmanager
def beside_recording() -> Iterator[None]:
    """While one thread records a CUDA graph, CUDA forbids all others to wait for anything, and breaks the graph where one
    does, unless that one says that what it does is none of the graph's business
    (`cudaThreadExchangeStreamCaptureMode`, as torch's own allocator does)."""
    exchange = _exchange_capture_mode()
    mode = ctypes.c_int(_RELAXED)
    if exchange is None or exchange(ctypes.byref(mode)):
        yield
        return
    try:
        yield
    finally:
        exchange(ctypes.byref(mode))  # what it was before


@functools.cache
def _exchange_capture_mode() -> Any | None:
    """Of the CUDA runtime that torch has loaded."""
    version = getattr(getattr(sys.modules.get("torch"), "version", None), "cuda", None)
    if not version:
        return None
    try:
        return ctypes.CDLL(f"libcudart.so.{version.partition('.')[0]}").cudaThreadExchangeStreamCaptureMode
    except (OSError, AttributeError):
        return None
