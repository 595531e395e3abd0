"""From a look at something to a `Check`: what it returns is well, what it raises says how it is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec

from ..images.fitness import Check

P = ParamSpec("P")
Note = Callable[[Check], None]


class Failed(Exception):
    """What is wrong, and what to do about it."""

    def __init__(self, says: str, next_step: str = "") -> None:
        super().__init__(says)
        self.next_step = next_step


class Absent(Failed):
    """Something that a deployment may do without."""


class NotChecked(Exception):
    """It cannot be tried here; the message says why."""


def verdict(name: str, look: Callable[P, str], *arguments: P.args, **named: P.kwargs) -> Check:
    """Call `look` with the arguments. Whatever it raises is a finding, since a doctor that breaks off says nothing of the rest."""
    started = time.monotonic()
    step = ""
    try:
        state, says = "ok", look(*arguments, **named)
    except NotChecked as reason:
        state, says = "skipped", f"not checked: {reason}"
    except Failed as error:
        state, says, step = "absent" if isinstance(error, Absent) else "failed", str(error), error.next_step
    except Exception as error:
        state, says = "failed", f"{type(error).__name__}: {error}"
    return Check(name, state, says, step, round(time.monotonic() - started, 1))  # type: ignore[arg-type]
