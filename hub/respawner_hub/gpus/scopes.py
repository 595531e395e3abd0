"""Who may do what, in JupyterHub's scopes.

Users see and cancel their own requests by the scopes that they have on their own servers.
"""

from __future__ import annotations

ADMIN_SCOPE = "custom:respawner:gpus"
SCOPES = {
    ADMIN_SCOPE: {
        "description": "See and change who has which GPU: leases, queue, cordons, limits, reservations"
    }
}

SCHEDULER_SERVICE = "respawner-scheduler"
SCHEDULER_SCOPES = ["servers", "read:users", "access:servers", ADMIN_SCOPE]
"""Start and stop servers, see when they were active, and ask them whether a cell runs."""

CLI_SERVICE = "respawner-gpu"
CLI_SCOPES = [ADMIN_SCOPE, "servers", "read:users"]
