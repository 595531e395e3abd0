"""Tensors: storages as regions, views as views, ``.grad`` and Python attributes kept.

Plain strided tensors and parameters are rebuilt here; every other kind (sparse, quantized, subclasses) goes torch's own
way, with its storages still as regions. What is on a device, or belongs there and is on the CPU for want of it, names
the device (see `respawner.device`). Imported only after the user has imported torch.
"""

from __future__ import annotations

from typing import Any

import torch

from ..device import remembered
from ..device.hardware import is_device, uuid_of
from ..device.placement import Device
from . import memory
from .regions import SMALL_BYTES, RegionTable

_HAVE_NAMES = hasattr(torch.Tensor, "names")  # of dimensions; torch 2.13 has removed them
LOST_GRAPH = "its autograd graph is not kept: it comes back detached"


def region_of(storage: torch.UntypedStorage, regions: RegionTable, about: str = "") -> int | None:
    """The region of a storage, None where it has no memory."""
    if storage.nbytes() == 0:
        return None
    device = str(storage.device) if is_device(storage.device.type) else ""
    about = f"{about or 'storage'} on {device}" if device else about or "storage"
    return regions.add(storage.data_ptr(), storage.nbytes(), "torch", about, storage, device)


def reduce_storage(storage: Any, regions: RegionTable) -> Any:
    if not _has_memory(storage):
        return NotImplemented
    where = _belongs_on(storage, regions)
    region = region_of(storage, regions)
    return (_storage, (region,)) if where is None else (_device_storage, (region, where))


def reduce_typed_storage(storage: Any) -> Any:
    if not _has_memory(storage._untyped_storage):
        return NotImplemented
    return _typed_storage, (storage._untyped_storage, storage.dtype)


def reduce_generator(generator: torch.Generator) -> Any:
    return _generator, (str(generator.device), generator.get_state())


def reduce_tensor(tensor: Any, regions: RegionTable, note: Any) -> Any:
    """How to pickle an exact ``Tensor`` or ``Parameter``. ``note(text)`` reports what is not kept."""
    extras, tensor, requires_grad = _without_graph(tensor, note)
    if not _is_plain(tensor):
        return _with_extras(tensor.__reduce_ex__(5), extras, requires_grad)
    make: Any = _parameter if type(tensor) is torch.nn.Parameter else _tensor
    if tensor.is_inference():
        make = _inference_tensor
    storage = tensor.untyped_storage()
    where = _belongs_on(storage, regions)
    if where is None and storage.is_shared():
        note("was in shared memory: it comes back in memory of its own")
    # Only a large one is listed by itself; to spell it out takes longer than all the rest.
    about = f"{tensor.dtype} {list(tensor.shape)}" if storage.nbytes() >= SMALL_BYTES else ""
    arguments = (
        region_of(storage, regions, about),
        tensor.dtype,
        tensor.storage_offset(),
        tuple(tensor.size()),
        tensor.stride(),
        requires_grad,
    )
    return _with_extras((make, arguments if where is None else (*arguments, where)), extras)


def _belongs_on(storage: torch.UntypedStorage, regions: RegionTable) -> str | None:
    """The device that a storage is on, or has come from and goes back to; None for the CPU's own."""
    if is_device(storage.device.type):
        device = Device(storage.device.type, storage.device.index or 0)
        if device.name not in regions.belongs_on:
            regions.belongs_on[device.name] = uuid_of(device.type, device.index)
        return device.name
    origin = remembered.origin_of(storage)
    if origin is None:
        return None
    regions.belongs_on.setdefault(origin.name, origin.uuid)
    return origin.name


def _has_memory(storage: torch.UntypedStorage) -> bool:
    """False for devices that only pretend (meta), and backends that keep their tensors elsewhere."""
    if storage.device.type == "cpu":
        return True
    try:
        return is_device(storage.device.type) and (storage.nbytes() == 0 or storage.data_ptr() != 0)
    except RuntimeError:
        return False


def reduce_subclass_tensor(tensor: Any, reduce: Any, note: Any) -> Any:
    """Its own way (``reduce(tensor)``), and then what that leaves out."""
    cls = type(tensor)
    with torch._C.DisableTorchFunctionSubclass():
        extras, tensor, requires_grad = _without_graph(tensor, note)
        if _is_parameter_class(cls):  # torch would make a plain Parameter of it
            data = torch.Tensor.detach(tensor).as_subclass(torch.Tensor)
            return _with_extras((_parameter_of_class, (cls, data, requires_grad)), extras)
    return _with_extras(reduce(tensor), extras, requires_grad)


