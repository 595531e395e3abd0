"""Digests of a device's memory, made on the device: 16 bytes a chunk cross the bus, not the chunk.

Multilinear hashing over the integers mod 2**64: a chunk is a vector of signed 32-bit words w, and its digest the two
sums of w[i] * k[i] for two vectors of random 64-bit keys, wrapping around as int64 does on every device. Two different
chunks of the same length have the same sum for at most one of 2**33 keys (their words differ by less than 2**32, so by
2**31 times an odd number at worst), and the same digest with a chance of 2**-66 at most, whatever the chunks are: the keys
are drawn anew in every process and are never stored. Integer sums do not depend on the order in which a device adds them
up. At 5 GB looked at every minute of a year: less than one in a billion.

See Lemire and Kaser, "Strongly universal string hashing is fast", 2014.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Sequence
from typing import Any

import torch

from ..manifest import CHUNK_BYTES
from .hardware import is_exhausted

DIGEST_BYTES = 16
_WORDS = CHUNK_BYTES // 4
_BATCH = 64
"""Chunks at once: 16 MiB of memory need four times as much for a moment."""


class DeviceDigests:
    """For one device; its keys lie there, from the first use on."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._keys: Any = None

    def of(self, memories: Sequence[Any]) -> list[list[bytes] | None]:
        """For each flat uint8 tensor a digest of each of its chunks; None where there is no room on the device for the sums.

        Runs on the current stream and waits for it, once for all of them.
        """
        sums = [self._sums_where_possible(memory) for memory in memories]
        made = [found for found in sums if found is not None]
        rows = iter(_rows(_joined(made)) if made else [])
        return [None if found is None else list(itertools.islice(rows, len(found))) for found in sums]

    def _sums_where_possible(self, memory: Any) -> Any:
        if memory.data_ptr() % 4:
            return None
        try:
            return self._sums_of(memory)
        except RuntimeError as error:
            if is_exhausted(error):
                return None
            raise

    def _sums_of(self, memory: Any) -> Any:
        if self._keys is None:
            keys = torch.frombuffer(bytearray(os.urandom(2 * _WORDS * 8)), dtype=torch.int64)
            self._keys = keys.view(2, _WORDS).to(self._device)
        whole = memory.numel() // CHUNK_BYTES
        sums = []
        for start in range(0, whole, _BATCH):
            count = min(_BATCH, whole - start)
            sums.append(self._sums(memory[start * CHUNK_BYTES : (start + count) * CHUNK_BYTES], count))
        if rest := memory.numel() % CHUNK_BYTES:
            padded = torch.zeros(CHUNK_BYTES, dtype=torch.uint8, device=memory.device)
            padded[:rest] = memory[whole * CHUNK_BYTES :]
            sums.append(self._sums(padded, 1))
        return torch.cat(sums)

    def _sums(self, memory: Any, chunks: int) -> Any:
        words = memory.view(torch.int32).view(chunks, _WORDS).to(torch.int64)
        return torch.stack([(words * key).sum(1) for key in self._keys], 1)


def _joined(sums: list[Any]) -> Any:
    """On the host."""
    try:
        return torch.cat(sums).cpu()
    except RuntimeError as error:
        if is_exhausted(error):
            return torch.cat([found.cpu() for found in sums])
        raise


def _rows(sums: Any) -> list[bytes]:
    data = ctypes.string_at(sums.data_ptr(), sums.numel() * 8)
    return [data[start : start + DIGEST_BYTES] for start in range(0, len(data), DIGEST_BYTES)]
