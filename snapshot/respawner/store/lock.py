"""One writer a timeline: a lock that the kernel holds for as long as it lives.

``flock`` on an open file: it goes with the process however that ends, also by SIGKILL. A forked child
(a DataLoader's worker) shares the open file, and would hold the lock after its parent is gone; so children
close their copy at the fork.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import weakref
from pathlib import Path
from typing import Any


class TimelineLock:
    """Made by `acquire`; the lock is held until `release` or until the process ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._fd: int | None = descriptor
        _held.add(self)

    @classmethod
    def acquire(cls, path: Path) -> TimelineLock | None:
        """Take the lock, or return None where another process has it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder, 0)
        except OSError:
            pass  # who holds it is only told to people; the lock itself needs no space on the disk
        return cls(path, descriptor)

    def release(self) -> None:
        """Close this process's copy of the file; calling it twice is fine."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def holder_of(path: Path) -> dict[str, Any]:
    """Who took the lock last, for messages: ``{"pid": …, "host": …}``, or empty."""
    try:
        return json.loads(path.read_bytes() or b"{}")
    except (OSError, ValueError):
        return {}


_held: weakref.WeakSet[TimelineLock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_let_go_in_child)
