"""A session's life seen through REST and websockets: kills, restarts, stops, and what must not be interrupted."""

from __future__ import annotations

import os
import random
import time

import pytest

from . import training
from .deployment import PASSWORD, wait_until
from .kernels import UserServer

pytestmark = [pytest.mark.docker]


@pytest.fixture
def server(deployment, user):
    """The user's running server."""
    deployment.start_server(user)
    return UserServer(deployment, user)


def trained(server: UserServer):
    kernel = server.open_notebook("digits.ipynb")
    for source in (training.SETUP, training.TRAIN):
        outcome = kernel.run(source)
        assert outcome.status == "ok", outcome.error
    return kernel


def test_a_killed_kernel_comes_back_with_identical_state(deployment, user, server):
    kernel = trained(server)
    before, pid = kernel.value(training.FINGERPRINT), kernel.pid()
    deployment.exec(user, "kill", "-KILL", str(pid))
    wait_until(lambda: alive_again(kernel, pid), 240, "the kernel to restart")
    assert kernel.value(training.FINGERPRINT) == before
    assert before["trains_the_model"]
    assert before["is_its_class"]


def alive_again(kernel, old_pid: int) -> bool:
    try:
        return kernel.pid() != old_pid
    except Exception:
        return False


def test_training_goes_on_exactly_where_it_was(deployment, user, server):
    """Killed half-way and never killed end with the same weights, bit for bit."""
    kernel = trained(server)
    deployment.exec(user, "kill", "-KILL", str(kernel.pid()))
    wait_until(lambda: kernel.run("1").status == "ok", 240, "the kernel to restart")
    kernel.run(training.MORE)
    killed = kernel.value(training.FINGERPRINT)
    other = server.open_notebook("never-killed.ipynb")
    for source in (training.SETUP, training.TRAIN, training.MORE):
        other.run(source)
    assert killed == other.value(training.FINGERPRINT)


def test_kills_at_random_moments_lose_at_most_the_last_cell(deployment, user, server):
    """After each kill the state is a complete one: the newest, or that of one cell before."""
    kernel = server.open_notebook("counter.ipynb")
    kernel.run("count, log, big = 0, [], bytearray(8 << 20)")
    expected, lost = 0, 0
    random.seed(0)
    for _ in range(60 if os.environ.get("RESPAWNER_LONG") else 5):
        outcome = kernel.run("count += 1; log.append(count); big[count * 4096] = count")
        assert outcome.status == "ok", outcome.error
        expected += 1
        (pid,) = deployment.kernel_pids(user)
        time.sleep(random.random() * 0.2)
        deployment.exec(user, "kill", "-KILL", pid)
        wait_until(
            lambda old=pid: deployment.kernel_pids(user) not in ([], [old]), 240, "the kernel to restart"
        )
        count, log, marks = kernel.value("(count, log, sum(1 for byte in big if byte))")
        assert log == list(range(1, count + 1))
        assert marks == count
        assert count in (expected, expected - 1)
        lost += expected - count
        expected = count
    print(f"{lost} cells lost in the window between reply and manifest")


def test_a_stopped_session_is_durable_first_and_comes_back(deployment, user, server):
    kernel = trained(server)
    before = kernel.value(training.FINGERPRINT)
    kernel.run("last_words = 'set just before the stop'")
    deployment.stop_server(user)
    assert deployment.engine.containers(all=True, filters={"name": deployment.container(user)}) == []
    deployment.start_server(user)
    kernel = server.open_notebook("digits.ipynb")
    assert kernel.value(training.FINGERPRINT) == before
    assert kernel.value("last_words") == "set just before the stop"
    log = (deployment.folder / "state" / "log" / "hub.log").read_text()
    assert f"{user} is durable after" in log


