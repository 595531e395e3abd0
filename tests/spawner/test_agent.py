"""A real agent process, asked over HTTP. Its NVML is the stand-in, the engine of the marked tests is real."""

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import docker
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from respawner_spawner import __version__, container_spec
from respawner_spawner.agent.__main__ import AGAIN, _until
from respawner_spawner.leases.model import Device, Kind

from tests.ports import free_port
from tests.standins.nvml_state import GIB, Gpu, Mig, Process, State

from .device_rules import ZERO, deny
from .running_agent import TOKEN, RunningAgent, until

BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def agent(library, tmp_path):
    state = State([Gpu("GPU-a", utilization=40, memory_used=GIB), Gpu("GPU-b", migs=[Mig("MIG-1")])])
    with RunningAgent(library, tmp_path, state) as agent:
        yield agent


def samples(agent):
    """A function (name, labels) → value or None of what Prometheus' own parser reads."""
    answer = requests.get(f"{agent.url}/metrics", headers=BEARER, timeout=120)
    answer.raise_for_status()
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    return lambda metric, /, **labels: found.get((metric, *sorted(labels.items())))


async def test_the_inventory_names_host_boot_and_version(agent):
    seen = await until(agent.client(), lambda seen: seen.answer and seen.answer.report.readings)
    answer = seen.answer
    assert (answer.host, answer.version) == ("gpu-1", __version__)
    assert answer.boot_id == BOOT_ID
    assert answer.started_at <= answer.report.read_at <= answer.report.at
    assert seen.cause == ""
    assert seen.devices(answer.report.at) == (
        Device("GPU-a", "gpu-1", "STAND-IN A100", 80 * GIB),
        Device("MIG-1", "gpu-1", "STAND-IN A100", 10 * GIB, Kind.MIG, parent="GPU-b", profile="1g.10gb"),
    )


@pytest.mark.parametrize("path", ["/v1/inventory", "/metrics"])
@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, 401),
        ("Basic dXNlcjpwYXNz", 401),
        ("Bearer", 401),
        ("Bearer wrong", 403),
        (f"Bearer {TOKEN}x", 403),
        ("Bearer ä", 403),
    ],
)
def test_nobody_without_the_token_is_answered(agent, path, header, code):
    headers = {"Authorization": header.encode()} if header else {}
    answer = requests.get(agent.url + path, headers=headers, timeout=120)
    assert answer.status_code == code
    assert "token" in answer.json()["error"]
    assert "GPU" not in answer.text


def healthz(agent):
    answer = requests.get(f"{agent.url}/healthz", timeout=120)
    assert answer.status_code == (200 if answer.json()["ok"] else 503)
    return answer.json()


def test_whether_it_is_well_is_no_secret(agent):
    assert healthz(agent) == {"ok": True, "cause": ""}


async def test_the_metrics_are_what_prometheus_reads(agent):
    await until(agent.client(), lambda seen: seen.answer and seen.answer.report.readings)
    agent.state.gpus[0].processes = [Process(4_000_000, GIB), Process(4_000_001, GIB)]
    agent.state.gpus[0].xids += [31, 79]
    agent.write()
    await until(agent.client(), lambda seen: len(seen.answer.report.processes) == 2)
    await until(agent.client(), lambda seen: len(seen.answer.report.events) == 2)
    value = samples(agent)
    info = {"host": "gpu-1", "version": __version__, "driver_version": "570.86.15"}
    whole = {"uuid": "GPU-a", "name": "STAND-IN A100", "parent": "", "profile": ""}
    part = {"uuid": "MIG-1", "name": "STAND-IN A100 MIG 1g.10gb", "parent": "GPU-b", "profile": "1g.10gb"}
    assert value("respawner_agent_info", **info) == 1
    assert value("respawner_gpu_memory_bytes", **whole) == 80 * GIB
    assert value("respawner_gpu_memory_bytes", **part) == 10 * GIB
    assert value("respawner_gpu_memory_used_bytes", uuid="GPU-a") == GIB
    assert value("respawner_gpu_utilization_percent", uuid="GPU-a") == 40
    assert value("respawner_gpu_utilization_percent", uuid="MIG-1") is None
    assert value("respawner_gpu_xids_total", uuid="GPU-a", xid="31") == 1
    assert value("respawner_gpu_healthy", uuid="GPU-a") == 0
    assert value("respawner_gpu_healthy", uuid="MIG-1") == 1
    assert value("respawner_gpu_process_memory_bytes", uuid="GPU-a", holder="") == 2 * GIB


async def test_a_sick_gpu_is_cleared_by_an_admins_word(agent):
    await until(agent.client(), lambda seen: seen.answer and seen.answer.report.readings)
    agent.state.gpus[0].xids.append(48)
    agent.write()
    client = agent.client()
    seen = await until(client, lambda seen: seen.devices(0)[0].cordon)
    assert seen.devices(0)[0].cordon.startswith("Xid 48")
    assert await client.clear("GPU-a")
    assert not await client.clear("GPU-a")
    assert (await client.ask()).devices(0)[0].cordon == ""


