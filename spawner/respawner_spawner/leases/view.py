"""A cluster with indexes: what a decision looks things up in, kept from one decision to the next.

A `View` is changed by what happens (a lease begins or ends, a request comes or goes), so that a decision costs by
what waits and not by what there is. `View.of(cluster)` builds one from nothing, `follow` brings one up to date.
Both ways lead to the same decisions. Not thread-safe: one scheduler owns it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from .free import Pool, Sort
from .model import Ask, Cluster, Device, Kind, Lease, Limit, Request, Reservation, Rules, State

WHOLE = 1_000_000
"""One GPU in the unit in which limits are counted: whole numbers, so that sums do not drift."""

Entry = tuple[float, int]
"""Where a request stands in its account's line, and its id."""


Alike = tuple[int, str, tuple[str, ...], bool]
"""Requests for which this is the same are served the same way, one after the other: number of the ask, user, groups,
preemptible."""

Line = dict[Alike, list[Entry]]
"""Who waits on one account: those who are alike, the next one first."""


class View:
    def __init__(
        self,
        devices: Sequence[Device] = (),
        limits: Sequence[Limit] = (),
        reservations: Sequence[Reservation] = (),
        rules: Rules | None = None,
    ) -> None:
        self.rules = rules or Rules()
        self._frame = (tuple(devices), tuple(limits), tuple(reservations), self.rules)
        self.limits = {limit.subject: limit for limit in limits}
        self.reservations = tuple(reservations)
        self.devices = tuple(devices)
        self.position = {device.uuid: at for at, device in enumerate(self.devices)}
        sorts = {key: Sort(*key) for key in sorted({_sort_key(device) for device in self.devices})}
        self.sorts = [sorts[_sort_key(device)] for device in self.devices]
        self.pools: dict[Sort, Pool] = {sort: Pool() for sort in sorts.values()}
        self.leases: dict[int, Lease] = {}
        self.queue: dict[int, Request] = {}
        self.lines: dict[int, dict[str, Line]] = {}
        """By priority and account, who waits."""
        self.first: dict[int, dict[str, Entry]] = {}
        """The same, who is next."""
        self.held: defaultdict[str, int] = defaultdict(int)
        """By user and group, in millionths of a GPU."""
        self.holders: dict[str, list[int]] = {}
        """By device: the leases on it, in the order of their ids."""
        self.suspending: set[int] = set()
        self.warned: set[int] = set()
        self.ending: set[int] = set()
        """Leases with a known end."""
        self.lease_priorities: Counter[int] = Counter()
        self.by_begin: list[tuple[float, int]] = []
        """(since, id) of all leases, the youngest last."""
        self.served: dict[tuple[Sort, int], list[tuple[float, int]]] = {}
        """Leases that may be suspended, by sort and number of devices: (GPU-seconds attained at time 0, id), who has
        had most last. Their order does not change with time."""
        self.begun: dict[tuple[Sort, int], list[tuple[float, int]]] = {}
        """The same leases by (since, id)."""
        self.wanted: Counter[int] = Counter()
        """Devices that those who wait ask for, by the number that one asks for."""
        self.asks: Counter[int] = Counter()
        """How many wait with the same ask, by its number; only asks that somebody waits with."""
        self.large: list[Entry] = []
        """Who waits for several devices at once or for certain ones, the first to come first."""
        self.version = 0
        self._shares = {at: 0 for at, sort in enumerate(self.sorts) if sort.shared}
        """Bytes taken, by position."""
        self._siblings = _memory_by_parent(self.devices)
        self.ask_ids: dict[int, int] = {}
        """By request: a number that requests with the same ask share."""
        self._asks: dict[Ask, int] = {}
        self._matching: dict[tuple[object, ...], tuple[Sort, ...]] = {}
        self._accounts: dict[tuple[str, tuple[str, ...]], str] = {}
        self._rooms: dict[tuple[object, ...], dict[str, int]] = {}
        self._all_rooms: dict[tuple[object, ...], dict[str, int]] = {}
        self.cordoned = [at for at, device in enumerate(self.devices) if device.cordon]
        for at, device in enumerate(self.devices):
            if self._is_pooled(device):
                self._pool(device).put(device.host, at)

    @classmethod
    def of(cls, cluster: Cluster) -> View:
        view = cls(cluster.devices, cluster.limits, cluster.reservations, cluster.rules)
        for lease in cluster.leases:
            view.add_lease(lease)
        for request in cluster.queue:
            view.add_request(request)
        return view

    def follow(self, cluster: Cluster) -> View:
        """Bring it to `cluster` by what differs; returns the view to go on with."""
        if self._frame != (cluster.devices, cluster.limits, cluster.reservations, cluster.rules):
            return View.of(cluster)
        leases = {lease.id: lease for lease in cluster.leases}
        requests = {request.id: request for request in cluster.queue}
        for lease_id in [known for known, lease in self.leases.items() if leases.get(known) != lease]:
            self.remove_lease(lease_id)
        for request_id in [known for known, request in self.queue.items() if requests.get(known) != request]:
            self.remove_request(request_id)
        for lease_id in leases.keys() - self.leases.keys():
            self.add_lease(leases[lease_id])
        for request_id in requests.keys() - self.queue.keys():
            self.add_request(requests[request_id])
        return self

    # what happens

    def add_lease(self, lease: Lease) -> None:
        self.version += 1
        self.leases[lease.id] = lease
        insort(self.by_begin, (lease.since, lease.id))
        self.lease_priorities[self.priority(lease)] += 1
        if lease.suspending:
            self.suspending.add(lease.id)
        if lease.warned:
            self.warned.add(lease.id)
        if lease.ends is not None:
            self.ending.add(lease.id)
        self._note_served(lease, True)
        for subject in subjects(lease.user, lease.groups):
            self.held[subject] += self.cost(lease.uuids, lease.share_bytes)
        for uuid in lease.uuids:
            insort(self.holders.setdefault(uuid, []), lease.id)
            self.occupy(uuid, lease.share_bytes)

    def remove_lease(self, lease_id: int) -> None:
        self.version += 1
        lease = self.leases.pop(lease_id)
        self.lease_priorities[self.priority(lease)] -= 1
        self.lease_priorities += Counter()  # without those that nobody has
        del self.by_begin[bisect_left(self.by_begin, (lease.since, lease_id))]
        self.suspending.discard(lease_id)
        self.warned.discard(lease_id)
        self.ending.discard(lease_id)
        self._note_served(lease, False)
        for subject in subjects(lease.user, lease.groups):
            self.held[subject] -= self.cost(lease.uuids, lease.share_bytes)
            if not self.held[subject]:
                del self.held[subject]
        for uuid in lease.uuids:
            self.holders[uuid].remove(lease_id)
            if not self.holders[uuid]:
                del self.holders[uuid]
            self.vacate(uuid, lease.share_bytes)

    def add_request(self, request: Request) -> None:
        self.version += 1
        self.queue[request.id] = request
        self.wanted[request.ask.count] += request.ask.count
        ask_id = self.ask_ids[request.id] = self._asks.setdefault(request.ask, len(self._asks))
        self.asks[ask_id] += 1
        if needs_a_head(request.ask):
            insort(self.large, _entry(request))
        line = self.lines.setdefault(self.priority(request), {}).setdefault(self.account(request), {})
        entry = _entry(request)
        insort(line.setdefault(self._alike(request), []), entry)
        first = self.first.setdefault(self.priority(request), {})
        first[self.account(request)] = min(entry, first.get(self.account(request), entry))

    def remove_request(self, request_id: int) -> None:
        self.version += 1
        request = self.queue.pop(request_id)
        self.wanted[request.ask.count] -= request.ask.count
        self._leave_line(request)
        ask_id = self.ask_ids.pop(request_id)
        self.asks[ask_id] -= 1
        if not self.asks[ask_id]:
            del self.asks[ask_id]
        if needs_a_head(request.ask):
            del self.large[bisect_left(self.large, _entry(request))]

    def _leave_line(self, request: Request) -> None:
        priority, account, alike = self.priority(request), self.account(request), self._alike(request)
        lines, first = self.lines[priority], self.first[priority]
        line = lines[account]
        del line[alike][bisect_left(line[alike], _entry(request))]
        if not line[alike]:
            del line[alike]
        if line:
            first[account] = min([entries[0] for entries in line.values()])
            return
        del lines[account], first[account]
        if not lines:
            del self.lines[priority], self.first[priority]

    # devices

    def occupy(self, uuid: str, share_bytes: int = 0) -> None:
        """Take a device, or a share of it, from what is free."""
        at = self.position.get(uuid)
        if at is None:
            return  # lost since it was leased
        if at in self._shares:
            self._shares[at] += share_bytes
        elif self._is_pooled(self.devices[at]) and at in self.pools[self.sorts[at]].hosts.get(
            self.devices[at].host, ()
        ):
            self._pool(self.devices[at]).take(self.devices[at].host, at)

    def vacate(self, uuid: str, share_bytes: int = 0) -> None:
        at = self.position.get(uuid)
        if at is None:
            return
        if at in self._shares:
            self._shares[at] -= share_bytes
        elif self._is_pooled(self.devices[at]) and uuid not in self.holders:
            self._pool(self.devices[at]).put(self.devices[at].host, at)

    def share_left(self, position: int) -> int:
        device = self.devices[position]
        return 0 if device.cordon else device.shareable_bytes - self._shares[position]

    def shared_positions(self) -> Iterable[int]:
        return self._shares

    def matching(self, ask: Ask) -> tuple[Sort, ...]:
        """The sorts that fulfil it, the smallest memory first."""
        key = _kind_of(ask)
        found = self._matching.get(key)
        if found is None:
            found = self._matching[key] = tuple(sort for sort in self.pools if fulfils(sort, ask))
        return found

    def rooms(self, ask: Ask) -> dict[str, int]:
        """Devices that fulfil it and take leases, free or not, by host."""
        key = (*_kind_of(ask), ask.host, ask.uuids)
        found = self._rooms.get(key)
        if found is None:
            found = self._rooms[key] = self._count_rooms(ask)
        return found

    def all_rooms(self, ask: Ask) -> dict[str, int]:
        """The same with what takes no leases now."""
        key = (*_kind_of(ask), ask.host, ask.uuids)
        found = self._all_rooms.get(key)
        if found is None:
            found = self._all_rooms[key] = self._count_rooms(ask, with_cordoned=True)
        return found

    def is_wanted(self, position: int, ask: Ask) -> bool:
        """Whether a device would do for it, free or not, cordoned or not."""
        device = self.devices[position]
        if ask.host not in ("", device.host) or (ask.uuids and device.uuid not in ask.uuids):
            return False
        return self.sorts[position] in self.matching(ask)

    def anything_free(self) -> bool:
        return bool(self._shares) or any(pool.free for pool in self.pools.values())

    def cost(self, uuids: Sequence[str], share_bytes: int = 0) -> int:
        """What a lease counts, in millionths of a GPU: MIG devices and shares by their part of the memory."""
        total = 0
        for uuid in uuids:
            at = self.position.get(uuid)
            if at is None:
                total += WHOLE
                continue
            device = self.devices[at]
            if share_bytes:
                total += WHOLE * share_bytes // max(1, device.memory_bytes)
            elif device.kind == Kind.MIG:
                total += WHOLE * device.memory_bytes // max(1, self._siblings[device.parent])
            else:
                total += WHOLE
        return total

    # users and groups

    def priority(self, request: Request | Lease) -> int:
        """Its own on top of its user's, or else of the highest of its groups'."""
        if not self.limits:
            return request.priority
        own = self.limits.get(f"user:{request.user}")
        if own is not None and own.priority is not None:
            return own.priority + request.priority
        of_groups = [self.limits[name].priority for name in _groups(request.groups) if name in self.limits]
        return request.priority + max((priority for priority in of_groups if priority is not None), default=0)

    def account(self, request: Request | Lease) -> str:
        """On whose account it goes, in the sharing of GPUs: a guaranteed user, a guaranteed group, the first
        group that has a limit, the first group, the user."""
        key = (request.user, request.groups)
        known = self._accounts.get(key)
        if known is None:
            known = self._accounts[key] = self._choose_account(request.user, request.groups)
        return known

    def guarantee(self, subject: str) -> int:
        limit = self.limits.get(subject)
        return int(limit.guarantee * WHOLE) if limit else 0

    def most(self, subject: str) -> float | None:
        """The limit of a user or a group, in GPUs; None without one."""
        limit = self.limits.get(subject)
        if limit is None and subject.startswith("user:"):
            limit = self.limits.get("everyone")
        return limit.most if limit else None

    def held_by(self, account: str) -> int:
        return self.held.get(account, 0)

    def over_guarantee(self, account: str) -> int:
        return self.held.get(account, 0) - self.guarantee(account)

    def _choose_account(self, user: str, groups: tuple[str, ...]) -> str:
        names = _groups(groups)
        for name in (f"user:{user}", *sorted(names, key=self.guarantee, reverse=True)):
            if self.guarantee(name):
                return name
        limited = [name for name in names if name in self.limits]
        return (limited or names or [f"user:{user}"])[0]

    def _count_rooms(self, ask: Ask, *, with_cordoned: bool = False) -> dict[str, int]:
        rooms: dict[str, int] = {}
        for at, device in enumerate(self.devices):
            if (with_cordoned or not device.cordon) and self.is_wanted(at, ask):
                rooms[device.host] = rooms.get(device.host, 0) + 1
        return rooms

    def _alike(self, request: Request) -> Alike:
        return (self.ask_ids[request.id], request.user, request.groups, request.preemptible)

    def served_kind(self, lease: Lease) -> tuple[Sort, int] | None:
        """Sort and number of its devices; None where it may not be suspended."""
        at = self.position.get(lease.uuids[0]) if lease.uuids else None
        fixed = lease.share_bytes or not lease.preemptible or lease.suspending or lease.state != State.RUNNING
        return None if at is None or fixed else (self.sorts[at], len(lease.uuids))

    def _note_served(self, lease: Lease, begins: bool) -> None:
        kind = self.served_kind(lease)
        if kind is None:
            return
        for entries, entry in (
            (self.served.setdefault(kind, []), self.served_entry(lease)),
            (self.begun.setdefault(kind, []), (lease.since, lease.id)),
        ):
            if begins:
                insort(entries, entry)
            else:
                del entries[bisect_left(entries, entry)]

    def served_entry(self, lease: Lease) -> tuple[float, int]:
        return (lease.attained_seconds / len(lease.uuids) - lease.since, lease.id)

    def _is_pooled(self, device: Device) -> bool:
        return not device.cordon and not device.shareable_bytes

    def _pool(self, device: Device) -> Pool:
        return self.pools[self.sorts[self.position[device.uuid]]]


