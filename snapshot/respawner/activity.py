"""What runs beside the cells and ends with the process: told in the report, not saved."""

from __future__ import annotations

import asyncio
import functools
import signal
import threading
import types
from typing import Any


def notes_of_activity(shell: Any) -> list[str]:
    """Threads, tasks and signal handlers of the notebook that are there now, and will not be after a restart."""
    return [*_threads(shell), *_tasks(shell), *_handlers(shell)]


def _threads(shell: Any) -> list[str]:
    found = []
    for thread in threading.enumerate():
        target = getattr(thread, "_target", None) or type(thread).run
        if thread is not threading.main_thread() and is_notebooks_own(shell, target):
            found.append(f"thread {thread.name} was running; it is not started again")
    return found


def _tasks(shell: Any) -> list[str]:
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:  # no loop runs in this thread
        return []
    found = []
    for task in tasks:
        coroutine: Any = task.get_coro()
        frame = getattr(coroutine, "cr_frame", None)
        # The cell itself runs as a task as well, but not between two cells.
        if frame is not None and frame.f_globals is shell.user_ns and not task.done():
            found.append(
                f"task {task.get_name()} ({coroutine.__qualname__}) was running; it is not started again"
            )
    return sorted(found)


def _handlers(shell: Any) -> list[str]:
    return [
        f"the handler of {number.name} is not set again"
        for number in signal.Signals
        if callable(handler := signal.getsignal(number)) and is_notebooks_own(shell, handler)
    ]


def is_notebooks_own(shell: Any, function: Any) -> bool:
    """Whether a function, or what it is a method of or wrapped around, was defined in the notebook."""
    if isinstance(function, functools.partial):
        return is_notebooks_own(shell, function.func)
    if isinstance(function, types.MethodType):
        owner: Any = type(function.__self__)
        return owner.__module__ == "__main__" or is_notebooks_own(shell, function.__func__)
    return getattr(function, "__globals__", None) is shell.user_ns
