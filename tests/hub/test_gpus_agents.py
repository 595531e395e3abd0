"""What the hub makes of an agent's report: health becomes cordons, and ends with a proof."""

from respawner_hub.gpus.agents import health_changes, readings_of
from respawner_spawner.devices.health import Health, HealthEvent
from respawner_spawner.devices.values import GpuProcess, Reading, Report
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
