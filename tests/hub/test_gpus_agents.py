"""What the hub makes of an agent's report: health becomes cordons, and ends with a proof."""

import time

from respawner_hub.gpus.agents import (
    Agents,
    health_changes,
    newcomers,
    readings_of,
    strangers_of,
    tell,
    unwatched,
)
from respawner_hub.gpus.containers import container_of
from respawner_hub.gpus.views import illnesses
from respawner_spawner.agent.client import Seen
from respawner_spawner.agent.wire import Answer
from respawner_spawner.devices.health import Health, HealthEvent
from respawner_spawner.devices.values import Gpu, GpuProcess, Inventory, Reading, Report
from respawner_spawner.leases.reconcile import Container
from respawner_spawner.leases.records import Cordon

ILL = Health("GPU-0", ok=False, words=("Xid 79: it fell off the bus",), since=100)
CORDON = Cordon(1, "GPU-0", "not healthy: Xid 79: it fell off the bus", "health", 100)


def test_an_ill_device_is_cordoned_once():
    report = Report(at=100, health=(ILL, Health("GPU-1")))
    assert health_changes(report, []) == [("GPU-0", "not healthy: Xid 79: it fell off the bus")]
    assert health_changes(report, [CORDON]) == []


def test_an_admins_cordon_does_not_hide_an_illness():
    admins = Cordon(1, "GPU-0", "new fans", "user:boss", 100)
    assert health_changes(Report(at=100, health=(ILL,)), [admins]) == [
        ("GPU-0", "not healthy: Xid 79: it fell off the bus")
    ]


def test_a_fresh_agent_that_knows_of_nothing_wrong_is_no_proof_of_recovery():
    report = Report(at=200, health=(Health("GPU-0"),))
    assert health_changes(report, [CORDON]) == []
    early = HealthEvent(at=50, uuid="GPU-0", kind="recovered", words="")
    assert health_changes(Report(at=200, health=(Health("GPU-0"),), events=(early,)), [CORDON]) == []
    seen = HealthEvent(at=150, uuid="GPU-0", kind="recovered", words="")
    assert health_changes(Report(at=200, health=(Health("GPU-0"),), events=(seen,)), [CORDON]) == [
        ("GPU-0", "")
    ]


def test_only_cordons_of_the_health_check_are_taken_away():
    seen = HealthEvent(at=150, uuid="GPU-0", kind="recovered", words="")
    report = Report(at=200, health=(Health("GPU-0"),), events=(seen,))
    assert health_changes(report, [Cordon(1, "GPU-0", "new fans", "user:boss", 100)]) == []


def test_a_reading_comes_with_its_processes():
    report = Report(
        at=1,
        readings=(Reading("GPU-0", 1, utilization_percent=87), Reading("GPU-1", 1)),
        processes=(GpuProcess("GPU-0", 4711, 1 << 30, holder="test/ada/"),),
    )
    found = dict(readings_of(report))
    assert found["GPU-0"]["utilization_percent"] == 87
    assert [process["pid"] for process in found["GPU-0"]["processes"]] == [4711]
    assert found["GPU-1"]["processes"] == []


def seen(report: Report, cause: str = "") -> Seen:
    return Seen("http://agent", 1, 1, Answer("gpu-a", "boot", 1, report), cause)


def test_a_host_is_new_until_the_ledger_has_heard_of_it(ledger):
    unheard = Seen("http://agent-b", 1, cause="nothing listens")
    assert newcomers(ledger, [seen(Report(at=100)), unheard]) == ["gpu-a"]
    tell(ledger, [seen(Report(at=100))])
    assert newcomers(ledger, [seen(Report(at=100)), unheard]) == []


def test_hosts_of_whose_processes_nobody_can_tell():
    """An agent that never answered may be of any host that no other is of."""
    now = time.time()
    looked = Seen("http://a", now, now, Answer("gpu-a", "boot", 1, Report(at=now, processes_at=now)))
    started = Seen("http://b", now, now, Answer("gpu-b", "boot", 1, Report(at=now)))
    silent = Seen(
        "http://b", now, now - 1000, Answer("gpu-b", "boot", 1, Report(at=now, processes_at=now)), "it hangs"
    )
    never = Seen("http://c", now, cause="nothing listens")
    hosts = ["gpu-a", "gpu-b", "gpu-c"]
    assert unwatched([looked], hosts) == set()
    assert unwatched([looked, started], hosts) == unwatched([looked, silent], hosts) == {"gpu-b"}
    assert unwatched([looked, started, never], hosts) == {"gpu-b", "gpu-c"}


INVENTORY = Inventory((Gpu("GPU-0", "STAND-IN A100", 80 << 30),))


