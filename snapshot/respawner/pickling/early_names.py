"""Names of the notebook, while its objects are made.

A ``__setstate__``, ``__hash__`` or constructor of the notebook looks names up in the user's namespace, which is
filled only when everything is there. So each variable is put there as soon as it is complete, in the order
in which they were first assigned, and the namespace is as before when all is done, whatever happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def names_meanwhile(namespace: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give out ``namespace`` to be written to, and undo what was written."""
    before = dict(namespace)
    try:
        yield namespace
    finally:
        for name in [name for name in namespace if name not in before]:
            del namespace[name]
        namespace.update(before)
