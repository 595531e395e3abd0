"""Tells of every step of every torch optimizer, before and after it, from the moment at which torch's optimizers are imported.

torch is never imported for this: where the notebook has not done so yet, a finder at the front of `sys.meta_path` waits
for that one module. At the hook parameters and optimizer state are those of one whole step. Scheduler, EMA and logging
of that iteration have not run, and of several optimizers the others may not have stepped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ..pickling.regions import SMALL_BYTES
from ..saving.ranges import Ranges

_MODULE = "torch.optim.optimizer"


class OptimizerSteps:
    """Calls ``steps()`` before each step and ``stepped()`` after it, in the thread that steps.

    Registers on construction, `remove` takes everything back.
    """

    def __init__(self, steps: Callable[[], None], stepped: Callable[[], None]) -> None:
        self._steps = steps
        self._stepped = stepped
        self._seen: dict[int, weakref.ref[Any]] = {}
        """Those that have stepped, by their id: one's own class of optimizers need not be hashable."""
        self._handles: list[Any] = []
        self._finder: _Finder | None = None
        module = sys.modules.get(_MODULE)
        if module is not None:
            self._register(module)
        else:
            self._finder = _Finder(self._register)
            sys.meta_path.insert(0, self._finder)

    def remove(self) -> None:
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        while self._handles:
            self._handles.pop().remove()

    def memory(self) -> Ranges:
        """Large memory of the host that changes when an optimizer steps that has stepped before, and hardly ever otherwise:
        parameters and what is kept of them. Gradients change in between."""
        living = {key: optimizer for key, ref in list(self._seen.items()) if (optimizer := ref()) is not None}
        self._seen = {key: self._seen[key] for key in living}
        return Ranges(
            place
            for optimizer in living.values()
            for tensor in _tensors_of(optimizer)
            if (place := _place_of(tensor))
        )

    def _register(self, module: ModuleType) -> None:
        for moment, hook in (("pre", self._before), ("post", self._after)):
            register = getattr(module, f"register_optimizer_step_{moment}_hook", None)
            if register is not None:  # torch before 2.0
                self._handles.append(register(hook))

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._steps()

    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._seen[id(optimizer)] = weakref.ref(optimizer)
        self._stepped()

    # torch.compile calls them and does not look inside.
    _before._torchdynamo_disable = True  # type: ignore[attr-defined]
    _after._torchdynamo_disable = True  # type: ignore[attr-defined]


def _tensors_of(optimizer: Any) -> Iterator[Any]:
    with contextlib.suppress(Exception):  # an optimizer of one's own may keep what it likes
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield parameter
                yield from optimizer.state.get(parameter, {}).values()


def _place_of(tensor: Any) -> tuple[int, int] | None:
    """Address and bytes, where these are the tensor's alone; None for everything that is no plain tensor of the host."""
    with contextlib.suppress(Exception):  # a tensor without memory, or with a class of its own
        length = int(tensor.nbytes)
        if length < SMALL_BYTES or not tensor.is_cpu or tensor.layout != sys.modules["torch"].strided:
            return None
        if tensor.is_contiguous() or tensor.untyped_storage().nbytes() == length:
            return tensor.data_ptr(), length
    return None


class _Finder:
    """Finds one module by asking the finders behind it, and calls ``loaded(module)`` once it is there."""

    def __init__(self, loaded: Callable[[ModuleType], None]) -> None:
        self._loaded = loaded
        self._asks = self._done = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _MODULE or self._asks or self._done:
            return None
        self._asks = True  # and stays where it is: another thread may be walking through the list
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asks = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._is_loaded)  # type: ignore[assignment]
        return spec

    def _is_loaded(self, module: ModuleType) -> None:
        self._done = True
        self._loaded(module)


class _Loader:
    """Another loader, and a word when it is done; everything else is the other's."""

    def __init__(self, loader: Any, loaded: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._loaded = loaded

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        # From here on the module is as if nobody had waited for it.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loaded(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
