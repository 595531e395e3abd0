"""What goes wrong on real machines: unreachable sessions and engines, bad images, full disks."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile

import pytest

from .deployment import SpawnFailed, wait_until
from .kernels import UserServer

pytestmark = [pytest.mark.docker]


def build(deployment, tag: str, dockerfile: str) -> str:
    """A small variant of the user image; needs no network."""
    content = dockerfile.encode()
    entry = tarfile.TarInfo("Dockerfile")
    entry.size = len(content)
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        archive.addfile(entry, io.BytesIO(content))
    context.seek(0)
    name = f"{deployment.name}/{tag}:test"
    lines = list(
        deployment.engine.build(fileobj=context, custom_context=True, tag=name, rm=True, decode=True)
    )
    assert not any("error" in line for line in lines), lines
    return name


@pytest.fixture
def image(deployment):
    """Build variants of the user image; removed at the end."""
    base = deployment.image
    made = []

    def variant(tag: str, *lines: str) -> str:
        made.append(build(deployment, tag, "\n".join([f"FROM {base}", *lines])))
        return made[-1]

    yield variant
    for name in made:
        with contextlib.suppress(Exception):
            deployment.engine.remove_image(name, force=True)


def refusal(deployment, user: str, image: str) -> str:
    with pytest.raises(SpawnFailed) as caught:
        deployment.start_server(user, {"image": image})
    assert deployment.engine.containers(all=True, filters={"name": f"^/{deployment.container(user)}$"}) == []
    return str(caught.value)


def test_an_image_that_exits_at_once_shows_its_exit_code_and_log(deployment, user, image):
    name = image("exits", "ENTRYPOINT []", 'CMD ["sh", "-c", "echo licence expired >&2; exit 3"]')
    message = refusal(deployment, user, name)
    assert "exited with code 3" in message
    assert "licence expired" in message


def test_an_image_without_the_server_says_what_it_needs(deployment, user, image):
    name = image(
        "noserver", "USER root", "RUN rm /usr/local/bin/jupyterhub-singleuser", "USER 1000", "CMD []"
    )
    assert "pip install jupyterhub jupyterlab" in refusal(deployment, user, name)


def test_an_image_without_a_kernel_says_what_it_needs(deployment, user, image):
    name = image("nokernel", "USER root", "RUN pip uninstall -y ipykernel", "USER 1000")
    assert "pip install ipykernel" in refusal(deployment, user, name)


def test_an_image_without_a_command_runs_the_server(deployment, user, image):
    name = image("nocmd", "ENTRYPOINT []", "CMD []")
    deployment.start_server(user, {"image": name})
    assert UserServer(deployment, user).open_notebook("x.ipynb").value("1 + 1") == 2


def test_an_unknown_image_is_named(deployment, user):
    message = refusal(deployment, user, "nowhere/nothing:1")
    assert "nowhere/nothing:1 is not on the engine" in message


def test_an_image_without_our_mount_points_has_volumes_that_its_user_owns(deployment, user, image):
    name = image(
        "bare", "USER root", "RUN rm -rf /var/lib/respawner && usermod -d /data/me jovyan", "USER 1000"
    )
    deployment.start_server(user, {"image": name})
    owners = deployment.exec(user, "stat", "-c", "%u", "/data/me", "/var/lib/respawner")
    assert owners.split() == ["1000", "1000"]
    kernel = UserServer(deployment, user).open_notebook("x.ipynb")
    kernel.run("x = 1")
    assert kernel.value("__import__('respawner').status()['error']") is None


def test_a_session_is_confined(deployment, user):
    deployment.start_server(user)
    inspection = deployment.engine.inspect_container(deployment.container(user))
    assert inspection["HostConfig"]["AutoRemove"] is False
    assert not any("docker.sock" in bind for bind in inspection["HostConfig"]["Binds"])
    assert "NVIDIA_VISIBLE_DEVICES=void" in inspection["Config"]["Env"]
    status = deployment.exec(user, "cat", "/proc/self/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["CapEff"] == fields["CapBnd"] == "0" * 16
    assert fields["NoNewPrivs"] == "1"
    assert (
        deployment.exec(user, "sh", "-c", "touch /opt/respawner/lib/x 2>&1 || true")
        .strip()
        .endswith("Read-only file system")
    )


def test_a_volume_that_cannot_be_written_is_named(deployment, user):
    name = f"{deployment.name}-home-{user}"
    options = {"type": "tmpfs", "device": "tmpfs", "o": "ro"}
    deployment.engine.create_volume(name, driver="local", driver_opts=options)
    with pytest.raises(SpawnFailed, match="read-only"):
        deployment.start_server(user)


def test_a_full_snapshot_volume_keeps_the_old_state_and_tells_the_user(deployment, user):
    name = f"{deployment.name}-snapshots-{user}"
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=8m"}
    deployment.engine.create_volume(name, driver="local", driver_opts=options)
    deployment.start_server(user)
    kernel = UserServer(deployment, user).open_notebook("x.ipynb")
    kernel.run("small = 'kept'")
    kernel.run("import os; large = os.urandom(32 << 20)")
    error = "str(__import__('respawner').status()['error']).lower()"
    wait_until(lambda: "space" in kernel.value(error), 240, "the user to be told of the full disk")
    pid = kernel.pid()
    deployment.exec(user, "kill", "-KILL", str(pid))
    wait_until(lambda: kernel.run("1").status == "ok", 240, "the kernel to restart")
    assert kernel.value("small") == "kept"
    assert kernel.run("large").status == "error"


@contextlib.contextmanager
def cut_off(deployment, user: str):
    """Drop every packet between this host and the user's session."""
    inspection = deployment.engine.inspect_container(deployment.container(user))
    address = inspection["NetworkSettings"]["Networks"][deployment.name]["IPAddress"]
    rule = ["OUTPUT", "-d", address, "-j", "DROP"]
    subprocess.run(["iptables", "-I", *rule], check=True)
    try:
        yield
    finally:
        subprocess.run(["iptables", "-D", *rule], check=True)


