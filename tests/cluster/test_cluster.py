"""Two bare hosts become a cluster, a third one comes, one is lost, one leaves. In this order: each test starts where the
one before has ended, as an admin's cluster does.

What is real and what is a stand-in is told in `rig`. Most sessions are stand-ins as well (`tests.standins.stub_session`), for
they start in a moment. Where variables count, server and kernels are real (`tests.standins.kernel_session`).
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
import urllib3
from respawner import contract
from respawner_hub.cluster import provision_cluster
from respawner_hub.playbooks import Outcome

from tests.e2e.kernels import NotebookKernel, UserServer
from tests.standins import kernel_session, stub_session

from .rig import PREFIX, Host, Rig, RigError, playbook

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

ARTIFACTS = Path(__file__).parents[1] / "artifacts" / "cluster"
SUMMARY = ARTIFACTS / "summary.md"
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

    def __init__(self, rig: Rig, state_dir: Path, kernels: str) -> None:
        """
        :param kernels: the image of sessions with kernels.
        """
        self.rig, self.state_dir, self.kernels = rig, state_dir, kernels
        self.runs: dict[str, Outcome] = {}
        self.lost: dict[str, str] = {}
        """Container and kernel of the session whose host was cut off."""
        self.variables = {
            "storage_kind": "mounted",
            "swarm_encrypted": False,  # this kernel has no IPsec
            "swarm_mtu": "1300",
            "respawner_images": [stub_session.IMAGE, kernels],
        }

    @property
    def hub(self) -> Host:
        return self.rig.hosts[0]

    def inventory(self, hosts: list[Host] | None = None) -> Path:
        return self.rig.inventory(hosts, **self.variables)

    def provision(self, name: str, **options: Any) -> Outcome:
        """As `respawner-hub provision`; what it said is kept as artifacts/cluster/NAME.txt."""
        with open(ARTIFACTS / f"{name}.txt", "w") as log:
            outcome = provision_cluster(
                self.inventory(), self.state_dir, lambda line: print(line, file=log, flush=True), **options
            )
        self.runs[name] = outcome
        SUMMARY.write_text(role_table(self.runs))
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
        return requests.request(method, url, headers=headers, json=body or None, verify=False, timeout=120)

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

    def start(self, user: str, **options: Any) -> dict[str, Any]:
        """Start a user's server and wait until it runs; JupyterHub's model of it."""
        self.api("POST", f"users/{user}")
        started = self.api("POST", f"users/{user}/server", **options)
        assert started.status_code in (201, 202), started.text

        def ready() -> dict[str, Any] | None:
            server = self.api("GET", f"users/{user}").json()["servers"].get("")
            return server if server and server["ready"] else None

        return wait_for(ready, 300, lambda: self.log("hub"))

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


@pytest.fixture(scope="module")
def cluster():
    shutil.rmtree(ARTIFACTS, ignore_errors=True)
    ARTIFACTS.mkdir(parents=True)
    client = docker.APIClient(version="auto", timeout=600)
    kernels = kernel_session.build(client)
    with Rig(hosts=2, gpus=3) as rig:
        hatch = "/etc/respawner/jupyterhub_config.d/tests.py"
        rig.hosts[0].write(hatch, HATCH.encode())
        yield Cluster(rig, ARTIFACTS / "state", kernels)


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


SAVE = "import respawner; print('saved:', respawner.flush(60), respawner.status()['error'])"
IN_KERNEL = """
import sys
from jupyter_client import BlockingKernelClient
from jupyter_core.paths import jupyter_runtime_dir

client = BlockingKernelClient(connection_file=f"{jupyter_runtime_dir()}/kernel-{sys.argv[1]}.json")
client.load_connection_file()
client.start_channels()
client.wait_for_ready(timeout=120)
for code in sys.argv[2:]:
    client.execute_interactive(code, timeout=120)
