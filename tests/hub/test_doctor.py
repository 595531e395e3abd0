"""What the doctor makes of what it finds; that it finds it is `tests/e2e/test_doctor.py`."""

from __future__ import annotations

import socket
import sqlite3
import time
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import module_from_spec, spec_from_file_location
from types import SimpleNamespace

import docker.errors
import pytest
import requests
from respawner_hub import preflight
from respawner_hub.doctor import containers, deployment, gpus, sessions
from respawner_hub.doctor.containers import ContainerError
from respawner_hub.doctor.verdict import Absent, Failed, NotChecked, verdict
from respawner_hub.images import fitness, project_root
from respawner_hub.images.errors import ImageTestError
from respawner_hub.images.fitness import Check
from respawner_hub.settings import Settings
from respawner_spawner.agent.wire import Answer
from respawner_spawner.devices import Gpu, Health, Inventory, Report
from respawner_spawner.devices.values import Access
from respawner_spawner.engine import EngineUnreachable
from respawner_spawner.leases.ledger import Ledger

TWO = Inventory((Gpu("GPU-a", "A100", 80 << 30), Gpu("GPU-b", "A100", 80 << 30)), "", "570.86.15", "12.8")
BOTH = {"GPU-a", "GPU-b"}
NONE = Inventory(cause="no NVIDIA driver on this machine")
CLUSTER = {"hosts": {"a": "10.0.0.1", "b": "10.0.0.2"}, "hub_address": "10.0.1.1"}

CDI = """\
cdiVersion: 0.6.0
kind: nvidia.com/gpu
devices:
  - name: "0"
  - name: GPU-a
{more}
containerEdits:
  mounts:
    - hostPath: /usr/lib/x86_64-linux-gnu/libcuda.so.{driver}
"""


def answer(**report) -> Answer:
    return Answer("gpu-1", "boot", 0, Report(1, **report))


def test_what_a_look_says_and_raises_becomes_its_state():
    def absent():
        raise Absent("no SSH", "install it")

    def not_here():
        raise NotChecked("no GPU")

    def failed():
        raise Failed("it is down", "start it")

    assert verdict("a", lambda: "well").state == "ok"
    assert (verdict("a", absent).state, verdict("a", absent).next) == ("absent", "install it")
    assert (verdict("a", failed).state, verdict("a", failed).says) == ("failed", "it is down")
    assert (verdict("a", not_here).state, verdict("a", not_here).says) == ("skipped", "not checked: no GPU")


def test_a_machine_without_a_gpu_is_not_checked_and_one_whose_driver_is_missing_fails():
    with pytest.raises(NotChecked, match=r"no NVIDIA GPU on this machine's PCI bus \(no NVIDIA driver"):
        gpus.driver(NONE, None, None, set(), 0)
    with pytest.raises(Failed, match="2 NVIDIA GPUs on the PCI bus, but no NVIDIA driver") as found:
        gpus.driver(NONE, None, None, set(), 2)
    assert "provision" in found.value.next_step
    with pytest.raises(Failed, match="the agent tells of 2 GPUs, and NVML of none"):
        gpus.driver(NONE, None, TWO, BOTH, 0)


def test_everybody_who_lists_devices_must_list_the_same():
    assert gpus.driver(TWO, BOTH, TWO, BOTH, 2) == (
        "driver 570.86.15, CUDA up to 12.8, 2 GPUs; NVML, nvidia-smi, agent, ledger agree"
    )
    one = Inventory(TWO.found[:1])
    for listed, told, known, said in (
        ({"GPU-a"}, TWO, BOTH, "only NVML lists GPU-b"),
        (BOTH | {"GPU-z"}, TWO, BOTH, "only nvidia-smi -L lists GPU-z"),
        (BOTH, one, BOTH, "only NVML lists GPU-b"),
        (BOTH, TWO, {"GPU-a"}, "only NVML lists GPU-b"),
    ):
        with pytest.raises(Failed, match=said):
            gpus.driver(TWO, listed, told, known, 2)
    with pytest.raises(Absent, match="2 GPUs by NVML; there is no nvidia-smi"):
        gpus.driver(TWO, None, TWO, BOTH, 2)
    with pytest.raises(Failed, match="nvidia-smi -L has not answered within 30 s; NVML lists 2"):
        gpus.driver(TWO, "nvidia-smi -L has not answered within 30 s", TWO, BOTH, 2)
    with pytest.raises(Failed, match="fell off the bus"):
        gpus.driver(Inventory(TWO.found, "GPU-b fell off the bus"), BOTH, TWO, BOTH, 2)


