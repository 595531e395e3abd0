"""How much of the memory that this process may use is used: the container's limit, else the machine.

Read from the kernel's own files, cgroup version 1 and 2 (https://docs.kernel.org/admin-guide/cgroup-v2.html#memory).
Cached files count as free, as they do for the kernel's killer: it takes them back first.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")
_V2, _V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"


@dataclass(frozen=True)
class MemoryUse:
    used_bytes: int
    limit_bytes: int
    of: str
    """``container`` or ``machine``."""

    @property
    def share(self) -> float:
        return self.used_bytes / self.limit_bytes

    @property
    def free_bytes(self) -> int:
        return max(0, self.limit_bytes - self.used_bytes)


def memory_use(root: Path = _ROOT) -> MemoryUse | None:
    """Of the container or the machine, whichever has less left; None where neither can be read."""
    found = [use for use in (_container(root), _machine(root)) if use is not None]
    return min(found, key=lambda use: use.free_bytes, default=None)


def limit_bytes(root: Path = _ROOT) -> int:
    """The memory that the container, or else the machine, has."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    container = _container(root)
    return machine if container is None else min(machine, container.limit_bytes)


def stalled_percent(root: Path = _ROOT) -> float:
    """The part of the last ten seconds in which everything waited for memory (PSI); 0 where that is not readable.

    The container's own with cgroup 2; the machine's, which others press as well, is no answer.
    """
    found = re.search(r"^full avg10=([\d.]+)", _text(root / _V2 / "memory.pressure"), re.MULTILINE)
    return float(found[1]) if found else 0.0


def killed_for_memory(root: Path = _ROOT) -> int | None:
    """How many processes of this container the kernel has killed for want of memory; None where nobody says."""
    for path in (f"{_V2}/memory.events", f"{_V1}/memory.oom_control"):
        if found := re.search(r"^oom_kill (\d+)", _text(root / path), re.MULTILINE):
            return int(found[1])
    return None


def _container(root: Path) -> MemoryUse | None:
    for limit, used, cached in (
        (f"{_V2}/memory.max", f"{_V2}/memory.current", "inactive_file"),
        (f"{_V1}/memory.limit_in_bytes", f"{_V1}/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = int(_text(root / limit)), int(_text(root / used))
        except ValueError:  # another version, or "max"
            continue
        files = re.search(rf"^{cached} (\d+)", _text((root / limit).parent / "memory.stat"), re.MULTILINE)
        return MemoryUse(max(0, now - (int(files[1]) if files else 0)), most, "container")
    return None


def _machine(root: Path) -> MemoryUse | None:
    text = _text(root / "proc/meminfo")
    total, left = (
        re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE) for key in ("MemTotal", "MemAvailable")
    )
    if total is None or left is None:
        return None
    return MemoryUse((int(total[1]) - int(left[1])) << 10, int(total[1]) << 10, "machine")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
