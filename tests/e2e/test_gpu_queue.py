"""Two people and one GPU, through the browser: who must wait sees why, and is served when the other stops."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from tests.standins import build_fake_nvml, gpu_engine, nvml_environment, stub_session
from tests.standins.nvml_state import Gpu, State

from .browser import SPAWN_MS, Person, open_page
from .deployment import ARTIFACTS, wait_until
from .gpu_deployment import GpuDeployment

pytestmark = [pytest.mark.docker, pytest.mark.browser]

GPU = "GPU-11111111"
BUSY = State([Gpu(GPU, utilization=87, memory_used=12 << 30)])
IDLE = State([Gpu(GPU)])


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    """The real agent on a stand-in of NVML, the real engine with a stand-in of NVIDIA's hook, stand-in sessions."""
    folder = build_fake_nvml(tmp_path_factory.mktemp("nvml"))
    state = BUSY.write(folder / "state")
    with gpu_engine.running([GPU], log_to=ARTIFACTS / "logs") as engine:
        stub_session.build(engine.client)
        with GpuDeployment(
            engine,
            logins=True,
            environment=nvml_environment(folder, state),
            image={"name": stub_session.IMAGE, "build": False},
            session={"stop_grace_seconds": 20, "mem_limit": ""},
            gpus={"idle_minutes": 0.3, "warn_minutes": 1},
        ) as deployment:
            deployment.nvml_state = state
            deployment.sections["engine"]["start"] = False
            deployment.write_settings()
            deployment.up()
            deployment.set_password("boss", deployment.add_user("boss", admin=True))
            free = lambda: any(not device.cordon for device in deployment.ledger.devices())  # noqa: E731
            wait_until(free, 240, "the ledger to hear of the GPU")
            yield deployment


def is_running(deployment: GpuDeployment, user: str) -> bool:
    standing = deployment.standing(user)
    return bool(standing and standing.state == "running")


def choose_a_gpu(person: Person) -> None:
    """From the spawn form, to which a login leads."""
    person.page.wait_for_url(re.compile("/hub/spawn"))
    person.page.check('input[value="gpus=1"]')
    person.page.get_by_role("button", name="Start").click()


def test_the_second_queues_is_told_why_and_is_served(deployment, ada, bob):
    deployment.start_server(ada, {"gpus": 1})
    with open_page(deployment) as person:
        page = person.page
        person.log_in(bob)
        choose_a_gpu(person)
        page.wait_for_url(re.compile(r"/hub/gpus/queue/bob"))
        expect(page.locator("#wait-reason")).to_contain_text("held by ada")
        person.screenshot("gpu-queue")
        deployment.restart_hub()  # and with it the scheduler: the queue outlives both
        deployment.stop_server(ada)
        page.wait_for_url(re.compile(r"/user/bob/"), timeout=SPAWN_MS)
    assert deployment.seen(bob) == [GPU]


def test_an_admin_sees_the_holder_and_the_queue_and_releases(deployment, ada, bob):
    deployment.start_server(ada, {"gpus": 1})
    deployment.api("POST", f"users/{bob}")
    answer = deployment.api("POST", f"users/{bob}/server", json={"gpus": 1})
    assert answer.json()["position"] == 1
    assert "ada" in deployment.run("gpu", "list").stdout
    [request] = json.loads(deployment.run("gpu", "queue", "--json").stdout)
    assert (request["user"], request["position"]) == ("bob", 1)
    with open_page(deployment) as person:
        page = person.page
        person.log_in("boss")
        page.goto(f"{deployment.url}hub/gpus")
        row = page.locator(f'tr[data-device="{GPU}"]')
        expect(row).to_contain_text("ada")
        expect(row).to_contain_text("87 %")
        expect(page.locator("#queue-table")).to_contain_text("bob")
        person.screenshot("gpu-admin")
        page.set_viewport_size({"width": 390, "height": 844})
        person.screenshot("gpu-admin-phone")
        page.on("dialog", lambda dialog: dialog.accept())
        row.get_by_role("button", name="Release").click()
        expect(page.get_by_role("status")).to_contain_text("ada is stop", timeout=SPAWN_MS)
    wait_until(lambda: is_running(deployment, bob), 240, "bob to be served")
    assert deployment.standing(ada) is None


def test_an_idle_session_is_warned_and_suspended_and_the_next_is_served(deployment, ada, bob):
    deployment.start_server(ada, {"gpus": 1})
    deployment.api("POST", f"users/{bob}")
    assert deployment.api("POST", f"users/{bob}/server", json={"gpus": 1}).json()["state"] == "queued"
    IDLE.write(deployment.nvml_state)
    try:
        wait_until(lambda: deployment.standing(ada).reclaim_at, 240, "the warning")
        page = deployment.browse(ada, "hub/home").text
        assert "will be suspended: it has idled for" in page
        wait_until(lambda: deployment.standing(ada) is None, 240, "the suspension")
        BUSY.write(deployment.nvml_state)
        wait_until(lambda: is_running(deployment, bob), 240, "bob to be served")
    finally:
        BUSY.write(deployment.nvml_state)
    assert deployment.ledger.ended(deployment.holder(ada))[0].end_reason == "suspended"
