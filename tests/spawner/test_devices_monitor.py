"""A Monitor watches devices through what happens to drivers and GPUs. The real pynvml on the stand-in, in a fresh process."""

import os
import time

import pytest

from tests.standins.nvml_state import GIB, HW_THERMAL_SLOWDOWN, Gpu, Mig, Process, State

from .watching import Watched


@pytest.fixture
def state():
    return State([Gpu("GPU-a"), Gpu("GPU-b")])


@pytest.fixture
def stale():
    return 60


@pytest.fixture
def watched(library, state, tmp_path, stale):
    with Watched(library, state.write(tmp_path / "state"), kernel(tmp_path, state), stale) as watched:
        yield watched


def kernel(folder, state):
    """What the driver shows in /proc/driver/nvidia, made for a test."""
    driver = folder / "proc" / "driver" / "nvidia"
    for number in range(len(state.gpus)):
        (driver / "gpus" / f"0000:{number + 1:02x}:00.0").mkdir(parents=True, exist_ok=True)
    (driver / "version").write_text(f"NVRM version: {state.driver_version} {state.driver_restarts}\n")
    return folder / "proc"


def kinds(report, uuid):
    return [event.kind for event in report.events if event.uuid == uuid]


def cordons(report):
    return {device.uuid: device.cordon for device in report.devices("h") if device.cordon}


def test_readings_tell_what_a_gpu_does(watched, state, tmp_path):
    state.gpus[0].utilization, state.gpus[0].memory_used = 73, 5 * GIB
    state.gpus[0].temperature, state.gpus[0].power_mw = 66, 312_500
    state.write(tmp_path / "state")
    report = watched.until(lambda r: r.readings[0].utilization_percent == 73)
    first = report.readings[0]
    assert (first.memory_used_bytes, first.memory_total_bytes) == (5 * GIB, 80 * GIB)
    assert (first.temperature_celsius, first.power_watts, first.ecc_uncorrected) == (66, 312.5, 0)
    assert report.inventory.driver_version == "570.86.15"
    assert report.causes == ()


def test_what_a_device_cannot_tell_is_none_and_not_zero(watched, state, tmp_path):
    state.gpus[0].utilization = state.gpus[0].power_mw = state.gpus[0].ecc_volatile_uncorrected = None
    state.gpus[1].migs = [Mig("MIG-1", memory_used=GIB)]
    state.write(tmp_path / "state")
    report = watched.until(lambda r: len(r.readings) == 3)
    plain, _, mig = report.readings
    assert (plain.utilization_percent, plain.power_watts, plain.ecc_uncorrected) == (None, None, None)
    assert (mig.uuid, mig.utilization_percent, mig.memory_used_bytes) == ("MIG-1", None, GIB)
    assert all(health.ok for health in report.health)


def test_a_value_that_fails_is_none_and_the_gpu_stays(watched, state, tmp_path):
    state.gpus[0].errors["nvmlDeviceGetTemperature"] = 999
    state.write(tmp_path / "state")
    report = watched.until(lambda r: r.readings[0].temperature_celsius is None)
    assert report.readings[0].memory_total_bytes == 80 * GIB
    assert cordons(report) == {}


def test_processes_stand_on_their_device_with_what_they_use(watched, state, tmp_path):
    state.gpus[0].processes = [Process(os.getpid(), 3 * GIB), Process(4_000_000)]
    state.gpus[1].migs = [Mig("MIG-1", processes=[Process(77, GIB)])]
    state.write(tmp_path / "state")
    report = watched.until(lambda r: len(r.processes) == 3)
    shown = [(process.uuid, process.pid, process.used_bytes) for process in report.processes]
    assert shown == [("GPU-a", os.getpid(), 3 * GIB), ("GPU-a", 4_000_000, None), ("MIG-1", 77, GIB)]


def test_what_each_process_computes_is_told_where_the_driver_tells_it(watched, state, tmp_path):
    busy, idle = Process(77, GIB, sm_percent=60), Process(78, GIB, sm_percent=0)
    state.gpus[0].processes = [busy, idle]
    state.gpus[1].processes = [Process(79, GIB, sm_percent=9)]
    state.gpus[1].errors = {"nvmlDeviceGetProcessUtilization": 3}  # not supported
    state.write(tmp_path / "state")
    report = watched.until(lambda r: len(r.processes) == 3)
    assert [(p.pid, p.utilization_percent) for p in report.processes] == [(77, 60), (78, 0), (79, None)]


def test_a_process_that_computed_nothing_lately_is_told_as_such(watched, state, tmp_path):
    state.gpus[0].processes = [Process(77, GIB)]
    state.gpus[0].errors = {"nvmlDeviceGetProcessUtilization": 6}  # not found: no sample
    state.write(tmp_path / "state")
    report = watched.until(lambda r: r.processes)
    assert report.processes[0].utilization_percent == 0


