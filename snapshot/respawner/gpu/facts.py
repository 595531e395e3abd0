"""What is known of GPUs, driver and PyTorch in this session: plain values, so that the diagnosis is a pure function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LIBRARY_NOT_FOUND = 12
DRIVER_NOT_LOADED = 9
NO_PERMISSION = 4
VERSION_MISMATCH = 18
GPU_IS_LOST = 15
UNKNOWN = 999
"""NVML's error codes: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceEnumvs.html"""

NO_BINDING = -1
"""pynvml cannot be imported."""
NO_ANSWER = -2
"""A call of NVML has not returned in time."""

EXCLUSIVE_PROCESS = 3
PROHIBITED = 2
"""Compute modes of NVML."""


@dataclass(frozen=True)
class Lease:
    """What the container was given, as its environment says it."""

    visible: str | None = None
    """``NVIDIA_VISIBLE_DEVICES``: UUIDs, ``void`` or None where nobody set it."""
    in_session: bool = False
    """A hub started this."""
    gpus_page: str = ""
    """Path of the hub's page where a session asks for GPUs."""
    capabilities: str | None = None
    """``NVIDIA_DRIVER_CAPABILITIES``."""
    cuda_visible: str | None = None
    """``CUDA_VISIBLE_DEVICES``."""
    share: str | None = None
    """Of a shared GPU: what holds to the limit."""
    share_bytes: int = 0
    mps_memory: str | None = None
    """``CUDA_MPS_PINNED_DEVICE_MEM_LIMIT``."""
    mps_threads: str | None = None
    """``CUDA_MPS_ACTIVE_THREAD_PERCENTAGE``."""
    mps_pipe: str | None = None
    """``CUDA_MPS_PIPE_DIRECTORY``."""
    mps_serves: bool = False
    """An MPS server's control pipe is there."""

    @property
    def uuids(self) -> tuple[str, ...]:
        """The devices that it names by UUID."""
        return tuple(
            word for word in (self.visible or "").replace(" ", "").split(",") if word[:4] in ("GPU-", "MIG-")
        )

    @property
    def is_none(self) -> bool:
        """Whether the container was expressly given no GPU."""
        return self.visible is not None and self.visible.strip().lower() in ("", "void", "none")


@dataclass(frozen=True)
class Device:
    """A GPU, or a MIG device with `parent`, as NVML sees it."""

    uuid: str
    name: str = ""
    memory_bytes: int = 0
    used_bytes: int = 0
    """By everybody together."""
    utilization_percent: int | None = None
    parent: str = ""
    mig_mode: bool = False
    capability: tuple[int, int] | None = None
    """CUDA compute capability."""
    compute_mode: int = 0
    processes: int = 0
    """Of everybody, that compute on it."""
    error: int = 0
    """NVML's error code, where it does not answer."""


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver, from NVML, /proc and /dev."""

    error: int = 0
    """NVML's error code of its start, `NO_BINDING` or `NO_ANSWER`; 0 is none."""
    version: str = ""
    """As NVML says it."""
    kernel_version: str = ""
    """Of the loaded kernel module; empty where none is loaded."""
    cuda: tuple[int, int] | None = None
    """The newest CUDA that it knows."""
    has_libcuda: bool | None = None
    """None where nobody looked."""
    nodes: Mapping[str, str] = field(default_factory=dict)
    """Device file → why it cannot be opened, "" where it can."""


@dataclass(frozen=True)
class Torch:
    """The PyTorch of this kernel."""

    version: str
    cuda: str | None = None
    """The CUDA that it was built with, None for a build without."""
    hip: str | None = None
    imported: bool = False
    initialised: bool = False
    """CUDA is in use in this process."""
    arches: tuple[str, ...] = ()
    """What its kernels were compiled for, as ``sm_90``, ``compute_90``; empty where it is not imported."""
    mixed: tuple[str, ...] = ()
    """NVIDIA's wheels in other versions than this torch wants."""


@dataclass(frozen=True)
class Use:
    """What this process has allocated on one device by PyTorch, in bytes."""

    index: int
    name: str
    total: int
    allocated: int
    reserved: int
    peak_allocated: int
    uuid: str = ""


@dataclass(frozen=True)
class Host:
    """Limits of the container, from its cgroup. None: no limit, or nobody knows."""

    memory_bytes: int | None = None
    used_bytes: int | None = None
    peak_bytes: int | None = None
    cpus: float | None = None
    shm_bytes: int | None = None


@dataclass(frozen=True)
class Facts:
    lease: Lease
    driver: Driver
    devices: tuple[Device, ...] = ()
    torch: Torch | None = None
    uses: tuple[Use, ...] = ()
    host: Host = Host()

    @property
    def own_devices(self) -> tuple[Device, ...]:
        """Those of the lease, where it names any; else all that NVML shows."""
        named = self.lease.uuids
        return (
            tuple(device for device in self.devices if device.uuid in named or device.parent in named)
            if named
            else self.devices
        )
