"""The hub's host is lost with its disk, and a new one takes its place by the backup, as docs/cluster.md tells an admin. In this
order: each test starts where the one before has ended.

Kernels and servers of the sessions are real (`tests.standins.kernel_session`), what else is a stand-in is told in `rig`.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import docker
import pytest
from respawner_hub.provision import ProvisionError

from tests.hub.running_hub import Browser
from tests.standins import kernel_session

from .deployed import Cluster, is_durable, sessions_on, wait_for
from .rig import Rig

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

PASSWORD = "three random words"
STATE = "/var/lib/respawner"
SECRETS = f"cat {STATE}/secrets/cookie {STATE}/secrets/agent-token /etc/respawner/tls/ca.crt"


@dataclass
class Before:
    """What there was when the hub's host was lost."""

    backup: Path = Path()
    secrets: str = ""
    containers: dict[str, str] = field(default_factory=dict)
    """User → container, on the host that stays."""
    kernels: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def before() -> Before:
    return Before()


@pytest.fixture(scope="module")
def cluster():
    client = docker.APIClient(base_url=os.environ["DOCKER_HOST"], version="auto", timeout=600)
    with Rig(hosts=2, gpus=3) as rig:
        made = Cluster(rig, "hub-lost", [kernel_session.build(client)])
        made.provision("1-first-run")
        yield made


def browser(cluster: Cluster) -> Browser:
    found = Browser(SimpleNamespace(url=f"{cluster.url}hub"))
    found.session.verify = found.session.trust_env = False  # self-signed, whatever REQUESTS_CA_BUNDLE says
    return found


def test_a_backup_is_made_by_one_command_while_people_work(cluster, before):
    first, second = cluster.rig.hosts
    code = re.search(r"code for ada: (\S+)", cluster.hub.shell("respawner-hub user add ada")).group(1)
    assert browser(cluster).set_password("ada", code, PASSWORD).status_code == 302
    for user, host, value in (("ada", second, 40), ("grace", first, 41)):
        cluster.start(user, gpus=1, gpu_host=host.name)
        assert cluster.notebook(user).run(f"x = {value}").status == "ok"
    before.backup = cluster.rig.folder / "backup.tar.gz"
    done = subprocess.run(
        ["docker", "exec", first.name, "respawner-hub", "backup", "-"], capture_output=True, check=True
    )
    before.backup.write_bytes(done.stdout)
    before.secrets = first.shell(SECRETS)


def test_the_hubs_host_is_lost_and_sessions_on_the_other_compute(cluster, before):
    first, second = cluster.rig.hosts
    cluster.start("linus", gpus=1, gpu_host=second.name)  # of whom the backup does not know
    assert cluster.notebook("linus").run("x = 42").status == "ok"
    assert is_durable(first, "grace")
    before.containers = sessions_on(second)
    before.kernels = {user: cluster.notebook(user).kernel_id for user in ("ada", "linus")}
    cluster.rig.replace(first)
    assert sessions_on(second) == before.containers


def test_one_command_makes_the_new_host_the_hub(cluster, before):
    outcome = cluster.provision("2-restore", restore=before.backup)
    assert {counts.failed for counts in outcome.hosts.values()} == {0}
    assert set(cluster.nodes().values()) == {("Ready", "Active")}
    assert len(cluster.nodes()) == 2
    assert cluster.hub.shell(SECRETS) == before.secrets
    assert cluster.hub.shell(f"ls {STATE}/restore.tar.gz", check=False) == ""


def test_people_log_in_with_their_old_passwords(cluster):
    assert browser(cluster).log_in("ada", PASSWORD).status_code == 302
    assert browser(cluster).log_in("ada", "not her password").status_code == 403


def test_a_session_on_the_other_host_goes_on_with_its_kernel(cluster, before):
    assert sessions_on(cluster.rig.hosts[1]) == before.containers
    wait_for(partial(cluster.is_ready, "ada"), 180, lambda: cluster.log("hub"))
    kernel = cluster.notebook("ada")
    assert kernel.kernel_id == before.kernels["ada"]
    assert kernel.value("x") == 40


def test_a_session_that_began_after_the_backup_goes_on_when_its_user_comes(cluster, before):
    cluster.start("linus", gpus=1)
    assert sessions_on(cluster.rig.hosts[1]) == before.containers
    kernel = cluster.notebook("linus")
    assert kernel.kernel_id == before.kernels["linus"]
    assert kernel.value("x") == 42


def test_the_session_of_the_lost_host_resumes_with_its_variables(cluster):
    wait_for(
        lambda: "" not in cluster.api("GET", "users/grace").json()["servers"],
        180,
        lambda: cluster.log("hub"),
    )
    cluster.start("grace", gpus=1)
    assert cluster.notebook("grace").value("x") == 41


def test_nothing_is_granted_twice_and_the_ledger_knows_it(cluster):
    cluster.start("edsger", gpus=1)
    found = cluster.granted()
    assert set(found) == {"ada", "linus", "grace", "edsger"}
    assert len(set(found.values())) == 4
    assert cluster.leased() == found


def test_a_session_can_save_and_start_again_afterwards(cluster):
    second = cluster.rig.hosts[1]
    assert cluster.notebook("ada").run("x = 50").status == "ok"
    assert is_durable(second, "ada")
    cluster.api("DELETE", "users/ada/server")
    wait_for(lambda: "ada" not in sessions_on(second), 180, lambda: cluster.log("hub"))
    cluster.start("ada", gpus=1)
    assert cluster.notebook("ada").value("x") == 50


def test_the_run_after_that_changes_nothing_and_no_hub_is_restored_over(cluster, before):
    assert cluster.changed(cluster.provision("3-again")) == []
    with pytest.raises(ProvisionError, match="is a hub already"):
        cluster.provision("4-restore-again", restore=before.backup)
    assert browser(cluster).log_in("ada", PASSWORD).status_code == 302


def test_no_secret_is_in_the_logs_of_all_that(cluster):
    host = cluster.hub
    found = [
        host.shell(f"cat {STATE}/secrets/agent-token"),
        host.shell(f"cat {STATE}/secrets/cookie"),
        host.docker("swarm", "join-token", "--quiet", "worker"),
        host.shell("sed -n 2p /etc/respawner/tls/ca.key"),
    ]
    texts = [path.read_text(errors="replace") for path in cluster.artifacts.rglob("*") if path.is_file()]
    assert len(texts) > 100
    for secret in found:
        assert len(secret.strip()) > 20
        assert not any(secret.strip() in text for text in texts)