def test_an_xid_is_seen_within_seconds_and_cordons(watched, state, tmp_path):
    state.gpus[1].xids.append(79)
    state.write(tmp_path / "state")
    report = watched.until(lambda r: r.events)
    assert report.events[0].uuid == "GPU-b"
    assert report.events[0].code == 79
    assert cordons(report) == {
        "GPU-b": "Xid 79: the GPU fell off the bus: check power and cooling, reboot the machine"
    }


def test_an_applications_xid_is_counted_and_nothing_more(watched, state, tmp_path):
    state.gpus[0].xids += [31, 13, 31]
    state.write(tmp_path / "state")
    report = watched.until(lambda r: len(r.events) == 3)
    assert [event.code for event in report.events] == [31, 13, 31]
    assert report.xid_counts == {"GPU-a": {31: 2, 13: 1}}
    assert cordons(report) == {}


def test_an_xid_of_one_mig_device_leaves_the_others_alone(watched, state, tmp_path):
    state.gpus[0].migs = [Mig("MIG-1", gpu_instance=1), Mig("MIG-2", gpu_instance=2)]
    state.write(tmp_path / "state")
    watched.until(lambda r: len(r.inventory.gpus) == 3)
    state.gpus[0].xids.append("94@2")
    state.write(tmp_path / "state")
    report = watched.until(lambda r: r.events)
    assert list(cordons(report)) == ["MIG-2"]
    state.gpus[0].xids.append("48")
    state.write(tmp_path / "state")
    report = watched.until(lambda r: len(r.events) == 2)
    assert list(cordons(report)) == ["MIG-1", "MIG-2"]
    assert cordons(report)["MIG-1"].startswith("its GPU: Xid 48")


def test_a_gpu_that_tells_of_no_events_is_named(library, tmp_path):
    state = State([Gpu("GPU-old", event_types=0)]).write(tmp_path / "state")
    with Watched(library, state) as watched:
        report = watched.until(lambda r: r.causes)
        assert report.causes == ("GPU-old tells of no Xids: NVML: Not Supported",)


def test_a_lost_gpu_stays_known_and_recovers_when_it_is_back(watched, state, tmp_path):
    state.gpus[0].lost = True
    state.gpus[0].xids.append(79)
    state.write(tmp_path / "state")
    report = watched.until(lambda r: {"lost", "xid"} <= set(kinds(r, "GPU-a")))
    assert "the GPU fell off the bus" in cordons(report)["GPU-a"]
    assert "GPU-b" not in cordons(report)
    report = watched.until(lambda r: "GPU at index 0" in r.inventory.cause)
    assert {gpu.uuid for gpu in report.inventory.gpus} == {"GPU-a", "GPU-b"}
    state.gpus[0].lost = False
    state.write(tmp_path / "state")
    report = watched.until(lambda r: not cordons(r))
    assert kinds(report, "GPU-a")[-1] == "recovered"
    assert report.events[-1].words.startswith("ended: ")


def test_memory_errors_cordon_until_they_are_gone_or_accepted(watched, state, tmp_path):
    state.gpus[0].ecc_volatile_uncorrected = 2
    state.write(tmp_path / "state")
    report = watched.until(lambda r: "2 memory error(s)" in cordons(r).get("GPU-a", ""))
    assert watched.say("clear GPU-a").health[0].ok
    time.sleep(0.5)
    assert cordons(watched.report()) == {}
    state.gpus[0].ecc_volatile_uncorrected = 3
    state.write(tmp_path / "state")
    report = watched.until(lambda r: "3 memory error(s)" in cordons(r).get("GPU-a", ""))
    assert kinds(report, "GPU-a") == ["ecc", "recovered", "ecc"]
    state.gpus[0].ecc_volatile_uncorrected = 0
    state.write(tmp_path / "state")
    watched.until(lambda r: not cordons(r))


def test_a_short_slowdown_by_heat_is_shown_and_no_reason_for_a_cordon(watched, state, tmp_path):
    state.gpus[0].clocks_event_reasons = HW_THERMAL_SLOWDOWN
    state.write(tmp_path / "state")
    report = watched.until(lambda r: r.readings[0].thermal_slowdown)
    assert cordons(report) == {}


