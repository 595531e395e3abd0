"""GPUs on a machine without any: the real pynvml on a stand-in library, a real engine that has no NVIDIA runtime.

What this shows is the hub's side: what the spawn page offers, what is refused, and that no lease is left behind.
That a container really gets its device needs a GPU (docs/unverified.md).
"""

import json
import os
import signal

import pytest
import requests
from respawner_hub import agent
from respawner_hub.settings import load
from respawner_hub.supervision import Supervisor

from tests.spawner.running_agent import until
from tests.standins import build_fake_nvml, nvml_environment
from tests.standins.nvml_state import Gpu, State

from .deployment import PASSWORD, Deployment, SpawnFailed, wait_until

pytestmark = [pytest.mark.docker]

TWO_GPUS = State([Gpu("GPU-aaaa"), Gpu("GPU-bbbb", "STAND-IN L4", memory_total=24 << 30)])


@pytest.fixture(scope="module")
def gpu_deployment(tmp_path_factory):
    folder = build_fake_nvml(tmp_path_factory.mktemp("nvml"))
    environment = nvml_environment(folder, TWO_GPUS.write(folder / "state"))
    with Deployment(environment=environment, session={"max_gpus": 2}, image={"torch": "cpu"}) as deployment:
        deployment.up()
        wait_until(lambda: free(deployment) == 2, 240, "the ledger to hear of both GPUs")
        yield deployment


@pytest.fixture
def ada(gpu_deployment):
    with gpu_deployment.new_user("ada") as name:
        yield name


def gpus(deployment) -> list[dict]:
    return json.loads(deployment.run("status", "--json").stdout)["gpus"]


def free(deployment) -> int:
    return len([gpu for gpu in gpus(deployment) if not gpu["holder"] and not gpu["cordon"]])


def holders(deployment) -> dict[str, str | None]:
    return {gpu["uuid"]: gpu["holder"] for gpu in gpus(deployment)}


def test_the_spawn_page_says_what_is_free(gpu_deployment, ada):
    page = gpu_deployment.browse(ada, "hub/spawn").text
    assert "GPUs (2 of 2 free now)" in page
    assert "STAND-IN A100, 80 GiB: free" in page
    assert "2 GPUs" in page


async def test_the_agent_tells_of_the_gpus_and_is_started_again(gpu_deployment):
    ask = agent.client(load(gpu_deployment.settings_file))
    seen = await until(ask, lambda seen: seen.devices(0))
    assert [device.uuid for device in seen.devices(0)] == ["GPU-aaaa", "GPU-bbbb"]
    assert "agent running" in gpu_deployment.run("status").stdout
    supervisor = Supervisor(gpu_deployment.folder / "state", gpu_deployment.folder, None)
    hub, first = supervisor.pids()["hub"], seen.answer.started_at
    os.kill(supervisor.pids()["agent"], signal.SIGKILL)
    await until(ask, lambda seen: not seen.cause and seen.answer.started_at > first)
    assert supervisor.pids()["hub"] == hub


def test_a_gpu_that_the_engine_refuses_leaves_no_lease_and_no_container(gpu_deployment, ada):
    with pytest.raises(SpawnFailed, match="engine refused the GPU"):
        gpu_deployment.start_server(ada, {"gpus": 1})
    assert holders(gpu_deployment) == {"GPU-aaaa": None, "GPU-bbbb": None}
    assert gpu_deployment.engine.containers(all=True, filters={"name": gpu_deployment.container(ada)}) == []


@pytest.mark.parametrize("wanted", [3, -1, "many"])
def test_an_impossible_number_of_gpus_is_named_with_the_choice(gpu_deployment, ada, wanted):
    with pytest.raises(SpawnFailed, match=rf"gpus = {wanted!r}: choose 0 to 2"):
        gpu_deployment.start_server(ada, {"gpus": wanted})


def test_the_form_of_the_page_starts_a_session_without_a_gpu(gpu_deployment, ada):
    session = requests.Session()
    login = f"{gpu_deployment.url}hub/login"
    session.get(login)
    form = {"_xsrf": session.cookies["_xsrf"], "username": ada, "password": PASSWORD}
    session.post(login, data=form).raise_for_status()
    page = f"{gpu_deployment.url}hub/spawn/{ada}"
    session.get(page).raise_for_status()
    xsrf = session.cookies.get("_xsrf", path="/hub/")
    answer = session.post(page, data={"gpus": "0"}, params={"_xsrf": xsrf}, allow_redirects=False)
    assert answer.status_code == 302, answer.text
    gpu_deployment.start_server(ada)
    environment = gpu_deployment.exec(ada, "env")
    assert "NVIDIA_VISIBLE_DEVICES=void" in environment
