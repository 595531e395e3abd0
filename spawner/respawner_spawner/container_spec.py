"""From what a session is to what Docker is told: pure, so that every promise about a container is a test.

Not for decisions: which image, which GPUs and which limits are decided before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker.types import DeviceRequest, LogConfig
from respawner import contract

from .image_facts import ImageFacts
from .leases.model import Kind

DEPLOYMENT_LABEL = "org.respawner.deployment"
HOLDER_LABEL = "org.respawner.holder"
USER_LABEL = "org.respawner.user"
SERVER_LABEL = "org.respawner.server"
GPUS_LABEL = "org.respawner.gpus"
FENCE_LABEL = "org.respawner.fence"
SHARE_LABEL = "org.respawner.share-bytes"
GROUPS_LABEL = "org.respawner.groups"
PREEMPTIBLE_LABEL = "org.respawner.preemptible"

CPU_PERIOD = 100_000
"""Microseconds over which a CPU limit counts."""
TORCH_READS_FRACTION = (2, 13)
"""Since this version, or earlier: PyTorch refuses to start with an option that it does not know."""


@dataclass(frozen=True)
class Share:
    """A part of one GPU's memory."""

    size_bytes: int
    device_bytes: int
    """Of the whole GPU; 0 where nobody knows."""

    @property
    def fraction(self) -> float:
        return min(1.0, self.size_bytes / self.device_bytes) if self.device_bytes else 0.0


@dataclass(frozen=True)
class Session:
    """Everything that one container is made of."""

    deployment: str
    holder: str
    user: str
    server: str
    image: ImageFacts
    home_volume: str
    snapshot_volume: str
    bundle: Path
    """The kernel bundle on the engine's host."""
    gpus: Sequence[str] = ()
    """UUIDs, of GPUs or MIG devices."""
    share: Share | None = None
    """Where the one GPU is shared."""
    fence: int = 0
    """Number of its hold on GPUs; 0: nobody has counted for this session yet."""
    fence_file: str = contract.FENCE_FILE
    groups: Sequence[str] = ()
    """JupyterHub groups of the user, whose limits count the session."""
    preemptible: bool = True
    cpu_limit: float | None = None
    mem_limit: int | None = None
    pids_limit: int = 4096
    shm_bytes: int = 1 << 31
    cap_add: Sequence[str] = ()
    stop_grace_seconds: int = 60
    environment: Mapping[str, str] = field(default_factory=dict)


def environment(session: Session) -> dict[str, str]:
    """Variables of the container: the hub's and admin's, then what makes snapshots and packages work."""
    image = session.image
    given = {**image.environment, **session.environment}
    user_base = f"{image.home}/.local/respawner/{image.environment_name}"
    added = {
        "HOME": image.home,
        contract.STORE_ENV: contract.STORE_DIR,
        contract.RUNTIME_ENV: contract.RUNTIME_DIR,
        # JUPYTER_CONFIG_PATH adds a folder to Jupyter's search; nothing of the image's or user's is hidden.
        "JUPYTER_CONFIG_PATH": _joined(given.get("JUPYTER_CONFIG_PATH"), f"{contract.BUNDLE_DIR}/jupyter"),
        # `pip install --user` lands on the home volume, in a folder that only this Python and torch read.
        "PYTHONUSERBASE": user_base,
        "PATH": _joined(
            given.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            f"{user_base}/bin",
        ),
    }
    if not session.gpus:
        added["NVIDIA_VISIBLE_DEVICES"] = contract.NO_GPU
    if session.fence:
        added |= {contract.FENCE_ENV: str(session.fence), contract.FENCE_FILE_ENV: session.fence_file}
    if session.share:
        added |= share_environment(session.share, image.environment_name, given)
    return {**session.environment, **added}


def share_environment(share: Share, environment_name: str, given: Mapping[str, str]) -> dict[str, str]:
    """What asks the session's programs to keep to their share, and says what holds them to it.

    Each is read by one kind of program: CUDA under an MPS server, JAX, and PyTorch where the image says that it has
    one that knows the option. Other programs see the whole GPU.
    """
    added = {
        contract.GPU_SHARE_ENV: Kind.SHARE.separation,
        contract.GPU_MEMORY_BYTES_ENV: str(share.size_bytes),
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={share.size_bytes >> 20}M",
    }
    if not share.fraction:
        return added
    # Rounded down: a share that is a little too small is better than shares that do not fit together.
    fraction = f"{int(share.fraction * 10_000) / 10_000:.4f}"
    added |= {contract.GPU_MEMORY_FRACTION_ENV: fraction, "XLA_PYTHON_CLIENT_MEM_FRACTION": fraction}
    if _torch_version(environment_name) >= TORCH_READS_FRACTION:
        option, variable = f"per_process_memory_fraction:{fraction}", "PYTORCH_CUDA_ALLOC_CONF"
        added[variable] = ",".join(filter(None, (given.get(variable), option)))
    return added


