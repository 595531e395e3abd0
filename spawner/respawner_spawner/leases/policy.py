"""Who gets GPUs next: `decide(cluster, now)`, a pure function without clock, database or engine.

The order: priority; then the account (user or group) that holds the least above its guarantee; then first come
first served. Whoever fits is served, also past others that do not fit yet, until one of those has waited for
`rules.patience_seconds`: then what comes free is kept for it (see `queueing.Walk`). Whom a request may push aside is
in `turns.py` (who has run long enough in `ripe.py`, what comes free then in `room.py`), what is kept for bookings in
`bookings.py`, which devices are taken in `placement.py`, the words in `reasons.py`. docs/scheduling.md explains the rules and shows what they were measured against.
"""

from __future__ import annotations

from .model import Cluster, Decision
from .queueing import Walk
from .turns import suspensions
from .view import View
from .waits import Waits


def decide(cluster: Cluster, now: float) -> Decision:
    """Grants for those who can have devices now, suspensions for some of those who cannot, reasons for the rest."""
    return decide_view(View.of(cluster), now)


def decide_view(view: View, now: float) -> Decision:
    """The same on a view that the caller keeps up to date; the view is left as it was.

    `waits` are worked out when they are read: read them before the view changes.
    """
    walk = Walk(view, now)
    with walk.applied():
        walk.grant()
        out = suspensions(walk)
    return Decision(tuple(walk.grants.values()), out, Waits(walk, out))
