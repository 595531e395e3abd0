"""`provision --upgrade` of a cluster: newer engine and toolkit, host after host, and sessions with variables that move out of the
way. Then one that fails at the first host. In this order: each test starts where the one before has ended.

The newer engine's content is the same: Debian's package docker.io as the hosts have it, packed again with a higher version, with
its own maintainer scripts; those leave the old process running. The toolkit's packages are stand-ins (`vendor`), the sessions'
servers and kernels are real (`tests.standins.kernel_session`).
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import docker
import pytest
from respawner_hub.provision import ProvisionError

from tests.standins import kernel_session

from .deployed import Cluster, sessions_on, wait_for
from .rig import Host, Rig, run
from .vendor import SEEN, newer

pytestmark = [pytest.mark.docker, pytest.mark.timeout(2400)]

DRIVER = "570.86.15"
OLD, NEW, BAD, MENDED = "1.17.8-1", "1.17.9-1", "1.17.10-1", "1.17.11-1"
VARIABLES = {"ada": 40, "grace": 41}
ENDED = """
import sqlite3
with sqlite3.connect("file:/var/lib/respawner/respawner.sqlite?mode=ro", uri=True) as ledger:
    ended = "SELECT user, end_reason, end_detail FROM respawner_requests WHERE state = 'ended' ORDER BY ended_at"
    for row in ledger.execute(ended):
        print(*row, sep="|")
"""


@pytest.fixture(scope="module")
def cluster():
    client = docker.APIClient(base_url=os.environ["DOCKER_HOST"], version="auto", timeout=600)
    with Rig(hosts=2, bare=True) as rig:
        made = Cluster(rig, "upgrade", [kernel_session.build(client)])
        made.provision("1-first-run")
        yield made


@pytest.fixture(scope="module")
def engine(cluster) -> Path:
    """The package of a newer engine."""
    cluster.hub.shell("cd /var/tmp && apt-get -qq update && apt-get -qq download docker.io")
    name = Path(cluster.hub.shell("ls /var/tmp/docker.io_*.deb").strip())
    file = cluster.rig.folder / "docker.io.deb"
    run("docker", "cp", f"{cluster.hub.name}:{name}", str(file))
    return newer(file, cluster.rig.folder)


def version(host: Host, package: str) -> str:
    return host.shell(f"dpkg-query --show --showformat='${{Version}}' {package}")


def runs_what_is_installed(host: Host) -> bool:
    """Whether the engine's process is of the file that is there now."""
    return host.shell("readlink /proc/$(pidof dockerd)/exe").strip() == "/usr/sbin/dockerd"


def upgraded_at(host: Host) -> list[str]:
    """Day and time of everything that dpkg has done since it began with the newer engine, by its log."""
    log = host.shell("cat /var/log/dpkg.log").splitlines()
    first = next(n for n, line in enumerate(log) if line[20:].startswith("upgrade docker.io:"))
    return [line[:19] for line in log[first:]]


def cordons(cluster: Cluster) -> dict[str, str]:
    """Host → why it takes no sessions."""
    found = json.loads(cluster.hub.shell("respawner-hub gpu list --json"))
    assert {device["host"] for device in found} == {host.name for host in cluster.rig.hosts}
    return {device["host"]: device["cordon"] for device in found if device["cordon"]}


def ended(cluster: Cluster) -> list[list[str]]:
    """User, reason and detail of every lease that has ended."""
    return [line.split("|") for line in cluster.hub.shell("python3 -", stdin=ENDED.encode()).splitlines()]


def assert_back(cluster: Cluster, *users: str) -> None:
    """Each session runs, with its variable and a GPU of its own."""
    for user in users:
        wait_for(partial(cluster.is_ready, user), 300, lambda: cluster.log("hub"))
        assert cluster.notebook(user).value("x") == VARIABLES[user]
    found = cluster.granted()
    assert set(found) == set(VARIABLES)
    assert len(set(found.values())) == len(VARIABLES)
    assert cluster.leased() == found


def test_sessions_compute_on_both_hosts(cluster):
    first, second = cluster.rig.hosts
    for user, host in (("ada", second), ("grace", first)):
        cluster.start(user, gpus=1, gpu_host=host.name)
        assert user in sessions_on(host)
        assert cluster.notebook(user).run(f"x = {VARIABLES[user]}").status == "ok"