"""


def in_kernel(host: Host, container: str, kernel: str, *cells: str) -> str:
    """What cells print that are run where no hub and no proxy leads to: in the container itself."""
    return host.docker("exec", container, "python3", "-c", IN_KERNEL, kernel, *cells)


def test_check_mode_on_a_bare_host_says_what_would_change_and_changes_nothing(cluster):
    host = cluster.hub
    outcome = cluster.provision("1-check", check=True, limit=host.name)
    assert {counts.failed for counts in outcome.hosts.values()} == {0}
    assert any("Ensure an engine is installed" in task for _, task in outcome.changed)
    assert (
        host.shell("command -v docker; ls /etc/respawner/tls /opt/respawner 2>/dev/null", check=False) == ""
    )


def test_bare_hosts_become_a_cluster(cluster):
    outcome = cluster.provision("2-first-run")
    assert set(outcome.hosts) == {f"{PREFIX}-1", f"{PREFIX}-2"}
    assert cluster.nodes() == {f"{PREFIX}-1": ("Ready", "Active"), f"{PREFIX}-2": ("Ready", "Active")}


def test_an_engine_answers_the_hub_and_nobody_else(cluster):
    second = cluster.rig.hosts[1]
    url = f"https://{second.address}:2376/version"
    tls = "/etc/respawner/tls"
    with_certificate = cluster.hub.shell(
        f"python3 - {url} <<'E'\nimport ssl,sys,urllib.request\n"
        f"c=ssl.create_default_context(cafile='{tls}/ca.crt');c.load_cert_chain('{tls}/client.crt','{tls}/client.key')\n"
        "print(urllib.request.urlopen(sys.argv[1],context=c).status)\nE"
    )
    assert with_certificate.strip() == "200"
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(url, verify=False, timeout=10)


def test_every_host_proves_itself(cluster):
    done = playbook(cluster.inventory(), "verify_cluster.yml")
    (ARTIFACTS / "3-verify.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    for host in cluster.rig.hosts:
        assert {uuid for grant in host.grants() for uuid in grant["granted"]} == set(host.gpus)


def test_a_session_runs_on_the_second_host_with_its_gpu(cluster):
    first, second = cluster.rig.hosts[:2]
    cluster.start("ada", gpus=1, gpu_host=second.name, image=cluster.kernels)
    assert list(sessions_on(second)) == ["ada"]
    assert sessions_on(first) == {}
    labels = json.loads(
        second.docker("inspect", "--format={{json .Config.Labels}}", sessions_on(second)["ada"])
    )
    assert labels["org.respawner.gpus"] in second.gpus
    assert second.grants()[-1]["granted"] == [labels["org.respawner.gpus"]]
    # Through the proxy on the first host, over the overlay.
    assert cluster.notebook("ada").run("x = 40").status == "ok"


def test_sessions_on_both_hosts_have_distinct_gpus(cluster):
    cluster.start("grace", gpus=1, gpu_host=cluster.hub.name)
    cluster.start("linus", gpus=1)
    devices = [
        json.loads(host.docker("inspect", "--format={{json .Config.Labels}}", container))[
            "org.respawner.gpus"
        ]
        for host in cluster.rig.hosts
        for container in sessions_on(host).values()
    ]
    assert len(devices) == len(set(devices)) == 3


def test_drift_is_repaired_nothing_else_is_touched_and_sessions_go_on(cluster):
    first, second = cluster.rig.hosts[:2]
    before = sessions_on(first) | sessions_on(second)
    second.shell("rm /etc/systemd/system/respawner-agent.service")
    second.shell("sed -i s/10m/11m/ /etc/docker/daemon.json")
    first.shell("echo '# by hand' >> /etc/respawner/respawner.toml")
    changed = {(host, task.partition(" : ")[0]) for host, task in cluster.provision("4-drift").changed}
    assert changed == {(first.name, "hub"), (second.name, "docker_engine"), (second.name, "agent")}
    assert '"10m"' in second.shell("cat /etc/docker/daemon.json")
    assert second.shell("systemctl is-active respawner-agent.service").strip() == "active"
    assert "# by hand" not in first.shell("cat /etc/respawner/respawner.toml")
    assert sessions_on(first) | sessions_on(second) == before


def test_the_run_after_that_changes_nothing(cluster):
    assert cluster.changed(cluster.provision("5-again")) == []


def test_the_hub_restarts_and_sessions_on_both_hosts_go_on(cluster):
    before = [sessions_on(host) for host in cluster.rig.hosts]
    assert all(before)
    kernel = cluster.notebook("ada").kernel_id
    cluster.hub.shell("systemctl restart respawner-hub.service")
    for user in {user for found in before for user in found}:
        wait_for(partial(cluster.is_ready, user), 180, lambda: cluster.log("hub"))
    assert [sessions_on(host) for host in cluster.rig.hosts] == before
    assert cluster.notebook("ada").kernel_id == kernel
    assert cluster.notebook("ada").value("x") == 40


def test_a_third_host_is_added_with_one_line(cluster):
    third = cluster.rig.add(gpus=3)
    outcome = cluster.provision("6-add", add=third.name)
    assert set(outcome.hosts) == {cluster.hub.name, third.name}
    assert cluster.nodes()[third.name] == ("Ready", "Active")
    cluster.start("edsger", gpus=1, gpu_host=third.name, image=cluster.kernels)
    assert list(sessions_on(third)) == ["edsger"]


def test_the_session_of_a_lost_host_goes_on_on_another_with_its_variables(cluster):
    third = cluster.rig.hosts[2]
    kernel = cluster.notebook("edsger")
    assert kernel.run("x = 41").status == "ok"
    assert is_durable(third, "edsger")
    cluster.lost = {"container": sessions_on(third)["edsger"], "kernel": kernel.kernel_id}
    third.pause()
    wait_for(
        lambda: "" not in cluster.api("GET", "users/edsger").json()["servers"],
        300,
        lambda: cluster.log("hub"),
    )
    cluster.start("edsger", gpus=1, image=cluster.kernels)
    assert cluster.host_of("edsger") in cluster.rig.hosts[:2]
    resumed = cluster.notebook("edsger")
    assert resumed.kernel_id != kernel.kernel_id
    assert resumed.value("x") == 41


def test_the_old_container_of_a_lost_host_cannot_save_and_is_stopped(cluster):
    """The hub is away when the host comes back: so nobody stops the old session, and the fence alone holds it."""
    third = cluster.rig.hosts[2]
    old = cluster.lost["container"]
    assert is_durable(cluster.host_of("edsger"), "edsger")
    before = cluster.snapshots("edsger")
    cluster.hub.shell("systemctl stop respawner-hub.service")
    try:
        third.unpause()
        assert old in sessions_on(third).values()
        said = in_kernel(third, old, cluster.lost["kernel"], "x = 13", SAVE)
        assert "saved: False" in said
        assert "this session was given up" in said
        assert cluster.snapshots("edsger") == before
    finally:
        third.unpause()
        cluster.hub.shell("systemctl start respawner-hub.service")
    wait_for(partial(cluster.is_ready, "edsger"), 180, lambda: cluster.log("hub"))
    wait_for(lambda: old not in sessions_on(third).values(), 240, lambda: cluster.log("hub"))
    assert cluster.host_of("edsger") in cluster.rig.hosts[:2]
    assert cluster.notebook("edsger").value("x") == 41


def test_a_host_that_was_restarted_is_back(cluster):
    third = cluster.rig.hosts[2]
    third.restart()
    wait_for(lambda: cluster.nodes()[third.name][0] == "Ready", 180)
    wait_for(lambda: third.shell("systemctl is-active respawner-agent", check=False).strip() == "active", 180)
    cluster.start("barbara", gpus=1, gpu_host=third.name, image=cluster.kernels)
    assert "barbara" in sessions_on(third)
    assert cluster.notebook("barbara").run("x = 42").status == "ok"


def test_a_host_leaves_and_its_session_goes_on_elsewhere_with_its_variables(cluster):
    third = cluster.rig.hosts[2]
    done = playbook(cluster.inventory(), "remove_host.yml", "-e", f"host={third.name}")
    (ARTIFACTS / "7-remove.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sessions_on(third) == {}
    assert third.name not in cluster.nodes()
    with pytest.raises(RigError):
        third.shell(f"python3 -c \"import socket; socket.create_connection(('{third.address}', 2376), 3)\"")
    wait_for(partial(cluster.is_ready, "barbara"), 300, lambda: cluster.log("hub"))
    assert cluster.host_of("barbara") in cluster.rig.hosts[:2]
    assert cluster.notebook("barbara").value("x") == 42


def test_no_secret_is_in_the_logs_of_all_that(cluster):
    host = cluster.hub
    found = [
        host.shell("cat /var/lib/respawner/secrets/agent-token"),
        host.docker("swarm", "join-token", "--quiet", "worker"),
        host.shell("sed -n 2p /etc/respawner/tls/ca.key"),
    ]
    files = [path for path in ARTIFACTS.rglob("*") if path.is_file()]
    assert len(files) > 100
    texts = [path.read_text(errors="replace") for path in files]
    for secret in found:
        assert len(secret.strip()) > 20
        assert not any(secret.strip() in text for text in texts)
