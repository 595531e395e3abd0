"""What the user should be told about an object that came back, but not quite as it was.

Functions that stand in pickles are called by the unpickler, which passes nothing on; so they leave their
remarks here, and who unpickles collects them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_collected: ContextVar[dict[str, None] | None] = ContextVar("respawner_remarks", default=None)


def remark(text: str) -> None:
    """Add a note to the restore at hand, once; without one nothing happens."""
    collected = _collected.get()
    if collected is not None:
        collected[text] = None


@contextlib.contextmanager
def collecting() -> Iterator[dict[str, None]]:
    """Collect the remarks of this block, in order."""
    collected: dict[str, None] = {}
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)
