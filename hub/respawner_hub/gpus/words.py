"""Times, waits and sizes as people read them. Times of day are the hub's own, in 24 hours."""

from __future__ import annotations

from datetime import datetime

from respawner_spawner.leases.model import Device, Kind, Wait
from respawner_spawner.sizes import size_text


def duration(seconds: float) -> str:
    """ "20 s", "5 min", "2 h 10 min", "3 days"."""
    if seconds < 60:
        return f"{max(0, seconds):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        hours, rest = divmod(minutes, 60)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{round(minutes / 1440)} days"


def clock(unix_seconds: float, now: float) -> str:
    """A time of day, with the date where it is not today."""
    when, today = (datetime.fromtimestamp(seconds).astimezone() for seconds in (unix_seconds, now))
    return f"{when:%H:%M}" if when.date() == today.date() else f"{when:%d %b %H:%M}"


def expected(wait: Wait, now: float) -> str:
    """When a request is likely to be granted."""
    if wait.expected is None:
        return "nobody can tell yet"
    left = wait.expected - now
    return "any moment" if left < 60 else f"in about {duration(left)} ({clock(wait.expected, now)})"


def reason(wait: Wait) -> str:
    """Why somebody waits, without the place in the queue, which stands beside it."""
    place, _, rest = wait.reason.partition(" in the queue: ")
    why = rest or place
    return why[:1].upper() + why[1:]


def device(found: Device) -> str:
    """ "NVIDIA A100, 80 GiB", "MIG 1g.10gb of NVIDIA H100, 10 GiB"."""
    name = f"MIG {found.profile} of {found.model}" if found.kind is Kind.MIG else found.model
    return f"{name}, {size_text(found.memory_bytes)}"


def session(holder: str) -> str:
    """ "deployment/user/server" as "user" or "user/server"."""
    _, user, server = holder.split("/", 2)
    return f"{user}/{server}" if server else user
