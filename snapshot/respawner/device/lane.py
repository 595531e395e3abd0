"""One device's way to and from the host: its ring and its digests, for one thread at a time."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from .digests import DeviceDigests
from .hardware import device_errors, is_exhausted, module_of
from .recording import beside_recording
from .ring import RING_BYTES, Piece, Ring

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

    def copy_there(self, pieces: Sequence[Piece]) -> tuple[list[Any], Any]:
        """Copies of the pieces on the device itself, as flat tensors, of the first ones where there is no room for all; and
        the event of their being made, which is over (None where the device knows no events)."""
        copies: list[Any] = []
        with self._lock, _careful(self.device):
            try:
                for piece in pieces:
                    copies.append(piece.memory[piece.start : piece.start + piece.length].clone())
            except RuntimeError as error:
                if not is_exhausted(error):
                    raise
            return copies, self._made_now()

    def _made_now(self) -> Any:
        module: Any = module_of(torch.device(self.device).type)
        if not hasattr(module, "Event"):
            return None
        event = module.Event()
        event.record(module.current_stream(torch.device(self.device)))
        event.synchronize()
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
    """Without autograd, and a device's errors as ours. Not in the notebook's inference mode: what is made here lives on."""
    with device_errors(device), torch.inference_mode(mode=False), torch.no_grad(), beside_recording():
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
