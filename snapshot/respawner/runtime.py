"""How a running kernel tells the outside how far it is saved: one small JSON file a kernel.

Standard library only, because `respawner.flush` runs in whatever ``python3`` a container has. The file is
not fsynced: it has to outlive nothing but a look from outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from .contract import RUNTIME_ENV

SAVED = "saved"
"""Everything up to the last cell is in a durable snapshot (or no cell has run)."""
DIRTY = "dirty"
"""A cell runs, or has ended and is not durable yet."""
FAILED = "failed"
"""The last attempt to save failed; the next cell tries again."""


def runtime_folder() -> Path:
    """Where this user's kernels write their files."""
    if named := os.environ.get(RUNTIME_ENV):
        return Path(named)
    return Path(tempfile.gettempdir()) / f"respawner-{os.getuid()}"


def runtime_folders() -> list[Path]:
    """Where kernels that the caller may wait for write theirs: for root, every user's."""
    if os.getuid() == 0 and not os.environ.get(RUNTIME_ENV):
        return sorted(Path(tempfile.gettempdir()).glob("respawner-*"))
    return [runtime_folder()]


def process_start(pid: int) -> str | None:
    """When a process started (clock ticks since boot), None where it is gone or cannot be asked.

    Together with the pid it names a process for good, while a pid alone is reused.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def parent_of(pid: int) -> int | None:
    """The parent's pid, None where it cannot be asked."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


class StatusFile:
    """This kernel's file. Where it cannot be written, saving goes on and the outside sees no kernel."""

    def __init__(self, folder: Path) -> None:
        self.pid = os.getpid()
        self._started = process_start(self.pid)
        self._path = folder / "kernels" / f"{self.pid}.json"
        self._written: dict[str, Any] | None = None
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._path.parent.stat().st_uid != os.getuid():
            raise PermissionError(f"{self._path.parent} belongs to somebody else")

    def write(self, state: str, **about: Any) -> None:
        content = {"format": 1, "pid": self.pid, "start": self._started, "state": state, **about}
        if content == self._written:
            return
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content))
        temporary.replace(self._path)
        self._written = content

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def running_kernels(folder: Path) -> list[dict[str, Any]]:
    """What the living kernels of that folder say. Files of dead kernels are passed over."""
    kernels = []
    for path in sorted((folder / "kernels").glob("*.json")):
        try:
            content = json.loads(path.read_text())
            alive = process_start(int(content["pid"])) == content["start"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if alive:
            kernels.append(content)
    return kernels


_WANTED = "flush-wanted"


def want_flush(folder: Path) -> None:
    """Tell the kernels of that folder not to put anything off."""
    with contextlib.suppress(OSError):
        (folder / _WANTED).touch()


def flush_wanted_since(folder: Path, when: float) -> bool:
    """Whether `want_flush` was called after ``when`` (seconds since 1970)."""
    try:
        return (folder / _WANTED).stat().st_mtime >= when
    except OSError:
        return False
