"""Which variable holds how much tensor memory: every storage counted once, at the name that came first.

Looks through containers, modules, optimizers, objects' attributes and gradients, without calling any of the
user's code. Not for what no name leads to (autograd graphs, the allocator's cache): `view` shows that as the rest.
"""

from __future__ import annotations

import sys
import time
import types
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

SECONDS = 1.0
"""The most that looking may take; what was not reached by then is not listed, and `Held.cut_short` says so."""
DEPTH = 30

_ATOMS = (int, float, complex, str, bytes, bytearray, type(None), range, slice)
_CLOSED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType)
_SEQUENCES = (list, tuple, set, frozenset, deque)
_MACHINERY = ("IPython", "ipykernel", "respawner")
_OUTPUT, _ERROR = "Out[", "last error, "


@dataclass
class Row:
    """A variable's tensors on one device, or one tensor."""

    name: str
    kind: str
    device: str
    own_bytes: int = 0
    """In storages that no earlier name holds."""
    tensors: int = 0
    shares_with: list[str] = field(default_factory=list)
    """Earlier names that hold storages of this one."""


@dataclass
class Held:
    rows: list[Row]
    """On GPUs first, then largest first."""
    cut_short: bool = False

    def bytes_on(self, device: str) -> int:
        return sum(row.own_bytes for row in self.rows if row.device == device)


def held(namespace: Mapping[str, Any], hidden: Mapping[str, Any], inside: str | None = None) -> Held:
    """One row a variable and device; with `inside`, one row a tensor of that variable.

    `hidden` are the names that IPython has put there; of them only the outputs are looked at, after all others.
    """
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "nn"):
        return Held([])
    walk, table = _Walk(torch, namespace), _Table(torch)
    for name, value in _variables(namespace, hidden):
        for path, tensor in walk.tensors(name, value):
            if name == inside:
                table.count(path, tensor, tensor)
            else:
                table.count(name, value, tensor)
    rows = [row for row in table.rows.values() if inside is None or _is_within(row.name, inside)]
    rows = [row for row in rows if row.own_bytes or not row.name.startswith((_OUTPUT, _ERROR))]
    rows.sort(key=lambda row: (row.device in ("cpu", "meta"), -row.own_bytes, row.name))
    return Held(rows, walk.cut_short)


def _is_within(path: str, name: str) -> bool:
    return path == name or path.startswith((f"{name}.", f"{name}["))