def test_both_hosts_get_newer_engine_and_toolkit(cluster, engine):
    old = {host.name: version(host, "docker.io") for host in cluster.rig.hosts}
    cluster.rig.vendor.publish(DRIVER, NEW, others=[engine])
    outcome = cluster.provision("2-upgrade", upgrade=True)
    assert {counts.failed for counts in outcome.hosts.values()} == {0}
    for host in cluster.rig.hosts:
        assert version(host, "docker.io") == f"{old[host.name]}+standin1"
        assert runs_what_is_installed(host)
        assert version(host, "nvidia-container-toolkit") == NEW
        assert "nvidia-container-toolkit" in host.shell("apt-mark showhold").split()


def test_the_hubs_host_was_first_and_the_other_waited_for_its_end(cluster):
    first, second = cluster.rig.hosts
    assert max(upgraded_at(first)) < min(upgraded_at(second))
    changed = cluster.runs["2-upgrade"].changed
    ends = [n for n, (_, task) in enumerate(changed) if task == "drain : Let the host take sessions again"]
    assert {host for host, _ in changed[: ends[0] + 1]} == {first.name}
    assert {host for host, _ in changed[ends[0] + 1 :]} == {second.name}


def test_no_session_was_on_a_host_while_it_was_upgraded(cluster):
    for host in cluster.rig.hosts:
        assert host.shell(f"cat {SEEN}").split() == [NEW]


def test_sessions_were_suspended_and_are_back_with_their_variables(cluster):
    assert_back(cluster, *VARIABLES)
    reasons = ended(cluster)
    assert {user for user, *_ in reasons} == set(VARIABLES)
    assert {reason for _, reason, _ in reasons} == {"suspended"}


def test_the_swarm_is_whole_and_no_drain_is_left(cluster):
    assert set(cluster.nodes().values()) == {("Ready", "Active")}
    assert len(cluster.nodes()) == 2
    assert cordons(cluster) == {}


def test_a_package_that_fails_stops_at_the_first_host(cluster, engine):
    first, second = cluster.rig.hosts
    for user in VARIABLES:
        cluster.api("DELETE", f"users/{user}/server")
    wait_for(lambda: not sessions_on(first) and not sessions_on(second), 180, lambda: cluster.log("hub"))
    cluster.start("ada", gpus=1, gpu_host=second.name)
    cluster.start("grace", gpus=1, gpu_host=first.name)
    assert_back(cluster, *VARIABLES)
    container, kernel = sessions_on(second)["ada"], cluster.notebook("ada").kernel_id
    cluster.rig.vendor.publish(DRIVER, BAD, others=[engine], toolkit_fails=True)
    with pytest.raises(ProvisionError) as failed:
        cluster.provision("3-bad-package", upgrade=True)
    said = str(failed.value)
    assert f"{first.name} was not upgraded to its end (Ensure the newest packages)" in said
    assert "Correct it and run the same command again" in said
    assert f"respawner-hub gpu uncordon {first.name}" in said
    assert version(second, "nvidia-container-toolkit") == NEW
    assert sessions_on(second)["ada"] == container
    assert cluster.notebook("ada").kernel_id == kernel
    assert "its packages are upgraded" in cordons(cluster)[first.name]
    assert second.name not in cordons(cluster)


def test_the_session_of_the_host_that_failed_goes_on_elsewhere(cluster):
    assert_back(cluster, *VARIABLES)
    assert set(sessions_on(cluster.rig.hosts[1])) == set(VARIABLES)


def test_a_mended_package_and_the_same_command_go_on_to_the_end(cluster, engine):
    cluster.rig.vendor.publish(DRIVER, MENDED, others=[engine])
    outcome = cluster.provision("4-mended", upgrade=True)
    assert {counts.failed for counts in outcome.hosts.values()} == {0}
    seen = {host: host.shell(f"cat {SEEN}").split() for host in cluster.rig.hosts}
    assert list(seen.values()) == [[NEW, BAD, MENDED], [NEW, MENDED]]
    for host in cluster.rig.hosts:
        assert version(host, "nvidia-container-toolkit") == MENDED
        assert "nvidia-container-toolkit" in host.shell("apt-mark showhold").split()
    assert_back(cluster, *VARIABLES)
    assert set(cluster.nodes().values()) == {("Ready", "Active")}
    assert cordons(cluster) == {}


def test_nothing_newer_changes_nothing_and_leaves_sessions_alone(cluster):
    before = [sessions_on(host) for host in cluster.rig.hosts]
    assert cluster.changed(cluster.provision("5-nothing", upgrade=True)) == []
    assert [sessions_on(host) for host in cluster.rig.hosts] == before
