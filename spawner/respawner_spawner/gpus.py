"""Which GPUs this machine has, by NVML (what `nvidia-smi --query-gpu=uuid,name,memory.total` shows)."""

from __future__ import annotations

from dataclasses import dataclass

import pynvml


@dataclass(frozen=True)
class Gpu:
    uuid: str
    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Inventory:
    """The GPUs of one host; `cause` says why there are none."""

    gpus: tuple[Gpu, ...] = ()
    cause: str = ""


def inventory() -> Inventory:
    """Ask NVML. Never raises: a broken driver is an empty inventory with its cause.

    A GPU that fails while it is read (lost from the bus) is left out and named in `cause`.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Inventory(cause=_explain(error))
    try:
        return _read()
    except pynvml.NVMLError as error:
        return Inventory(cause=_explain(error))
    finally:
        pynvml.nvmlShutdown()


def _read() -> Inventory:
    gpus, causes = [], []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            gpus.append(
                Gpu(
                    uuid=pynvml.nvmlDeviceGetUUID(handle),
                    name=pynvml.nvmlDeviceGetName(handle),
                    memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                )
            )
        except pynvml.NVMLError as error:
            causes.append(f"GPU at index {index}: {_explain(error)}")
    return Inventory(tuple(gpus), "; ".join(causes))


def _explain(error: pynvml.NVMLError) -> str:
    known = {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver on this machine (libnvidia-ml.so.1 is missing)",
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is installed but not loaded: try `modprobe nvidia` or reboot",
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "NVIDIA's driver and library have different versions: reboot after the upgrade",
        pynvml.NVML_ERROR_NO_PERMISSION: "no permission to talk to the NVIDIA driver",
        pynvml.NVML_ERROR_GPU_IS_LOST: "the GPU fell off the bus: reboot the machine",
    }
    return known.get(error.value, f"NVML: {error}")
