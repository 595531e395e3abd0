"""`respawner-hub doctor` on a deployment whose GPUs are stand-ins, as it stands and with parts of it broken.

Real: the deployment with its agent, the engine with its `DeviceRequests`, pynvml. Stand-ins: NVML's library, nvidia-smi,
NVIDIA's hook, and the session's image, which has neither a kernel nor torch: the checks of those fail here, and rightly.
"""

from __future__ import annotations

import json
import os

import pytest
from respawner_hub.supervision import Supervisor

from tests.standins import build_fake_nvml, gpu_engine, nvml_environment, stub_session
from tests.standins.nvml_state import Gpu, State

from .deployment import ARTIFACTS, Deployment, wait_until

pytestmark = [pytest.mark.docker]

UUIDS = ["GPU-aaaaaaaa", "GPU-bbbbbbbb"]


@pytest.fixture(scope="module")
def gpu_deployment(tmp_path_factory):
    folder = build_fake_nvml(tmp_path_factory.mktemp("nvml"))
    environment = nvml_environment(folder, State([Gpu(uuid) for uuid in UUIDS]).write(folder / "state"))
    environment["PATH"] = f"{folder}:{os.environ['PATH']}"
    list_gpus(folder, UUIDS)
    with gpu_engine.running(UUIDS, log_to=ARTIFACTS / "logs") as engine:
        stub_session.build(engine.client)
        with Deployment(
            environment=environment,
            engine=engine.socket,
            image={"name": stub_session.IMAGE, "build": False},
            session={"max_gpus": 2, "mem_limit": "", "stop_grace_seconds": 20},
        ) as deployment:
            deployment.sections["engine"] |= {"start": False, "subnet": engine.subnet}
            deployment.write_settings()
            deployment.nvidia, deployment.gpu_engine = folder, engine
            deployment.up()
            wait_until(lambda: len(gpus_of(deployment)) == 2, 240, "the ledger to hear of both GPUs")
            yield deployment


def list_gpus(folder, uuids) -> None:
    """What the machine's nvidia-smi lists."""
    lines = [f"echo 'GPU {number}: STAND-IN (UUID: {uuid})'" for number, uuid in enumerate(uuids)]
    (folder / "nvidia-smi").write_text("\n".join(["#!/bin/sh", *lines, ""]))
    (folder / "nvidia-smi").chmod(0o755)


def gpus_of(deployment):
    return json.loads(deployment.run("status", "--json").stdout)["gpus"]


def doctor(deployment, *arguments):
    """Name → check, and the exit code."""
    done = deployment.run("doctor", "--json", *arguments, check=False)
    return {check["name"]: check for check in json.loads(done.stdout)}, done.returncode


def test_parts_that_are_there_are_proven_and_those_that_are_not_are_never_ok(gpu_deployment):
    checks, status = doctor(gpu_deployment)
    states = {name: check["state"] for name, check in checks.items()}
    well = ["disk", "database", "engine", "proxy", "hub", "agent", "ports", "network", "driver", "health"]
    well += ["session user", "session volumes", *(f"devices {uuid}" for uuid in UUIDS)]
    assert {name: states[name] for name in well} == dict.fromkeys(well, "ok"), checks
    for name in ("swarm", "storage", "versions"):
        assert states[name] == "skipped"
        assert checks[name]["says"].startswith("not checked: ")
    assert checks["driver"]["says"] == (
        "driver 570.86.15, CUDA up to 12.8, 2 GPUs; NVML, nvidia-smi, agent, ledger agree"
    )
    for uuid in UUIDS:
        assert checks[f"devices {uuid}"]["says"] == f"sees {uuid} and no other"
        assert states[f"gpu {uuid}"] == "failed"  # there is no torch in the stand-in, nor a CUDA behind it
    assert states["session kernel"] == "failed"
    assert status == 1
    granted = [grant["granted"] for grant in gpu_deployment.gpu_engine.grants()]
    assert granted == [[uuid] for uuid in UUIDS]  # one after the other, and nobody else's


def test_one_gpu_is_tried_when_it_is_named_and_an_unknown_one_fails(gpu_deployment):
    checks, status = doctor(gpu_deployment, "--gpu", UUIDS[1], "--gpu", "GPU-zzzz")
    assert f"devices {UUIDS[0]}" not in checks
    assert checks[f"devices {UUIDS[1]}"]["state"] == "ok"
    assert checks["gpu GPU-zzzz"]["says"] == f"no host has it; there are {', '.join(UUIDS)}"
    assert status == 1


