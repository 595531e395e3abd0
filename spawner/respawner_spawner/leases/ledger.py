"""The ledger: who has which GPU, who waits and why, what admins set, and what was.

    submit ─▶ queued ─apply─▶ granted ─claim─▶ running ─release─▶ ended
                 └──cancel──────┴──cancel, expire─────────────────▶

Its methods stand in `requests` (the queue), `grants` (leases), `starts` (containers' numbers and hosts), `admin`
(cordons, sharing, limits, reservations, agents) and `history` (audit, readings). After a crash, see `reconcile`.
"""

from __future__ import annotations

from .grants import Leases
from .history import History
from .starts import Starts


class Ledger(Leases, Starts, History):
    """`Ledger(url, clock)`. Every change is one transaction, and any thread or process may make it."""
