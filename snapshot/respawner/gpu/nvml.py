"""One look at NVML, by pynvml where it can be imported. NVML never initialises CUDA."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .facts import NO_ANSWER, NO_BINDING, Device, Driver

PATIENCE_SECONDS = 5.0

_asking: threading.Thread | None = None


def look(patience_seconds: float = PATIENCE_SECONDS) -> tuple[Driver, tuple[Device, ...]]:
    """The driver and every device that this container sees.

    A driver in trouble may never return from a call, so it is asked in a thread; one that hangs is not asked again.
    """
    global _asking
    if _asking is not None and _asking.is_alive():
        return Driver(error=NO_ANSWER), ()
    answer: list[tuple[Driver, tuple[Device, ...]]] = []
    _asking = threading.Thread(target=lambda: answer.append(_ask()), name="respawner-nvml", daemon=True)
    _asking.start()
    _asking.join(patience_seconds)
    return answer[0] if answer else (Driver(error=NO_ANSWER), ())


def _ask() -> tuple[Driver, tuple[Device, ...]]:
    try:
        import pynvml
    except ImportError:
        return Driver(error=NO_BINDING), ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Driver(error=error.value), ()
    try:
        version = _or(pynvml, "", pynvml.nvmlSystemGetDriverVersion)
        cuda = _or(pynvml, 0, pynvml.nvmlSystemGetCudaDriverVersion_v2)  # 12080 is 12.8
        driver = Driver(version=version, cuda=(cuda // 1000, cuda % 1000 // 10) if cuda else None)
        try:
            return driver, tuple(_devices(pynvml))
        except pynvml.NVMLError as error:
            return replace(driver, error=error.value), ()
    finally:
        _or(pynvml, None, pynvml.nvmlShutdown)


def _devices(pynvml: Any) -> list[Device]:
    found = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            gpu = _device(pynvml, handle)
        except pynvml.NVMLError as error:
            found.append(Device(f"the GPU at index {index}", error=error.value))
            continue
        mode = _or(pynvml, (0, 0), pynvml.nvmlDeviceGetMigMode, handle)
        found.append(replace(gpu, mig_mode=mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE))
        for slot in range(
            _or(pynvml, 0, pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) if found[-1].mig_mode else 0
        ):
            try:
                part = _device(pynvml, pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot))
            except pynvml.NVMLError:
                continue  # slots have gaps
            found.append(replace(part, parent=gpu.uuid, capability=gpu.capability))
    return found


def _device(pynvml: Any, handle: Any) -> Device:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    use = _or(pynvml, None, pynvml.nvmlDeviceGetUtilizationRates, handle)
    return Device(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        memory_bytes=int(memory.total),
        used_bytes=int(memory.used),
        utilization_percent=None if use is None else int(use.gpu),
        capability=_or(pynvml, None, pynvml.nvmlDeviceGetCudaComputeCapability, handle),
        compute_mode=_or(pynvml, 0, pynvml.nvmlDeviceGetComputeMode, handle),
        processes=len(_or(pynvml, (), pynvml.nvmlDeviceGetComputeRunningProcesses, handle)),
    )


def _or(pynvml: Any, otherwise: Any, ask: Callable[..., Any], *arguments: Any) -> Any:
    """`otherwise` where device, driver or rights give no answer."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError:
        return otherwise
