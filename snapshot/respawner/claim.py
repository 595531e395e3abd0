"""Which timeline a kernel writes to, and from which one it starts.

Usually both are the notebook's. While another kernel has that, a fork of it is written, and the first start
restores from the notebook's. A timeline remembers the Jupyter id of the kernel that wrote it. It survives
restarts of the kernel, so a kernel that comes back finds its own fork again, never takes over a sibling's,
and finds its state also when its notebook has been renamed meanwhile.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from .errors import StoreError
from .store.layout import slug_of
from .store.lock import TimelineLock, holder_of
from .store.timeline import Timeline

_MOST_FORKS = 50


@dataclass
class Claim:
    """A timeline that this process may write, and the one whose state it starts from.

    ``note`` tells the user where they differ.
    """

    timeline: Timeline
    lock: TimelineLock
    source: Timeline
    note: str | None = None


def claim_timeline(store: Path, name: str, kernel: str | None) -> Claim:
    """Take the lock of the notebook's timeline or of its first free fork (``<slug>~2`` and so on).

    Nothing is written into a timeline of a newer format: `NewerFormatError` comes before the lock.
    """
    base = slug_of(name)
    slugs = [base, *(f"{base}~{number}" for number in range(2, _MOST_FORKS))]
    existing = {slug: found for slug in slugs if (found := Timeline.find(store, slug))}
    own = [slug for slug, found in existing.items() if kernel is not None and found.kernel == kernel]
    elsewhere = [] if kernel is None or own else _written_by(store, kernel)
    for found in elsewhere:
        if name in found.was and not own:
            # Its notebook was renamed; Jupyter Server restarts kernels with the name they began with.
            own.append(found.slug)
            existing[found.slug] = found
    earlier = elsewhere[0] if elsewhere and base not in existing and not own else None
    for slug in dict.fromkeys([*own, *slugs]):
        timeline = existing.get(slug) or Timeline.create(store, name, slug)
        timeline.latest()  # raises for a newer format
        lock = TimelineLock.acquire(timeline.lock_path)
        if lock is None:
            continue
        with contextlib.suppress(OSError):  # a full disk: the fork is found by its number then
            timeline.belongs_to(kernel)
        for seen in filter(None, (timeline, existing.get(base), earlier)):
            with contextlib.suppress(OSError):
                seen.follow()
        if slug in own or (slug == base and earlier is None):
            return Claim(timeline, lock, timeline)
        if earlier is not None:
            return Claim(timeline, lock, earlier, f"this notebook was {earlier.name} before")
        return Claim(timeline, lock, existing.get(base, timeline), _why_forked(existing.get(base)))
    raise StoreError(f"{_MOST_FORKS} kernels write to timelines of {name} already")


def _written_by(store: Path, kernel: str) -> list[Timeline]:
    """The timelines that this kernel wrote, under whatever name; by folder name."""
    return [found for found in Timeline.all_in(store) if found.kernel == kernel]


def _why_forked(base: Timeline | None) -> str:
    holder = holder_of(base.lock_path) if base else {}
    who = f" (process {holder['pid']} on {holder.get('host')})" if holder.get("pid") else ""
    return f"another kernel{who} has this notebook open, so this one keeps its own timeline from here on"
