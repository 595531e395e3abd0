"""GPUs through a real engine: what the ledger grants is what containers get, and nothing is ever held twice."""

from __future__ import annotations

import asyncio

import pytest
import requests
from respawner_hub.gpus.hub_client import SUSPEND
from respawner_spawner.engine import Engine
from respawner_spawner.leases.model import Ask, Kind, State
from respawner_spawner.leases.reconcile import lost_hosts
from respawner_spawner.leases.records import EndReason
from respawner_spawner.suspend import A_CELL_HAS_BEGUN, Outcome, suspend

from tests.standins.nvidia_hook import process_start

from .deployment import Deployment, SpawnFailed, wait_until
from .gpu_deployment import GpuDeployment, deployment_with_gpus, mig_device, whole_gpu

pytestmark = [pytest.mark.docker]

UUIDS = [f"GPU-{letter * 8}" for letter in "abc"]
MIG = "MIG-dddddddd"


@pytest.fixture(scope="module")
def deployment():
    devices = [*map(whole_gpu, UUIDS), mig_device(MIG, "GPU-sliced")]
    with deployment_with_gpus(devices, live_restore=True) as deployment:
        yield deployment


def test_each_session_gets_its_own_gpus_and_no_others(deployment, ada, bob, eve):
    deployment.start_server(ada, {"gpus": 2})
    deployment.start_server(bob, {"gpus": 1})
    deployment.start_server(eve, {"gpus": 0})
    for user in (ada, bob):
        leased = list(deployment.lease(user).uuids)
        assert deployment.requested(user) == leased
        assert deployment.given(user) == leased
        assert deployment.seen(user) == leased
    assert sorted([*deployment.seen(ada), *deployment.seen(bob)]) == UUIDS
    assert deployment.seen(eve) == []
    assert "NVIDIA_VISIBLE_DEVICES=void" in deployment.exec(eve, "env")
    assert deployment.standing(eve) is None


def test_a_gpu_that_the_engine_does_not_know_is_refused_and_the_lease_ends(deployment, ada):
    deployment.gpu_engine.set_gpus([])
    try:
        with pytest.raises(SpawnFailed, match=r"engine refused the GPU.*unknown device"):
            deployment.start_server(ada, {"gpus": 1})
    finally:
        deployment.gpu_engine.set_gpus([*UUIDS, MIG])
    assert deployment.gpu_engine.grants()[-1]["refused"]
    wait_until(lambda: deployment.standing(ada) is None, 240, "the lease to end")
    ended = deployment.ledger.ended(deployment.holder(ada))[0]
    assert ended.end_reason is EndReason.FAILED
    assert "unknown device" in ended.end_detail
    assert deployment.engine.containers(all=True, filters={"name": deployment.container(ada)}) == []


def test_who_cannot_have_a_gpu_now_waits_in_the_queue_and_gets_a_turn(deployment, ada, bob):
    deployment.start_server(ada, {"gpus": 2})
    answer = deployment.api("POST", f"users/{bob}/server", json={"gpus": 2})
    assert answer.status_code in (202, 400), answer.text  # 400: past the hub's queue, from the spawner
    standing = deployment.standing(bob)
    assert (standing.state, standing.wait.position) == (State.QUEUED, 1)
    assert "queue" in answer.text
    deployment.stop_server(ada)
    deployment.ensure_server(bob)
    assert len(deployment.seen(bob)) == 2


def test_every_start_has_a_greater_fence_in_label_environment_and_volume(deployment, ada):
    fences = []
    for options in ({"gpus": 1}, {"gpus": 0}, {"gpus": 1}):
        deployment.start_server(ada, options)
        labels = deployment.engine.inspect_container(deployment.container(ada))["Config"]["Labels"]
        fences.append(int(labels["org.respawner.fence"]))
        assert f"RESPAWNER_FENCE={fences[-1]}\n" in deployment.exec(ada, "env")
        assert deployment.exec(ada, "sh", "-c", "cat $RESPAWNER_FENCE_FILE") == str(fences[-1])
        deployment.stop_server(ada)
    assert fences == sorted(set(fences))


