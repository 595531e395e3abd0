"""Whether a starting kernel may restore: the user's wish, the policy, and what became of earlier attempts.

Three things outlive a kernel for this. The marker ``clean`` is the wish for an empty start; it is cleared by
the first snapshot of the run that obeyed it, so a kernel that dies before is clean again. The marker
``restoring`` counts restores in a row after which no cell has ended. A pin keeps the state that a run does
not continue, because that run's own snapshots would displace it.
"""

from __future__ import annotations

import contextlib

from .manifest import Manifest
from .store.timeline import Timeline

_CLEAN = "clean"
_RESTORING = "restoring"
_MOST_ATTEMPTS = 2
"""Restores in a row that may die before their first cell ended; the start after them is clean."""


class Guard:
    """The markers of one timeline, for the kernel that writes it."""

    def __init__(self, timeline: Timeline, policy: str) -> None:
        self._timeline = timeline
        self._policy = policy
        self._obeyed_wish = False

    def why_not_restore(self) -> str | None:
        """The reason for a clean start, None where there is none."""
        if self._timeline.marker(_CLEAN) is not None:
            return "started clean, as asked"
        if self._policy == "never":
            return "started clean, because RESPAWNER_RESTORE is never"
        if self._attempts() >= _MOST_ATTEMPTS:
            return (
                f"started clean, because the kernel died {_MOST_ATTEMPTS} times in a row after restoring "
                "and before a cell had ended"
            )
        return None

    def wish_clean_start(self) -> None:
        """The next start is clean. Raises `OSError` where that cannot be written down."""
        self._timeline.set_marker(_CLEAN, {})
        self._obeyed_wish = False

    def begin_attempt(self) -> None:
        with contextlib.suppress(OSError):  # a full disk must not keep anybody from their state
            self._timeline.set_marker(_RESTORING, {"attempts": self._attempts() + 1})

    def begin_clean(self, head: Manifest | None, reason: str) -> None:
        """Keep ``head``, the state that this run does not continue, out of retention's way."""
        self._obeyed_wish = True
        if head is not None:
            with contextlib.suppress(OSError):
                self._timeline.pin(head.id, reason)

    def cell_has_ended(self) -> None:
        self._timeline.clear_marker(_RESTORING)

    def state_is_saved(self) -> None:
        if self._obeyed_wish:
            self._obeyed_wish = False
            self._timeline.clear_marker(_CLEAN)

    def _attempts(self) -> int:
        attempts = (self._timeline.marker(_RESTORING) or {}).get("attempts", 0)
        return attempts if isinstance(attempts, int) else 0
