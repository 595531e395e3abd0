"""Tensors: storages as regions, views as views, ``.grad`` and Python attributes kept.

Plain strided CPU tensors and parameters are rebuilt here; every other kind (sparse, quantized, subclasses,
other devices) goes torch's own way, with its storages still as regions where they are on the CPU. Imported
only after the user has imported torch.
"""

from __future__ import annotations

from typing import Any

import torch

from . import memory
from .regions import RegionTable

LOST_GRAPH = "its autograd graph is not kept: it comes back detached"


def region_of(storage: torch.UntypedStorage, regions: RegionTable, about: str = "") -> int | None:
    """The region of a CPU storage, None where it has no memory."""
    if storage.nbytes() == 0:
        return None
    return regions.add(storage.data_ptr(), storage.nbytes(), "torch", about or "storage", storage)


def reduce_storage(storage: Any, regions: RegionTable) -> Any:
    if storage.device.type != "cpu":
        return NotImplemented
    return _storage, (region_of(storage, regions),)


def reduce_typed_storage(storage: Any) -> Any:
    if storage.device.type != "cpu":
        return NotImplemented
    return _typed_storage, (storage._untyped_storage, storage.dtype)


def reduce_generator(generator: torch.Generator) -> Any:
    return _generator, (str(generator.device), generator.get_state())


def reduce_tensor(tensor: Any, regions: RegionTable, note: Any) -> Any:
    """How to pickle an exact ``Tensor`` or ``Parameter``. ``note(text)`` reports what is not kept."""
    plain = (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not (
            tensor.is_quantized or tensor.is_conj() or tensor.is_neg() or any(getattr(tensor, "names", ()))
        )
    )
    if tensor._backward_hooks:
        note("its hooks are not kept")
    requires_grad = tensor.requires_grad
    if requires_grad and not tensor.is_leaf:
        note(LOST_GRAPH)
        tensor, requires_grad = tensor.detach(), False
    if not plain:
        return _with_state(tensor, tensor.__reduce_ex__(5))
    return _with_state(
        tensor,
        (
            _parameter if type(tensor) is torch.nn.Parameter else _tensor,
            (
                region_of(tensor.untyped_storage(), regions, f"{tensor.dtype} {list(tensor.shape)}"),
                tensor.dtype,
                tensor.storage_offset(),
                tuple(tensor.size()),
                tensor.stride(),
                requires_grad,
            ),
        ),
    )


def _with_state(tensor: Any, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Add ``.grad`` and the attributes that someone set on the tensor, if there are any."""
    gradient = tensor.grad if tensor.is_leaf else None
    attributes = dict(tensor.__dict__)
    if len(reduced) != 2 or (gradient is None and not attributes):
        return reduced
    return (*reduced, (gradient, attributes), None, None, _set_state)


def storage_of(tensor: Any, regions: RegionTable) -> tuple[int, int] | None:
    """The region and the address of a tensor's storage, None where ``tensor`` is not a CPU tensor."""
    if not isinstance(tensor, torch.Tensor) or tensor.device.type != "cpu":
        return None
    storage = tensor.untyped_storage()
    region = region_of(storage, regions)
    return None if region is None else (region, storage.data_ptr())


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _storage(region: int | None) -> torch.UntypedStorage:
    return torch.UntypedStorage(0) if region is None else memory.current().storage(region)


def _typed_storage(storage: torch.UntypedStorage, dtype: torch.dtype) -> Any:
    return torch.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def _generator(device: str, state: torch.Tensor) -> torch.Generator:
    generator = torch.Generator(device)
    generator.set_state(state)
    return generator


def _tensor(
    region: int | None, dtype: torch.dtype, offset: int, size: Any, stride: Any, requires_grad: bool
) -> torch.Tensor:
    tensor = torch.empty(0, dtype=dtype)
    tensor.set_(_storage(region), offset, size, stride)
    return tensor.requires_grad_() if requires_grad else tensor


def _parameter(
    region: int | None, dtype: torch.dtype, offset: int, size: Any, stride: Any, requires_grad: bool
) -> torch.nn.Parameter:
    return torch.nn.Parameter(_tensor(region, dtype, offset, size, stride, False), requires_grad)


def _set_state(tensor: Any, state: tuple[Any, dict[str, Any]]) -> None:
    gradient, attributes = state
    if gradient is not None:
        tensor.grad = gradient
    tensor.__dict__.update(attributes)