@pytest.mark.parametrize(("body", "code"), [("{", 400), ("[]", 400), ('{"uuid": "GPU-x"}', 404)])
def test_what_cannot_be_cleared_is_told(agent, body, code):
    answer = requests.post(f"{agent.url}/v1/health/clear", body, headers=BEARER, timeout=120)
    assert answer.status_code == code
    assert answer.json()["error"]


async def test_a_driver_that_hangs_does_not_hang_the_agent(library, tmp_path):
    state = State([Gpu("GPU-a")], hang="nvmlInitWithFlags")
    with RunningAgent(library, tmp_path, state) as agent:
        seen = await agent.client().ask()
        assert seen.cause == ""
        assert seen.answer.report.inventory.found == ()
        seen = await until(agent.client(), lambda seen: seen.answer.report.stale)
        assert "NVML has not answered for" in seen.answer.report.stale
        assert healthz(agent)["ok"] is False
        agent.send(signal.SIGTERM)
        assert agent.process.wait(120) == 0


async def test_without_a_driver_the_agent_says_so(library, tmp_path):
    with RunningAgent(library, tmp_path, State(init_error=9)) as agent:
        seen = await until(agent.client(), lambda seen: seen.answer.report.inventory.cause)
        assert seen.devices(0) == ()
        assert "not loaded" in seen.answer.report.inventory.cause


async def test_an_agent_stops_when_it_is_told_to(agent):
    agent.send(signal.SIGTERM)
    assert agent.process.wait(120) == 0


async def test_an_agent_that_only_a_new_process_can_replace_asks_to_be_started_again():
    class Upgraded:
        needs_new_process = False

    monitor, stopped = Upgraded(), asyncio.Event()
    waiting = asyncio.create_task(_until(stopped, monitor))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    monitor.needs_new_process = True
    assert await asyncio.wait_for(waiting, 60) == AGAIN
    stopped.set()
    monitor.needs_new_process = False
    assert await _until(stopped, monitor) == 0


# Whose a process is ---------------------------------------------------------------------------------------


@pytest.fixture
def session(any_image):
    """A running container that looks like a session with GPU-a; its device is /dev/zero under NVIDIA's name."""
    client = docker.from_env().api
    created = client.create_container(
        any_image,
        ["sleep", "600"],
        entrypoint=[],
        network_disabled=True,
        labels={container_spec.HOLDER_LABEL: "team/ada/", container_spec.GPUS_LABEL: "GPU-a"},
        host_config=client.create_host_config(devices=["/dev/zero:/dev/nvidia0:rw"]),
    )
    try:
        client.start(created)
        yield client.inspect_container(created)
    finally:
        client.remove_container(created, force=True)


@pytest.mark.docker
async def test_a_process_on_a_gpu_has_the_name_of_its_session(library, tmp_path, session):
    process = Process(session["State"]["Pid"], 5 * GIB)
    state = State([Gpu("GPU-a", processes=[process, Process(4_000_000, GIB)])])
    with RunningAgent(library, tmp_path, state, engine=os.environ["DOCKER_HOST"]) as agent:
        seen = await until(
            agent.client(),
            lambda seen: seen.answer and any(process.holder for process in seen.answer.report.processes),
        )
        first, second = seen.answer.report.processes
        assert (first.uuid, first.holder, first.container) == ("GPU-a", "team/ada/", session["Id"])
        assert (second.holder, second.container) == ("", "")
        value = samples(agent)
        assert value("respawner_gpu_process_memory_bytes", uuid="GPU-a", holder="team/ada/") == 5 * GIB


@pytest.mark.docker
async def test_a_session_that_lost_its_gpu_cordons_it_until_it_is_gone(library, tmp_path, session):
    with RunningAgent(library, tmp_path, State([Gpu("GPU-a")]), engine=os.environ["DOCKER_HOST"]) as agent:
        client = agent.client()
        seen = await until(client, lambda seen: seen.answer and accesses(seen, session))
        assert accesses(seen, session) == ["usable"]
        assert samples(agent)("respawner_session_gpus_usable", holder="team/ada/") == 1
        deny(session["State"]["Pid"], ZERO)
        seen = await until(client, lambda seen: seen.devices(0)[0].cordon)
        assert accesses(seen, session) == ["blocked"]
        assert seen.devices(0)[0].cordon.startswith("team/ada/: a running session may not open /dev/nvidia0")
        docker.from_env().api.kill(session["Id"])
        seen = await until(client, lambda seen: not seen.devices(0)[0].cordon)
        assert [event.kind for event in seen.answer.report.events] == ["blocked", "recovered"]


def accesses(seen, session):
    return [access.verdict for access in seen.answer.report.access if access.container == session["Id"]]


