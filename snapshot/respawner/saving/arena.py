"""Memory for chunks that must be copied before the next cell may change them.

Copying into memory that the process has touched before is ten times faster than into fresh memory, so
slots are kept and used again. The arena grows with what was needed at once, up to its limit; where that is
reached the caller waits for the disk instead. After some minutes without use it is given back.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable

from ..container_memory import limit_bytes
from ..manifest import CHUNK_BYTES

_DEFAULT_LIMIT_BYTES = 2 << 30
_SHARE_OF_MEMORY = 8
"""At most this part of the memory that the container (or the machine) has."""
_BLOCK_BYTES = 16 << 20


class Arena:
    """Slots of `CHUNK_BYTES`. Thread-safe. ``beside()``: bytes of other memory that count against its limit."""

    def __init__(self, limit_bytes: int | None = None, beside: Callable[[], int] = int) -> None:
        self.limit_bytes = self._most_bytes = default_limit() if limit_bytes is None else limit_bytes
        self._beside = beside
        self._blocks: list[mmap.mmap] = []
        self._free: list[int] = []
        self._used = 0
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Memory held now, used or not."""
        return len(self._blocks) * _BLOCK_BYTES

    def take(self) -> int | None:
        """The address of a slot, None where the limit is reached."""
        with self._lock:
            if not self._free and not self._grow():
                return None
            self._used += 1
            return self._free.pop()

    def give(self, slot: int) -> None:
        with self._lock:
            self._used -= 1
            self._free.append(slot)

    def warm(self, size_bytes: int) -> None:
        """Have that much memory ready (within the limit), touched once, so that the next need finds it."""
        while self.size_bytes < size_bytes and (block := self._new_block()) is not None:
            ctypes.memset(_address(block), 0, _BLOCK_BYTES)
            with self._lock:
                self._add(block)

    def trim(self) -> None:
        """Return the memory to the system if no slot is in use."""
        with self._lock:
            if self._used == 0:
                self._free.clear()
                self._blocks.clear()

    def spare(self, memory_is_short: bool) -> None:
        """Do not grow for as long as memory is short: whoever needs more waits for the disk."""
        if memory_is_short:
            self.trim()
        self.limit_bytes = self.size_bytes if memory_is_short else self._most_bytes

    def _grow(self) -> bool:
        block = self._new_block()
        if block is not None:
            self._add(block)
        return block is not None

    def _new_block(self) -> mmap.mmap | None:
        if self.size_bytes + self._beside() + _BLOCK_BYTES > self.limit_bytes:
            return None
        try:
            return mmap.mmap(-1, _BLOCK_BYTES)
        except (OSError, ValueError, MemoryError):
            return None

    def _add(self, block: mmap.mmap) -> None:
        self._blocks.append(block)
        base = _address(block)
        self._free.extend(base + offset for offset in reversed(range(0, _BLOCK_BYTES, CHUNK_BYTES)))


def _address(block: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(block))


def default_limit() -> int:
    """2 GiB, or an eighth of the memory that there is."""
    return min(_DEFAULT_LIMIT_BYTES, limit_bytes() // _SHARE_OF_MEMORY)
