"""From a process to its container: texts of /proc/PID/cgroup as kernels and engines write them."""

import os

import docker
import pytest
from respawner_spawner.devices.containers import container_ids, containers_of

ONE = "3f4e" * 16
TWO = "0a1b" * 16


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        pytest.param(f"0::/docker/{ONE}\n", (ONE,), id="v2 cgroupfs"),
        pytest.param(f"0::/system.slice/docker-{ONE}.scope\n", (ONE,), id="v2 systemd"),
        pytest.param(
            f"12:devices:/docker/{ONE}\n5:cpu,cpuacct:/docker/{ONE}\n0::/docker/{ONE}\n",
            (ONE,),
            id="v1 cgroupfs",
        ),
        pytest.param(
            f"9:name=systemd:/system.slice/docker-{ONE}.scope\n0::/system.slice/containerd.service\n",
            (ONE,),
            id="v1 systemd, hybrid",
        ),
        pytest.param(
            f"0::/gpu.slice/gpu-team.slice/docker-{ONE}.scope\n", (ONE,), id="a parent of one's own"
        ),
        pytest.param(f"0::/system.slice/docker-{ONE}.scope/init.scope\n", (ONE,), id="systemd inside"),
        pytest.param(f"5:devices:/docker/{ONE}/docker/{TWO}\n", (ONE, TWO), id="an engine in a container"),
        pytest.param(f"0::/machine.slice/libpod-{ONE}.scope/container\n", (ONE,), id="podman"),
        pytest.param("0::/user.slice/user-1000.slice/session-3.scope\n", (), id="a login"),
        pytest.param("0::/\n", (), id="the root"),
        pytest.param(f"0::/docker/{ONE[:40]}\n", (), id="no id of 64 digits"),
        pytest.param("", (), id="nothing"),
    ],
)
def test_the_container_stands_in_the_cgroups_path(text, ids):
    assert container_ids(text) == ids


def test_a_process_that_has_ended_has_no_container(tmp_path):
    assert containers_of(4_194_305, tmp_path) == ()


def test_this_process_can_be_asked_about():
    assert isinstance(containers_of(os.getpid()), tuple)


@pytest.mark.docker
def test_a_process_of_a_real_container_is_found(any_image):
    client = docker.from_env().api
    container = client.create_container(any_image, ["sleep", "60"], entrypoint=[], network_disabled=True)
    try:
        client.start(container)
        pid = client.inspect_container(container)["State"]["Pid"]
        assert container["Id"] in containers_of(pid)
    finally:
        client.remove_container(container, force=True)
