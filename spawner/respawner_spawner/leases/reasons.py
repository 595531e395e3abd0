"""Why a request waits, in words that its user understands. Every sentence names the true cause and its number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby

from .estimates import Chance
from .model import Ask, Kind, Lease, Request
from .placement import place
from .queueing import Walk, least_cost
from .view import WHOLE, View, fulfils

GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Cause:
    words: str = ""
    """"" where all that fits is in use."""
    rank: int = 0
    """Those who can be served stand before those at their limit (1) and those who never can (2)."""

    @property
    def impossible(self) -> bool:
        return self.rank == 2

    @property
    def final(self) -> bool:
        """Whether no estimate can be given whatever comes free."""
        return self.rank > 0


def find_cause(walk: Walk, request: Request) -> Cause:
    return (
        _impossible(walk, request)
        or _limit(walk, request)
        or _cordon(walk.view, request.ask)
        or _kept(walk, request)
        or Cause()
    )


def sentence(
    walk: Walk, request: Request, position: int, cause: Cause, chance: Chance | None, ahead: Sequence[Request]
) -> str:
    """For example "2nd in the queue: needs 2 GPUs on one host; gpu-b is free the earliest, about 14:20, when carol's
    booking ends"."""
    if cause.impossible:
        return cause.words
    parts = [cause.words] if cause.words else []
    if chance is not None:
        parts.append(_chance(walk, request, chance))
    elif not cause.words:
        parts.append(_in_use(walk.view, request.ask, ahead))
    return f"{ordinal(position)} in the queue: needs {needs(request.ask)}; {'; '.join(parts)}"


def needs(ask: Ask) -> str:
    """For example "2 GPUs (H100, 80 GB or more) on one host"."""
    if ask.kind == Kind.SHARE:
        what = f"{_gb(ask.share_bytes)} of a shared GPU"
    else:
        name = "MIG device" if ask.kind == Kind.MIG else "GPU"
        what = f"{ask.count} {name}{'s' if ask.count != 1 else ''}"
    details = [part for part in (ask.profile, ask.model) if part]
    if ask.min_memory_bytes:
        details.append(f"{_gb(ask.min_memory_bytes)} or more")
    if details:
        what += f" ({', '.join(details)})"
    if ask.uuids:
        return f"{what} of those with the UUIDs {', '.join(ask.uuids)}"
    if ask.host:
        return f"{what} on {ask.host}"
    return what + (" on one host" if ask.count > 1 and ask.one_host else "")


def ordinal(number: int) -> str:
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"


def clock(when: float, now: float) -> str:
    """In the local time of the machine: "14:20", or with the day where it is another one."""
    then, today = (datetime.fromtimestamp(t, tz=UTC).astimezone() for t in (when, now))
    return then.strftime("%H:%M") if then.date() == today.date() else then.strftime("%a %d %b, %H:%M")


def named(subject: str) -> str:
    """ "user:alice" → "user alice"."""
    return subject.replace(":", " ", 1)


def gpus(millionths: float) -> str:
    count = millionths / WHOLE
    return f"{count:g} GPU{'' if count == 1 else 's'}" if count == round(count) else f"{count:.2f} GPUs"


# causes


def _impossible(walk: Walk, request: Request) -> Cause | None:
    view, ask = walk.view, request.ask
    for subject in (f"user:{request.user}", *(f"group:{name}" for name in request.groups)):
        most = view.most(subject)
        if most is not None and least_cost(ask) > round(most * WHOLE):
            return Cause(
                f"cannot be granted: asks for {needs(ask)}, and the limit of {named(subject)} is {most:g}", 2
            )
    if ask.kind == Kind.SHARE:
        largest = max((view.devices[at].shareable_bytes for at in _shared(view, ask)), default=0)
        if ask.share_bytes > largest:
            there = f"the largest share there is has {_gb(largest)}" if largest else "no GPU is shared"
            return Cause(f"cannot be granted: asks for {needs(ask)}, and {there}", 2)
        return None
    rooms = _all_rooms(view, ask)
    there_is = max(rooms.values(), default=0) if ask.one_host else sum(rooms.values())
    if there_is >= ask.count:
        return None
    return Cause(
        f"cannot be granted: {'no host has' if ask.one_host else 'there are not'} {needs(replace(ask, one_host=False))}; {_largest(rooms, ask)}",
        2,
    )


def _largest(rooms: dict[str, int], ask: Ask) -> str:
    if not rooms:
        return "there is none"
    host = max(sorted(rooms), key=lambda name: rooms[name])
    name = "MIG device" if ask.kind == Kind.MIG else "GPU"
    return f"the largest is {host} with {rooms[host]} such {name}{'' if rooms[host] == 1 else 's'}"


