"""IPython's events, filtered to the notebook's own cells.

The capture belongs after the cell's reply and before the next cell. A callback that `post_run_cell` puts on
the kernel's loop runs there: ipykernel sends the reply without giving the loop back in between, and a queued
cell gets its turn by a callback that is younger. Should another cell ever begin first, it captures what is
pending before it runs (`pre_execute` is triggered for every execution, silent ones too).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from .engine import Engine
from .safepoints.resumable import ResumableCells


class Hooks:
    """Registers on construction; `unregister` takes everything back."""

    def __init__(self, shell: Any, engine: Engine) -> None:
        self._shell = shell
        self._engine = engine
        self._running: Any = None
        self._callbacks = {
            "pre_execute": self._pre_execute,
            "pre_run_cell": self._pre_run_cell,
            "post_run_cell": self._post_run_cell,
        }
        for event, callback in self._callbacks.items():
            shell.events.register(event, callback)
        self._resumable = ResumableCells(shell)

        self._do_shutdown = shell.kernel.do_shutdown
        shell.kernel.do_shutdown = self._shutdown_asked

    def unregister(self) -> None:
        self._resumable.unregister()
        for event, callback in self._callbacks.items():
            self._shell.events.unregister(event, callback)
        if self._shell.kernel.do_shutdown == self._shutdown_asked:
            self._shell.kernel.do_shutdown = self._do_shutdown

    def _shutdown_asked(self, restart: bool) -> Any:
        """Jupyter's shutdown request, which alone says whether it is a restart by a person: the restarter of
        dead kernels and the end of a server, a culler or a container do not."""
        if restart:
            self._engine.user_restarts()
        return self._do_shutdown(restart)

    def _pre_execute(self) -> None:
        if self._engine.mine():
            self._engine.before_execution(self._what_comes)

    def _what_comes(self) -> tuple[str, list[str]]:
        """The source of what is about to run, and the expressions that are evaluated after it.

        The event does not say; the request does. What a cell runs by itself (`run_cell` in a cell) comes under
        the request of that cell, which has named the shell to do so.
        """
        content = self._shell.kernel.get_parent("shell").get("content", {})
        return content["code"], list(content.get("user_expressions", {}).values())

    def _pre_run_cell(self, info: Any) -> None:
        if _is_a_cell(info) and self._engine.mine():
            self._running = info
            self._engine.cell_begins(info.raw_cell, getattr(info, "cell_id", None))  # IPython 8.3

    def _post_run_cell(self, result: Any) -> None:
        info = result.info if result is not None else self._running  # None: an async cell was cancelled
        if not _is_a_cell(info) or not self._engine.mine() or self._running is None:
            return
        self._running = None
        number = getattr(result, "execution_count", None)
        if number is None:
            number = self._shell.execution_count - 1
        error = getattr(result, "error_in_exec", None)
        self._engine.cell_ends(_state_of(result), number, info.raw_cell, error)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._engine.capture_pending()
        else:
            later = partial(_call_later, loop)
            loop.call_soon(self._engine.capture_when_quiet, later)
            self._engine.recorder.again = partial(later, self._engine.capture_pending)


def _call_later(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Put a call on the kernel's loop from another thread; a loop that has ended needs none."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


def _is_a_cell(info: Any) -> bool:
    """Whether a person ran it; silent and hidden executions are frontends' own."""
    return info is not None and bool(info.store_history) and not info.silent


def _state_of(result: Any) -> str:
    if result is None:
        return "interrupted"
    error = result.error_before_exec or result.error_in_exec
    if error is None:
        return "ok"
    interrupted = isinstance(error, KeyboardInterrupt | asyncio.CancelledError)
    return "interrupted" if interrupted else "error"
