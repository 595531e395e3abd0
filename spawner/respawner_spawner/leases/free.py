"""The free devices of one sort, host by host, so that the best fit is found without looking at every device.

Best fit: the host with the fewest free devices that still has enough, so that whole hosts stay whole.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from .model import Kind


@dataclass(frozen=True, slots=True, eq=False)
class Sort:
    """Devices that are alike for every request. Compared by identity, which is fast: a view makes each one once."""

    memory_bytes: int
    model: str
    kind: Kind
    profile: str
    shared: bool


class Pool:
    """Free devices of one sort. A device is its position in the cluster's list."""

    __slots__ = ("_by_count", "free", "hosts")

    def __init__(self) -> None:
        self.free = 0
        self.hosts: dict[str, list[int]] = {}
        """Of every host with a free device: their positions, ascending."""
        self._by_count: dict[int, list[str]] = {}

    def put(self, host: str, position: int) -> None:
        positions = self.hosts.setdefault(host, [])
        self._move(host, len(positions), len(positions) + 1)
        insort(positions, position)
        self.free += 1

    def take(self, host: str, position: int) -> None:
        positions = self.hosts[host]
        del positions[bisect_left(positions, position)]
        self._move(host, len(positions) + 1, len(positions))
        if not positions:
            del self.hosts[host]
        self.free -= 1

    def best_fit(self, count: int, barred: Collection[str] = ()) -> str | None:
        """The fullest host with `count` free, by name where several are alike."""
        for have in sorted(self._by_count):
            if have >= count:
                for host in self._by_count[have]:
                    if host not in barred:
                        return host
        return None

    def emptiest_first(self) -> Iterator[str]:
        for have in sorted(self._by_count, reverse=True):
            yield from self._by_count[have]

    def count(self, host: str) -> int:
        return len(self.hosts.get(host, ()))

    def _move(self, host: str, before: int, after: int) -> None:
        if before:
            hosts = self._by_count[before]
            del hosts[bisect_left(hosts, host)]
            if not hosts:
                del self._by_count[before]
        if after:
            insort(self._by_count.setdefault(after, []), host)
