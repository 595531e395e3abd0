"""Processes that are not our children: has one ended?"""

from __future__ import annotations

import time
from pathlib import Path


def has_ended(pid: int) -> bool:
    """Gone, or a zombie, which stays where process 1 of a container does not collect its children."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def wait_for_end(pid: int, seconds: float) -> bool:
    """Wait until the process has ended; False when it has not within the time."""
    deadline = time.monotonic() + seconds
    while not has_ended(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
