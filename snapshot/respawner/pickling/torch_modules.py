"""Optimizers and modules whose own pickling drops something, or refuses.

Ordinary modules need nothing of this: their hooks, buffers and parameters are plain attributes. Imported only
after the user has imported torch.
"""

from __future__ import annotations

import collections
import copyreg
import functools
import io
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils import parametrize

Reducer = Callable[[Any], Any]
Optimizer: Any = torch.optim.Optimizer
Scaler: Any = getattr(torch.amp, "GradScaler", torch.cuda.amp.GradScaler)  # torch before 2.3


def reducer_for(cls: type) -> Reducer | None:
    """How to pickle objects of that type, None where its own way is right."""
    if issubclass(cls, Optimizer) and cls.__getstate__ is Optimizer.__getstate__:
        return _reduce_optimizer
    if issubclass(cls, torch.jit.ScriptModule):
        return _reduce_script_module
    if cls is torch.jit.ScriptFunction:
        return _reduce_script_function
    if cls.__module__ == parametrize.__name__ and issubclass(cls, torch.nn.Module) and _was_swapped(cls):
        return _reduce_parametrized
    if cls is getattr(sys.modules.get("torch.nn.parallel.distributed"), "DistributedDataParallel", None):
        return _reduce_distributed
    if issubclass(cls, Scaler) and cls.__getstate__ is Scaler.__getstate__:
        return _reduce_scaler
    if cls is getattr(sys.modules.get("torch.utils.data.dataloader"), "DataLoader", None):
        return _reduce_loader
    if cls in (torch.finfo, torch.iinfo):
        return lambda info: (_number_limits, (cls, info.dtype))
    return None


def _reduce_optimizer(optimizer: Any) -> tuple[Any, ...]:
    """With the hooks and the attributes of its own class, which `Optimizer.__getstate__` leaves out."""
    state = {key: value for key, value in vars(optimizer).items() if key != "_zero_grad_profile_name"}
    counts = hasattr(state.get("step"), "_wrapped_by_lr_sched")
    if counts:
        del state["step"]
    return copyreg.__newobj__, (type(optimizer),), (state, counts), None, None, _set_optimizer  # type: ignore[attr-defined]


def _reduce_scaler(scaler: Any) -> tuple[Any, ...]:
    """As its own way, which refuses between `step` and `update`: without what optimizers have done in this iteration."""
    state = dict(vars(scaler))
    if scaler.is_enabled():
        state |= {
            "_init_scale": scaler.get_scale(),
            "_init_growth_tracker": scaler._get_growth_tracker(),
            "_scale": None,
            "_growth_tracker": None,
            "_per_optimizer_states": collections.defaultdict(scaler._per_optimizer_states.default_factory),
        }
    return copyreg.__newobj__, (type(scaler),), state  # type: ignore[attr-defined]


def _reduce_loader(loader: Any) -> tuple[Any, ...]:
    """Without its iterator, which it keeps where its workers are persistent: it makes that again."""
    return copyreg.__newobj__, (type(loader),), {**vars(loader), "_iterator": None}  # type: ignore[attr-defined]


def _was_swapped(cls: type) -> bool:
    return cls.__name__ == f"Parametrized{cls.__bases__[0].__name__}"


def _reduce_parametrized(module: Any) -> tuple[Any, ...]:
    """torch gives such a module a class of its own, which refuses to be pickled; it is made again."""
    names = list(module.parametrizations)
    return _new, (type(module).__bases__[0],), (dict(vars(module)), names), None, None, _set_parametrized


def _reduce_script_module(module: Any) -> tuple[Any, ...]:
    """As TorchScript's own archive; its tensors are put back in, since others may hold them too, and what was
    set on it from Python."""
    archive = io.BytesIO()
    torch.jit.save(module, archive)
    known = vars(vars(module).get("_actual_script_module", module))
    named = {
        name: value
        for name, value in known.items()
        if not name.startswith("_") and not isinstance(value, torch._C.ScriptMethod)
    }
    state = _tensors_of(module), named
    return _script_module, (archive.getvalue(),), state, None, None, _set_script_state


def _reduce_script_function(function: Any) -> tuple[Any, ...]:
    """As an archive as well, which does not know defaults of parameters: with these it is compiled again."""
    attributes = dict(vars(function))
    if any(part.has_default_value() for part in function.schema.arguments):
        return _compiled_script, (attributes.pop("_torchdynamo_inline"),), attributes, None, None, _set_names
    return _script_function, (function.name, function.save_to_buffer()), attributes, None, None, _set_names


