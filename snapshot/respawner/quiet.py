"""Warnings stay warnings while Respawner works."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def warnings_are_no_errors() -> Iterator[None]:
    """Where the notebook turned warnings into errors, ignore them: a deprecation must not cost an object.

    Not `warnings.catch_warnings`, after which every warning that has been shown once is shown again.
    """
    before = warnings.filters
    if not any(action == "error" for action, *_ in before):
        yield
        return
    ignored = [("ignore", None, Warning, None, 0)]
    warnings.filters = ignored
    try:
        yield
    finally:
        if warnings.filters is ignored:  # else an object's own code has set others
            warnings.filters = before