@contextlib.contextmanager
def impatient_hub(deployment):
    """One that starts in here waits for a session no longer than half a minute; the next one is patient again."""
    deployment.sections["session"]["http_timeout_seconds"] = 30
    deployment.write_settings()
    try:
        yield
    finally:
        del deployment.sections["session"]["http_timeout_seconds"]
        deployment.write_settings()


def test_a_session_that_a_restarting_hub_cannot_reach_is_adopted_later(deployment, user):
    """Cut the network, restart the hub until it gives up, restore the network, start: the same kernel."""
    deployment.start_server(user)
    kernel = UserServer(deployment, user).open_notebook("x.ipynb")
    kernel.run("mine = 'still here'")
    pid = kernel.pid()
    container = deployment.engine.inspect_container(deployment.container(user))["Id"]
    log = deployment.folder / "state" / "log" / "hub.log"
    with cut_off(deployment, user), impatient_hub(deployment):
        deployment.restart_hub()
        wait_until(
            lambda: f"{user} could not be reached and is left running" in log.read_text(),
            300,
            "the hub to give up on the session",
        )
    inspection = deployment.engine.inspect_container(container)
    assert inspection["State"]["Running"]
    deployment.start_server(user)
    assert deployment.engine.inspect_container(deployment.container(user))["Id"] == container
    assert kernel.pid() == pid
    assert kernel.value("mine") == "still here"
    page = deployment.browse(user, f"user/{user}/lab")  # the OAuth client works: a browser gets in
    assert page.status_code == 200
    assert "/hub/login" not in page.url
    deployment.restart_hub()


def test_a_hub_that_starts_without_its_engine_forgets_nobody(deployment, user):
    """The engine is away while the hub restarts; sessions are reachable all the time."""
    deployment.start_server(user)
    kernel = UserServer(deployment, user).open_notebook("x.ipynb")
    pid = kernel.pid()
    with deployment.engine_away():
        deployment.restart_hub()
        assert kernel.pid() == pid
        wait_until(lambda: deployment.api("GET", f"users/{user}").json()["server"], 240, "the hub to look")
    deployment.stop_server(user)
    assert deployment.engine.containers(all=True, filters={"name": f"^/{deployment.container(user)}$"}) == []


def test_an_engine_that_is_away_is_said_at_spawn(deployment, user):
    with deployment.engine_away(), pytest.raises(SpawnFailed, match="does not answer"):
        deployment.start_server(user)
