"""Who may write: a session that was given up must not publish over the one that went on in its place.

Every hold on a GPU has a number that only grows. The spawner writes the newest one into a file beside the store
before it starts the session's container, and gives the container its own. Where the file has a greater number,
another session has taken over: this one may go on computing, but nothing of it becomes a snapshot.

Looked at before a state is written and again directly before its manifest is published: one small file. Not for
protection from the user, who may write to it. Between the last look and the manifest's rename lies a moment that no
file system closes.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ..contract import FENCE_ENV, FENCE_FILE_ENV
from ..errors import FencedError

_AGAIN_SECONDS = 0.1


class Fence:
    """``number`` 0 or no ``path``: nobody keeps count, and everything may be published."""

    def __init__(self, number: int = 0, path: Path | None = None) -> None:
        self.number = number
        self.path = path

    @classmethod
    def of_session(cls) -> Fence:
        """As the session's environment says. A number that is none keeps no count: saving goes on."""
        number, path = os.environ.get(FENCE_ENV, ""), os.environ.get(FENCE_FILE_ENV)
        return cls(int(number), Path(path)) if path and number.isdecimal() else cls()

    def check(self) -> None:
        """Raises `FencedError` where a newer session has taken over."""
        if not self.number or self.path is None:
            return
        newest = _read(self.path)
        if newest > self.number:
            raise FencedError(
                f"this session was given up and another one has gone on with its state ({self.path} says "
                f"{newest}, this session is {self.number}). Nothing is saved here any more: copy what you "
                "need to a file, then open the notebook anew"
            )


def _read(path: Path) -> int:
    """The number in the file. One that is being replaced is looked at again; one that is gone counts as 0."""
    for pause in (_AGAIN_SECONDS, 0.0):
        try:
            return int(path.read_bytes())
        except (OSError, ValueError):
            time.sleep(pause)
    return 0
