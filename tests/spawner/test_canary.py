"""Does a running container still have its device? With real containers whose right is really taken away.

The device is /dev/zero under NVIDIA's name, which the engine gives like any other; taking it away by the cgroup is what a
daemon-reload does to a GPU. With a GPU: docs/unverified.md.
"""

from pathlib import Path

import docker
import pytest
from respawner_spawner.devices import canary

from .device_rules import ZERO, deny

NOWHERE = Path("/nowhere")


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ("a *:* rwm\n", True),
        ("c 1:3 rwm\nc 195:* rw\n", True),
        ("c 195:0 rwm\n", True),
        ("c *:* m\nb *:* m\nc 1:3 rwm\n", False),
        ("c 195:255 rwm\n", False),
        ("b 195:0 rwm\n", False),
        ("c 195:0 r\n", False),
        # Before and after a daemon-reload, as recorded in nvidia-container-toolkit#251:
        ("c 195:* m\nc 195:0 rw\nc 195:254 rw\nc 195:255 rw\n", True),
        ("c 195:* m\n", False),
        ("", False),
        ("nonsense\n", False),
    ],
)
def test_the_kernels_rules_are_read(rules, allowed):
    assert canary.rules_allow(rules, "c", 195, 0) is allowed


@pytest.fixture
def client():
    return docker.from_env().api


@pytest.fixture
def container(client, any_image):
    """Running, with a device called /dev/nvidia0."""
    devices = ["/dev/zero:/dev/nvidia0:rw"]
    created = client.create_container(
        any_image,
        ["sleep", "300"],
        entrypoint=[],
        network_disabled=True,
        host_config=client.create_host_config(devices=devices),
    )
    try:
        client.start(created)
        yield created["Id"]
    finally:
        client.remove_container(created, force=True)


def look(client, container, proc=Path("/proc")):
    access = canary.check(client, container, "team/ada/", ["GPU-a"], 12.0, proc)
    assert (access.holder, access.uuids, access.at) == ("team/ada/", ("GPU-a",), 12.0)
    return access.verdict, access.words


@pytest.mark.docker
@pytest.mark.parametrize("proc", [Path("/proc"), NOWHERE], ids=["by the kernel's list", "by opening"])
def test_a_device_taken_from_a_running_container_is_seen(client, container, proc):
    assert look(client, container, proc) == ("usable", "")
    deny(client.inspect_container(container)["State"]["Pid"], ZERO)
    verdict, words = look(client, container, proc)
    assert verdict == "blocked"
    assert "may not open /dev/nvidia0 any more" in words
    assert "restart the session" in words


@pytest.mark.docker
@pytest.mark.parametrize("proc", [Path("/proc"), NOWHERE], ids=["by the kernel's list", "by opening"])
def test_a_container_without_device_nodes_is_unknown_and_not_fine(client, any_image, proc):
    created = client.create_container(any_image, ["sleep", "300"], entrypoint=[], network_disabled=True)
    try:
        client.start(created)
        assert look(client, created["Id"], proc) == ("unknown", "it has no /dev/nvidia*")
    finally:
        client.remove_container(created, force=True)


@pytest.mark.docker
def test_a_container_that_is_gone_is_unknown(client):
    verdict, words = look(client, "no-such-container")
    assert verdict == "unknown"
    assert "could not be asked" in words
