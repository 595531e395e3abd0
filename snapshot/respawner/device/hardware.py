"""What torch is asked about devices. Starts no accelerator that the notebook has not started, but for a restore."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from ..contract import GPU_MEMORY_BYTES_ENV
from ..errors import DeviceError
from .placement import Device

_HOST = ("cpu", "meta")


def is_device(kind: str) -> bool:
    """Whether tensors of that type of device have memory that the host cannot read."""
    return kind not in _HOST


def module_of(kind: str) -> Any | None:
    """``torch.cuda``, or what another backend has registered."""
    return getattr(sys.modules.get("torch"), kind, None)


def available(kinds: Iterable[str]) -> list[Device]:
    """The devices of these types that tensors can be put on now."""
    found = []
    for kind in sorted(set(kinds)):
        module = module_of(kind)
        if module is not None and module.is_available():
            found += [Device(kind, index, uuid_of(kind, index)) for index in range(module.device_count())]
    return found


def uuid_of(kind: str, index: int) -> str | None:
    """The hardware's own name (`torch.cuda.get_device_properties`, from torch 2.5 on)."""
    try:
        uuid = getattr(module_of(kind).get_device_properties(index), "uuid", None)  # type: ignore[union-attr]
    except Exception:  # a backend without properties, a device that has gone
        return None
    return None if uuid is None else str(uuid)


def started() -> list[tuple[str, Any]]:
    """Accelerators that the notebook has begun to use, with torch's modules for them."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "_C"):
        return []
    names = {"cuda", "xpu", getattr(torch._C, "_get_privateuse1_backend_name", lambda: "cuda")()}
    modules = [(name, getattr(torch, name, None)) for name in sorted(names)]
    return [(name, module) for name, module in modules if getattr(module, "is_initialized", bool)()]


def room_on(device: str) -> int:
    """Bytes of its memory that may be taken for a moment: a quarter of what is free now, for the cell may want the rest
    meanwhile. 0 where nobody can tell."""
    kind, _, index = device.partition(":")
    module: Any = module_of(kind)
    try:
        free, total = module.mem_get_info(int(index))
        # A share of the GPU may be less than what is free on it.
        shares = [int(told)] if (told := os.environ.get(GPU_MEMORY_BYTES_ENV, "")).isdigit() else []
        if hasattr(module, "get_per_process_memory_fraction"):
            shares.append(int(module.get_per_process_memory_fraction(int(index)) * total))
        if shares:
            free = min(free, min(shares) - module.memory_reserved(int(index)))
    except (AttributeError, RuntimeError):  # another backend, another allocator
        return 0
    return int(max(0, free) // 4)


def is_exhausted(error: BaseException | None) -> bool:
    """Whether torch raised it because a device's memory is used up (`torch.OutOfMemoryError`)."""
    classes = type(error).__mro__
    return any(
        c.__name__ == "OutOfMemoryError" and c.__module__.partition(".")[0] == "torch" for c in classes
    )


def synchronize() -> None:
    """Wait for what started accelerators still compute, on any stream: what they write can be read then.

    Raises `DeviceError` where one of them has failed for good.
    """
    for kind, module in started():
        for index in _in_use(kind, module):
            with device_errors(f"{kind}:{index}"):
                module.synchronize(index)


@contextlib.contextmanager
def device_errors(device: str) -> Iterator[None]:
    """Turn an error that every later call would meet again into a `DeviceError`.

    CUDA keeps the first illegal access, failed assertion or lost GPU for the rest of the process ("sticky"). Memory
    that is used up is not of that kind.
    """
    try:
        yield
    except RuntimeError as error:
        if is_exhausted(error):
            raise
        kind, _, index = device.partition(":")
        if is_broken(kind, int(index)):
            raise DeviceError(
                f"{device} has failed and cannot be read any more in this process ({_first_line(error)})"
            ) from error
        raise


def is_broken(kind: str, index: int) -> bool:
    try:
        module_of(kind).synchronize(index)  # type: ignore[union-attr]
    except RuntimeError:
        return True
    return False


def _in_use(kind: str, module: Any) -> list[int]:
    """Of CUDA's only those with a context: to wait for another one would make it one, at some hundred MB."""
    if kind == "cuda":
        torch: Any = sys.modules["torch"]
        has_context = getattr(torch._C, "_cuda_hasPrimaryContext", None)
        if has_context is None:
            return [module.current_device()]
        return [index for index in range(module.device_count()) if has_context(index)]
    return list(range(module.device_count()))


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
