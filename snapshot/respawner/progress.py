"""Shows how far a long wait is, and takes it away again.

Nothing is shown for what takes less than `PATIENCE_SECONDS`. A thread shows it, so that it goes on where the main
thread is in one long call; what it says is told by whoever works, with `step`. It is one display of the running cell
that is updated, and emptied at the end. It never raises into the work.
"""

from __future__ import annotations

import contextlib
import contextvars
import html
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .readable import readable_size

PATIENCE_SECONDS = 1.0
_UPDATE_SECONDS = 0.5
_IMPORTS = "<frozen importlib._bootstrap>"


@dataclass
class Step:
    """What is being done; ``done()`` gives the bytes of ``total`` that are behind us."""

    text: str
    done: Callable[[], int] | None = None
    total: int = 0

    @property
    def share(self) -> float | None:
        if self.done is None or not self.total:
            return None
        return min(1.0, self.done() / self.total)

    def __str__(self) -> str:
        if self.done is None or not self.total:
            return self.text
        return f"{self.text}, {readable_size(min(self.done(), self.total))} of {readable_size(self.total)}"


class Screen:
    """One display in the running cell. Plain text and HTML; empty once it is over."""

    def __init__(self, shell: Any) -> None:
        self._publish = shell.display_pub.publish
        self._id = f"respawner-{secrets.token_hex(6)}"
        self._shown = False

    def show(self, text: str, share: float | None) -> None:
        value = "" if share is None else f' value="{share:.3f}"'
        bar = f'<progress max="1"{value} style="width:16em;vertical-align:middle"></progress>'
        self._put(
            {"text/plain": text, "text/html": f'<div style="font-size:90%">{bar} {html.escape(text)}</div>'}
        )

    def clear(self) -> None:
        self._put({"text/plain": "", "text/html": ""})

    def _put(self, data: dict[str, str]) -> None:
        self._publish(data, transient={"display_id": self._id}, update=self._shown)
        self._shown = True


_open: list[_Watcher] = []
"""The innermost comes last; the main thread's alone."""


def step(text: str, done: Callable[[], int] | None = None, total: int = 0) -> Step:
    """From here on this is being done. Costs nothing where nobody looks."""
    now = Step(text, done, total)
    if _open and threading.current_thread() is threading.main_thread():
        _open[-1].now = now
    return now


@contextlib.contextmanager
def shown(what: str, screen: Screen) -> Iterator[None]:
    """While this is open, what takes long is shown as ``Respawner: <what>: <step>``."""
    watcher = _Watcher(what, screen)
    _open.append(watcher)
    try:
        yield
    finally:
        _open.remove(watcher)
        watcher.end()


class _Watcher:
    def __init__(self, what: str, screen: Screen) -> None:
        self._what = what
        self._screen = screen
        self.now = Step("")
        self._over = threading.Event()
        self._began = time.monotonic()
        # In this thread's context: ipykernel keeps there which cell an output belongs to.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(
            target=run, args=(self._watch,), name="respawner-progress", daemon=True
        )
        with contextlib.suppress(RuntimeError):  # no more threads: the work goes on unseen
            self._thread.start()

    def end(self) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        if self._over.wait(PATIENCE_SECONDS):
            return
        with contextlib.suppress(Exception):
            while True:
                self._screen.show(*self._told())
                if self._over.wait(_UPDATE_SECONDS):
                    break
            self._screen.clear()

    def _told(self) -> tuple[str, float | None]:
        now = self.now
        parts = [f"Respawner: {self._what}", str(now), _import_under_way()]
        seconds = f"{time.monotonic() - self._began:.0f} s"
        return ", ".join([*(part for part in parts if part), seconds]), now.share


def _import_under_way() -> str:
    """What the main thread imports in this moment, as the outermost ``import`` names it."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    name = ""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTS and frame.f_code.co_name == "_find_and_load":
            name = str(frame.f_locals.get("name", ""))
        frame = frame.f_back
    return f"importing {name}" if name else ""
