"""Can a running session still use the GPUs that it was given?

After `systemctl daemon-reload` (or anything else that makes systemd write its units' device rules anew) containers may
lose their GPUs while everything looks well from outside: the device nodes are there, NVML on the host answers, but
opening /dev/nvidia* in the container is refused (nvidia-container-toolkit#48). Two ways to see it:

- cgroup v1: the kernel shows the container's rules in `devices.list`. Nothing runs in the container.
- cgroup v2: the rules are a BPF program that nobody can read back, so a few lines of Python in the container open the
  device nodes, as the session's own programs would (`docker exec` puts them into the same cgroup). Every image with
  jupyterhub-singleuser has python3. Reading only cgroup files would say "fine" of a host where they say nothing.

What neither way can tell is "unknown", never "usable".
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import docker.errors
import requests.exceptions

from .values import Access

_PROBE = """
import errno, glob, json, os
said = {}
for path in sorted(glob.glob("/dev/nvidia[0-9]*") + glob.glob("/dev/nvidiactl")):
    try:
        os.close(os.open(path, os.O_RDWR))
        said[path] = ""
    except OSError as error:
        said[path] = errno.errorcode.get(error.errno, str(error.errno))
print(json.dumps(said))
"""

_REFUSED = ("EPERM",)
"""What the device cgroup answers. EACCES would be the node's own permissions, ENODEV and EIO a fault of the driver."""


def check(
    client: Any, container: str, holder: str, uuids: Sequence[str], now: float, proc: Path = Path("/proc")
) -> Access:
    """Look at one running container.

    :param client: docker-py's low-level client of the engine, whose calls wait as long as its timeout says.
    """
    said = _by_devices_list(client, container, proc)
    if said is None:
        said = _by_opening(client, container)
    verdict, words = said
    return Access(container, holder, tuple(uuids), verdict, words, now)


def rules_allow(rules: str, kind: str, major: int, minor: int) -> bool:
    """Whether cgroup v1's `devices.list` lets a device be read and written.

    :param rules: its text, lines such as "c 195:* rwm" or "a *:* rwm".
    :param kind: "c" or "b".
    """
    for line in rules.splitlines():
        rule = re.fullmatch(r"([abc]) (\d+|\*):(\d+|\*) (\w+)", line.strip())
        if rule is None:
            continue
        right = rule[1] in ("a", kind) and rule[2] in ("*", str(major)) and rule[3] in ("*", str(minor))
        if right and "r" in rule[4] and "w" in rule[4]:
            return True
    return False


def _by_devices_list(client: Any, container: str, proc: Path) -> tuple[str, str] | None:
    """None where it cannot be told: cgroup v2, a remote engine, no rights."""
    try:
        pid = int(client.inspect_container(container)["State"]["Pid"])
        rules = _devices_list(proc / str(pid))
        nodes = list(_nodes(proc / str(pid) / "root" / "dev"))
    except (OSError, LookupError, docker.errors.DockerException, requests.exceptions.RequestException):
        return None
    if rules is None or not pid:
        return None
    blocked = [name for name, major, minor in nodes if not rules_allow(rules, "c", major, minor)]
    return _verdict([name for name, _, _ in nodes], blocked)


def _devices_list(process: Path) -> str | None:
    for line in (process / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "devices" in controllers.split(","):
            mount = Path("/sys/fs/cgroup/devices")
            return (mount / path.lstrip("/") / "devices.list").read_text()
    return None


def _nodes(dev: Path) -> Iterator[tuple[str, int, int]]:
    """NVIDIA's device nodes that a container has: name, major, minor."""
    for path in sorted(dev.iterdir()):
        if re.fullmatch(r"nvidia(\d+|ctl)", path.name):
            found = path.lstat()
            if stat.S_ISCHR(found.st_mode):
                yield f"/dev/{path.name}", os.major(found.st_rdev), os.minor(found.st_rdev)


def _by_opening(client: Any, container: str) -> tuple[str, str]:
    try:
        job = client.exec_create(container, ["python3", "-c", _PROBE], stderr=False)
        said = json.loads(client.exec_start(job["Id"]))
    except (ValueError, docker.errors.DockerException, requests.exceptions.RequestException) as error:
        return "unknown", f"it could not be asked: {error}"
    other = [f"{path}: {error}" for path, error in said.items() if error and error not in _REFUSED]
    blocked = [path for path, error in said.items() if error in _REFUSED]
    if other and not blocked:
        return "unknown", f"opening its GPU fails, but not for want of the right: {', '.join(other)}"
    return _verdict(list(said), blocked)


def _verdict(nodes: Sequence[str], blocked: Sequence[str]) -> tuple[str, str]:
    if not nodes:
        return "unknown", "it has no /dev/nvidia*"
    if blocked:
        return "blocked", (
            f"a running session may not open {', '.join(blocked)} any more, as after `systemctl daemon-reload`: "
            "restart the session; see nvidia-container-toolkit#48"
        )
    return "usable", ""
