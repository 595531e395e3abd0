"""Which device each tensor comes back to: pure, torch is asked elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """``uuid`` tells the same hardware under another index; None where the backend has none."""

    type: str
    index: int
    uuid: str | None = None

    @property
    def name(self) -> str:
        return f"{self.type}:{self.index}"

    @classmethod
    def parse(cls, name: str, uuid: str | None = None) -> Device:
        """From torch's way to write it, ``cuda:1``. Raises ValueError for what has no index."""
        kind, _, index = name.partition(":")
        return cls(kind, int(index), uuid)


def place(wanted: Iterable[Device], available: Iterable[Device]) -> dict[str, str]:
    """For each device that a state was on, by name, the one that it comes back to; the CPU where none of its kind is.

    First to the same hardware, then to the same index, then to devices that nothing else of the state comes back to;
    where there are fewer than there were, they are shared as evenly as can be.
    """
    to_place = sorted(wanted, key=lambda device: (device.type, device.index))
    there = sorted(available, key=lambda device: (device.type, device.index))
    load: Counter[Device] = Counter()
    placed: dict[str, str] = {}

    def put(device: Device, target: Device) -> None:
        placed[device.name] = target.name
        load[target] += 1

    for device in to_place:
        same = next(
            (d for d in there if device.uuid and (d.type, d.uuid) == (device.type, device.uuid)), None
        )
        if same is not None:
            put(device, same)
    for device in [device for device in to_place if device.name not in placed]:
        same = next((d for d in there if d.name == device.name and not load[d]), None)
        if same is not None:
            put(device, same)
    for device in [device for device in to_place if device.name not in placed]:
        alike = [d for d in there if d.type == device.type]
        if alike:
            put(device, min(alike, key=lambda d: (load[d], d.index)))
        else:
            placed[device.name] = CPU
    return placed


def told(was: str, now: str) -> str:
    """One line for the report."""
    if now == CPU:
        return f"what was on {was} is on the CPU, since there is no such device here; it goes back when there is one"
    return f"what was on {was} is on {now}"