def _is_parameter_class(cls: type) -> bool:
    inherits = "__torch_dispatch__" not in vars(cls) and "__new__" not in vars(cls)
    return (
        inherits
        and issubclass(cls, torch.nn.Parameter)
        and cls.__reduce_ex__ is torch.nn.Parameter.__reduce_ex__
    )


def _is_plain(tensor: Any) -> bool:
    return (
        tensor.layout is torch.strided
        and (tensor.device.type == "cpu" or _has_memory(tensor.untyped_storage()))
        and not (tensor.is_nested or tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
        and not (_HAVE_NAMES and any(tensor.names))
    )


_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


_Extras = tuple[Any, dict[str, Any], dict[str, Any]]
"""Gradient, attributes, hooks."""


def _without_graph(tensor: Any, note: Any) -> tuple[_Extras | None, Any, bool]:
    """What torch's pickling leaves out if there is any of it, the tensor as a leaf, and whether it requires a gradient."""
    attributes = dict(tensor.__dict__)
    if not tensor.is_leaf:
        note(LOST_GRAPH)
        if tensor._backward_hooks:
            note("its hooks are not kept, since they belong to that graph")
        return (None, attributes, {}) if attributes else None, tensor.detach(), False
    gradient = tensor.grad
    hooks = {name: found for name in _HOOKS if (found := getattr(tensor, name, None))}
    extras = (gradient, attributes, hooks) if gradient is not None or attributes or hooks else None
    return extras, tensor, tensor.requires_grad


def _with_extras(
    reduced: tuple[Any, ...], extras: _Extras | None, requires_grad: bool | None = None
) -> tuple[Any, ...]:
    """Add gradient, attributes and hooks to a reduction, if there are any; ``requires_grad`` where it does not keep that."""
    if extras is None and not requires_grad:
        return reduced
    function, arguments, state, *rest = (*reduced, None)[: max(3, len(reduced))]
    if any(part is not None for part in rest):
        return reduced
    added: tuple[Any, ...] = extras or (None, {}, {})
    if requires_grad is not None:
        added = (*added, requires_grad)
    return function, arguments, (state, *added), None, None, _set_extras


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


def _device_storage(region: int | None, device: str) -> torch.UntypedStorage:
    """On that device, or on the one that it comes back to instead."""
    found = memory.current()
    if region is None:
        return torch.UntypedStorage(0, device=found.comes_back_to(device))
    return found.device_storage(region, device)


def _tensor(
    region: int | None,
    dtype: torch.dtype,
    offset: int,
    size: Any,
    stride: Any,
    requires_grad: bool,
    device: str | None = None,
) -> torch.Tensor:
    storage = _storage(region) if device is None else _device_storage(region, device)
    tensor = torch.empty(0, dtype=dtype, device=storage.device)
    tensor.set_(storage, offset, size, stride)
    return tensor.requires_grad_() if requires_grad else tensor


def _parameter(
    region: int | None,
    dtype: torch.dtype,
    offset: int,
    size: Any,
    stride: Any,
    requires_grad: bool,
    device: str | None = None,
) -> torch.nn.Parameter:
    return torch.nn.Parameter(_tensor(region, dtype, offset, size, stride, False, device), requires_grad)


def _inference_tensor(*arguments: Any) -> torch.Tensor:
    with torch.inference_mode():
        return _tensor(*arguments)


def _parameter_of_class(cls: Any, data: torch.Tensor, requires_grad: bool) -> Any:
    return torch.Tensor._make_subclass(cls, data, requires_grad)


def _set_extras(tensor: Any, extras: tuple[Any, ...]) -> None:
    """``extras``: state of its own, gradient, attributes, hooks, and for some kinds ``requires_grad``."""
    state, gradient, attributes, hooks, *requires_grad = extras
    with torch._C.DisableTorchFunctionSubclass():
        if state is not None and hasattr(tensor, "__setstate__"):
            tensor.__setstate__(state)
        if requires_grad and requires_grad[0]:
            tensor.requires_grad_()
        if gradient is not None:
            tensor.grad = gradient
        tensor.__dict__.update(attributes)
        for name, found in hooks.items():
            setattr(tensor, name, found)


def _set_state(tensor: Any, state: tuple[Any, dict[str, Any]]) -> None:
    """In older snapshots of version 1."""
    gradient, attributes = state
    if gradient is not None:
        tensor.grad = gradient
    tensor.__dict__.update(attributes)
