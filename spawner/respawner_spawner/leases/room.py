"""How many devices those who wait can count on: free ones, and those of sessions on their way out."""

from __future__ import annotations

from collections import Counter

from .free import Sort
from .model import Ask, Lease
from .placement import ANYWHERE
from .queueing import Walk


class Room:
    """Devices that are free, or will be when those on their way out are gone, less what was claimed."""

    def __init__(self, walk: Walk) -> None:
        self.view = walk.view
        self._total = {sort: pool.free for sort, pool in self.view.pools.items()}
        self._soon: list[int] = []
        self._claimed: list[tuple[Sort, str, int]] = []
        self._by_host: dict[tuple[Sort, ...], ByHost] = {}
        """Made when somebody needs several on one host."""
        for lease_id in sorted(self.view.suspending):
            self.add(self.view.leases[lease_id])

    def count(self, ask: Ask) -> int:
        """Those that would help `ask`; on one host where it needs that."""
        if fits_anywhere(ask):
            return self.at(ANYWHERE, ask)
        by_host = self._hosts(ask)
        return by_host.devices.get(ask.host, 0) if ask.host else by_host.most

    def add(self, lease: Lease) -> None:
        for uuid in lease.uuids:
            at = self.view.position.get(uuid)
            if at is None or self.view.devices[at].cordon:
                continue
            self._total[self.view.sorts[at]] += 1
            self._soon.append(at)
            for sorts, by_host in self._by_host.items():
                if self.view.sorts[at] in sorts:
                    by_host.change(self.view.sorts[at], self.view.devices[at].host, 1)

    def at(self, host: str, ask: Ask) -> int:
        """Devices there that would help `ask`."""
        if host == ANYWHERE:
            return sum([self._total[sort] for sort in self.view.matching(ask)])
        return self._hosts(ask).devices.get(host, 0) if ask.host in ("", host) else 0

    def hosts_of(self, lease: Lease, ask: Ask) -> list[str]:
        """One entry for each device of it that would help `ask`."""
        places = [self.view.position[uuid] for uuid in lease.uuids if uuid in self.view.position]
        sorts = self.view.matching(ask)
        named = [at for at in places if not ask.uuids or self.view.devices[at].uuid in ask.uuids]
        return [
            self.view.devices[at].host
            for at in named
            if self.view.sorts[at] in sorts and not self.view.devices[at].cordon
        ]

    def claim(self, ask: Ask) -> None:
        """Later ones do not count on it as well."""
        host = self._host_for(ask)
        left = ask.count
        for sort in self.view.matching(ask):
            part = min(left, self._total[sort])
            if host != ANYWHERE:
                part = min(part, self._hosts(ask).of_sort.get((sort, host), 0))
                self._claimed.append((sort, host, part))
                for sorts, by_host in self._by_host.items():
                    if sort in sorts:
                        by_host.change(sort, host, -part)
            self._total[sort] -= part
            left -= part

    def _host_for(self, ask: Ask) -> str:
        """The first by name that has room for it; `ANYWHERE` where it does not matter which, or none has."""
        if fits_anywhere(ask):
            return ANYWHERE
        devices = self._hosts(ask).devices
        return min(
            (h for h, n in devices.items() if ask.host in ("", h) and n >= ask.count), default=ANYWHERE
        )

    def _hosts(self, ask: Ask) -> ByHost:
        sorts = self.view.matching(ask)
        if sorts not in self._by_host:
            by_host = self._by_host[sorts] = ByHost()
            for sort in sorts:
                for host, positions in self.view.pools[sort].hosts.items():
                    by_host.change(sort, host, len(positions))
            for at in self._soon:
                if self.view.sorts[at] in sorts:
                    by_host.change(self.view.sorts[at], self.view.devices[at].host, 1)
            for sort, host, part in self._claimed:
                if sort in sorts:
                    by_host.change(sort, host, -part)
        return self._by_host[sorts]


class ByHost:
    """Devices of some sorts, by host."""

    def __init__(self) -> None:
        self.devices: dict[str, int] = {}
        self.of_sort: dict[tuple[Sort, str], int] = {}
        self._hosts_with: Counter[int] = Counter()

    @property
    def most(self) -> int:
        """On any host."""
        return max(self._hosts_with, default=0)

    def change(self, sort: Sort, host: str, by: int) -> None:
        before = self.devices.get(host, 0)
        self.devices[host] = before + by
        self.of_sort[sort, host] = self.of_sort.get((sort, host), 0) + by
        self._hosts_with[before + by] += 1
        if self._hosts_with[before] > 1:
            self._hosts_with[before] -= 1
        else:
            del self._hosts_with[before]


def fills(ask: Ask, room: int) -> bool:
    """At least half of what it needs is free and of no use to others: served, it keeps more GPUs busy."""
    return ask.count > 1 and 2 * room >= ask.count


def fits_anywhere(ask: Ask) -> bool:
    return not ask.uuids and not ask.host and (ask.count == 1 or not ask.one_host)
