"""When the next snapshot inside a cell is due. Pure but for reading the settings."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..contract import SAFEPOINT_SECONDS_ENV, SAFEPOINT_SHARE_ENV
from ..errors import SettingError
from ..store.budget import FREE_SHARE

_DAY_SECONDS = 86400.0
RETRY_SECONDS = 60.0
"""After an attempt that failed."""


@dataclass(frozen=True)
class Pace:
    share: float = 0.01
    """The part of a cell's time that its snapshots may hold it up; 0: none are taken."""
    least_seconds: float = 30.0
    """Never more often, and never in cells that are shorter."""

    @classmethod
    def from_environment(cls) -> Pace:
        """Raises `SettingError` for what is no such number."""
        plain = cls()
        share = _number(SAFEPOINT_SHARE_ENV, plain.share)
        if share > 1:
            raise SettingError(
                f"{SAFEPOINT_SHARE_ENV} is {share:g}: it must be a part, from 0 to 1 (0.01: 1 %)"
            )
        return cls(share, _number(SAFEPOINT_SECONDS_ENV, plain.least_seconds))

    def wait_seconds(self, stall_seconds: float, written_bytes: int, day_bytes: int) -> float:
        """How long to leave the cell alone after a snapshot that held it up and wrote so much.

        The larger of three: what keeps the share; what keeps the disk's budget when it goes on like this all day
        (half of ``day_bytes``, so that cells never have to wait for it: 5 GB of 2 TB a day every 7 minutes); and
        `least_seconds`.
        """
        if not self.share:
            return float("inf")
        spread = written_bytes / (day_bytes * FREE_SHARE) * _DAY_SECONDS if day_bytes else _DAY_SECONDS
        return max(self.least_seconds, stall_seconds / self.share, spread)


def _number(name: str, default: float) -> float:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise SettingError(f"{name} is {text!r}: it must be a number, such as {default:g}")
    return number
