"""A real hub process with our handlers and the ledger, and a stand-in for the agents: GPUs as a test says them.

Its sessions are the small web servers of `running_hub`; the spawner here claims and releases leases as the real one
does, but starts no container.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Device

from .running_hub import RunningHub

HOST = "stand-in"
GIB = 1 << 30

CONFIG = """
import sys
from respawner_hub.gpus.scopes import ADMIN_SCOPE, SCOPES, SCHEDULER_SCOPES
from respawner_hub.settings import GpuSettings
from respawner_spawner.claim import deleted
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.records import NoLease
from respawner_spawner.leases.asks import ask_from, wants_cpu_meanwhile
from respawner_hub.gpus.form import options_from_form, spawn_form
from jupyterhub.spawner import SimpleLocalProcessSpawner
from jupyterhub.auth import DummyAuthenticator

LEDGER = "sqlite:///" + os.path.abspath("respawner.sqlite")
ledger = Ledger(LEDGER)

class LeasingSpawner(SimpleLocalProcessSpawner):
    deployment, max_gpus = "test", 4

    @property
    def holder(self):
        return f"test/{self.user.name}/{self.name}"

    async def start(self):
        ask = ask_from(self.user_options, max_gpus=4)
        try:
            lease = ledger.claim(self.holder)
        except NoLease:
            if ask.kind != "none" and not wants_cpu_meanwhile(self.user_options):
                raise
        return await super().start()

    async def run_post_stop_hook(self):
        ledger.release(self.holder)

    async def delete_forever(self):
        deleted(ledger, self.holder)

c.JupyterHub.spawner_class = LeasingSpawner
c.Spawner.options_form = spawn_form
c.Spawner.options_from_form = options_from_form
c.JupyterHub.authenticator_class = DummyAuthenticator
c.DummyAuthenticator.password = "pw"
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {"boss"}
c.JupyterHub.allow_named_servers = True
c.JupyterHub.custom_scopes = SCOPES
c.JupyterHub.load_roles = [
    {"name": "managers", "scopes": [ADMIN_SCOPE], "users": ["manager"]},
    {"name": "tests", "scopes": ["admin:users", "admin:groups", "admin:servers", "tokens", ADMIN_SCOPE], "services": ["tests"]},
    {"name": "scheduler", "scopes": SCHEDULER_SCOPES, "services": ["scheduler"]},
]
c.JupyterHub.services = [
    {"name": "tests", "api_token": os.environ["TEST_API_TOKEN"]},
    {"name": "scheduler", "api_token": "s" * 32},
]
c.RespawnerHub.deployment = "test"
c.RespawnerHub.ledger_url = LEDGER
c.RespawnerHub.max_gpus = 4
c.RespawnerHub.gpus = GpuSettings(snoozes=1, non_preemptible=["user:carol"])
"""


class GpuHub(RunningHub):
    """`with GpuHub(folder, gpus) as hub`.

    :param gpus: how many whole GPUs there are at the start.
    :param more: lines of `jupyterhub_config.py`.
    """

    module = "respawner_hub.app"
    scheduler_token = "s" * 32

    def __init__(self, folder: Path, gpus: int = 1, more: str = "") -> None:
        super().__init__(folder, CONFIG + more)
        self.ledger = Ledger(f"sqlite:///{folder / 'respawner.sqlite'}")
        self.devices = tuple(Device(f"GPU-{n}", HOST, "STAND-IN A100", 80 * GIB) for n in range(gpus))
        self._over = threading.Event()
        self._agent = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> GpuHub:
        self.ledger.heartbeat(HOST, self.devices)
        self._agent.start()
        super().__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        super().__exit__(*raised)

    def _tell(self) -> None:
        """The agents' part: what is there, again and again."""
        while not self._over.wait(5):
            self.ledger.heartbeat(HOST, self.devices)

    def token(self, user: str) -> str:
        """A user with an API token of their own."""
        self.api("POST", f"/users/{user}")
        return self.api("POST", f"/users/{user}/tokens").json()["token"]

    def ask(self, user: str, options: dict | None = None, server: str = "", token: str = ""):
        path = f"/users/{user}/servers/{server}" if server else f"/users/{user}/server"
        return self.api("POST", path, token, json=options)

    def serves(self, user: str) -> bool:
        """Whether the user's server is ready. Before that the hub stops it for nobody, though its lease is claimed."""
        return bool(self.api("GET", f"/users/{user}").json()["server"])

    def stop_all(self) -> None:
        """Every server; nobody has one or a lease afterwards."""

        def stopped() -> bool:
            running = [user["name"] for user in self.api("GET", "/users").json() if user["servers"]]
            for user in running:  # again and again: one that starts cannot be stopped yet
                self.api("DELETE", f"/users/{user}/server")
            return not running and not self.ledger.leases()

        eventually(stopped, "all servers and leases to end")


def eventually(condition, what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)
