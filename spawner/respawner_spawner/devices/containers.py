"""From a process on this host to its container, by its cgroup."""

from __future__ import annotations

import re
from pathlib import Path

_ID = re.compile(r"(?:^|[/-])([0-9a-f]{64})(?:\.scope)?(?=/|$)")
"""Docker's id at the end of a path's part, alone (cgroupfs driver) or as docker-ID.scope (systemd driver)."""


def container_ids(cgroup: str) -> tuple[str, ...]:
    """Ids in the text of /proc/PID/cgroup, the outermost container first (an engine in a container nests them).

    Reads cgroup v1 (`5:devices:/docker/ID`) and v2 (`0::/system.slice/docker-ID.scope`); () outside of containers.
    """
    ids: dict[str, None] = {}
    for line in cgroup.splitlines():
        path = line.partition(":")[2].partition(":")[2]
        ids |= dict.fromkeys(_ID.findall(path))
    return tuple(ids)


def containers_of(pid: int, proc: Path = Path("/proc")) -> tuple[str, ...]:
    """The same for a process of this host; () when it has ended."""
    try:
        return container_ids((proc / str(pid) / "cgroup").read_text())
    except OSError:
        return ()
