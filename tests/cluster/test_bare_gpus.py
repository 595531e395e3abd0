"""A host with GPUs and without a driver: the roles install driver and toolkit, and later newer ones. In this order.

The packages hold stand-ins (`vendor`), and so do the devices; that they are found on the PCI bus, installed, held, waited
for until a reboot, described for the engine and upgraded is the playbooks' own.
"""

from __future__ import annotations

import json
import os

import docker
import pytest

from tests.standins import stub_session

from .deployed import Cluster, sessions_on, wait_for
from .rig import Rig, playbook

pytestmark = [pytest.mark.docker, pytest.mark.timeout(2400)]

DRIVER = {"libcuda1", "libnvidia-ml1", "nvidia-open-kernel-dkms", "nvidia-persistenced", "nvidia-smi"}


@pytest.fixture(scope="module")
def cluster():
    stub_session.build(docker.APIClient(base_url=os.environ["DOCKER_HOST"], version="auto"))
    with Rig(hosts=1, bare=True, nouveau=True) as rig:
        made = Cluster(rig, "bare-gpus", [stub_session.IMAGE])
        made.variables["respawner_monitoring"] = True
        yield made


def said(outcome) -> str:
    return " ".join((outcome.folder / "stdout").read_text().split())


def held(host) -> set[str]:
    return set(host.shell("apt-mark showhold").split())


def boot(host) -> str:
    return host.shell("cat /proc/sys/kernel/random/boot_id").strip()


def described(host) -> str:
    """The driver's version in the description of the devices."""
    return host.shell("grep -o 'STANDIN_DRIVER=[0-9.]*' /etc/cdi/nvidia.yaml | uniq", check=False).strip()


def test_the_driver_is_installed_and_held_and_the_reboot_is_left_to_the_admin(cluster):
    before = boot(cluster.hub)
    outcome = cluster.provision("bare-1")
    assert held(cluster.hub) == DRIVER
    assert "REBOOT DUE: the NVIDIA driver on" in said(outcome)
    assert boot(cluster.hub) == before
    assert described(cluster.hub) == ""
    cluster.start("ada")  # runs sessions without GPUs until then
    cluster.api("DELETE", "users/ada/server")


def test_the_second_run_changes_nothing_and_still_says_so(cluster):
    outcome = cluster.provision("bare-2")
    assert cluster.changed(outcome) == []
    assert "REBOOT DUE: the NVIDIA driver on" in said(outcome)


def test_after_the_reboot_toolkit_and_devices_follow(cluster):
    cluster.hub.restart()
    outcome = cluster.provision("bare-3")
    assert "REBOOT DUE" not in said(outcome)
    assert held(cluster.hub) == DRIVER | {"nvidia-container-toolkit"}
    assert described(cluster.hub) == "STANDIN_DRIVER=570.86.15"
    assert cluster.hub.shell("systemctl is-active nvidia-persistenced").strip() == "active"
    cluster.start("ada", gpus=1)
    assert cluster.hub.grants()[-1]["granted"][0] in cluster.hub.gpus
    assert cluster.changed(cluster.provision("bare-4")) == []


def test_every_container_sees_its_gpu(cluster):
    done = playbook(cluster.inventory(), "verify_cluster.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def asked(host, path: str) -> dict:
    """What Prometheus answers on the host's loopback."""
    script = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
    return json.loads(host.shell(f"python3 -c '{script}' 'http://127.0.0.1:9090/api/v1/{path}'"))["data"]


def test_prometheus_watches_hub_host_and_gpus(cluster):
    def health() -> dict[str, str]:
        targets = asked(cluster.hub, "targets")["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in targets}

    wait_for(lambda: health() == {"hub": "up", "agent": "up", "node": "up"}, 60, lambda: str(health()))
    found = asked(cluster.hub, "query?query=respawner_gpu_healthy")["result"]
    assert {series["metric"]["uuid"] for series in found} == set(cluster.hub.gpus)
    rules = [rule for group in asked(cluster.hub, "rules")["groups"] for rule in group["rules"]]
    assert "HubDown" in {rule["name"] for rule in rules}
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    cluster.hub.shell(
        "! ss -Hltn 'sport = :9090' | grep -v 127.0.0.1"
    )  # people without a login do not reach it


def test_an_upgrade_takes_the_toolkit_and_names_the_driver_that_needs_a_reboot(cluster):
    before = boot(cluster.hub)
    old = sessions_on(cluster.hub)["ada"]
    cluster.rig.vendor.publish(driver="575.57.08", toolkit="1.17.9-1")
    outcome = cluster.provision("bare-5-upgrade", upgrade=True)
    assert "there is a newer NVIDIA driver (libcuda1, libnvidia-ml1, nvidia-open-kernel-dkms" in said(outcome)
    versions = cluster.hub.shell(
        "dpkg-query -W -f '${Package} ${Version}\n' nvidia-container-toolkit nvidia-smi"
    )
    assert versions.split() == ["nvidia-container-toolkit", "1.17.9-1", "nvidia-smi", "999:570.86.15-1"]
    assert boot(cluster.hub) == before
    assert held(cluster.hub) == DRIVER | {"nvidia-container-toolkit"}
    # Suspended and back by itself, in a container of its own.
    wait_for(lambda: "ada" in sessions_on(cluster.hub), 120, lambda: cluster.log("hub"))
    assert sessions_on(cluster.hub)["ada"] != old


def test_an_upgrade_that_may_reboot_brings_the_new_driver_and_its_devices(cluster):
    before = boot(cluster.hub)
    outcome = cluster.provision("bare-6-reboot", upgrade=True, reboot=True)
    assert boot(cluster.hub) != before
    assert "REBOOT DUE" not in said(outcome)
    assert cluster.hub.shell("nvidia-smi --query-gpu=driver_version").split() == ["575.57.08"] * 2
    assert described(cluster.hub) == "STANDIN_DRIVER=575.57.08"
    assert held(cluster.hub) == DRIVER | {"nvidia-container-toolkit"}
    wait_for(lambda: "ada" in sessions_on(cluster.hub), 120, lambda: cluster.log("hub"))


def test_an_upgrade_without_anything_newer_leaves_sessions_alone(cluster):
    old = sessions_on(cluster.hub)
    assert cluster.changed(cluster.provision("bare-7-nothing", upgrade=True, reboot=True)) == []
    assert sessions_on(cluster.hub) == old
