"""Tells of every step of every torch optimizer, from the moment at which torch's optimizers are imported.

torch is never imported for this: where the notebook has not done so yet, a finder at the front of `sys.meta_path` waits
for that one module. At the hook parameters and optimizer state are those of one whole step. Scheduler, EMA and logging
of that iteration have not run, and of several optimizers the others may not have stepped.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_MODULE = "torch.optim.optimizer"


class OptimizerSteps:
    """Calls ``stepped()`` in the thread that steps. Registers on construction, `remove` takes everything back."""

    def __init__(self, stepped: Callable[[], None]) -> None:
        self._stepped = stepped
        self._handle: Any = None
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
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _register(self, module: ModuleType) -> None:
        register = getattr(module, "register_optimizer_step_post_hook", None)
        if register is not None:  # torch before 2.0
            self._handle = register(self._hook)

    def _hook(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._stepped()

    _hook._torchdynamo_disable = True  # type: ignore[attr-defined]  # torch.compile calls it and does not look inside


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
