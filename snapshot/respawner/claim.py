"""Which timeline a kernel writes to: the notebook's, or a fork of it while another kernel has that.

A timeline remembers the Jupyter id of the kernel that wrote it. It survives restarts of the kernel, so a
kernel that comes back finds its own fork again, and never takes over a sibling's.
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
    """A timeline that this process may write, and the one whose state it starts from."""

    timeline: Timeline
    lock: TimelineLock
    source: Timeline
    forked_because: str | None = None


def claim_timeline(store: Path, name: str, kernel: str | None) -> Claim:
    """Take the lock of the notebook's timeline or of its first free fork (``<slug>~2`` and so on).

    Nothing is written into a timeline of a newer format: `NewerFormatError` comes before the lock.
    """
    base = slug_of(name)
    slugs = [base, *(f"{base}~{number}" for number in range(2, _MOST_FORKS))]
    existing = {slug: found for slug in slugs if (found := Timeline.find(store, slug))}
    own = [slug for slug, found in existing.items() if kernel is not None and found.kernel == kernel]
    for slug in dict.fromkeys([*own, *slugs]):
        timeline = existing.get(slug) or Timeline.create(store, name, slug)
        timeline.latest()  # raises for a newer format
        lock = TimelineLock.acquire(timeline.lock_path)
        if lock is None:
            continue
        belongs_here = slug == base or slug in own
        source = timeline if belongs_here or base not in existing else existing[base]
        forked_because = None if belongs_here else _why_forked(existing.get(base))
        with contextlib.suppress(OSError):  # a full disk: the fork is found by its number then
            timeline.belongs_to(kernel)
        return Claim(timeline, lock, source, forked_because)
    raise StoreError(f"{_MOST_FORKS} kernels write to timelines of {name} already")


def _why_forked(base: Timeline | None) -> str:
    holder = holder_of(base.lock_path) if base else {}
    who = f" (process {holder['pid']} on {holder.get('host')})" if holder.get("pid") else ""
    return f"another kernel{who} has this notebook open, so this one keeps its own timeline from here on"
