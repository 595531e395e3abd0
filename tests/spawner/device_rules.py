"""Takes a device away from a running container by its cgroup, as a daemon-reload does to GPUs."""

from pathlib import Path

import pytest

ZERO = "1:5"
"""Numbers of /dev/zero, which tests give to containers under NVIDIA's name."""


def deny(pid: int, device: str) -> None:
    """`pid` is any process of the container. Skips where only the engine could do it."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    path = next((line.split(":", 2)[2] for line in lines if "devices" in line.split(":")[1].split(",")), None)
    if path is None:
        pytest.skip("cgroup v2: nobody but the engine can change a container's device rules")
    Path(f"/sys/fs/cgroup/devices{path}/devices.deny").write_text(f"c {device} rwm")
