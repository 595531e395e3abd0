"""One device's way to and from the host: its ring and its digests, for one thread at a time."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from .digests import DeviceDigests
from .hardware import device_errors, is_exhausted, module_of
from .ring import RING_BYTES, Piece, Ring

_ALIGNED = 512
"""As torch aligns what it allocates."""
_lanes: dict[str, Lane] = {}
_making = threading.Lock()


class Lane:
    """Its methods raise `DeviceError` where the device has failed for good."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._lock = threading.Lock()
        self._ring: Ring | None = None
        self._digests: DeviceDigests | None = None

    def digests(self, memories: Sequence[Any]) -> list[list[bytes] | None]:
        """For each flat uint8 tensor a digest of each of its chunks, None where the device cannot make them now."""
        with self._lock, _careful(self.device):
            if self._digests is None:
                self._digests = DeviceDigests(self.device)
            return self._digests.of(memories)

    def read(self, pieces: Sequence[Piece], use: Callable[[int, int], object], after: Any = None) -> None:
        """See `Ring.read`."""
        with self._lock, _careful(self.device):
            self._own_ring().read(pieces, use, after)

    def read_small(self, pieces: Sequence[Piece]) -> list[bytes]:
        """The pieces' bytes."""
        found: list[bytes] = []
        self.read(
            pieces, lambda number, address: found.append(ctypes.string_at(address, pieces[number].length))
        )
        return found

    def copy_there(self, pieces: Sequence[Piece]) -> tuple[list[Any], Any] | None:
        """Copies of the pieces on the device itself, as flat tensors that are one allocation, and the event of their being
        made (None where the device knows no events); None where there is no room."""
        starts = [0, *itertools.accumulate(-(-piece.length // _ALIGNED) * _ALIGNED for piece in pieces)]
        with self._lock, _careful(self.device):
            try:
                room = torch.empty(starts[-1], dtype=torch.uint8, device=self.device)
            except RuntimeError as error:
                if is_exhausted(error):
                    return None
                raise
            copies = [room[at : at + piece.length] for at, piece in zip(starts, pieces, strict=False)]
            for copy, piece in zip(copies, pieces, strict=True):
                copy.copy_(piece.memory[piece.start : piece.start + piece.length])
            return copies, self._made_now()

    def _made_now(self) -> Any:
        module: Any = module_of(torch.device(self.device).type)
        if not hasattr(module, "Event"):
            return None
        event = module.Event()
        event.record(module.current_stream(torch.device(self.device)))
        return event

    def write(self, memory: Any, fill: Callable[[memoryview], object]) -> None:
        """See `Ring.write`."""
        with self._lock, _careful(self.device):
            self._own_ring().write(memory, fill)

    def _own_ring(self) -> Ring:
        if self._ring is None:
            self._ring = Ring(self.device)
        return self._ring

    @property
    def host_bytes(self) -> int:
        return RING_BYTES if self._ring is not None else 0

    def trim(self) -> None:
        """Give the ring's memory back."""
        with self._lock:
            self._ring = None


@contextlib.contextmanager
def _careful(device: str) -> Iterator[None]:
    """Without autograd, and a device's errors as ours."""
    with device_errors(device), torch.no_grad():
        yield


def lane_of(device: str) -> Lane:
    with _making:
        if device not in _lanes:
            _lanes[device] = Lane(device)
        return _lanes[device]


def host_bytes() -> int:
    """What all rings hold of the host's memory."""
    return sum(lane.host_bytes for lane in list(_lanes.values()))


def trim() -> None:
    for lane in list(_lanes.values()):
        lane.trim()


def flat(storage: Any) -> Any:
    """A storage's bytes as a tensor on its device."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