def test_restart_clean_gives_an_empty_kernel_and_keeps_the_snapshot(server):
    kernel = server.open_notebook("clean.ipynb")
    kernel.run("precious = 42")
    pid = kernel.pid()
    kernel.run("%restart_clean")
    wait_until(lambda: alive_again(kernel, pid), 240, "the kernel to restart")
    outcome = kernel.run("precious")
    assert outcome.status == "error"
    assert "NameError" in outcome.error
    assert kernel.run("%restore").status == "ok"


def test_two_users_do_not_see_each_others_files_or_processes(deployment, user, server):
    with deployment.new_user(f"{user[:20]}2") as other:
        deployment.start_server(other)
        server.write("secret.txt", "only mine")
        assert "secret.txt" not in deployment.exec(other, "sh", "-c", "ls -A ~")
        assert deployment.exec(user, "cat", "secret.txt") == "only mine"
        theirs = UserServer(deployment, other).open_notebook("x.ipynb")
        mine = server.open_notebook("x.ipynb")
        mine.run("whose = 'mine'")
        assert theirs.run("whose").status == "error"
        address = address_of(deployment, user)
        reach = f"timeout 3 bash -c '</dev/tcp/{address}/8888' && echo open || echo closed"
        assert deployment.exec(other, "sh", "-c", reach).strip() == "closed"


def address_of(deployment, user: str) -> str:
    inspection = deployment.engine.inspect_container(deployment.container(user))
    return inspection["NetworkSettings"]["Networks"][deployment.name]["IPAddress"]


def test_a_hub_restart_interrupts_nobody(deployment, user, server):
    kernel = server.open_notebook("long.ipynb")
    pid = kernel.pid()
    container = deployment.engine.inspect_container(deployment.container(user))["Id"]
    socket = kernel.connect()
    deployment.restart_hub()
    socket.ping()  # the same connection, through proxy to session
    socket.close()
    assert kernel.pid() == pid
    assert deployment.engine.inspect_container(deployment.container(user))["Id"] == container
    wait_until(lambda: deployment.api("GET", f"users/{user}").json()["server"], 240, "the hub to look")


def test_down_and_up_leave_sessions_running_and_reachable(deployment, user, server):
    kernel = server.open_notebook("kept.ipynb")
    kernel.run("kept = 'all the time'")
    pid = kernel.pid()
    deployment.run("down")
    assert deployment.engine.inspect_container(deployment.container(user))["State"]["Running"]
    deployment.up()
    wait_until(lambda: deployment.api("GET", f"users/{user}").json()["server"], 240, "the hub to look")
    assert kernel.pid() == pid
    assert kernel.value("kept") == "all the time"


def test_a_second_up_changes_nothing(deployment):
    hub = deployment.hub_pid()
    output = deployment.up()
    assert "proxy running, agent running, hub running" in output
    assert deployment.hub_pid() == hub


def test_packages_of_the_user_survive_the_container(deployment, user, server):
    """`pip install --user` lands on the home volume, in the folder of this image's environment."""
    source = "from setuptools import setup; setup(name='mytool', version='1', py_modules=['mytool'])"
    server.write("setup.py", source)
    server.write("mytool.py", "ANSWER = 42")
    deployment.exec(user, "pip", "install", "--user", "--no-build-isolation", "--no-index", ".")
    deployment.stop_server(user)
    deployment.start_server(user)
    kernel = server.open_notebook("x.ipynb")
    place = str(kernel.value("(__import__('mytool').__file__)"))
    assert "/.local/respawner/" in place or place.endswith("/mytool.py")
    assert "/.local/respawner/" in str(kernel.value("__import__('site').getuserbase() + '/'"))


def test_login_page_takes_the_password_and_nothing_else(deployment, user):
    import requests

    session = requests.Session()
    page = f"{deployment.url}hub/login"
    session.get(page)
    form = {"_xsrf": session.cookies["_xsrf"], "username": user, "password": "wrong wrong wrong"}
    assert session.post(page, data=form).status_code in (401, 403)
    form = {**form, "_xsrf": session.cookies["_xsrf"], "password": PASSWORD}
    answer = session.post(page, data=form, allow_redirects=False)
    assert answer.status_code == 302
