"""The stand-in hook under a real dockerd: it must refuse, and must see what it is there to see."""

import contextlib
import subprocess

import docker.errors
import pytest
from docker.types import DeviceRequest

from tests.standins import gpu_engine, stub_session

pytestmark = [pytest.mark.docker]


@pytest.fixture(scope="module")
def engine():
    with gpu_engine.running(["GPU-a", "GPU-b"]) as engine:
        stub_session.build(engine.client)
        yield engine


@contextlib.contextmanager
def container(engine, uuids, command=("sleep", "600")):
    """A started container that asked for these devices."""
    client = engine.client
    request = DeviceRequest(driver="nvidia", device_ids=list(uuids), capabilities=[["gpu"]])
    host = client.create_host_config(init=True, device_requests=[request])
    made = client.create_container(stub_session.IMAGE, list(command), host_config=host)["Id"]
    try:
        client.start(made)
        yield made
    finally:
        client.remove_container(made, force=True)


def test_a_container_sees_the_devices_that_it_asked_for(engine):
    with container(engine, ["GPU-b"], ["nvidia-smi", "-L"]) as made:
        engine.client.wait(made)
        assert engine.client.logs(made) == b"GPU 0: STAND-IN (UUID: GPU-b)\n"
    assert engine.grants()[-1]["granted"] == ["GPU-b"]


def test_an_unknown_device_is_refused_and_nothing_starts(engine):
    with pytest.raises(docker.errors.APIError, match="GPU-z: unknown device"), container(engine, ["GPU-z"]):
        pass
    assert engine.grants()[-1]["refused"] == ["GPU-z"]


def test_the_hook_tells_who_lives_with_the_same_device(engine):
    with container(engine, ["GPU-a"]) as first:
        with container(engine, ["GPU-a", "GPU-b"]):
            assert engine.grants()[-1]["alive"] == [first]
        with container(engine, ["GPU-b"]):
            assert engine.grants()[-1]["alive"] == []
    with container(engine, ["GPU-a"]):
        assert engine.grants()[-1]["alive"] == []


def interfaces() -> set[str]:
    """Of this machine; those of containers come and go."""
    output = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    names = {line.split(":")[1].strip() for line in output.splitlines()}
    return {name for name in names if not name.startswith(("veth", "br-", "rsg"))}


def test_a_killed_engine_comes_back_and_leaves_nothing_and_takes_nothing_of_other_engines():
    before = interfaces()
    with gpu_engine.running(["GPU-a"]) as engine:
        engine.kill()
        engine.start()
        assert engine.client.ping()
        assert interfaces() == before
        name, folder = engine.name, engine.folder
    assert not folder.exists()
    assert name not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