def test_gpus_on_the_bus_are_counted_without_a_driver(tmp_path):
    for name, vendor, kind in (
        ("gpu", "0x10de", "0x030200"),
        ("sound of the gpu", "0x10de", "0x040300"),
        ("another", "0x8086", "0x030000"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(vendor + "\n")
        (tmp_path / name / "class").write_text(kind + "\n")
    assert gpus.on_the_bus(tmp_path) == 1


def test_nvidia_smi_is_asked_for_uuids_or_says_why_not(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.listed_by_nvidia_smi() is None
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA A100 (UUID: GPU-a)'\necho '  MIG 1g.10gb Device 0: (UUID: MIG-b)'\n"
    )
    program.chmod(0o755)
    assert gpus.listed_by_nvidia_smi() == {"GPU-a", "MIG-b"}
    program.write_text(
        "#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'; exit 18\n"
    )
    assert "ended with 18: Failed to initialize NVML" in gpus.listed_by_nvidia_smi()
    program.write_bytes(b"\x7fELF of another machine")
    assert "cannot be run: Exec format error" in gpus.listed_by_nvidia_smi()


def test_a_stale_description_of_the_devices_is_named_with_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotChecked):
        gpus.toolkit(NONE, [tmp_path])
    with pytest.raises(Absent, match=r"neither a description of the devices \(CDI\) in .* nor NVIDIA's hook"):
        gpus.toolkit(TWO, [tmp_path, tmp_path / "missing"])
    hook = tmp_path / "nvidia-container-runtime-hook"
    hook.touch(mode=0o755)
    assert "no description" in gpus.toolkit(TWO, [tmp_path])
    file = tmp_path / "nvidia.yaml"
    (tmp_path / "other.yaml").write_text("kind: example.com/fpga\ndevices: []\n")
    (tmp_path / "broken.yaml").write_text("[")
    file.write_text(CDI.format(driver="550.54.14", more="  - name: GPU-b"))
    with pytest.raises(Failed, match=r"libraries of driver 550.54.14, and 570.86.15 runs") as found:
        gpus.toolkit(TWO, [tmp_path])
    assert f"nvidia-ctk cdi generate --output={file}" in found.value.next_step
    file.write_text(CDI.format(driver="570.86.15", more=""))
    with pytest.raises(Failed, match="does not know GPU-b"):
        gpus.toolkit(TWO, [tmp_path])
    file.write_text(CDI.format(driver="570.86.15", more="  - name: GPU-b"))
    assert gpus.toolkit(TWO, [tmp_path]) == f"{file} describes 2 GPUs of driver 570.86.15"


def test_a_description_by_indexes_is_counted_and_one_that_shows_nothing_is_not_called_well(tmp_path):
    file = tmp_path / "nvidia.yaml"

    def told(*names, here=TWO, driver="570.86.15"):
        library = f"mounts:\n  - hostPath: /usr/lib/libcuda.so.{driver}\n" if driver else ""
        listed = [{"name": name} for name in names]
        file.write_text(f"kind: nvidia.com/gpu\ndevices: {listed}\n{library}")
        return gpus.toolkit(here, [tmp_path])

    assert told("0", "1", "all") == f"{file} describes 2 GPUs of driver 570.86.15"
    with pytest.raises(Failed, match="is stale: it knows 1 GPUs, and there are 2"):
        told("0", "all")
    with pytest.raises(NotChecked, match="does not name the devices one by one"):
        told("all")
    with pytest.raises(NotChecked, match="names no library whose version"):
        told("0", "1", driver="")
    split = Gpu("GPU-b", "A100", 80 << 30, mig_mode=True)
    mig = replace(TWO, found=(TWO.found[0], split, Gpu("MIG-1", "A100 MIG 1g", 10 << 30, parent="GPU-b")))
    assert "describes 2 GPUs" in told("0", "1:0", here=mig)
    with pytest.raises(Failed, match="it knows 0 MIG devices, and there are 1"):
        told("0", "1", here=mig)


def test_a_driver_must_know_the_major_version_of_the_images_cuda():
    image = "respawner/pytorch-cuda:2.7"
    assert "(CUDA 12.6)" in gpus.versions(TWO, image)
    with pytest.raises(Failed, match=r"driver 470.1 knows CUDA up to 11.4, and .* built with 12.6"):
        gpus.versions(Inventory(TWO.found, "", "470.1", "11.4"), image)
    with pytest.raises(NotChecked, match="no driver"):
        gpus.versions(NONE, image)
    with pytest.raises(NotChecked, match="names no CUDA for somebody/else:1"):
        gpus.versions(TWO, "somebody/else:1")


def test_faults_and_sessions_without_their_gpu_fail():
    with pytest.raises(NotChecked):
        gpus.health([answer(inventory=NONE)])
    lost = Access("c", "team/ada/", ("GPU-a",), "blocked", "may not open /dev/nvidia0", 1)
    usable = Access("c", "team/bob/", ("GPU-b",), "usable", "", 1)
    with pytest.raises(Failed, match="GPU-a: too hot"):
        gpus.health([answer(inventory=TWO, health=(Health("GPU-a", False, ("too hot",)),))])
    with pytest.raises(Failed, match="team/ada/: may not open"):
        gpus.health([answer(inventory=TWO, access=(usable, lost))])
    said = gpus.health([answer(inventory=TWO, access=(usable,), xid_counts={"GPU-a": {13: 2}})])
    assert (
        said
        == "2 GPUs without a fault, 2 Xids since the agents started, 1 of 1 sessions seen to reach theirs"
    )


def test_a_clock_that_differs_is_named_with_its_host(monkeypatch):
    def engine(ahead: float):
        moment = datetime.fromtimestamp(time.time() + ahead, UTC)
        told = moment.strftime("%Y-%m-%dT%H:%M:%S.%f123Z")
        return SimpleNamespace(client=SimpleNamespace(info=lambda: {"SystemTime": told}))

    monkeypatch.setattr(deployment, "_follows_a_server", lambda: True)
    assert "follows a time server" in deployment.clock({"a": engine(0)})
    with pytest.raises(NotChecked, match="no engine answers"):
        deployment.clock({})
    with pytest.raises(Failed, match=r"clocks differ: b is 6\d s ahead, c is \d+ s behind"):
        deployment.clock({"a": engine(0), "b": engine(65), "c": engine(-30)})
    monkeypatch.setattr(deployment, "_follows_a_server", lambda: False)
    with pytest.raises(Absent, match="follows no time server"):
        deployment.clock({"a": engine(0)})


def test_a_host_that_left_the_swarm_or_is_in_another_is_named():
    def engine(state: str, *managers: str):
        told = {"LocalNodeState": state, "RemoteManagers": [{"NodeID": one} for one in managers] or None}
        return SimpleNamespace(client=SimpleNamespace(info=lambda: {"Swarm": told}))

    settings = Settings.model_validate({"cluster": CLUSTER})
    hosts = {"a": engine("active", "m1", "m2"), "b": engine("active", "m2")}
    assert deployment.swarm(settings, hosts) == "2 of 2 hosts are active nodes of one Swarm"
    with pytest.raises(Failed, match=r"not in the Swarm: b \(inactive\)"):
        deployment.swarm(settings, {**hosts, "b": engine("inactive")})
    with pytest.raises(Failed, match=r"the hosts are in 2 Swarms: a \| b"):
        deployment.swarm(settings, {**hosts, "b": engine("active", "m3")})
    with pytest.raises(NotChecked, match="the engines of a, b do not answer; 0 of 2 hosts"):
        deployment.swarm(settings, {})
    with pytest.raises(NotChecked, match="the engines of b do not answer; 1 of 2 hosts"):
        deployment.swarm(settings, {"a": hosts["a"]})
    with pytest.raises(NotChecked):
        deployment.swarm(Settings(), hosts)


def test_the_port_of_a_hub_that_is_silent_is_looked_at(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = Settings.model_validate({"hub": {"state_dir": tmp_path, "hub_api_port": port}})
        with pytest.raises(Failed, match="network has not been made yet"):
            deployment.ports(settings, ["hub"])
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "gateway").write_text("127.0.0.1\n")
        with pytest.raises(
            Failed, match=rf"Port {port} on 127.0.0.1 is taken .* another \[hub\] hub_api_port"
        ):
            deployment.ports(settings, ["hub"])
        (tmp_path / "run" / "gateway").write_text("192.0.2.1\n")
        with pytest.raises(Failed, match=rf"192.0.2.1, where port {port} .* is no address of this machine"):
            deployment.ports(settings, ["hub"])
    (tmp_path / "run" / "gateway").write_text("127.0.0.1\n")
    assert deployment.ports(settings, ["hub"]) == "free for hub"


def test_a_hub_that_cannot_be_asked_since_the_proxy_is_down_may_have_its_port(monkeypatch):
    asked = []
    monkeypatch.setattr(preflight, "port_problems", lambda settings, programs: asked.extend(programs) or ())
    assert deployment.ports(Settings(), ["proxy", "hub"]) == "free for proxy"
    assert asked == ["proxy"]


def test_an_overlay_that_an_idle_worker_does_not_know_yet_is_tried_by_a_container(monkeypatch):
    def inspect_network(name):
        raise docker.errors.NotFound(f"network {name} not found")

    worker = SimpleNamespace(client=SimpleNamespace(inspect_network=inspect_network))
    monkeypatch.setattr(deployment, "answer", lambda engine, image, arguments, **host: "")
    settings = Settings.model_validate({"cluster": CLUSTER})
    assert deployment.network(settings, worker).startswith(
        "a container on it reaches the hub at http://10.0.1.1:"
    )


def test_a_database_that_does_not_answer_is_a_failure(tmp_path):
    (tmp_path / "text.sqlite").write_text("this is no database, however long it may be")
    settings = Settings.model_validate({"hub": {"database_url": f"sqlite:///{tmp_path}/text.sqlite"}})
    with pytest.raises(Failed, match=r"the database does not answer: .*not a database"):
        deployment.database(settings)


def test_a_database_is_neither_made_nor_upgraded_by_the_look(tmp_path):
    settings = Settings.model_validate({"hub": {"state_dir": tmp_path}})
    hub, ours = tmp_path / "jupyterhub.sqlite", tmp_path / "respawner.sqlite"
    with pytest.raises(Failed, match=f"{hub} is not there"):
        deployment.database(settings)
    hub.touch()
    with pytest.raises(Failed, match=f"{ours} is not there"):
        deployment.database(settings)
    assert not ours.exists()
    ours.touch()
    with pytest.raises(Failed, match="has the schema of nobody, and this version has "):
        deployment.database(settings)
    assert ours.stat().st_size == 0
    ours.unlink()
    Ledger(settings.own_database_url).close()
    assert deployment.database(settings) == "answers; the ledger knows 0 GPUs"
    with sqlite3.connect(ours) as connection:
        connection.execute("UPDATE respawner_schema SET version_num = 'of-tomorrow'")
    with pytest.raises(Failed, match="has the schema of-tomorrow, and this version has"):
        deployment.database(settings)


def tried_sessions(monkeypatch, prove_fit) -> dict[str, Check]:
    """What `try_sessions` notes on one host, by name."""
    noted = []
    monkeypatch.setattr(fitness, "prove_fit", prove_fit)
    sessions.try_sessions(Settings(), {"a": None}, lambda what, host: what, noted.append)
    return {check.name: check for check in noted}


@pytest.mark.parametrize(
    ("devices", "noted"),
    [
        (Check("devices", "skipped", "no GPU was given, and none is seen"), {}),
        (
            Check("devices", "failed", "a container that was given no GPU sees GPU-a"),
            {"session devices": "failed"},
        ),
    ],
)
def test_a_session_that_sees_a_gpu_without_having_been_given_one_fails(monkeypatch, devices, noted):
    def prove_fit(engine, image, state_dir, gpus, on_check, only):
        for check in (Check("user", "ok", "jovyan"), devices):
            on_check(check)

    found = tried_sessions(monkeypatch, prove_fit)
    assert {name: check.state for name, check in found.items()} == {"session user": "ok", **noted}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ImageTestError("it is not on the engine"), "it is not on the engine"),
        (EngineUnreachable("tcp://gpu-1:2376: refused"), "EngineUnreachable: tcp://gpu-1:2376: refused"),
        (requests.ReadTimeout("60 s"), "ReadTimeout: 60 s"),
    ],
)
def test_a_host_where_no_session_can_be_tried_fails(monkeypatch, error, says):
    def prove_fit(*arguments):
        raise error

    found = tried_sessions(monkeypatch, prove_fit)
    assert {name: (check.state, check.says) for name, check in found.items()} == {"session": ("failed", says)}


