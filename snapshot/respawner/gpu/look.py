"""Gathers the facts, without importing torch and without initialising CUDA."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..contract import GPU_MEMORY_BYTES_ENV, GPU_SHARE_ENV
from . import nvml
from .facts import Driver, Facts, Host, Lease, Torch, Use

_ROOT = Path("/")


def look() -> Facts:
    """Everything that is known now. Takes some ms, `nvml.PATIENCE_SECONDS` where the driver hangs."""
    driver, devices = nvml.look()
    return Facts(
        lease=lease(os.environ),
        driver=_with_files(driver, _ROOT),
        devices=devices,
        torch=torch_build(),
        uses=uses(),
        host=host(_ROOT),
    )


def lease(environment: Mapping[str, str]) -> Lease:
    share_bytes = environment.get(GPU_MEMORY_BYTES_ENV, "")
    pipe = environment.get("CUDA_MPS_PIPE_DIRECTORY")
    base = environment.get("JUPYTERHUB_BASE_URL", "")
    return Lease(
        visible=environment.get("NVIDIA_VISIBLE_DEVICES"),
        in_session="JUPYTERHUB_USER" in environment,
        gpus_page=f"{base.rstrip('/')}/hub/gpus/queue" if base else "",
        capabilities=environment.get("NVIDIA_DRIVER_CAPABILITIES"),
        cuda_visible=environment.get("CUDA_VISIBLE_DEVICES"),
        share=environment.get(GPU_SHARE_ENV),
        share_bytes=int(share_bytes) if share_bytes.isdigit() else 0,
        mps_memory=environment.get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"),
        mps_threads=environment.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"),
        mps_pipe=pipe,
        mps_serves=(Path(pipe or "/tmp/nvidia-mps") / "control").exists(),  # noqa: S108  # CUDA's default
    )


def _with_files(driver: Driver, root: Path) -> Driver:
    """Add what /proc and /dev say. Device files are opened and closed: that alone shows what the cgroup allows."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text()
    except OSError:
        text = ""
    found = re.search(r"Kernel Module\D*?(?:for \S+\s+)?(\d+\.\d[\d.]*)", text)
    nodes = {
        str(path): _opening(path) for path in sorted((root / "dev").glob("nvidia*")) if path.is_char_device()
    }
    return replace(
        driver,
        kernel_version=found[1] if found else "",
        nodes=nodes,
        has_libcuda=_has_libcuda() if not driver.error else None,
    )


def _opening(path: Path) -> str:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _has_libcuda() -> bool:
    """Loading it starts nothing: only `cuInit` does."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def torch_build() -> Torch | None:
    """The build, of the imported torch or, where it is not imported, of the installed one."""
    torch = sys.modules.get("torch")
    if torch is None:
        return _installed_torch()
    version = getattr(torch, "version", None)
    flags = getattr(
        getattr(torch, "_C", None), "_cuda_getArchFlags", lambda: None
    )()  # get_arch_list() starts CUDA
    return Torch(
        version=str(getattr(torch, "__version__", "?")),
        cuda=getattr(version, "cuda", None),
        hip=getattr(version, "hip", None),
        imported=True,
        initialised=cuda_runs(),
        arches=tuple((flags or "").split()),
        mixed=mixed_wheels(),
    )


def cuda_runs() -> bool:
    """Whether CUDA is initialised in this process."""
    cuda = sys.modules.get("torch.cuda")
    return bool(cuda is not None and cuda.is_initialized())


def _installed_torch() -> Torch | None:
    try:
        spec = find_spec("torch")
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text()
    except OSError:
        return None
    values = dict(re.findall(r"^(\w+)(?:\s*:[^=\n]*)?\s*=\s*'([^']*)'", text, re.MULTILINE))
    return Torch(
        version=values.get("__version__", "?"),
        cuda=values.get("cuda"),
        hip=values.get("hip"),
        mixed=mixed_wheels(),
    )


def mixed_wheels() -> tuple[str, ...]:
    """NVIDIA's wheels whose version is another than torch pins: loaded beside it they crash or are not found."""
    found = []
    for wanted in _requirements("torch"):
        pin = re.match(r"(nvidia-[\w-]+)\s*\(?==\s*([\w.]+)", wanted)
        if not pin:
            continue
        try:
            installed = metadata.version(pin[1])
        except metadata.PackageNotFoundError:
            continue  # also where another machine's kind would need it
        if installed != pin[2]:
            found.append(f"{pin[1]} is {installed}, wanted {pin[2]}")
    return tuple(found)


def _requirements(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def uses() -> tuple[Use, ...]:
    """What PyTorch has on each device; nothing where CUDA does not run, and asking does not start it."""
    if not cuda_runs():
        return ()
    cuda = sys.modules["torch.cuda"]
    return tuple(_use(cuda, index) for index in range(cuda.device_count()))


def _use(cuda: Any, index: int) -> Use:
    properties = cuda.get_device_properties(index)
    return Use(
        index=index,
        name=properties.name,
        total=properties.total_memory,
        allocated=cuda.memory_allocated(index),
        reserved=cuda.memory_reserved(index),
        peak_allocated=cuda.max_memory_allocated(index),
        uuid=str(getattr(properties, "uuid", "")),
    )


def host(root: Path) -> Host:
    """Limits of this container's own cgroup, which is the root of what it sees; version 2, else version 1."""
    folder = root / "sys/fs/cgroup"
    if (folder / "cgroup.controllers").exists():
        memory, used, peak = (_number(folder / f"memory.{name}") for name in ("max", "current", "peak"))
        quota, _, period = _text(folder / "cpu.max").partition(" ")  # "max 100000" is no limit
        cpus = int(quota) / int(period) if quota.isdigit() and period.isdigit() else None
    else:
        names = ("limit_in_bytes", "usage_in_bytes", "max_usage_in_bytes")
        memory, used, peak = (_number(folder / "memory" / f"memory.{name}") for name in names)
        quota_us, period_us = (_number(folder / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        cpus = quota_us / period_us if quota_us and period_us else None
    if memory is not None and memory > 1 << 60:  # version 1's way to say that there is no limit
        memory = None
    return Host(memory, used, peak, cpus, _shm(root / "dev/shm"))


def _shm(folder: Path) -> int | None:
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_frsize * found.f_blocks


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
