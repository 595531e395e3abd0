"""Types that cannot come back, and the reasons in words for people.

Some types pickle, but what comes out is not the thing (or not alive): these are not even tried.
"""

from __future__ import annotations

import io
import re
import sys
from typing import Any

_REASONS: dict[tuple[str, str], str] = {
    ("threading", "Thread"): "a running thread cannot be saved",
    ("threading", "Condition"): "a lock belongs to the process that made it",
    ("threading", "Semaphore"): "a lock belongs to the process that made it",
    ("threading", "Barrier"): "a lock belongs to the process that made it",
    ("multiprocessing.process", "BaseProcess"): "a process cannot be saved",
    ("subprocess", "Popen"): "a process cannot be saved",
    ("concurrent.futures", "Executor"): "its threads or processes cannot be saved",
    ("weakref", "finalize"): "a finalizer belongs to the process that made it",
    ("asyncio", "Future"): "it belongs to the event loop of the kernel that died",
    ("asyncio", "AbstractEventLoop"): "an event loop cannot be saved",
    ("torch.utils.data.dataloader", "_BaseDataLoaderIter"): "the position of a DataLoader cannot be saved",
}

_CANNOT_PICKLE = re.compile(r"(?:cannot|can't) pickle '?([\w.]+)'? objects?")
_IN_WORDS: dict[str, str] = {
    "lock": "a lock belongs to the process that made it",
    "RLock": "a lock belongs to the process that made it",
    "generator": "a generator cannot be saved: Python does not tell where it stands",
    "async_generator": "a generator cannot be saved: Python does not tell where it stands",
    "coroutine": "a coroutine cannot be saved: Python does not tell where it stands",
    "socket": "a connection ends with its process",
    "Connection": "a connection ends with its process",
    "Cursor": "it belongs to a connection, which ends with its process",
    "frame": "a running function cannot be saved",
    "traceback": "a traceback holds running functions, which cannot be saved",
    "mmap": "a mapped file cannot be saved",
    "ContextVar": "a context variable belongs to the process that made it",
    "Context": "a context belongs to the process that made it",
    "Token": "it belongs to a context of the process that made it",
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


def one_line_reason(error: BaseException) -> str:
    """Why an object was lost to ``error``: one line, short enough for a report. Never raises."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # the user's own exception class
        text = "its message cannot be shown"
    if isinstance(error, TypeError) and (found := _CANNOT_PICKLE.search(text)):
        kind = found[1]
        return _IN_WORDS.get(kind.rpartition(".")[2], f"objects of type {kind} cannot be saved")
    return f"{type(error).__name__}: {text or 'no message'}"[:300]


def type_name(cls: type) -> str:
    """How a type is called in manifests and messages. Runs no code of the class or its metaclass."""
    module = type.__dict__["__module__"].__get__(cls)
    name = type.__dict__["__qualname__"].__get__(cls)
    return name if module in ("builtins", "__main__") else f"{module}.{name}"