async def test_an_engine_that_does_not_answer_is_a_cause_and_no_more(library, tmp_path):
    engine = f"unix://{tmp_path / 'nobody.sock'}"
    with RunningAgent(library, tmp_path, State([Gpu("GPU-a")]), engine=engine) as agent:
        seen = await until(agent.client(), lambda seen: seen.answer and seen.answer.report.causes)
        assert "does not answer, so nobody knows whose a process is" in seen.answer.report.causes[0]
        await until(agent.client(), lambda seen: seen.devices(0))


# An agent that cannot start -------------------------------------------------------------------------------


def start(*arguments: str) -> str:
    command = [sys.executable, "-m", "respawner_spawner.agent", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def test_what_keeps_it_from_starting_is_named_with_the_next_step(tmp_path):
    token, short = tmp_path / "token", tmp_path / "short"
    token.write_text(TOKEN)
    short.write_text("secret\n")
    given = ("--token-file", str(token), "--port", str(free_port()))
    assert "cannot read the token in" in start("--token-file", str(tmp_path / "none"))
    assert "has 6 characters, at least 16" in start("--token-file", str(short))
    assert "--listen 0.0.0.0 without --certificate" in start(*given, "--listen", "0.0.0.0")
    assert "--listen everywhere: give an IP address" in start(*given, "--listen", "everywhere")
    assert "belong together" in start(*given, "--certificate", str(token))
    assert "cannot use" in start(*given, "--certificate", str(token), "--key", str(token))


def test_a_taken_port_is_named(agent, tmp_path):
    said = start("--token-file", str(tmp_path / "token"), "--port", str(agent.port))
    assert f"cannot listen on 127.0.0.1 port {agent.port}" in said


# What the hub makes of an agent ---------------------------------------------------------------------------


async def test_a_silent_agent_is_reported_with_the_age_of_its_last_answer(agent, clock):
    client = agent.client(clock=clock)
    await until(client, lambda seen: seen.devices(clock.now))
    agent.process.kill()
    agent.process.wait()
    clock.now += 10
    seen = await client.ask()
    assert "is the agent running?" in seen.cause
    assert not seen.is_silent(clock.now)  # one lost answer is no silence
    assert seen.devices(clock.now)[0].cordon == ""
    clock.now += 30
    seen = await client.ask()
    assert seen.is_silent(clock.now)
    assert seen.age_seconds(clock.now) == 40
    assert seen.describe(clock.now).startswith("the agent of gpu-1 has been silent for 40 s: nothing listens")
    assert {device.cordon for device in seen.devices(clock.now)} == {seen.describe(clock.now)}
    clock.now += 600
    assert "silent for 11 min" in client.seen.describe(clock.now)
    agent.start()
    seen = await until(client, lambda seen: not seen.cause)
    assert seen.describe(clock.now) == ""
    assert not seen.is_silent(clock.now)


async def test_an_agent_that_is_stopped_times_out(agent):
    client = agent.client(timeout_seconds=5)
    await until(client, lambda seen: seen.answer)
    agent.send(signal.SIGSTOP)
    seen = await client.ask()
    assert seen.cause == f"{agent.url} did not answer within 5 s"
    assert seen.answer is not None
    agent.send(signal.SIGCONT)
    await until(client, lambda seen: not seen.cause)


async def test_other_failures_have_causes_that_differ(agent):
    client = agent.client()
    client._token = "another-token-of-16"
    assert "refuses this hub's token" in (await client.ask()).cause
    client = agent.client()
    client.url = f"{agent.url}/healthz?"
    assert "not an agent's answer" in (await client.ask()).cause
    client.url = f"{agent.url}/nowhere"
    assert "not an agent, or one of another version" in (await client.ask()).cause
    client.url = "http://no-such-host.invalid:1"
    assert "no-such-host.invalid" in (await client.ask()).cause
    client.url = f"https://127.0.0.1:{agent.port}"
    assert client.url in (await client.ask()).cause


async def test_an_agent_of_another_format_is_not_misread(agent):
    from respawner_spawner.agent import wire

    seen = await until(agent.client(), lambda seen: seen.answer)
    body = wire.encode(dataclasses.replace(seen.answer, format=wire.FORMAT + 1))
    with pytest.raises(wire.NotAnAgent, match="bring both to one version"):
        wire.decode(body)
    with pytest.raises(wire.NotAnAgent, match="report"):
        wire.decode(b'{"host": "h", "boot_id": "", "started_at": 0, "report": 7}')


async def test_https_with_the_hosts_certificate(library, tmp_path):
    from respawner_hub import tls

    certificate, key, _ = tls.ensure_self_signed(tmp_path / "tls", ["127.0.0.1"])
    arguments = ("--certificate", str(certificate), "--key", str(key), "--listen", "0.0.0.0")
    with RunningAgent(library, tmp_path, State([Gpu("GPU-a")]), *arguments) as agent:
        agent.url = agent.url.replace("http:", "https:")
        await until(agent.client(ca_file=certificate), lambda seen: seen.devices(0))
        assert "certificate is not trusted" in (await agent.client().ask()).cause
