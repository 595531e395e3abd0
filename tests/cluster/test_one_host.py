"""The shorter form that `make test` runs: one bare host with GPUs gets certificates, driver, toolkit and engine, and the second
run changes nothing. The rest of the playbooks, and several hosts, are `make test-cluster`'s.

Debian 12, on the image that the tests have made anyway; `make test-cluster` has Debian 13.
"""

from __future__ import annotations

import pytest

from .rig import Rig, counts, image_on, playbook, run

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def rig():
    there = run("docker", "images", "--format={{.Repository}}:{{.Tag}}").split()
    bases = [name for name in there if name.startswith(("respawner/base:bookworm-", "debian:bookworm-slim"))]
    with Rig(hosts=1, bare=True, image=image_on(bases[0])) as rig:
        yield rig


def site(rig: Rig, *arguments: str) -> tuple[dict[str, int], str]:
    """What a run did on the host, and what it said."""
    done = playbook(rig.inventory(storage_kind="mounted"), "site.yml", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return counts(done.stdout)[rig.hosts[0].name], " ".join(done.stdout.split())


def test_check_mode_on_a_bare_host_says_what_would_change_and_changes_nothing(rig):
    before = rig.hosts[0].shell("dpkg-query --show | sha256sum; find /etc /opt | sha256sum")
    counted, _ = site(rig, "--check")
    assert counted["failed"] == 0
    assert counted["changed"] > 10
    assert rig.hosts[0].shell("dpkg-query --show | sha256sum; find /etc /opt | sha256sum") == before


def test_a_bare_host_gets_certificates_driver_and_engine(rig):
    [host] = rig.hosts
    _, said = site(rig, "--tags=hosts")
    assert "REBOOT DUE: the NVIDIA driver on" in said
    held = set(host.shell("apt-mark showhold").split())
    assert {"libcuda1", "nvidia-open-kernel-dkms", "nvidia-smi"} <= held
    host.shell("openssl verify -CAfile /etc/respawner/tls/ca.crt /etc/respawner/tls/host.crt")
    tls = [
        f"--tls{what}=/etc/respawner/tls/{file}"
        for what, file in (("cacert", "ca.crt"), ("cert", "client.crt"), ("key", "client.key"))
    ]
    host.docker(f"--host=tcp://{host.address}:2376", "--tlsverify", *tls, "info")


def test_after_the_reboot_the_devices_are_described_and_then_nothing_changes(rig):
    [host] = rig.hosts
    host.restart()
    site(rig, "--tags=hosts")
    for gpu in host.gpus:
        assert gpu in host.shell("cat /etc/cdi/nvidia.yaml")
    counted, said = site(rig, "--tags=hosts")
    assert counted["changed"] == 0, said