def test_a_restart_of_the_driver_is_survived_without_an_alarm(watched, state, tmp_path):
    state.driver_restarts, state.driver_version = 1, "575.51.02"
    state.write(tmp_path / "state")
    kernel(tmp_path, state)
    report = watched.until(lambda r: r.inventory.driver_version == "575.51.02")
    assert [gpu.uuid for gpu in report.inventory.gpus] == ["GPU-a", "GPU-b"]
    assert cordons(report) == {}
    state.gpus[0].xids.append(79)  # events come again, too
    state.write(tmp_path / "state")
    watched.until(lambda r: "xid" in kinds(r, "GPU-a"))


def test_a_driver_upgraded_under_the_process_wants_a_new_one(watched, state, tmp_path):
    """The old library stays loaded, and no call of it would ever answer again."""
    state.driver_restarts, state.init_error, state.driver_version = 1, 18, "575.51.02"
    state.write(tmp_path / "state")
    kernel(tmp_path, state)
    assert watched.gave_up()


def test_a_library_that_never_fitted_is_a_cause_and_no_reason_to_start_again(library, tmp_path):
    state = State([Gpu("GPU-a")], init_error=18)
    with Watched(library, state.write(tmp_path / "state"), kernel(tmp_path, state)) as watched:
        assert not watched.gave_up(seconds=2)
        assert "different versions: reboot" in watched.report().causes[0]


def test_a_driver_that_is_gone_is_told_and_found_again(watched, state, tmp_path):
    state.driver_restarts, state.init_error = 1, 9
    state.write(tmp_path / "state")
    watched.until(lambda r: "not loaded: try `modprobe nvidia`" in "".join(r.causes))
    gone = "not there any more (the NVIDIA driver is installed but not loaded"
    watched.until(lambda r: len(cordons(r)) == 2 and gone in cordons(r)["GPU-a"])
    state.init_error = 0
    state.write(tmp_path / "state")
    report = watched.until(lambda r: not cordons(r) and not r.causes)
    assert {kinds(report, uuid)[-1] for uuid in ("GPU-a", "GPU-b")} == {"recovered"}


def test_a_gpu_that_is_plugged_in_is_found(watched, state, tmp_path):
    state.gpus.append(Gpu("GPU-new"))
    state.write(tmp_path / "state")
    kernel(tmp_path, state)
    report = watched.until(lambda r: len(r.inventory.gpus) == 3)
    assert [reading.uuid for reading in report.readings] == ["GPU-a", "GPU-b", "GPU-new"]
    assert report.events == ()


def test_a_gpu_divided_anew_is_no_loss(watched, state, tmp_path):
    state.gpus[0].migs = [Mig("MIG-1"), Mig("MIG-2", gpu_instance=2)]
    state.write(tmp_path / "state")
    watched.until(lambda r: [g.uuid for g in r.inventory.gpus] == ["MIG-1", "MIG-2", "GPU-b"])
    state.gpus[0].migs = [Mig("MIG-3", gpu_instance=5)]
    state.write(tmp_path / "state")
    report = watched.until(lambda r: [g.uuid for g in r.inventory.gpus] == ["MIG-3", "GPU-b"])
    assert cordons(report) == {}


@pytest.mark.parametrize("stale", [1])
def test_a_call_that_hangs_leaves_the_last_readings_with_their_age(watched, state, tmp_path, stale):
    before = watched.report()
    state.hang = "nvmlDeviceGetUtilizationRates"  # which no list asks for
    state.write(tmp_path / "state")
    report = watched.until(lambda r: "(reading GPU-a)" in r.stale)
    assert report.stale.startswith("NVML has not answered for ")
    assert report.read_at >= before.read_at
    assert set(cordons(report)) == {"GPU-a", "GPU-b"}
    state.gpus[0].xids.append(119)  # the other thread still hears
    state.write(tmp_path / "state")
    watched.until(lambda r: "xid" in kinds(r, "GPU-a"))
    state.hang = ""
    state.write(tmp_path / "state")
    report = watched.until(lambda r: not r.stale)
    assert set(cordons(report)) == {"GPU-a"}


def test_a_wait_for_events_that_hangs_costs_only_what_needs_nvml_opened_anew(watched, state, tmp_path):
    state.hang = "nvmlEventSetWait_v2"
    state.gpus[0].utilization = 50
    state.write(tmp_path / "state")
    watched.until(lambda r: r.readings[0].utilization_percent == 50)
    state.gpus.append(Gpu("GPU-new"))
    state.write(tmp_path / "state")
    kernel(tmp_path, state)
    report = watched.until(lambda r: any("waits for Xids hangs in NVML" in cause for cause in r.causes))
    assert [reading.uuid for reading in report.readings] == ["GPU-a", "GPU-b"]
    state.hang = ""
    state.write(tmp_path / "state")
    watched.until(lambda r: len(r.readings) == 3 and not r.causes)


def test_it_stops_when_it_is_told_to(watched):
    watched.report()
    assert watched.end() == 0
