"""Two bare hosts become a cluster, a third one comes, one is lost, one leaves. In this order: each test starts where the
one before has ended, as an admin's cluster does.

What is real and what is a stand-in is told in `rig`. The sessions are stand-ins as well (`tests.standins.stub_session`):
they have no kernels, so nothing is said here of variables.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
import urllib3
from respawner_hub.cluster import provision_cluster
from respawner_hub.playbooks import Outcome

from tests.standins import stub_session

from .rig import PREFIX, Host, Rig, RigError, playbook

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

ARTIFACTS = Path(__file__).parents[1] / "artifacts" / "cluster"
TOKEN = secrets.token_hex(16)
HATCH = f"""
c.JupyterHub.services = [{{"name": "tests", "api_token": "{TOKEN}"}}]
c.JupyterHub.load_roles = [{{
    "name": "tests", "services": ["tests"], "scopes": ["admin:users", "admin:servers", "custom:respawner:gpus"],
}}]
"""
urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # the hub's certificate is self-signed


class Cluster:
    """The rig, the settings of its inventory, and the hub's API."""

    def __init__(self, rig: Rig, state_dir: Path) -> None:
        self.rig, self.state_dir = rig, state_dir
        self.variables = {
            "storage_kind": "mounted",
            "swarm_encrypted": False,  # this kernel has no IPsec
            "swarm_mtu": "1300",
            "respawner_images": [stub_session.IMAGE],
        }

    @property
    def hub(self) -> Host:
        return self.rig.hosts[0]

    def inventory(self, hosts: list[Host] | None = None) -> Path:
        return self.rig.inventory(hosts, **self.variables)

    def provision(self, name: str, **options: Any) -> Outcome:
        """As `respawner-hub provision`; what it said is kept as artifacts/cluster/NAME.txt."""
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        with open(ARTIFACTS / f"{name}.txt", "w") as log:
            return provision_cluster(
                self.inventory(), self.state_dir, lambda line: print(line, file=log, flush=True), **options
            )

    def changed(self, outcome: Outcome) -> list[str]:
        return [f"{host}: {task}" for host, task in outcome.changed]

    def nodes(self) -> dict[str, tuple[str, str]]:
        """Host → status and availability, as the Swarm says."""
        lines = self.hub.docker("node", "ls", "--format={{json .}}").splitlines()
        found = [json.loads(line) for line in lines]
        return {node["Hostname"]: (node["Status"], node["Availability"]) for node in found}

    def api(self, method: str, path: str, **body: Any) -> requests.Response:
        url = f"https://{self.hub.address}:8000/hub/api/{path}"
        headers = {"Authorization": f"token {TOKEN}"}
        return requests.request(method, url, headers=headers, json=body or None, verify=False, timeout=60)

    def start(self, user: str, **options: Any) -> dict[str, Any]:
        """Start a user's server and wait until it runs; JupyterHub's model of it."""
        self.api("POST", f"users/{user}")
        started = self.api("POST", f"users/{user}/server", **options)
        assert started.status_code in (201, 202), started.text

        def ready() -> dict[str, Any] | None:
            server = self.api("GET", f"users/{user}").json()["servers"].get("")
            return server if server and server["ready"] else None

        return wait_for(ready, 120, lambda: self.log("hub"))

    def log(self, unit: str, host: Host | None = None) -> str:
        return (host or self.hub).shell(
            f"journalctl --no-pager -n 60 -u respawner-{unit}.service", check=False
        )


