"""Things that a process does again and again until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

Step = Callable[[], Coroutine[Any, Any, None]]

log = logging.getLogger(__name__)


async def at_first(what: Step, seconds: float) -> None:
    """Do it until it has worked once."""
    while not await _works(what):  # noqa: ASYNC110  # nobody tells when database or engine are back
        await asyncio.sleep(seconds)


async def repeat(what: Step, seconds: float) -> None:
    """Do it again and again; what fails once is logged and tried again."""
    while True:
        started = time.monotonic()
        await _works(what)
        await asyncio.sleep(max(0.1, seconds - (time.monotonic() - started)))


async def _works(what: Step) -> bool:
    try:
        await what()
    except Exception:  # one bad moment of database or hub must not end the scheduler
        log.exception("%s failed", what.__name__)
        return False
    return True


async def until_told(parent: int) -> None:
    """Return when we shall end, or the hub is gone: the next one starts a scheduler of its own."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    while os.getppid() == parent and not told.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(told.wait(), 1)