def test_a_container_that_the_ledger_does_not_know_keeps_its_gpu(deployment, ada):
    """As after a lost database: the label says who has it, and that is looked at before a device is handed out."""
    host = deployment.engine.create_host_config(init=True)
    labels = {"org.respawner.holder": "other/eve/", "org.respawner.gpus": ",".join(UUIDS)}
    stray = deployment.engine.create_container(
        deployment.image, ["sleep", "1000"], labels=labels, host_config=host
    )
    deployment.engine.start(stray)
    try:
        answer = deployment.api("POST", f"users/{ada}/server", json={"gpus": 1})
        assert answer.status_code in (202, 400), answer.text
        assert answer.status_code == 202 or "the container of other/eve/ still uses it" in answer.text
        wait_until(
            lambda: not deployment.api("GET", f"users/{ada}").json()["servers"], 240, "the start to end"
        )
        assert deployment.engine.containers(all=True, filters={"name": deployment.container(ada)}) == []
    finally:
        deployment.engine.remove_container(stray, force=True)
    deployment.ensure_server(ada, {"gpus": 1})


def test_a_container_that_is_killed_frees_its_gpus(deployment, ada):
    deployment.start_server(ada, {"gpus": 1})
    deployment.engine.kill(deployment.container(ada))
    wait_until(lambda: deployment.standing(ada) is None, 240, "the lease to end")
    ended = deployment.ledger.ended(deployment.holder(ada))[0]
    assert ended.end_reason is EndReason.FAILED
    assert "killed" in ended.end_detail


def test_a_mig_device_is_given_like_a_gpu(deployment, ada):
    deployment.start_server(ada, {"mig": "1g.10gb"})
    assert deployment.requested(ada) == deployment.given(ada) == deployment.seen(ada) == [MIG]


def test_two_shares_live_on_one_gpu_and_say_what_holds_them_to_it(deployment, ada, bob):
    deployment.ledger.share(UUIDS[1], 40 << 30, by="user:admin")
    try:
        for user in (ada, bob):
            deployment.start_server(user, {"share": "20G"})
            assert deployment.seen(user) == deployment.requested(user) == [UUIDS[1]]
            environment = deployment.exec(user, "env").splitlines()
            assert "RESPAWNER_GPU_SHARE=advisory" in environment
            assert "RESPAWNER_GPU_MEMORY_FRACTION=0.2500" in environment
    finally:
        for user in (ada, bob):
            deployment.stop_server(user)
        deployment.ledger.share(UUIDS[1], 0, by="user:admin")


# A host that is lost ------------------------------------------------------------------------------------


def test_a_session_on_a_lost_host_is_given_up_and_its_old_container_stopped_when_the_host_is_back(
    deployment, ada
):
    deployment.start_server(ada, {"gpus": 1})
    before = deployment.lease(ada)
    inspection = deployment.engine.inspect_container(deployment.container(ada))
    container, process = inspection["Id"], inspection["State"]["Pid"]
    deployment.gpu_engine.kill()
    try:
        wait_until(lambda: lost_hosts(deployment.ledger.cordons()), 240, "the host to be missed")
        assert deployment.api("GET", f"users/{ada}").json()["server"], "what cannot be reached is not dead"
        assert "can start again" in deployment.run("gpu", "give-up", ada, "--yes").stdout
        wait_until(lambda: not deployment.api("GET", f"users/{ada}").json()["servers"], 240, "its end")
        assert process_start(process), "it has not noticed"
    finally:
        deployment.gpu_engine.start()
    # A start does not wait for the next reconciliation, and does not adopt it.
    deployment.start_server(ada, {"gpus": 0})
    assert deployment.engine.inspect_container(deployment.container(ada))["Id"] != container
    assert deployment.seen(ada) == []
    deployment.stop_server(ada)
    deployment.ensure_server(ada, {"gpus": 1})
    assert deployment.lease(ada).fence > before.fence
    assert deployment.engine.inspect_container(deployment.container(ada))["Id"] != container
    audit = [(entry.by, entry.action) for entry in deployment.ledger.audit(deployment.holder(ada), most=20)]
    assert ("service:respawner-gpu", "lost") in audit


# Suspend ------------------------------------------------------------------------------------------------


class Server:
    """A user's server as the hub's API knows it; `on_stop` is what happens in the moment before the stop."""

    def __init__(self, deployment: Deployment, user: str, on_stop=lambda: None) -> None:
        self.deployment, self.user, self.on_stop = deployment, user, on_stop

    async def active(self) -> bool:
        return bool(self.deployment.api("GET", f"users/{self.user}").json()["servers"])

    async def stop(self) -> None:
        self.on_stop()
        answer = self.deployment.api("DELETE", f"users/{self.user}/server?{SUSPEND}=1")
        assert answer.status_code in (202, 204)

    async def start(self) -> None:
        assert self.deployment.api("POST", f"users/{self.user}/server").status_code in (201, 202)


