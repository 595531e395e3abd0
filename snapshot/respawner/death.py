"""How this notebook's last kernel ended, where it did not end in order: a fatal signal, or killed for want of memory.

Two things outlive a kernel for that. Python's `faulthandler` writes its note of a fatal signal into the timeline's
folder (and not to the server's log, as ipykernel would have it: there is one place only). A marker says how many
processes the container had lost to its memory limit when the kernel began; SIGKILL leaves no note of its own.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import socket
import weakref
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from . import container_memory
from .manifest import Manifest
from .readable import readable_age
from .store.timeline import Timeline

_NOTE, _LAST_NOTE = "fatal.log", "fatal.last.log"
_MARKER = "alive"
_SIGNALS = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Floating-point exception": "SIGFPE",
    "Floating point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
}
_CELL = re.compile(r"/ipykernel_\d+/\d+\.py$")


@dataclass(frozen=True)
class Death:
    """``seconds``: since 1970, None where nobody knows; ``place``: of the code that ran, as text."""

    cause: str
    seconds: float | None = None
    place: str = ""
    note: Path | None = None

    def told(self, head: Manifest | None) -> str:
        """One note for the report. ``head``: the state that is restored."""
        text = f"the kernel died of {self.cause}{self.place and ' in ' + self.place}"
        if self.seconds is not None:
            when = datetime.fromtimestamp(self.seconds, timezone.utc)
            text += f" at {when:%H:%M:%S} UTC"
            if head is not None:
                age = self.seconds - datetime.fromisoformat(head.created).timestamp()
                text += f", when this state was {readable_age(max(0.0, age))}"
        return text + (f"; Python's note of it is {self.note}" if self.note else "")


class LastWords:
    """Registers on construction, after ``death`` has been found out; `end` when the kernel ends in order."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.death = _death(timeline)
        self._file: IO[str] | None = None
        with contextlib.suppress(OSError):
            self._file = open(timeline.folder / _NOTE, "w")  # noqa: SIM115 - for the kernel's life
            faulthandler.enable(self._file)
        with contextlib.suppress(OSError):
            content = {"host": socket.gethostname(), "killed": container_memory.killed_for_memory()}
            timeline.set_marker(_MARKER, content, durable=False)

        _open.add(self)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._timeline.clear_marker(_MARKER)

    def remove(self) -> None:
        """Fatal signals are told where ipykernel has them told."""
        self.end()
        self.leave()

    def leave(self) -> None:
        if self._file is not None:
            faulthandler.enable()
            self._file.close()
            self._file = None


_open: weakref.WeakSet[LastWords] = weakref.WeakSet()


def _leave_in_child() -> None:
    """A DataLoader's worker that dies is not the kernel."""
    for words in list(_open):
        words.leave()


os.register_at_fork(after_in_child=_leave_in_child)


def _death(timeline: Timeline) -> Death | None:
    before = timeline.marker(_MARKER)
    if before is None:  # the last one ended in order
        return None
    path = timeline.folder / _NOTE
    try:
        text, seconds = path.read_text(errors="replace"), path.stat().st_mtime
        if text.strip():
            kept = path.rename(timeline.folder / _LAST_NOTE)
            return Death(_cause_in(text), seconds, place_in(text), kept)
    except OSError:
        pass
    killed, now = before.get("killed"), container_memory.killed_for_memory()
    same = before.get("host") == socket.gethostname()
    if same and isinstance(killed, int) and now is not None and now > killed:
        return Death("want of memory (the system killed a process of this container)")
    return None


def _cause_in(note: str) -> str:
    first = note.strip().partition("\n")[0].removeprefix("Fatal Python error: ")
    return _SIGNALS.get(first, first)


def place_in(note: str) -> str:
    """``string_at (ctypes/__init__.py:519), called in line 3 of a cell``: the innermost function, and the notebook's."""
    _, _, current = note.partition("Current thread")
    frames = []
    for line in current.splitlines()[1:]:
        found = re.match(r'\s+File "(.*)", line (\d+) in (.*)', line)
        if found is None:
            break
        frames.append((found[1], int(found[2]), found[3]))
    if not frames:
        return ""
    own = next((frame for frame in frames if _CELL.search(frame[0])), None)
    inner_file, line_number, function = frames[0]
    if own == frames[0]:
        return _in_cell(*own)
    inner = f"{function} ({'/'.join(Path(inner_file).parts[-2:])}:{line_number})"
    return f"{inner}, called in {_in_cell(*own)}" if own else inner


def _in_cell(file: str, line: int, function: str) -> str:
    return f"line {line} of a cell" if function == "<module>" else f"{function}(), line {line} of its cell"