def _variables(namespace: Mapping[str, Any], hidden: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The user's own names first: what they hold is theirs, and not an output's."""
    for name, value in list(namespace.items()):
        if name not in hidden and not _is_output(name):
            yield name, value
    outputs = namespace.get("Out")
    if isinstance(outputs, dict):
        yield from ((f"{_OUTPUT}{number}]", value) for number, value in list(outputs.items()))
    yield from _frames_of_last_error()


def _is_output(name: str) -> bool:
    """``_``, ``__``, ``_12``: other names of what is in ``Out``."""
    rest = name.strip("_")
    return name.startswith("_") and (not rest or rest.isdigit())


def _frames_of_last_error() -> Iterator[tuple[str, Any]]:
    """A traceback keeps every local variable of the functions in it, after "out of memory" above all."""
    step = getattr(getattr(sys, "last_value", None), "__traceback__", None)
    while step is not None:
        frame = step.tb_frame
        if frame.f_code.co_name != "<module>" and not _is_machinery(frame.f_globals.get("__name__")):
            for name, value in list(frame.f_locals.items()):
                yield f"{_ERROR}{frame.f_code.co_name}: {name}", value
        step = step.tb_next


def _is_machinery(module: Any) -> bool:
    """Whether something is the kernel's own: from there the whole namespace can be reached."""
    return isinstance(module, str) and module.partition(".")[0] in _MACHINERY


class _Walk:
    def __init__(self, torch: Any, namespace: Mapping[str, Any]) -> None:
        self._torch = torch
        self._off_limits = {id(namespace), id(sys.modules)}
        self._until = time.monotonic() + SECONDS
        self._steps = 0
        self.cut_short = False

    def tensors(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Every tensor below one variable, once, with the expression that leads to it."""
        seen = set(self._off_limits)
        todo = deque([(name, value, 0)])
        while todo and not self._is_late():
            path, found, depth = todo.popleft()
            cls = type(found)  # never isinstance: a proxy's __class__ is code of the user's
            if issubclass(cls, _ATOMS) or id(found) in seen:
                continue
            seen.add(id(found))
            if issubclass(cls, self._torch.Tensor):
                yield path, found
            if depth < DEPTH and not issubclass(cls, _CLOSED) and not _is_machinery(cls.__module__):
                todo.extend((path + step, child, depth + 1) for step, child in self._below(found, cls))

    def _is_late(self) -> bool:
        self._steps += 1
        if self._steps % 256 == 0 and time.monotonic() > self._until:
            self.cut_short = True
        return self.cut_short

    def _below(self, found: Any, cls: type) -> Iterator[tuple[str, Any]]:
        if issubclass(cls, dict):
            for number, (key, value) in enumerate(list(dict.items(found))):
                yield f"[{key!r}]" if type(key) in (str, int) else f"[{number}]", value
        elif issubclass(cls, _SEQUENCES):
            base = next(one for one in _SEQUENCES if issubclass(cls, one))
            yield from ((f"[{number}]", value) for number, value in enumerate(list(base.__iter__(found))))
        elif issubclass(cls, self._torch.Tensor):
            with self._torch._C.DisableTorchFunctionSubclass():
                grad = found.grad if found.is_leaf else None
            if grad is not None:
                yield ".grad", grad
        yield from self._attributes(found, issubclass(cls, self._torch.nn.Module))

    def _attributes(self, found: Any, is_module: bool) -> Iterator[tuple[str, Any]]:
        try:
            attributes = object.__getattribute__(found, "__dict__")
        except AttributeError:
            return
        if type(attributes) is not dict:
            return
        for key, value in list(attributes.items()):
            if is_module and key in ("_parameters", "_buffers", "_modules") and type(value) is dict:
                yield from ((f".{name}", child) for name, child in list(value.items()))
            else:
                yield f".{key}", value


class _Table:
    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._owners: dict[tuple[str, int], str] = {}
        self.rows: dict[tuple[str, str], Row] = {}

    def count(self, label: str, shown: Any, tensor: Any) -> None:
        with self._torch._C.DisableTorchFunctionSubclass():
            device = str(tensor.device)
            row = self.rows.setdefault((label, device), Row(label, self._kind(shown), device))
            row.tensors += 1
            for address, size in self._storages(tensor):
                owner = self._owners.get((device, address))
                if owner is None:
                    self._owners[device, address] = label
                    row.own_bytes += size
                elif owner != label and owner not in row.shares_with:
                    row.shares_with.append(owner)

    def _kind(self, shown: Any) -> str:
        if not issubclass(type(shown), self._torch.Tensor):
            return type(shown).__name__
        dtype = str(shown.dtype).removeprefix("torch.")
        return f"{type(shown).__name__} {dtype} [{', '.join(map(str, shown.shape))}]"

    def _storages(self, tensor: Any) -> Iterator[tuple[int, int]]:
        """Address and bytes of what lies under a tensor; nothing where it has no memory of its own (meta, fake)."""
        for part in self._parts(tensor):
            try:
                storage = part.untyped_storage()
                address, size = storage.data_ptr(), storage.nbytes()
            except (RuntimeError, NotImplementedError, AttributeError):
                continue
            if address and size:
                yield address, size

    def _parts(self, tensor: Any) -> tuple[Any, ...]:
        torch = self._torch
        if tensor.layout is torch.sparse_coo:
            return tensor._indices(), tensor._values()
        if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
            return tensor.crow_indices(), tensor.col_indices(), tensor.values()
        if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
            return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
        return (tensor,)
