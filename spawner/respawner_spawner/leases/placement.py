"""Which devices a request gets: the fullest host that has room, the smallest memory that suffices.

One request's devices are of one sort where possible; only where no host has enough of one sort are sorts mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from .free import Sort
from .model import Ask, Kind
from .view import View

ANYWHERE = "*"
"""Bars every host of a sort."""


@dataclass(slots=True)
class Barred:
    """What a request may not have although it is free."""

    kept: dict[Sort, int] = field(default_factory=dict)
    """Devices kept for bookings of others."""
    hosts: Mapping[Sort, Collection[str]] = field(default_factory=dict)
    """Hosts that are being emptied for a large request."""


NOTHING_BARRED = Barred()


def place(view: View, ask: Ask, barred: Barred = NOTHING_BARRED) -> tuple[str, ...] | None:
    """UUIDs of free devices that fulfil `ask`; None where there are not enough."""
    if ask.kind == Kind.SHARE:
        return _place_share(view, ask)
    if ask.uuids or ask.host:
        return _place_pinned(view, ask, barred)
    sorts = [sort for sort in view.matching(ask) if _spare(view, sort, barred) >= ask.count]
    for sort in sorts:
        host = view.pools[sort].best_fit(ask.count, barred.hosts.get(sort, ()))
        if host is not None and ANYWHERE not in barred.hosts.get(sort, ()):
            return _first(view, sort, host, ask.count)
    if not ask.one_host:
        return _place_spread(view, ask, barred)
    return _place_mixed(view, ask, barred) if ask.count > 1 and len(view.matching(ask)) > 1 else None


def _place_share(view: View, ask: Ask) -> tuple[str, ...] | None:
    """The device with the least memory left that is enough."""
    sorts = view.matching(ask)
    fitting = [
        (view.share_left(at), at)
        for at in view.shared_positions()
        if view.sorts[at] in sorts
        and view.share_left(at) >= ask.share_bytes
        and ask.host in ("", view.devices[at].host)
        and (not ask.uuids or view.devices[at].uuid in ask.uuids)
    ]
    return (view.devices[min(fitting)[1]].uuid,) if fitting else None


def _place_pinned(view: View, ask: Ask, barred: Barred) -> tuple[str, ...] | None:
    """Only on one host, or only these devices; `uuids` may name more than `count`."""

    def allowed(host: str) -> bool:
        return ask.host in ("", host)

    def wanted(uuid: str) -> bool:
        return not ask.uuids or uuid in ask.uuids

    return _place_mixed(view, ask, barred, allowed, wanted)


def _place_mixed(
    view: View,
    ask: Ask,
    barred: Barred,
    allowed: Callable[[str], bool] = lambda _: True,
    wanted: Callable[[str], bool] = lambda _: True,
) -> tuple[str, ...] | None:
    """One host whose devices of all sorts together are enough; of one sort first."""
    by_host: dict[str, list[str]] = {}
    for sort in view.matching(ask):
        pool, closed, spare = view.pools[sort], barred.hosts.get(sort, ()), _spare(view, sort, barred)
        if ANYWHERE in closed or spare <= 0:
            continue
        for host, positions in pool.hosts.items():
            if host in closed or not allowed(host):
                continue
            fitting = [view.devices[at].uuid for at in positions if wanted(view.devices[at].uuid)][:spare]
            by_host.setdefault(host, []).extend(fitting)
    if not ask.one_host:
        every = [uuid for host in sorted(by_host) for uuid in by_host[host]]
        return tuple(every[: ask.count]) if len(every) >= ask.count else None
    enough = [(len(uuids), host) for host, uuids in by_host.items() if len(uuids) >= ask.count]
    return tuple(by_host[min(enough)[1]][: ask.count]) if enough else None


def _place_spread(view: View, ask: Ask, barred: Barred) -> tuple[str, ...] | None:
    """Over several hosts, the emptiest first, so that as few as possible take part."""
    found: list[str] = []
    for sort in view.matching(ask):
        closed = barred.hosts.get(sort, ())
        spare = min(_spare(view, sort, barred), ask.count - len(found))
        if ANYWHERE in closed:
            continue
        for host in view.pools[sort].emptiest_first():
            if spare <= 0:
                break
            if host not in closed:
                part = _first(view, sort, host, min(spare, view.pools[sort].count(host)))
                found += part
                spare -= len(part)
    return tuple(found) if len(found) == ask.count else None


def _first(view: View, sort: Sort, host: str, count: int) -> tuple[str, ...]:
    positions = view.pools[sort].hosts[host]
    if sort.kind == Kind.MIG:
        positions = _fullest_gpus_first(view, positions)
    return tuple(view.devices[at].uuid for at in positions[:count])


def _fullest_gpus_first(view: View, positions: list[int]) -> list[int]:
    """MIG devices of GPUs that have few free ones come first, so that whole GPUs stay free."""
    free: dict[str, int] = {}
    for at in positions:
        parent = view.devices[at].parent
        free[parent] = free.get(parent, 0) + 1
    return sorted(positions, key=lambda at: (free[view.devices[at].parent], at))


def _spare(view: View, sort: Sort, barred: Barred) -> int:
    return view.pools[sort].free - barred.kept.get(sort, 0)
