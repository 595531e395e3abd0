"""Types that cannot come back: they pickle, but what comes out is not the thing (or not alive)."""

from __future__ import annotations

import io
import sys
from typing import Any

_REASONS: dict[tuple[str, str], str] = {
    ("threading", "Thread"): "a running thread cannot be saved",
    ("multiprocessing.process", "BaseProcess"): "a process cannot be saved",
    ("subprocess", "Popen"): "a process cannot be saved",
    ("concurrent.futures", "Executor"): "its threads or processes cannot be saved",
    ("asyncio", "Future"): "it belongs to the event loop of the kernel that died",
    ("asyncio", "AbstractEventLoop"): "an event loop cannot be saved",
    ("torch.utils.data.dataloader", "_BaseDataLoaderIter"): "the position of a DataLoader cannot be saved",
}


def reason_against(cls: type) -> str | None:
    """Why instances of ``cls`` are not even tried, or None."""
    if issubclass(cls, io.IOBase) and not issubclass(cls, io.BytesIO | io.StringIO):
        return "an open file cannot be saved"
    for (module_name, class_name), reason in _REASONS.items():
        base: Any = getattr(sys.modules.get(module_name), class_name, None)
        if isinstance(base, type) and issubclass(cls, base):
            return reason
    return None