def needs_a_head(ask: Ask) -> bool:
    """Whether others can take away what it waits for, one by one."""
    return ask.kind in (Kind.GPU, Kind.MIG) and (ask.count > 1 or bool(ask.host or ask.uuids))


def subjects(user: str, groups: tuple[str, ...]) -> tuple[str, ...]:
    """Whose limits count for a session."""
    return (f"user:{user}", *_groups(groups))


def fulfils(sort: Sort, ask: Ask) -> bool:
    if sort.shared != (ask.kind == Kind.SHARE) or sort.memory_bytes < ask.min_memory_bytes:
        return False
    if ask.kind == Kind.MIG and (sort.kind != Kind.MIG or ask.profile not in ("", sort.profile)):
        return False
    if ask.kind == Kind.GPU and sort.kind != Kind.GPU:
        return False
    return ask.model.lower() in sort.model.lower()


def _kind_of(ask: Ask) -> tuple[object, ...]:
    """What decides which sorts fulfil it."""
    return (ask.kind, ask.model, ask.min_memory_bytes, ask.profile, ask.share_bytes)


def _groups(groups: tuple[str, ...]) -> list[str]:
    return [f"group:{name}" for name in groups]


def _entry(request: Request) -> Entry:
    """First come first served; who has had GPU time already stands as though it had come so much later."""
    return (request.submitted + request.attained_seconds, request.id)


def _sort_key(device: Device) -> tuple[int, str, Kind, str, bool]:
    """The smallest memory first."""
    return (device.memory_bytes, device.model, device.kind, device.profile, device.shareable_bytes > 0)


def _memory_by_parent(devices: Sequence[Device]) -> dict[str, int]:
    memory: defaultdict[str, int] = defaultdict(int)
    for device in devices:
        if device.parent:
            memory[device.parent] += device.memory_bytes
    return memory