def _torch_version(environment_name: str) -> tuple[int, int]:
    """From an image's label, as "py3.11-torch2.13"; (0, 0) where it says none."""
    found = re.search(r"torch(\d+)\.(\d+)", environment_name)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def labels(session: Session) -> dict[str, str]:
    """Leases and ownership, so that they outlive a lost database."""
    return {
        DEPLOYMENT_LABEL: session.deployment,
        HOLDER_LABEL: session.holder,
        USER_LABEL: session.user,
        SERVER_LABEL: session.server,
        GPUS_LABEL: ",".join(session.gpus),
        FENCE_LABEL: str(session.fence),
        SHARE_LABEL: str(session.share.size_bytes if session.share else 0),
        GROUPS_LABEL: json.dumps(list(session.groups)),
        PREEMPTIBLE_LABEL: json.dumps(session.preemptible),
    }


@dataclass(frozen=True)
class Hold:
    """What the labels of a session's container prove of its lease."""

    uuids: tuple[str, ...]
    fence: int
    """0: it has none."""
    share_bytes: int
    groups: tuple[str, ...]
    preemptible: bool

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> Hold:
        """The inverse of `labels`; what an earlier version did not write has its default."""
        return cls(
            uuids=tuple(uuid for uuid in labels.get(GPUS_LABEL, "").split(",") if uuid),
            fence=int(labels.get(FENCE_LABEL) or 0),
            share_bytes=int(labels.get(SHARE_LABEL) or 0),
            groups=tuple(json.loads(labels.get(GROUPS_LABEL) or "[]")),
            preemptible=json.loads(labels.get(PREEMPTIBLE_LABEL) or "true"),
        )


def binds(session: Session) -> dict[str, dict[str, str]]:
    """Volumes and files, as docker-py's `binds`."""
    return {
        session.home_volume: {"bind": session.image.home, "mode": "rw"},
        session.snapshot_volume: {"bind": contract.STATE_DIR, "mode": "rw"},
        str(session.bundle): {"bind": contract.BUNDLE_DIR, "mode": "ro"},
        str(session.bundle / "ipython_startup.py"): {"bind": contract.STARTUP_FILE, "mode": "ro"},
    }


def host_config(session: Session) -> dict[str, Any]:
    """Limits, devices and privileges, as keyword arguments of docker-py's `create_host_config`."""
    config: dict[str, Any] = {
        "auto_remove": False,  # exit code and log would be gone before anybody could read them
        "cap_drop": ["ALL"],
        "cap_add": list(session.cap_add),
        "security_opt": ["no-new-privileges"],
        "init": not session.image.has_init,
        "pids_limit": session.pids_limit,
        "shm_size": session.shm_bytes,
        "log_config": LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3"}),
    }
    if session.mem_limit:
        # Swap counts: without this Docker allows as much swap again.
        config.update(mem_limit=session.mem_limit, memswap_limit=session.mem_limit)
    if session.cpu_limit:
        # As stock DockerSpawner says it, so that an admin's `extra_host_config` meets what it expects.
        config.update(cpu_period=CPU_PERIOD, cpu_quota=int(session.cpu_limit * CPU_PERIOD))
    if session.gpus:
        config["device_requests"] = [
            DeviceRequest(driver="nvidia", device_ids=list(session.gpus), capabilities=[["gpu"]])
        ]
    return config


def create_arguments(session: Session, command: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments of docker-py's `create_container`, without name, ports and host_config."""
    return {
        "image": session.image.name,
        "command": list(command),
        "user": session.image.user,
        "working_dir": session.image.home,
        "environment": environment(session),
        "labels": labels(session),
        "stop_timeout": session.stop_grace_seconds,
    }


def _joined(path: str | None, folder: str) -> str:
    return f"{path}:{folder}" if path else folder
