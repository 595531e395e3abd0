"""Whether a starting kernel may restore: the user's wish, the policy, and what became of earlier attempts.

Some things outlive a kernel for this. The marker ``clean`` is the wish for an empty start, the marker ``restarted``
says that a user restarted the kernel in order (it counts under the policy ``crash`` only). Both are cleared by the
first snapshot of the run that obeyed them, so a kernel that dies before is clean again. The marker ``restoring``
counts restores in a row after which no cell has ended. A pin keeps the state that a run does not continue,
because that run's own snapshots would displace it.
"""

from __future__ import annotations

import contextlib
import threading

from .contract import RESTORE_ENV
from .manifest import Manifest
from .store.timeline import Timeline

ALWAYS, CRASH, ASK, NEVER = "always", "crash", "ask", "never"
POLICIES = (ALWAYS, CRASH, ASK, NEVER)

_CLEAN = "clean"
_RESTARTED = "restarted"
_RESTORING = "restoring"
_MOST_ATTEMPTS = 2
"""Restores in a row that may die before their first cell ended; the start after them is clean."""


class Guard:
    """The markers of one timeline, for the kernel that writes it."""

    def __init__(self, timeline: Timeline, policy: str) -> None:
        self._timeline = timeline
        self.policy = policy
        self._markers = threading.Lock()
        self._obeyed: tuple[str, ...] = ()
        """Markers that the first snapshot of this run clears."""

    def why_not_restore(self) -> str | None:
        """The reason for a clean start, None where there is none."""
        if self._timeline.marker(_CLEAN) is not None:
            return "started clean, as asked"
        if self.policy == NEVER:
            return f"started clean, because {RESTORE_ENV} is {NEVER}"
        if self.policy == CRASH and self._timeline.marker(_RESTARTED) is not None:
            return f"started clean, because the kernel was restarted on purpose and {RESTORE_ENV} is {CRASH}"
        if self.policy == ASK:
            return f"nothing was restored, because {RESTORE_ENV} is {ASK}"
        if self._attempts() >= _MOST_ATTEMPTS:
            return (
                f"started clean, because the kernel died {_MOST_ATTEMPTS} times in a row after restoring "
                "and before a cell had ended"
            )
        return None

    def wish_clean_start(self) -> None:
        """The next start is clean. Raises `OSError` where that cannot be written down."""
        with self._markers:
            self._obeyed = ()
            self._timeline.set_marker(_CLEAN, {})

    def user_restarts(self) -> None:
        """The kernel ends because a user restarts it, in order. Any thread."""
        if self.policy != CRASH:
            return
        with self._markers, contextlib.suppress(OSError):
            self._obeyed = ()  # what is saved on the way out does not count
            self._timeline.set_marker(_RESTARTED, {})

    def begin_attempt(self) -> None:
        with contextlib.suppress(OSError):  # a full disk must not keep anybody from their state
            self._timeline.set_marker(_RESTORING, {"attempts": self._attempts() + 1})
        self._obeyed = (_RESTARTED,)  # left behind where the policy has been changed since

    def begin_clean(self, head: Manifest | None, reason: str) -> None:
        """Keep ``head``, the state that this run does not continue, out of retention's way."""
        self._obeyed = (_CLEAN, _RESTARTED)
        if head is not None:
            with contextlib.suppress(OSError):
                self._timeline.pin(head.id, reason)

    def cell_has_ended(self) -> None:
        self._timeline.clear_marker(_RESTORING)

    def state_is_saved(self) -> None:
        with self._markers:
            obeyed, self._obeyed = self._obeyed, ()
            for marker in obeyed:
                self._timeline.clear_marker(marker)

    def _attempts(self) -> int:
        attempts = (self._timeline.marker(_RESTORING) or {}).get("attempts", 0)
        return attempts if isinstance(attempts, int) else 0
