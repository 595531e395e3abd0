"""The Docker engine of this machine: is it there, may we use it, and who starts it?"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import docker
import docker.errors
import requests.exceptions

from .processes import wait_for_end
from .settings import Settings
from .steps import Say

START_SECONDS = 180
SYSTEMD = Path("/run/systemd/system")


class EngineError(Exception):
    """The engine cannot be used; the message says why and what to do."""


def ensure_engine(settings: Settings, say: Say) -> docker.APIClient:
    """A client of the engine, which is started where it does not run.

    :raises EngineError: no permission, not installed, or it does not start.
    """
    if client := _connect(settings):
        version = client.version()
        say(f"Docker {version['Version']} at {settings.engine.host}")
        return client
    if settings.engine.socket is None:
        raise EngineError(
            f"The Docker engine at {settings.engine.host} does not answer. Start it there, or change [engine] host."
        )
    if not settings.engine.start:
        raise EngineError(
            f"No Docker engine answers at {settings.engine.host}, and [engine] start is false: start it yourself."
        )
    if os.geteuid() != 0:
        raise EngineError("The Docker engine is not running, and starting it needs root: run `sudo make up`.")
    if SYSTEMD.exists() and settings.engine.data_dir is None:
        say("starting it by systemd")
        subprocess.run(["systemctl", "start", "docker"], check=True)
    else:
        say("no init system looks after it: starting dockerd")
        _start_dockerd(settings)
    return _wait(settings)


def stop_engine(settings: Settings) -> bool:
    """Stop a dockerd that `ensure_engine` started (its containers stop too). False when there is none, or it stays."""
    try:
        pid = int(_pid_file(settings).read_text())
        os.kill(pid, 15)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return False
    return wait_for_end(pid, START_SECONDS)


def _connect(settings: Settings) -> docker.APIClient | None:
    socket = settings.engine.socket
    if socket and socket.exists() and not os.access(socket, os.R_OK | os.W_OK):
        raise EngineError(
            f"No permission to use Docker ({socket}). Run `sudo make up`, or join the group: "
            "`sudo usermod -aG docker $USER`, then log in again."
        )
    try:
        client = docker.APIClient(base_url=settings.engine.host, version="auto", timeout=120)
        client.ping()
    except (docker.errors.DockerException, requests.exceptions.RequestException):
        return None
    return client


def _start_dockerd(settings: Settings) -> None:
    dockerd = shutil.which("dockerd")
    if dockerd is None:
        raise EngineError("dockerd is not installed: `respawner-hub provision` installs it.")
    socket = settings.engine.socket
    assert socket is not None
    run_dir = settings.state_dir / "run"
    for folder in (run_dir, socket.parent, _log_file(settings).parent):
        folder.mkdir(parents=True, exist_ok=True)
    command = [dockerd, "--host", f"unix://{socket}", "--pidfile", str(_pid_file(settings))]
    if data_dir := settings.engine.data_dir:
        command += [
            "--data-root",
            str(settings.folder / data_dir),
            "--exec-root",
            str(socket.parent / "exec"),
        ]
    with open(_log_file(settings), "ab") as log:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _wait(settings: Settings) -> docker.APIClient:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if client := _connect(settings):
            return client
        time.sleep(0.2)
    log = _log_file(settings)
    tail = (
        log.read_text(errors="replace").splitlines()[-5:]
        if log.exists()
        else ["(see `journalctl -u docker`)"]
    )
    raise EngineError(
        f"Docker did not answer within {START_SECONDS} s. Its log ({log}) ends:\n" + "\n".join(tail)
    )


def _pid_file(settings: Settings) -> Path:
    return settings.state_dir / "run" / "dockerd.pid"


def _log_file(settings: Settings) -> Path:
    return settings.state_dir / "log" / "dockerd.log"
