"""The shorter form, for `make test`: one bare host gets every role that one host has to have, a session on it gets a GPU, and the
second run changes nothing. In this order. `make test-cluster` has the rest: check mode, drift, reboots, upgrades, monitoring,
several hosts, and Debian 13; here it is Debian 12, on the image that the tests have made anyway.
"""

from __future__ import annotations

import os

import docker
import pytest

from tests.standins import stub_session

from .deployed import Cluster
from .rig import Rig, image_on, run

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def cluster():
    stub_session.build(docker.APIClient(base_url=os.environ["DOCKER_HOST"], version="auto"))
    there = run("docker", "images", "--format={{.Repository}}:{{.Tag}}").split()
    bases = [name for name in there if name.startswith(("respawner/base:bookworm-", "debian:bookworm-slim"))]
    with Rig(hosts=1, bare=True, image=image_on(bases[0]) if bases else "") as rig:
        yield Cluster(rig, "one-host", [stub_session.IMAGE])


def test_a_bare_host_gets_every_role_in_one_run(cluster):
    host = cluster.hub
    cluster.provision("1-bare")
    assert {"libcuda1", "nvidia-smi", "nvidia-container-toolkit"} <= set(
        host.shell("apt-mark showhold").split()
    )
    described = host.shell("cat /etc/cdi/nvidia.yaml")
    assert [gpu for gpu in host.gpus if gpu in described] == host.gpus
    assert cluster.nodes() == {host.name: ("Ready", "Active")}


def test_its_engine_answers_the_certificate_of_the_hub(cluster):
    host = cluster.hub
    tls = [
        f"--tls{what}=/etc/respawner/tls/{file}"
        for what, file in (("cacert", "ca.crt"), ("cert", "client.crt"), ("key", "client.key"))
    ]
    host.docker(f"--host=tcp://{host.address}:2376", "--tlsverify", *tls, "info")


def test_a_session_on_it_gets_a_gpu(cluster):
    cluster.start("ada", gpus=1)
    assert cluster.hub.grants()[-1]["granted"][0] in cluster.hub.gpus


def test_the_second_run_changes_nothing(cluster):
    assert cluster.changed(cluster.provision("2-again")) == []
    assert cluster.is_ready("ada")