def test_a_gpu_that_nvidia_smi_lacks_and_one_that_the_engine_refuses_are_named(gpu_deployment):
    list_gpus(gpu_deployment.nvidia, UUIDS[:1])
    gpu_deployment.gpu_engine.set_gpus(UUIDS[:1])
    try:
        checks, _ = doctor(gpu_deployment)
    finally:
        list_gpus(gpu_deployment.nvidia, UUIDS)
        gpu_deployment.gpu_engine.set_gpus(UUIDS)
    assert checks["driver"]["says"] == f"only NVML lists {UUIDS[1]}"
    assert checks[f"devices {UUIDS[0]}"]["state"] == "ok"
    assert f"{UUIDS[1]}: unknown device" in checks[f"devices {UUIDS[1]}"]["says"]


def test_a_session_keeps_its_gpu_while_the_doctor_looks(gpu_deployment):
    with gpu_deployment.new_user("ada") as ada:
        gpu_deployment.start_server(ada, {"gpus": 1})
        held = next(gpu["uuid"] for gpu in gpus_of(gpu_deployment) if gpu["holder"])
        before = len(gpu_deployment.gpu_engine.grants())
        checks, _ = doctor(gpu_deployment)
        assert checks[f"gpu {held}"]["state"] == "skipped"
        assert f"{gpu_deployment.name}/ada/ holds it" in checks[f"gpu {held}"]["says"]
        assert all(held not in grant["granted"] for grant in gpu_deployment.gpu_engine.grants()[before:])
        asked, status = doctor(gpu_deployment, "--gpu", held)
        assert (asked[f"gpu {held}"]["state"], status) == ("failed", 1)


def test_an_agent_that_is_down_and_an_image_that_is_missing_are_named_with_the_next_step(gpu_deployment):
    supervisor = Supervisor(
        gpu_deployment.folder / "state", gpu_deployment.folder, gpu_deployment.settings_file
    )
    supervisor._rpc.stopProcess("agent", True)
    gpu_deployment.sections["image"]["name"] = "respawner-tests/nobody-has-it:1"
    gpu_deployment.write_settings()
    try:
        checks, status = doctor(gpu_deployment)
    finally:
        gpu_deployment.sections["image"]["name"] = stub_session.IMAGE
        gpu_deployment.write_settings()
        supervisor._rpc.startProcess("agent", True)
    assert status == 1
    assert checks["agent"]["state"] == "failed"
    assert "nothing listens at" in checks["agent"]["says"]
    assert "respawner-hub up" in checks["agent"]["next"]
    assert checks["ports"]["says"] == "free for agent"
    assert "NVML, nvidia-smi agree" in checks["driver"]["says"]
    assert checks["network"]["state"] == "skipped"
    for name in ("session", *(f"devices {uuid}" for uuid in UUIDS)):
        assert checks[name]["state"] == "failed"
        assert "nobody-has-it:1 is not on the engine" in checks[name]["says"]


def test_an_engine_that_is_away_is_one_failure_and_the_rest_is_not_called_well(gpu_deployment):
    gpu_deployment.gpu_engine.kill()
    try:
        checks, status = doctor(gpu_deployment)
    finally:
        gpu_deployment.gpu_engine.start()
    assert (checks["engine"]["state"], status) == ("failed", 1)
    assert not any(name.startswith(("session", "network", "devices")) for name in checks)
    for uuid in UUIDS:
        assert checks[f"gpu {uuid}"]["state"] == "skipped"
        assert "does not answer" in checks[f"gpu {uuid}"]["says"]


def test_without_a_gpu_everything_else_is_proven_and_the_gpu_is_not_checked(deployment):
    """The real image, on the machine's own engine."""
    done = deployment.run("doctor", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (
        "✓ hub                http://",
        "✓ session snapshots  a variable is there again after kill -9 of the kernel",
        "– driver             not checked: there is no NVIDIA GPU on this machine's PCI bus",
        "– gpu                not checked: nobody tells of a GPU",
        " 0 failed, ",
    ):
        assert line in done.stdout