def _tensors_of(module: Any) -> list[tuple[str, str, Any]]:
    return [
        (path, name, tensor)
        for path, part in module.named_modules()
        for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
    ]


def reduce_compiled_function(function: types.FunctionType) -> tuple[Any, ...] | None:
    """What ``torch.compile`` made of a function: compiled afresh when it is called. None for anything else."""
    if "_torchdynamo_orig_callable" not in function.__dict__:
        return None
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    context = cells["self"].cell_contents if "self" in cells else None
    if not isinstance(context, sys.modules["torch._dynamo.eval_frame"]._TorchDynamoContext):
        return None
    return _compiled_function, (function.__dict__["_torchdynamo_orig_callable"], context)


_COMM = ("_comm_hooks",)
_DISTRIBUTED_SETTINGS = ("dim", "broadcast_buffers", "find_unused_parameters", "gradient_as_bucket_view")


def _reduce_distributed(wrapper: Any) -> tuple[Any, ...]:
    """A wrapper around a module, for a process group of this process alone."""
    if wrapper.process_group.size() != 1:
        raise TypeError(
            f"its process group has {wrapper.process_group.size()} processes; its `module` can be kept"
        )
    settings = {name: vars(wrapper)[name] for name in _DISTRIBUTED_SETTINGS if name in vars(wrapper)}
    if vars(wrapper).get("static_graph"):
        settings["static_graph"] = True
    hooks = {name: value for name, value in vars(wrapper).items() if "_hooks" in name and value}
    state = (
        wrapper.training,
        {name: hooks[name] for name in (*vars(torch.nn.Module()), *_COMM) if name in hooks},
    )
    return _distributed, (wrapper.module, settings), state, None, None, _set_distributed


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _new(cls: Any) -> Any:
    return cls.__new__(cls)


def _set_optimizer(optimizer: Any, state: tuple[dict[str, Any], bool]) -> None:
    attributes, counts = state
    optimizer.__setstate__(attributes)
    if counts:
        _count_steps(optimizer)


def _count_steps(optimizer: Any) -> None:
    """What a scheduler does to its optimizer, to warn if that is never stepped."""
    step, reference = type(optimizer).step, weakref.ref(optimizer)

    @functools.wraps(step)
    def counted(*arguments: Any, **keywords: Any) -> Any:
        owner: Any = reference()
        owner._opt_called = True
        return step(owner, *arguments, **keywords)

    counted._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = counted


def _set_parametrized(module: Any, state: tuple[dict[str, Any], list[str]]) -> None:
    attributes, names = state
    module.__setstate__(attributes)
    parametrize._inject_new_class(module)
    for name in names:
        parametrize._inject_property(module, name)


def _script_module(archive: bytes) -> Any:
    return torch.jit.load(io.BytesIO(archive))


def _script_function(name: str, archive: bytes) -> Any:
    module = torch.jit.load(io.BytesIO(archive))
    graph, _ = torch._C._jit_pass_lower_graph(module.forward.graph, module._c)
    return torch._C._create_function_from_graph(name, graph)


def _compiled_script(function: Any) -> Any:
    return torch.jit.script(function)


def _set_names(obj: Any, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        setattr(obj, name, value)


def _set_script_state(module: Any, state: tuple[list[tuple[str, str, Any]], dict[str, Any]]) -> None:
    tensors, named = state
    _set_script_tensors(module, tensors)
    vars(module).update(named)


def _set_script_tensors(module: Any, tensors: list[tuple[str, str, Any]]) -> None:
    parts = dict(module.named_modules())
    for path, name, tensor in tensors:
        parts[path]._c.setattr(name, tensor)


def _compiled_function(function: Any, context: Any) -> Any:
    return context(function)


def _distributed(module: Any, settings: dict[str, Any]) -> Any:
    """The new process has no process group; one of a single process needs no network."""
    distributed: Any = torch.distributed
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    return torch.nn.parallel.DistributedDataParallel(module, **settings)


def _set_distributed(wrapper: Any, state: tuple[bool, dict[str, Any]]) -> None:
    wrapper.training, hooks = state
    for hook, its_state in hooks.pop("_comm_hooks", ()):
        wrapper.register_comm_hook(its_state, hook)
    vars(wrapper).update(hooks)


def _set_training(module: Any, training: bool) -> None:
    """In older snapshots of version 1."""
    module.training = training


def _number_limits(cls: Any, name: str) -> Any:
    return cls(getattr(torch, name))
