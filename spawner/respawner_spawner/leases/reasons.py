"""Why a request waits, in words that its user understands. Every sentence names the true cause and its number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from .estimates import Chance
from .model import Ask, Kind, Lease, Request
from .placement import place
from .queueing import Walk, least_cost
from .view import WHOLE, View

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
    walk: Walk,
    request: Request,
    position: int,
    cause: Cause,
    chance: Chance | None,
    ahead: Sequence[str],
    holders: Holders,
) -> str:
    """For example "2nd in the queue: needs 2 GPUs on one host; gpu-b is free the earliest, about 14:20, when carol's
    booking ends".

    :param ahead: users who stand in front, each once.
    """
    if cause.impossible:
        return cause.words
    parts = [cause.words] if cause.words else []
    if chance is not None:
        parts.append(_chance(walk, request, chance))
    elif not cause.words:
        parts.append(_in_use(holders, request.ask, ahead))
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
    rooms = view.all_rooms(ask)
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
    out = [view.devices[at] for at in view.cordoned if view.is_wanted(at, ask)]
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


class Holders:
    """Who holds what would do for an ask, in words: worked out once for those who ask for the same."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._known: dict[Ask, str] = {}

    def of(self, ask: Ask) -> str:
        """ "held by ada (2), bob (1)", or "in use"."""
        if ask not in self._known:
            counted = sorted(Counter(lease.user for lease in self._leases(ask)).items())
            shown = ", ".join(f"{user} ({count})" for user, count in counted[:5])
            others = f" and {len(counted) - 5} others" if len(counted) > 5 else ""
            self._known[ask] = f"held by {shown}{others}" if shown else "in use"
        return self._known[ask]

    def _leases(self, ask: Ask) -> Iterator[Lease]:
        """One entry for each device held."""
        for uuid, lease_ids in self._view.holders.items():
            at = self._view.position.get(uuid)
            if at is not None and self._view.is_wanted(at, ask):
                yield from (self._view.leases[lease_id] for lease_id in lease_ids)


def _in_use(holders: Holders, ask: Ask, ahead: Sequence[str]) -> str:
    behind = f"; behind {_names(ahead)}" if ahead else ""
    return f"what fits is {holders.of(ask)}; nobody can tell when it comes free{behind}"


def _names(users: Sequence[str]) -> str:
    return ", ".join(users[:3]) + (f" and {len(users) - 3} others" if len(users) > 3 else "")


def _shared(view: View, ask: Ask) -> list[int]:
    return [at for at in view.shared_positions() if view.is_wanted(at, ask)]


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / GB:.3g} GB"