def test_what_an_agent_says_stands_in_the_ledger(ledger, clock):
    tell(ledger, [seen(Report(at=1, read_at=1, inventory=INVENTORY))])
    assert [(d.uuid, d.host, d.cordon) for d in ledger.devices()] == [("GPU-0", "gpu-a", "")]
    tell(ledger, [seen(Report(at=2, read_at=2, inventory=INVENTORY, health=(ILL,)))])
    assert "Xid 79" in ledger.devices()[0].cordon
    recovered = HealthEvent(at=clock.now + 1, uuid="GPU-0", kind="recovered", words="")
    tell(ledger, [seen(Report(at=3, read_at=3, inventory=INVENTORY, events=(recovered,)))])
    assert ledger.devices()[0].cordon == ""


def test_an_agent_that_has_just_started_takes_no_device_away(ledger):
    tell(ledger, [seen(Report(at=1, read_at=1, inventory=INVENTORY))])
    tell(ledger, [seen(Report(at=2))])
    assert [d.uuid for d in ledger.devices()] == ["GPU-0"]
    tell(ledger, [seen(Report(at=3, inventory=Inventory(cause="no NVIDIA driver")))])
    assert ledger.devices() == []


def test_a_host_whose_driver_hangs_takes_no_lease_until_nvml_has_answered_again(ledger):
    tell(ledger, [seen(Report(at=1, read_at=1, inventory=INVENTORY, stale="NVML has not answered for 16 s"))])
    tell(ledger, [seen(Report(at=2, read_at=1, inventory=INVENTORY, stale="NVML has not answered for 18 s"))])
    assert ledger.devices()[0].cordon == "out of sight: NVML does not answer on gpu-a"
    assert illnesses(ledger)["GPU-0"] == "out of sight: NVML does not answer on gpu-a"
    tell(ledger, [seen(Report(at=3))])  # an agent that was started again and hangs, too
    assert ledger.devices()[0].cordon
    tell(ledger, [seen(Report(at=4, read_at=4, inventory=INVENTORY))])
    assert (ledger.devices()[0].cordon, illnesses(ledger)) == ("", {})


def test_holders_are_told_of_a_silent_agent(ledger, clock):
    tell(ledger, [seen(Report(at=1, read_at=1, inventory=INVENTORY))])
    assert illnesses(ledger) == {}
    clock.now += 60
    assert illnesses(ledger) == {"GPU-0": "out of sight: the agent of gpu-a has been silent for 1 min"}


async def test_an_admin_who_calls_a_device_well_is_heard_by_an_agent_that_the_hub_has_not_asked_yet():
    agent = StandInAgent(seen(Report(at=1, inventory=INVENTORY)))
    await Agents([agent]).clear("GPU-0")
    assert agent.cleared == ["GPU-0"]


class StandInAgent:
    """What `Agents` uses of a client."""

    def __init__(self, answer: Seen) -> None:
        self.seen, self._answer, self.cleared = Seen("http://agent"), answer, []

    async def ask(self) -> Seen:
        self.seen = self._answer
        return self.seen

    async def clear(self, uuid: str) -> bool:
        self.cleared.append(uuid)
        return True


def test_an_agent_that_does_not_answer_is_not_heard_of(ledger):
    tell(ledger, [seen(Report(at=1, read_at=1, inventory=INVENTORY), cause="nothing listens")])
    assert ledger.agents() == []


def test_processes_of_nobodys_session_are_strangers():
    ours = GpuProcess("GPU-0", 1, None, "c1", "test/ada/")
    other = GpuProcess("GPU-1", 2, None, "abcdef0123456789", "elsewhere/bob/")
    bare = GpuProcess("GPU-2", 3, None)
    found = strangers_of([seen(Report(at=1, processes=(ours, other, bare)))], "test")
    assert found == {"GPU-1": "process 2 in container abcdef012345", "GPU-2": "process 3"}


def test_a_container_is_read_from_its_labels_and_anothers_is_no_session():
    entry = {
        "Id": "c1",
        "State": "running",
        "Labels": {
            "org.respawner.deployment": "test",
            "org.respawner.holder": "test/ada/",
            "org.respawner.user": "ada",
            "org.respawner.gpus": "GPU-0,GPU-1",
            "org.respawner.fence": "7",
            "org.respawner.share-bytes": "0",
        },
    }
    found = container_of(entry, "test", "gpu-a")
    assert found == Container("c1", "gpu-a", True, "test/ada/", "ada", ("GPU-0", "GPU-1"), 7, 0)
    assert container_of(entry, "other", "gpu-a").holder == ""
    without_gpus = {"Id": "c2", "State": "exited", "Labels": {"org.respawner.gpus": ""}}
    assert container_of(without_gpus, "test", "gpu-a") == Container("c2", "gpu-a", False)
