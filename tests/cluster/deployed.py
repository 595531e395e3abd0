"""A cluster as the playbooks make it of a rig's hosts, and its hub's API."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests
import urllib3
from respawner import contract
from respawner_hub.cluster import provision_cluster
from respawner_hub.playbooks import Outcome

from tests.e2e.kernels import NotebookKernel, UserServer

from .rig import Host, Rig

ARTIFACTS = Path(__file__).parents[1] / "artifacts" / "cluster"
TOKEN = secrets.token_hex(16)
NOTEBOOK = "work.ipynb"
HATCH = f"""
c.JupyterHub.services = [{{"name": "tests", "api_token": "{TOKEN}"}}]
c.JupyterHub.load_roles = [{{
    "name": "tests", "services": ["tests"],
    "scopes": ["admin:users", "admin:servers", "access:servers", "custom:respawner:gpus"],
}}]
c.DockerSpawner.allowed_images = "*"
"""
urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # the hub's certificate is self-signed


class Cluster:
    """The rig, the settings of its inventory, and the hub's API."""

    def __init__(self, rig: Rig, name: str, images: list[str]) -> None:
        """
        :param name: of the folder in the artifacts that keeps what the runs said.
        :param images: what sessions may be started from.
        """
        self.rig, self.artifacts = rig, ARTIFACTS / name
        self.state_dir = self.artifacts / "state"
        shutil.rmtree(self.artifacts, ignore_errors=True)
        self.artifacts.mkdir(parents=True)
        self.runs: dict[str, Outcome] = {}
        self.variables: dict[str, Any] = {
            "storage_kind": "mounted",
            "swarm_encrypted": False,  # this kernel has no IPsec
            "swarm_mtu": "1300",
            "respawner_images": images,
        }
        self.hub.write("/etc/respawner/jupyterhub_config.d/tests.py", HATCH.encode())

    @property
    def hub(self) -> Host:
        return self.rig.hosts[0]

    def inventory(self, hosts: list[Host] | None = None) -> Path:
        return self.rig.inventory(hosts, **self.variables)

    def provision(self, name: str, **options: Any) -> Outcome:
        """As `respawner-hub provision`; what it said is kept as NAME.txt, and `summary.md` has a table of all runs."""
        with open(self.artifacts / f"{name}.txt", "w") as log:
            outcome = provision_cluster(
                self.inventory(), self.state_dir, lambda line: print(line, file=log, flush=True), **options
            )
        self.runs[name] = outcome
        (self.artifacts / "summary.md").write_text(role_table(self.runs))
        return outcome

    def changed(self, outcome: Outcome) -> list[str]:
        return [f"{host}: {task}" for host, task in outcome.changed]

    def nodes(self) -> dict[str, tuple[str, str]]:
        """Host → status and availability, as the Swarm says."""
        lines = self.hub.docker("node", "ls", "--format={{json .}}").splitlines()
        found = [json.loads(line) for line in lines]
        return {node["Hostname"]: (node["Status"], node["Availability"]) for node in found}

    @property
    def url(self) -> str:
        return f"https://{self.hub.address}:8000/"

    @property
    def api_token(self) -> str:
        return TOKEN

    def api(self, method: str, path: str, **body: Any) -> requests.Response:
        url, headers = f"{self.url}hub/api/{path}", {"Authorization": f"token {TOKEN}"}
        return requests.request(method, url, headers=headers, json=body or None, verify=False, timeout=240)

    def is_ready(self, user: str) -> bool:
        """Whether the hub answers, and has the user's server running."""
        try:
            return bool(self.api("GET", f"users/{user}").json()["servers"][""]["ready"])
        except (requests.exceptions.RequestException, KeyError, ValueError):
            return False

    def notebook(self, user: str) -> NotebookKernel:
        """The kernel of the user's notebook, as opening it in JupyterLab finds or starts it."""
        return UserServer(self, user, verify=False).open_notebook(NOTEBOOK)

    def host_of(self, user: str) -> Host | None:
        """Where the user's session runs, of the hosts that answer."""
        return next((host for host in self.rig.hosts if not host.paused and user in sessions_on(host)), None)

    def granted(self) -> dict[str, str]:
        """User → GPU, by the labels of the containers that run."""
        gpus = '--format={{index .Config.Labels "org.respawner.gpus"}}'
        return {
            user: host.docker("inspect", gpus, container).strip()
            for host in self.rig.hosts
            for user, container in sessions_on(host).items()
        }

    def leased(self) -> dict[str, str]:
        """User → GPU, by the ledger."""
        found = json.loads(self.hub.shell("respawner-hub gpu leases --json"))
        return {lease["user"]: ",".join(lease["devices"]) for lease in found if lease["state"] == "running"}

    def start(self, user: str, **options: Any) -> dict[str, Any]:
        """Start a user's server and wait until it runs; JupyterHub's model of it."""
        self.api("POST", f"users/{user}")
        started = self.api("POST", f"users/{user}/server", **options)
        assert started.status_code in (201, 202), started.text

        def ready() -> dict[str, Any] | None:
            server = self.api("GET", f"users/{user}").json()["servers"].get("")
            return server if server and server["ready"] else None

        return wait_for(ready, 600, lambda: self.log("hub"))

    def log(self, unit: str, host: Host | None = None) -> str:
        return (host or self.hub).shell(
            f"journalctl --no-pager -n 60 -u respawner-{unit}.service", check=False
        )

    def snapshots(self, user: str) -> list[str]:
        """Ids of what the user's store on the shared storage holds, newest first, as the hub's host sees it."""
        store = f"/srv/respawner/{user}/snapshots/store"
        lines = self.hub.shell(
            f"/opt/respawner/current/venv/bin/python -m respawner --store {store} list --json"
        )
        return [json.loads(line)["id"] for line in lines.splitlines()]


def role_table(runs: Mapping[str, Outcome]) -> str:
    """Seconds and changes of every role in every run, in Markdown."""
    roles = dict.fromkeys(role for outcome in runs.values() for role in outcome.role_seconds)
    lines = [["role, s (changed)", *runs], ["---"] * (len(runs) + 1)]
    for role in roles:
        seconds = [outcome.role_seconds.get(role) for outcome in runs.values()]
        changed = [outcome.changed_by(role) for outcome in runs.values()]
        cells = ["" if s is None else f"{s:.0f} ({c})" for s, c in zip(seconds, changed, strict=True)]
        lines.append([role, *cells])
    whole = [f"{outcome.seconds:.0f} ({len(outcome.changed)})" for outcome in runs.values()]
    return "".join(f"| {' | '.join(line)} |\n" for line in [*lines, ["all", *whole]])


def wait_for(what: Callable[[], Any], seconds: float, explain: Callable[[], str] = str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s\n{explain()}"
        time.sleep(1)
    return found


def sessions_on(host: Host) -> dict[str, str]:
    """User → id of the running container."""
    lines = host.docker(
        "ps",
        "--no-trunc",
        "--filter=label=org.respawner.holder",
        '--format={{.Label "org.respawner.user"}} {{.ID}}',
    ).splitlines()
    return dict(line.split() for line in lines)


def is_durable(host: Host, user: str) -> bool:
    """Wait until all kernels of the session are saved, as the hub does before it stops one."""
    path = f"--env=PYTHONPATH={contract.BUNDLE_DIR}/lib"
    command = ["python3", "-m", contract.FLUSH_MODULE, "--timeout", "120"]
    return json.loads(host.docker("exec", path, sessions_on(host)[user], *command))["durable"]
