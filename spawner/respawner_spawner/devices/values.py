"""What is said about devices: plain frozen values, which travel as JSON from a host's agent to the hub.

Times are unix seconds of the host that says it, memory is bytes. None is "nobody can tell", never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..leases.model import Device, Kind
from .health import Health, HealthEvent


@dataclass(frozen=True)
class Gpu:
    """A GPU or a MIG device, as `nvidia-smi -L` lists them."""

    uuid: str
    name: str
    memory_bytes: int
    parent: str = ""
    """UUID of a MIG device's GPU, "" for a GPU."""
    profile: str = ""
    """Of a MIG device, for example "1g.10gb"."""
    gpu_instance: int | None = None
    """Of a MIG device: the part of the GPU that Xid events name."""
    mig_mode: bool = False
    """Divided into MIG devices, which can be granted; the GPU itself cannot."""


@dataclass(frozen=True)
class Inventory:
    """The devices of one host; `cause` says why there are none, or which could not be read."""

    found: tuple[Gpu, ...] = ()
    """Everything, GPUs in MIG mode followed by their MIG devices."""
    cause: str = ""
    driver_version: str = ""
    cuda_version: str = ""
    """The newest CUDA that the driver knows, for example "12.8"; "" where nobody can tell."""

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """What can be granted: GPUs without MIG mode, and MIG devices."""
        return tuple(gpu for gpu in self.found if not gpu.mig_mode)

    def devices(self, host: str, cordons: Mapping[str, str] | None = None) -> tuple[Device, ...]:
        """What can be granted, as the scheduler knows it.

        :param cordons: UUID → why it takes no new lease.
        """
        models = {gpu.uuid: gpu.name for gpu in self.found}
        return tuple(
            Device(
                uuid=gpu.uuid,
                host=host,
                model=models.get(gpu.parent, gpu.name.partition(" MIG ")[0]),
                memory_bytes=gpu.memory_bytes,
                kind=Kind.MIG if gpu.parent else Kind.GPU,
                parent=gpu.parent,
                profile=gpu.profile,
                cordon=(cordons or {}).get(gpu.uuid, ""),
            )
            for gpu in self.gpus
        )


@dataclass(frozen=True)
class Reading:
    """One device at one moment. A MIG device has no utilisation, temperature or power of its own."""

    uuid: str
    at: float
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    utilization_percent: int | None = None
    """Share of the last sample period in which some kernel ran; not how much of the GPU it used."""
    temperature_celsius: int | None = None
    power_watts: float | None = None
    ecc_uncorrected: int | None = None
    """Errors since the driver was loaded."""
    thermal_slowdown: bool = False
    """The hardware has lowered its clocks because it is too hot."""
    error: str = ""
    """Why it could not be read."""
    lost: bool = False
    """The error is that it fell off the bus."""


@dataclass(frozen=True)
class GpuProcess:
    """A process on a device."""

    uuid: str
    pid: int
    """As the host counts it."""
    used_bytes: int | None
    container: str = ""
    """Docker's id of its container, "" outside of containers."""
    holder: str = ""
    """The session, "deployment/user/server"; "" where the container has no such label."""
    utilization_percent: int | None = None
    """Share of the time since the last list in which its kernels ran; None where the driver does not tell it by process."""


@dataclass(frozen=True)
class Access:
    """Whether a running session can still use the GPUs that it was given (`canary`)."""

    container: str
    holder: str
    uuids: tuple[str, ...]
    verdict: str
    """"usable", "blocked" or "unknown"."""
    words: str
    at: float


@dataclass(frozen=True)
class Report:
    """Everything that a host knows about its devices."""

    at: float
    """When this was put together."""
    read_at: float = 0
    """When NVML last answered a whole round of questions; 0: not yet."""
    processes_at: float = 0
    inventory: Inventory = Inventory()
    readings: tuple[Reading, ...] = ()
    processes: tuple[GpuProcess, ...] = ()
    health: tuple[Health, ...] = ()
    events: tuple[HealthEvent, ...] = ()
    """The last ones, oldest first."""
    xid_counts: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """UUID → Xid → how often since the agent started, applications' own errors included."""
    access: tuple[Access, ...] = ()
    causes: tuple[str, ...] = ()
    """What does not work, in words; () when all is well."""
    stale: str = ""
    """Why the readings are older than they should be; "" when they are not."""

    def devices(self, host: str) -> tuple[Device, ...]:
        """What can be granted, with the reason where it takes no new lease."""
        cordons = {gpu.uuid: self.stale for gpu in self.inventory.found if self.stale}
        cordons |= {health.uuid: "; ".join(health.words) for health in self.health if not health.ok}
        return self.inventory.devices(host, cordons)

    def with_access(self, access: tuple[Access, ...], cause: str) -> Report:
        """The same with what the engine says about the sessions."""
        return replace(self, access=access, causes=(*self.causes, cause) if cause else self.causes)
