"""How much a store writes: a budget of bytes a day, so that a large state changing all the time does not wear out disks.

`decide` is pure: it says whether to save now or how long to wait. The count behind it is one small file a
timeline, in hours of UTC, that only the timeline's writer writes and that need not survive a power cut.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from ..contract import WRITES_ENV
from .files import write_atomically
from .retention import int_setting

DAY_BYTES = 2 * 10**12
"""Half of what a data-centre SSD of 4 TB may be given each day of its warranty (one drive write a day)."""
_NAME = "written.json"
_HOURS = 24
FREE_SHARE = 0.5
"""Below this share of the budget nothing is ever deferred."""
OLDEST_SECONDS = 3600.0
"""A state is never left unsaved for longer, whatever has been written."""


@dataclass(frozen=True)
class Decision:
    save: bool
    reason: str
    wait_seconds: float = 0.0


def decide(written_bytes: int, state_age_seconds: float, changed_bytes: int, day_bytes: int) -> Decision:
    """Whether to write ``changed_bytes`` now.

    ``written_bytes``: of the last 24 hours. ``state_age_seconds``: how long the newest durable state is not the
    latest any more. With half of the budget left everything is saved. After that what is left is spread over
    the day: a state may be written as often as would use it up in 24 hours, so age grows with size.
    """
    if written_bytes + changed_bytes <= day_bytes * FREE_SHARE:
        return Decision(True, "within the budget")
    if state_age_seconds >= OLDEST_SECONDS:
        return Decision(True, "the budget is short, but nothing has been saved for an hour")
    left = day_bytes - written_bytes
    interval = OLDEST_SECONDS if left <= 0 else min(OLDEST_SECONDS, changed_bytes / left * 86400)
    if state_age_seconds >= interval:
        return Decision(True, f"the budget is short: one such state every {interval:.0f} s")
    spent = f"{written_bytes / 1e9:.1f} of {day_bytes / 1e9:.0f} GB have been written in 24 hours"
    return Decision(False, f"deferred: {spent}", interval - state_age_seconds)


def day_bytes() -> int:
    return int_setting(WRITES_ENV, DAY_BYTES)


class Account:
    """What one timeline has written; ``clock`` gives seconds since 1970."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._hours = _read(self._path)

    def add(self, count: int, now: float | None = None) -> None:
        """Called by the timeline's writer after each publish. An unwritable disk is told elsewhere."""
        hour = int((time.time() if now is None else now) // 3600)
        self._hours = {h: n for h, n in self._hours.items() if hour - _HOURS < h <= hour}
        self._hours[hour] = self._hours.get(hour, 0) + count
        try:
            content = {str(hour): number for hour, number in self._hours.items()}
            write_atomically(self._path, json.dumps(content).encode(), durable=False)
        except OSError:
            pass


def written_in_a_day(store: Path, now: float | None = None) -> int:
    """What all timelines of the store have written in the last 24 hours. Hours of the future do not count."""
    hour = int((time.time() if now is None else now) // 3600)
    counts = (_read(path) for path in (store / "timelines").glob(f"*/{_NAME}"))
    return sum(n for count in counts for h, n in count.items() if hour - _HOURS < h <= hour)


def _read(path: Path) -> dict[int, int]:
    try:
        return {int(hour): int(number) for hour, number in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