def wait_for(what: Callable[[], Any], seconds: float, explain: Callable[[], str] = str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s\n{explain()}"
        time.sleep(1)
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    client = docker.APIClient(version="auto")
    stub_session.build(client)
    with Rig(hosts=2) as rig:
        hatch = "/etc/respawner/jupyterhub_config.d/tests.py"
        rig.hosts[0].write(hatch, HATCH.encode())
        yield Cluster(rig, tmp_path_factory.mktemp("state"))


def sessions_on(host: Host) -> dict[str, str]:
    """User → id of the running container."""
    lines = host.docker(
        "ps",
        "--no-trunc",
        "--filter=label=org.respawner.holder",
        '--format={{.Label "org.respawner.user"}} {{.ID}}',
    ).splitlines()
    return dict(line.split() for line in lines)


def test_check_mode_on_bare_hosts_says_what_would_change_and_changes_nothing(cluster):
    outcome = cluster.provision("1-check", check=True)
    assert {counts.failed for counts in outcome.hosts.values()} == {0}
    assert any("Ensure an engine is installed" in task for _, task in outcome.changed)
    for host in cluster.rig.hosts:
        assert (
            host.shell("command -v docker; ls /etc/respawner/tls /opt/respawner 2>/dev/null", check=False)
            == ""
        )


def test_bare_hosts_become_a_cluster(cluster):
    outcome = cluster.provision("2-first-run")
    assert set(outcome.hosts) == {f"{PREFIX}-1", f"{PREFIX}-2"}
    assert cluster.nodes() == {f"{PREFIX}-1": ("Ready", "Active"), f"{PREFIX}-2": ("Ready", "Active")}


def test_the_second_run_changes_nothing(cluster):
    assert cluster.changed(cluster.provision("3-second-run")) == []


def test_no_secret_is_in_the_logs(cluster):
    host = cluster.hub
    found = [
        host.shell("cat /var/lib/respawner/secrets/agent-token"),
        host.docker("swarm", "join-token", "--quiet", "worker"),
        host.shell("sed -n 2p /etc/respawner/tls/ca.key"),
    ]
    files = [path for path in cluster.state_dir.rglob("*") if path.is_file()] + list(ARTIFACTS.glob("*.txt"))
    assert len(files) > 100
    texts = [path.read_text(errors="replace") for path in files]
    for secret in found:
        assert len(secret.strip()) > 20
        assert not any(secret.strip() in text for text in texts)


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


def test_a_session_runs_on_the_second_host_with_its_gpu(cluster):
    first, second = cluster.rig.hosts[:2]
    cluster.start("ada", gpus=1, gpu_host=second.name)
    assert list(sessions_on(second)) == ["ada"]
    assert sessions_on(first) == {}
    labels = json.loads(
        second.docker("inspect", "--format={{json .Config.Labels}}", sessions_on(second)["ada"])
    )
    assert labels["org.respawner.gpus"] in second.gpus
    assert second.grants()[-1]["granted"] == [labels["org.respawner.gpus"]]
    page = requests.get(
        f"https://{first.address}:8000/user/ada/api/status",
        headers={"Authorization": f"token {TOKEN}"}, verify=False, timeout=30,
    )  # fmt: skip
    assert page.json()["kernels"] == 0  # through the proxy on the first host, over the overlay


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


def test_drift_is_repaired_and_sessions_go_on(cluster):
    first, second = cluster.rig.hosts[:2]
    before = sessions_on(first) | sessions_on(second)
    second.shell("rm /etc/systemd/system/respawner-agent.service")
    second.shell("sed -i s/10m/11m/ /etc/docker/daemon.json")
    first.shell("echo '# by hand' >> /etc/respawner/respawner.toml")
    changed = cluster.changed(cluster.provision("4-drift"))
    assert {line.partition(":")[0] for line in changed} == {first.name, second.name}
    assert '"10m"' in second.shell("cat /etc/docker/daemon.json")
    assert second.shell("systemctl is-active respawner-agent.service").strip() == "active"
    assert "# by hand" not in first.shell("cat /etc/respawner/respawner.toml")
    assert sessions_on(first) | sessions_on(second) == before
    assert cluster.changed(cluster.provision("5-after-drift")) == []


def test_the_hub_restarts_and_its_sessions_go_on(cluster):
    before = sessions_on(cluster.rig.hosts[1])
    cluster.hub.shell("systemctl restart respawner-hub.service")

    def answers() -> bool:
        try:
            return cluster.api("GET", "users/ada").json()["servers"][""]["ready"]
        except (requests.exceptions.RequestException, KeyError, ValueError):
            return False

    wait_for(answers, 90, lambda: cluster.log("hub"))
    assert sessions_on(cluster.rig.hosts[1]) == before


def test_a_third_host_is_added_with_one_line(cluster):
    third = cluster.rig.add()
    outcome = cluster.provision("6-add", add=third.name)
    assert set(outcome.hosts) == {cluster.hub.name, third.name}
    assert cluster.nodes()[third.name] == ("Ready", "Active")
    cluster.start("edsger", gpus=1, gpu_host=third.name)
    assert list(sessions_on(third)) == ["edsger"]


def test_the_session_of_a_lost_host_starts_on_another_and_the_old_one_is_fenced_off(cluster):
    third = cluster.rig.hosts[2]
    old = sessions_on(third)["edsger"]
    third.pause()
    try:
        wait_for(
            lambda: "" not in cluster.api("GET", "users/edsger").json()["servers"],
            240,
            lambda: cluster.log("hub"),
        )
        cluster.start("edsger", gpus=1)
        assert "edsger" in sessions_on(cluster.rig.hosts[0]) | sessions_on(cluster.rig.hosts[1])
    finally:
        third.unpause()
    wait_for(lambda: old not in sessions_on(third).values(), 180, lambda: cluster.log("hub"))
    assert "edsger" in sessions_on(cluster.rig.hosts[0]) | sessions_on(cluster.rig.hosts[1])


def test_a_host_that_was_restarted_is_back(cluster):
    third = cluster.rig.hosts[2]
    third.restart()
    wait_for(lambda: cluster.nodes()[third.name][0] == "Ready", 90)
    wait_for(lambda: third.shell("systemctl is-active respawner-agent", check=False).strip() == "active", 60)
    cluster.start("barbara", gpus=1, gpu_host=third.name)
    assert "barbara" in sessions_on(third)


def test_a_host_leaves_when_its_sessions_are_gone(cluster):
    third = cluster.rig.hosts[2]
    cluster.api("DELETE", "users/barbara/server")
    wait_for(lambda: not sessions_on(third), 90)
    done = playbook(cluster.inventory(), "remove_host.yml", "-e", f"host={third.name}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert third.name not in cluster.nodes()
    with pytest.raises(RigError):
        third.shell(f"python3 -c \"import socket; socket.create_connection(('{third.address}', 2376), 3)\"")
