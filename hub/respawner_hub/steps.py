"""Progress of long commands: what is done now, and how long it took."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Say = Callable[[str], None]


@contextmanager
def step(title: str) -> Iterator[Say]:
    """Print `title`, then what the block says line by line, then the seconds it took.

    On a failure the line says so and the exception goes on.
    """
    started = time.monotonic()
    print(f"▸ {title}", flush=True)  # noqa: T201
    outcome = "failed"
    try:
        yield lambda message: print(f"    {message}", flush=True)  # noqa: T201
        outcome = "done"
    finally:
        stream = sys.stdout
        print(f"    {outcome} in {time.monotonic() - started:.1f} s", file=stream, flush=True)
