"""The memory through which a device's bytes cross: a few pinned buffers, used in turn.

Pinned, because only then a copy runs beside the host's work; few, because pinned memory is the container's and cannot be
swapped. Copies run on a stream of their own, which waits for what the device was doing when it was asked.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..pickling.regions import view_at
from .hardware import module_of

SLOTS = 4
SLOT_BYTES = 8 << 20
RING_BYTES = SLOTS * SLOT_BYTES
"""What a ring takes of the host's memory."""


@dataclass(frozen=True)
class Piece:
    """``length`` bytes from ``start`` of a flat uint8 tensor on a device; not longer than a slot."""

    memory: Any
    start: int
    length: int


class Ring:
    """For one device. Not thread-safe: its lane has a lock."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._module = module_of(self._device.type)
        self._slots = [_pinned(SLOT_BYTES) for _ in range(SLOTS)]
        make_stream = getattr(self._module, "Stream", None)
        self._stream = make_stream(self._device) if make_stream is not None else None

    def read(self, pieces: Sequence[Piece], use: Callable[[int, int], object], after: Any = None) -> None:
        """Copy the pieces to the host: ``use(number, address)`` for each in order, whose bytes lie there until it returns.

        While one slot is used, the device copies into the others. ``after``: the event from which on the pieces hold what is
        to be read; without one, all that the device was asked for until now is waited for.
        """
        under_way: deque[tuple[list[tuple[int, int]], Any, Any]] = deque()
        with self._on_own_stream(after):
            for turn, batch in enumerate(_batches(pieces)):
                if len(under_way) == SLOTS:
                    self._use(*under_way.popleft(), use)
                slot = self._slots[turn % SLOTS]
                places = self._copy_out(batch, slot)
                under_way.append((places, slot, self._event()))
            while under_way:
                self._use(*under_way.popleft(), use)

    def write(self, memory: Any, fill: Callable[[memoryview], object]) -> None:
        """Fill a flat uint8 tensor on the device: ``fill(view)`` puts the next bytes into the view, again and again.

        Returns when the device has them.
        """
        events: dict[int, Any] = {}
        with self._on_own_stream():
            for turn, start in enumerate(range(0, memory.numel(), SLOT_BYTES)):
                number = turn % SLOTS
                if (event := events.pop(number, None)) is not None:
                    event.synchronize()
                part = self._slots[number][: min(SLOT_BYTES, memory.numel() - start)]
                fill(view_at(part.data_ptr(), part.numel()))
                memory[start : start + part.numel()].copy_(part, non_blocking=self._stream is not None)
                events[number] = self._event()
        for event in events.values():
            if event is not None:
                event.synchronize()

    def _copy_out(self, batch: list[tuple[int, Piece]], slot: Any) -> list[tuple[int, int]]:
        """Returns each piece's number and its offset in the slot. Neighbours are one copy."""
        places, offset = [], 0
        runs: list[tuple[Piece, int]] = []
        for number, piece in batch:
            places.append((number, offset))
            if runs and runs[-1][0].memory is piece.memory and _end(runs[-1][0]) == piece.start:
                last, at = runs[-1]
                runs[-1] = Piece(last.memory, last.start, last.length + piece.length), at
            else:
                runs.append((piece, offset))
            offset += piece.length
        for run, at in runs:
            source = run.memory[run.start : run.start + run.length]
            slot[at : at + run.length].copy_(source, non_blocking=self._stream is not None)
        return places

    def _use(
        self, places: list[tuple[int, int]], slot: Any, event: Any, use: Callable[[int, int], object]
    ) -> None:
        if event is not None:
            event.synchronize()
        for number, offset in places:
            use(number, slot.data_ptr() + offset)

    @contextlib.contextmanager
    def _on_own_stream(self, after: Any = None) -> Iterator[None]:
        module: Any = self._module
        if self._stream is None:
            yield
            return
        if after is None:
            self._stream.wait_stream(module.current_stream(self._device))
        else:
            self._stream.wait_event(after)
        with module.stream(self._stream):
            yield

    def _event(self) -> Any | None:
        if self._stream is None:
            return None
        module: Any = self._module
        event = module.Event()
        event.record(self._stream)
        return event


def _pinned(length: int) -> Any:
    """Ordinary memory where the system does not let us pin any (a limit on locked memory)."""
    try:
        return torch.empty(length, dtype=torch.uint8, device="cpu", pin_memory=True)
    except RuntimeError:
        return torch.empty(length, dtype=torch.uint8, device="cpu")


def _batches(pieces: Sequence[Piece]) -> Iterator[list[tuple[int, Piece]]]:
    """As many pieces in a row as fit into a slot, with their numbers."""
    batch: list[tuple[int, Piece]] = []
    used = 0
    for number, piece in enumerate(pieces):
        if used + piece.length > SLOT_BYTES:
            yield batch
            batch, used = [], 0
        batch.append((number, piece))
        used += piece.length
    if batch:
        yield batch


def _end(piece: Piece) -> int:
    return piece.start + piece.length
