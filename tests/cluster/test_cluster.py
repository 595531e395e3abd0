"""Two bare hosts become a cluster, a third one comes, one is lost, one leaves. In this order: each test starts where the
one before has ended, as an admin's cluster does.

What is real and what is a stand-in is told in `rig`. Most sessions are stand-ins as well (`tests.standins.stub_session`), for
they start in a moment. Where variables count, server and kernels are real (`tests.standins.kernel_session`).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import partial

import docker
import pytest
import requests

from tests.standins import kernel_session, stub_session

from .deployed import Cluster, is_durable, sessions_on, wait_for
from .rig import PREFIX, Host, Rig, RigError, playbook

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


@dataclass
class Lost:
    """Of the session whose host was cut off."""

    container: str = ""
    kernel: str = ""


@pytest.fixture(scope="module")
def kernels() -> str:
    """The image of sessions with kernels."""
    return kernel_session.build(
        docker.APIClient(base_url=os.environ["DOCKER_HOST"], version="auto", timeout=600)
    )


@pytest.fixture(scope="module")
def lost() -> Lost:
    return Lost()


@pytest.fixture(scope="module")
def cluster(kernels):
    with Rig(hosts=2, gpus=3) as rig:
        yield Cluster(rig, "three-hosts", [stub_session.IMAGE, kernels])


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
    (cluster.artifacts / "3-verify.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    for host in cluster.rig.hosts:
        assert {uuid for grant in host.grants() for uuid in grant["granted"]} == set(host.gpus)


def test_a_session_runs_on_the_second_host_with_its_gpu(cluster, kernels):
    first, second = cluster.rig.hosts[:2]
    cluster.start("ada", gpus=1, gpu_host=second.name, image=kernels)
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


def test_a_third_host_is_added_with_one_line(cluster, kernels):
    third = cluster.rig.add(gpus=3)
    outcome = cluster.provision("6-add", add=third.name)
    assert set(outcome.hosts) == {cluster.hub.name, third.name}
    assert cluster.nodes()[third.name] == ("Ready", "Active")
    cluster.start("edsger", gpus=1, gpu_host=third.name, image=kernels)
    assert list(sessions_on(third)) == ["edsger"]


def test_the_session_of_a_lost_host_goes_on_on_another_with_its_variables(cluster, kernels, lost):
    third = cluster.rig.hosts[2]
    kernel = cluster.notebook("edsger")
    assert kernel.run("x = 41").status == "ok"
    assert is_durable(third, "edsger")
    lost.container, lost.kernel = sessions_on(third)["edsger"], kernel.kernel_id
    third.pause()
    wait_for(
        lambda: "" not in cluster.api("GET", "users/edsger").json()["servers"],
        300,
        lambda: cluster.log("hub"),
    )
    cluster.start("edsger", gpus=1, image=kernels)
    assert cluster.host_of("edsger") in cluster.rig.hosts[:2]
    resumed = cluster.notebook("edsger")
    assert resumed.kernel_id != kernel.kernel_id
    assert resumed.value("x") == 41


def test_the_old_container_of_a_lost_host_cannot_save_and_is_stopped(cluster, lost):
    """The hub is away when the host comes back: so nobody stops the old session, and the fence alone holds it."""
    third = cluster.rig.hosts[2]
    old = lost.container
    assert is_durable(cluster.host_of("edsger"), "edsger")
    before = cluster.snapshots("edsger")
    cluster.hub.shell("systemctl stop respawner-hub.service")
    try:
        third.unpause()
        assert old in sessions_on(third).values()
        said = in_kernel(third, old, lost.kernel, "x = 13", SAVE)
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


def test_a_host_that_was_restarted_is_back(cluster, kernels):
    third = cluster.rig.hosts[2]
    third.restart()
    wait_for(lambda: cluster.nodes()[third.name][0] == "Ready", 180)
    wait_for(lambda: third.shell("systemctl is-active respawner-agent", check=False).strip() == "active", 180)
    cluster.start("barbara", gpus=1, gpu_host=third.name, image=kernels)
    assert "barbara" in sessions_on(third)
    assert cluster.notebook("barbara").run("x = 42").status == "ok"


def test_a_host_leaves_and_its_session_goes_on_elsewhere_with_its_variables(cluster):
    third = cluster.rig.hosts[2]
    done = playbook(cluster.inventory(), "remove_host.yml", "-e", f"host={third.name}")
    (cluster.artifacts / "7-remove.txt").write_text(done.stdout + done.stderr)
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
    files = [path for path in cluster.artifacts.rglob("*") if path.is_file()]
    assert len(files) > 100
    texts = [path.read_text(errors="replace") for path in files]
    for secret in found:
        assert len(secret.strip()) > 20
        assert not any(secret.strip() in text for text in texts)
