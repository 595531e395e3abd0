"""One writer a timeline: a lock that the kernel holds for as long as it lives.

``flock`` on an open file: it goes with the process however that ends, also by SIGKILL. A forked child
(a DataLoader's worker) shares the open file, and would hold the lock after its parent is gone; so children
close their copy at the fork.

Where the file system has no ``flock`` (NFS without its lock service, some FUSE), a file that only one can
create says who has it. The holder touches it every minute; it is taken over at once where its process is gone
from this host, and after ten minutes without a touch where it is another host's. That is weaker: a
holder that was stopped for longer than that loses its timeline without knowing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..runtime import process_start

_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_TOUCH_SECONDS = 60.0
_STALE_SECONDS = 600.0


class TimelineLock:
    """Made by `acquire`; the lock is held until `release` or until the process ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._fd: int | None = descriptor
        self._owner_file: Path | None = None
        _held.add(self)

    @classmethod
    def acquire(cls, path: Path) -> TimelineLock | None:
        """Take the lock, or return None where another process has it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            owner_file = None
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException as error:
            if not isinstance(error, OSError) or error.errno not in _NO_FLOCK:
                os.close(descriptor)
                raise
            owner_file = path.with_name(path.name + ".owner")
            if not _take(owner_file):
                os.close(descriptor)
                return None
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, _own_name(), 0)
        except OSError:
            pass  # who holds it is only told to people; the lock itself needs no space on the disk
        lock = cls(path, descriptor)
        if owner_file is not None:
            lock._owner_file = owner_file
            threading.Thread(
                target=_touch, args=(weakref.ref(lock),), name="respawner-lock", daemon=True
            ).start()
        return lock

    def release(self, *, in_child: bool = False) -> None:
        """Close this process's copy of the file; calling it twice is fine."""
        owner_file, self._owner_file = self._owner_file, None
        if owner_file is not None and not in_child:
            with contextlib.suppress(OSError):
                owner_file.unlink()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def renew(self) -> None:
        """Lock the file that is at the path now, where the one that was locked has been deleted."""
        if self._fd is None:
            return
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._fd), self.path.stat()):
                return
        again = TimelineLock.acquire(self.path)
        if again is None:
            raise StoreError(f"{self.path.parent} was deleted, and another kernel has made it anew")
        os.close(self._fd)
        self._fd, again._fd = again._fd, None
        self._owner_file, again._owner_file = again._owner_file, None


def renew_lock(path: Path) -> None:
    """`TimelineLock.renew` for whichever lock this process holds at ``path``."""
    for lock in list(_held):
        if lock.path == path:
            lock.renew()


def move_lock(old: Path, new: Path) -> None:
    """The locked file's folder was renamed: the lock itself is the open file's, and stays."""
    for lock in list(_held):
        if lock.path == old:
            lock.path = new
            if lock._owner_file is not None:
                lock._owner_file = new.with_name(lock._owner_file.name)


def _own_name() -> bytes:
    pid = os.getpid()
    return json.dumps({"pid": pid, "host": socket.gethostname(), "start": process_start(pid)}).encode()


def _take(owner_file: Path) -> bool:
    """Create the file; where it exists, first take it away from a holder that is gone."""
    for _ in range(2):
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(owner_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, _own_name())
            finally:
                os.close(descriptor)
            return True
        if not _is_gone(owner_file):
            return False
        with contextlib.suppress(FileNotFoundError):
            owner_file.unlink()
    return False


def _is_gone(owner_file: Path) -> bool:
    holder = holder_of(owner_file)
    if holder.get("host") == socket.gethostname() and isinstance(holder.get("pid"), int):
        return process_start(holder["pid"]) != holder.get("start")
    try:
        return time.time() - owner_file.stat().st_mtime > _STALE_SECONDS
    except OSError:
        return True


def _touch(reference: weakref.ref[TimelineLock]) -> None:
    while True:
        time.sleep(_TOUCH_SECONDS)
        lock = reference()
        if lock is None or lock._owner_file is None:
            return
        with contextlib.suppress(OSError):
            os.utime(lock._owner_file)
        del lock


def holder_of(path: Path) -> dict[str, Any]:
    """Who took the lock last, for messages: ``{"pid": …, "host": …}``, or empty."""
    try:
        found = json.loads(path.read_bytes() or b"{}")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


_held: weakref.WeakSet[TimelineLock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for lock in list(_held):
        lock.release(in_child=True)


os.register_at_fork(after_in_child=_let_go_in_child)
