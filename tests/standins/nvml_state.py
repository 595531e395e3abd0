"""What the stand-in `libnvidia-ml.so.1` shows: devices and faults, written to the file that it reads.

    state = State(gpus=[Gpu("GPU-a"), Gpu("GPU-b", migs=[Mig("MIG-b1", gpu_instance=1)])])
    state.write(path)            # the processes under test have FAKE_NVML_STATE=path
    state.gpus[0].lost = True
    state.write(path)            # from now on GPU-a has fallen off the bus

A value of None is "not supported". A GPU taken from `gpus` is lost as well, and one added is seen after the next
nvmlInit; `driver_restarts` + 1 fails every call until then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

GIB = 1 << 30
HW_THERMAL_SLOWDOWN = 0x40


@dataclass
class Process:
    pid: int
    used_bytes: int | None = None
    sm_percent: int | None = None
    """Its part of the GPU's time; None: the same part of the GPU's utilisation for each process."""


@dataclass
class _Device:
    uuid: str
    name: str = "STAND-IN A100"
    memory_total: int = 80 * GIB
    memory_used: int = 0
    memory_reserved: int = 0
    processes: Sequence[Process] = ()
    errors: dict[str, int] = field(default_factory=dict)
    """NVML function → the error code that it returns for this device."""


@dataclass
class Mig(_Device):
    """A MIG device: no utilisation, temperature or power of its own."""

    name: str = "STAND-IN A100 MIG 1g.10gb"
    memory_total: int = 10 * GIB
    gpu_instance: int = 1
    compute_instance: int = 0
    slices: int = 1


@dataclass
class Gpu(_Device):
    utilization: int | None = 0
    temperature: int | None = 35
    power_mw: int | None = 60_000
    power_limit_mw: int | None = 400_000
    ecc_volatile_uncorrected: int | None = 0
    ecc_volatile_corrected: int | None = 0
    ecc_aggregate_uncorrected: int | None = 0
    clocks_event_reasons: int = 0
    """Bits as in NVML; HW_THERMAL_SLOWDOWN is 0x40."""
    event_types: int | None = None
    """Bits of the events that it can tell; 0 is an old GPU without any."""
    xids: list[int | str] = field(default_factory=list)
    """Append to it: every entry is one event, a code or "CODE@GPU_INSTANCE"."""
    lost: bool = False
    mig_mode: int | None = None
    migs: list[Mig] = field(default_factory=list)
    """Setting these without `mig_mode` switches it on."""
    bus_id: str | None = None
    minor: int | None = None
    fan: int | None = None
    clock_mhz: int = 1410
    pcie_kb: int = 0
    pstate: int = 0
    persistence: int = 1
    compute_mode: int = 0
    display_active: int = 0
    display_mode: int = 0


@dataclass
class State:
    gpus: list[Gpu] = field(default_factory=list)
    driver_version: str = "570.86.15"
    nvml_version: str = "12.570.86.15"
    cuda_version: int = 12080
    driver_restarts: int = 0
    init_error: int = 0
    """Error code of nvmlInit; 9 is "driver not loaded"."""
    hang: str = ""
    """NVML function that does not return while this is set; "*" is every one."""
    errors: dict[str, int] = field(default_factory=dict)
    """NVML function → the error code that it returns for every device."""

    def write(self, path: Path) -> Path:
        """Replace the file in one step, so that no reader sees half of it. Returns `path`."""
        lines = ["[system]", *_lines(self)]
        for number, gpu in enumerate(self.gpus):
            bus = gpu.bus_id or f"00000000:{number + 1:02X}:00.0"
            mode = 1 if gpu.mig_mode is None and gpu.migs else gpu.mig_mode
            minor = number if gpu.minor is None else gpu.minor
            utilization = None if gpu.migs else gpu.utilization
            shown = {"bus_id": bus, "mig_mode": mode, "minor": minor, "utilization": utilization}
            lines += ["", "[gpu]", *_lines(gpu, **shown)]
            for mig in gpu.migs:
                lines += ["", "[mig]", *_lines(mig)]
        scratch = path.with_name(path.name + ".new")
        scratch.write_text("\n".join(lines) + "\n")
        scratch.replace(path)
        return path


def gpus(count: int, **values: object) -> list[Gpu]:
    """`count` alike GPUs, GPU-0000 and so on."""
    return [Gpu(f"GPU-{number:04d}", **values) for number in range(count)]  # type: ignore[arg-type]


def _lines(thing: object, **replaced: object) -> list[str]:
    values = {entry.name: getattr(thing, entry.name) for entry in fields(thing)} | replaced  # type: ignore[arg-type]
    errors = values.pop("errors")
    lines = [f"error.{function} = {code}" for function, code in errors.items()]
    return lines + [
        f"{key} = {_text(value)}"
        for key, value in values.items()
        if value not in (None, "", (), []) and key not in ("gpus", "migs")
    ]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, Process):
        said = f"{value.pid}:{'-' if value.used_bytes is None else value.used_bytes}"
        return said if value.sm_percent is None else f"{said}:{value.sm_percent}"
    return " ".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)