def _limit(walk: Walk, request: Request) -> Cause | None:
    placed = place(walk.view, request.ask)
    share = request.ask.share_bytes if request.ask.kind == Kind.SHARE else 0
    cost = walk.view.cost(placed, share) if placed else least_cost(request.ask)
    subject = walk.over_limit(request, cost)
    if subject is None:
        return None
    most, holds = walk.view.most(subject), gpus(walk.view.held.get(subject, 0))
    return Cause(f"the limit of {named(subject)} is {gpus((most or 0) * WHOLE)}, and it holds {holds}", 1)


def _cordon(view: View, ask: Ask) -> Cause | None:
    """Where only what takes no leases now would have been enough."""
    out = [device for at, device in enumerate(view.devices) if device.cordon and _is_wanted(view, at, ask)]
    if not out:
        return None
    if ask.kind == Kind.SHARE:
        enough = any(
            view.devices[at].shareable_bytes >= ask.share_bytes
            for at in _shared(view, ask)
            if not view.devices[at].cordon
        )
    else:
        rooms = view.rooms(ask)
        enough = (max(rooms.values(), default=0) if ask.one_host else sum(rooms.values())) >= ask.count
    if enough:
        return None
    why = sorted({f"{device.host}: {device.cordon}" for device in out})
    return Cause(
        f"{len(out)} fitting GPU{'' if len(out) == 1 else 's'} take no sessions now ({'; '.join(why)})"
    )


def _kept(walk: Walk, request: Request) -> Cause | None:
    """Where enough is free, but not for this request."""
    if place(walk.view, request.ask) is None:
        return None
    barred = walk.barred(request)
    if barred.kept:
        bookings = [b for b in walk.bookings.near if b.group not in request.groups]
        words = [
            f"{b.count} GPU{'' if b.count == 1 else 's'} {_are(b.count)} booked for group {b.group} "
            f"from {clock(b.start, walk.now)} until {clock(b.end, walk.now)}"
            for b in bookings
        ]
        return Cause(" and ".join(words))
    head = walk.head_in_front(request)
    if head is None:
        return None
    since = clock(head.request.submitted, walk.now)
    return Cause(
        f"what is free is kept for {head.request.user}, who has waited since {since} for {needs(head.request.ask)}"
    )


# what is in use


def _chance(walk: Walk, request: Request, chance: Chance) -> str:
    when = clock(chance.when, walk.now)
    where = chance.host if chance.host != "*" else "enough"
    user = chance.lease.user if chance.lease else ""
    if chance.event == "suspending":
        return f"{user}'s session on {where} is being suspended, about {when} it is free"
    if chance.event == "free":
        return f"{where} is free when those in front have been served"
    ends = {
        "booking": f"when {user}'s booking ends",
        "turn": f"when {user}'s turn ends" if user else "after the turn of those in front",
        "kept": "when the booking ends",
    }[chance.event]
    return f"{where} is free the earliest, about {when}, {ends}"


def _in_use(view: View, ask: Ask, ahead: Sequence[Request]) -> str:
    users = [lease.user for lease in _holders(view, ask)]
    counted = [f"{user} ({len(list(group))})" for user, group in groupby(sorted(users))]
    shown = ", ".join(counted[:5]) + (f" and {len(counted) - 5} others" if len(counted) > 5 else "")
    held = f"held by {shown}" if shown else "in use"
    behind = f"; behind {_names(ahead)}" if ahead else ""
    return f"what fits is {held}; nobody can tell when it comes free{behind}"


def _names(requests: Sequence[Request]) -> str:
    users = list(dict.fromkeys(request.user for request in requests))
    return ", ".join(users[:3]) + (f" and {len(users) - 3} others" if len(users) > 3 else "")


def _holders(view: View, ask: Ask) -> list[Lease]:
    """One entry for each device held."""
    found = []
    for uuid, lease_ids in view.holders.items():
        at = view.position.get(uuid)
        if at is not None and _is_wanted(view, at, ask):
            found += [view.leases[lease_id] for lease_id in lease_ids]
    return found


def _is_wanted(view: View, at: int, ask: Ask) -> bool:
    device = view.devices[at]
    if ask.host not in ("", device.host) or (ask.uuids and device.uuid not in ask.uuids):
        return False
    return fulfils(view.sorts[at], ask)


def _all_rooms(view: View, ask: Ask) -> dict[str, int]:
    """Like `View.rooms`, with what takes no leases now."""
    rooms: dict[str, int] = {}
    for at, device in enumerate(view.devices):
        if _is_wanted(view, at, ask):
            rooms[device.host] = rooms.get(device.host, 0) + 1
    return rooms


def _shared(view: View, ask: Ask) -> list[int]:
    return [at for at in view.shared_positions() if _is_wanted(view, at, ask)]


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / GB:.3g} GB"