def suspended(deployment: GpuDeployment, user: str, server: Server | None = None, **options) -> Outcome:
    engine = Engine(deployment.gpu_engine.url)
    return asyncio.run(
        suspend(
            deployment.ledger,
            engine,
            server or Server(deployment, user),
            deployment.holder(user),
            reason="idle for an hour",
            flush_seconds=20,
            **options,
        )
    )


def set_state(deployment: Deployment, user: str, state: str) -> None:
    """How far the stand-in session says that it is saved."""
    headers = {"Authorization": f"token {deployment.api_token}"}
    url = f"{deployment.url}user/{user}/stub/state"
    requests.put(url, data=state, headers=headers, timeout=120).raise_for_status()


def test_a_session_is_suspended_when_it_is_durable_and_its_gpu_goes_to_the_next(deployment, ada, bob):
    deployment.start_server(ada, {"gpus": 2})
    outcome = suspended(deployment, ada)
    assert outcome.done, outcome
    ended = deployment.ledger.ended(deployment.holder(ada))[0]
    assert (ended.end_reason, ended.end_detail) == (EndReason.SUSPENDED, "idle for an hour")
    deployment.start_server(bob, {"gpus": 2})


@pytest.mark.parametrize(("state", "why"), [("dirty", "running cell"), ("failed", "could not be saved")])
def test_a_session_that_is_not_durable_is_not_suspended_and_the_admin_sees_why(deployment, ada, state, why):
    deployment.start_server(ada, {"gpus": 1})
    container = deployment.engine.inspect_container(deployment.container(ada))["Id"]
    set_state(deployment, ada, state)
    outcome = suspended(deployment, ada)
    assert not outcome.done
    assert "stub.ipynb" in outcome.reason
    assert why in outcome.reason
    standing = deployment.standing(ada)
    assert (standing.suspending_since, standing.suspend_failure) == (None, outcome.reason)
    assert deployment.engine.inspect_container(container)["State"]["Running"]
    set_state(deployment, ada, "saved")


def test_a_cell_that_begins_in_the_last_moment_keeps_the_session(deployment, ada):
    """Durable when it is asked, not any more when it is to be stopped: it is left alone and the hub has it back."""
    deployment.start_server(ada, {"gpus": 1})
    container = deployment.engine.inspect_container(deployment.container(ada))["Id"]
    server = Server(deployment, ada, on_stop=lambda: set_state(deployment, ada, "dirty"))
    outcome = suspended(deployment, ada, server)
    assert outcome == Outcome(False, A_CELL_HAS_BEGUN)
    wait_until(lambda: deployment.api("GET", f"users/{ada}").json()["server"], 240, "the hub to adopt it")
    assert deployment.engine.inspect_container(deployment.container(ada))["Id"] == container
    assert deployment.lease(ada).state is State.RUNNING
    set_state(deployment, ada, "saved")


def test_who_stops_a_session_while_it_is_suspended_gets_a_stop(deployment, ada):
    """Also where it could not be saved, and though it would have come back by itself."""
    deployment.start_server(ada, {"gpus": 1})
    set_state(deployment, ada, "dirty")
    assert deployment.ledger.begin_suspend(deployment.holder(ada), "moved", Ask(Kind.GPU))
    deployment.stop_server(ada)
    assert deployment.standing(ada) is None
    assert deployment.ledger.ended(deployment.holder(ada))[0].end_reason is EndReason.RELEASED
    assert deployment.engine.containers(filters={"name": deployment.container(ada)}) == []


def test_the_request_of_a_deleted_user_ends(deployment, ada):
    deployment.start_server(ada, {"gpus": 2})
    with deployment.person("bob") as bob:
        deployment.api("POST", f"users/{bob}/server", json={"gpus": 2})
        assert deployment.standing(bob).state is State.QUEUED
        deployment.api("DELETE", f"users/{bob}").raise_for_status()
        assert deployment.standing(bob) is None
        assert deployment.ledger.ended(deployment.holder(bob))[0].end_detail == "its user was deleted"
        deployment.api("POST", f"users/{bob}").raise_for_status()


def test_a_session_hops_to_another_gpu(deployment, ada):
    deployment.start_server(ada, {"gpus": 1})
    (before,) = deployment.seen(ada)
    other = next(uuid for uuid in UUIDS if uuid != before)
    assert suspended(deployment, ada, comes_back=Ask(Kind.GPU, uuids=(other,))).done
    assert deployment.standing(ada).request.resumes
    deployment.ensure_server(ada)
    assert deployment.seen(ada) == [other]
