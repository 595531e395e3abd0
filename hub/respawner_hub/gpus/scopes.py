"""Who may do what, in JupyterHub's scopes.

Users see and cancel their own requests by the scopes that they have on their own servers. JupyterHub does not let
anybody add a scope to its role "admin", so who may stop everybody's servers (`admin:servers`) counts as well; the
scope of our own is for roles that shall do no more than that, of a group of managers for example.
"""

from __future__ import annotations

ADMIN_SCOPE = "custom:respawner:gpus"
SCOPES = {
    ADMIN_SCOPE: {
        "description": "See and change who has which GPU: leases, queue, cordons, limits, reservations"
    }
}

SCHEDULER_SERVICE = "respawner-scheduler"
SCHEDULER_SCOPES = ["servers", "list:users", "access:servers"]
"""Start and stop servers, see when they were active and whose they are, and ask them whether a cell runs."""

ADMIN_SCOPES = (ADMIN_SCOPE, "admin:servers")

CLI_SERVICE = "respawner-gpu"
CLI_SCOPES = [ADMIN_SCOPE, "servers", "list:users"]