class Hangs:
    """A Docker client of which `stage` and everything after it gets no answer."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __getattr__(self, name):
        def call(*arguments, **named):
            if name in (self.stage, "remove_container"):
                raise requests.ReadTimeout("read timed out")
            return {"Id": "c"} if name == "create_container" else {}

        return call


@pytest.mark.parametrize("stage", ["create_container", "start", "wait"])
def test_a_container_on_a_mount_that_hangs_is_a_failure(stage):
    with pytest.raises(
        ContainerError, match=r"did not start and end within 180 s \(ReadTimeout: read timed out"
    ):
        containers.answer(SimpleNamespace(client=Hangs(stage)), "image", ["pass"])


def test_an_engine_that_hangs_is_a_failure_of_each_check_that_asks_it():
    hung = SimpleNamespace(client=Hangs("info"), host="tcp://gpu-1:2376")
    with pytest.raises(Failed, match="the engine at tcp://gpu-1:2376 does not answer: read timed out"):
        deployment.engine(hung)
    check = verdict("clock", deployment.clock, {"a": hung})
    assert (check.state, check.says) == ("failed", "ReadTimeout: read timed out")


def test_only_a_free_gpu_is_tried():
    devices = {"GPU-a": sessions.Device("gpu-1"), "GPU-b": sessions.Device("gpu-1", (4711,))}
    engines = {"this-machine": object()}

    def free(uuid, holders, engines=engines, asked_for=False):
        return sessions._free(uuid, devices, holders, engines, asked_for=asked_for)

    assert free("GPU-a", {}) == "free"
    with pytest.raises(NotChecked, match="team/ada/ holds it"):
        free("GPU-a", {"GPU-a": "team/ada/"})
    with pytest.raises(Failed, match="team/ada/ holds it"):
        free("GPU-a", {"GPU-a": "team/ada/"}, asked_for=True)
    with pytest.raises(NotChecked, match="processes compute on it: 4711"):
        free("GPU-b", {})
    with pytest.raises(NotChecked, match="nobody knows who holds it"):
        free("GPU-a", None)
    with pytest.raises(NotChecked, match="the engine of gpu-1 does not answer"):
        free("GPU-a", {}, engines={})
    with pytest.raises(Failed, match="no host has it; there are GPU-a, GPU-b"):
        free("GPU-z", {}, asked_for=True)


def test_a_gpu_that_a_session_got_while_another_was_tried_is_left_alone(monkeypatch):
    devices = {uuid: sessions.Device("gpu-1") for uuid in ("GPU-a", "GPU-b", "GPU-c", "GPU-d")}
    holders = {}
    tried, noted = [], []

    def prove_fit(engine, image, state_dir, given, on_check, only):
        tried.extend(given)
        holders["GPU-b"] = "team/ada/"
        devices["GPU-c"] = sessions.Device("gpu-1", (4711,))
        devices.pop("GPU-d", None)

    monkeypatch.setattr(fitness, "prove_fit", prove_fit)
    sessions.try_gpus(Settings(), {"gpu-1": None}, lambda: (dict(devices), dict(holders)), (), noted.append)
    assert tried == ["GPU-a"]
    assert {check.name: (check.state, check.says) for check in noted} == {
        "gpu GPU-b": ("skipped", "not checked: team/ada/ holds it"),
        "gpu GPU-c": ("skipped", "not checked: processes compute on it: 4711"),
        "gpu GPU-d": ("skipped", "not checked: no agent tells of it any more"),
    }


def test_a_gpu_that_is_listed_for_its_mig_devices_is_none_to_compute_on(monkeypatch):
    file = project_root() / "images" / "test" / "inside.py"
    spec = spec_from_file_location("inside", file)
    inside = module_from_spec(spec)
    spec.loader.exec_module(inside)
    listing = (
        "GPU 0: NVIDIA A100 (UUID: GPU-a)\n  MIG 1g.10gb Device 0: (UUID: MIG-1)\n  MIG 2g.20gb Device 1: (UUID: MIG-2)\n"
        "GPU 1: NVIDIA L4 (UUID: GPU-b)\n"
    )
    assert inside.devices_in(listing) == {"MIG-1", "MIG-2", "GPU-b"}
    monkeypatch.setattr(inside.shutil, "which", lambda name: name)

    def sees(text, asked):
        monkeypatch.setattr(
            inside, "run", lambda command: SimpleNamespace(returncode=0, stdout=text, stderr="")
        )
        return inside.check_devices({"gpus": asked})

    assert sees(listing, ["GPU-b", "MIG-2", "MIG-1"]) == "sees GPU-b, MIG-1, MIG-2 and no other"
    with pytest.raises(inside.Unfit, match="was given GPU-b and sees GPU-b, MIG-1, MIG-2"):
        sees(listing, ["GPU-b"])
    with pytest.raises(inside.Unfit, match="a container that was given no GPU sees GPU-b"):
        sees("GPU 0: NVIDIA L4 (UUID: GPU-b)\n", [])
    with pytest.raises(inside.Skipped):
        sees("", [])
