"""A whole deployment for tests: the product's own `up`, in a folder of its own, on ports of its own.

The engine is the one of all tests (DOCKER_HOST, see tests/conftest.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import docker
import requests
from respawner_hub.settings import load

from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "tests" / "artifacts"
PASSWORD = "correct horse battery staple"

HATCH = """
# jupyterhub_config.d: what the tests add by the escape hatch.
c.JupyterHub.services = [{{"name": "tests", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [{{
    "name": "tests",
    "services": ["tests"],
    "scopes": ["admin:users", "admin:servers", "access:servers", "tokens", "read:hub"],
}}]
c.DockerSpawner.allowed_images = "*"
c.GPUDockerSpawner.engine_host = "unix://{engine}"
"""


class Deployment:
    """One deployment, closed where a `with` ends. `name` is the prefix of everything it makes on the engine."""

    def __init__(
        self,
        name: str = "",
        *,
        environment: dict[str, str] | None = None,
        engine: Path | None = None,
        **settings: dict[str, object],
    ) -> None:
        """
        :param engine: socket of another engine than that of all tests.
        """
        self.environment = {**os.environ, **(environment or {})}
        self.name = name or f"rst-{secrets.token_hex(3)}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))  # short: it holds Unix sockets
        self.settings_file = self.folder / "respawner.toml"
        self.api_token = secrets.token_hex(16)
        self.port, hub_port, proxy_port, self.agent_port = free_ports(4)
        self.engine_socket = engine or Path(os.environ["DOCKER_HOST"].removeprefix("unix://"))
        # The hub reaches the engine by a link, which `engine_away` takes away.
        self.engine_link = self.folder / "engine.sock"
        self.engine_link.symlink_to(self.engine_socket)
        self.sections: dict[str, dict[str, object]] = {
            "hub": {
                "name": self.name,
                "port": self.port,
                "hub_api_port": hub_port,
                "proxy_api_port": proxy_port,
                "state_dir": str(self.folder / "state"),
            },
            "agent": {"port": self.agent_port},
            "engine": {"host": f"unix://{self.engine_socket}"},
            "session": {
                "mem_limit": "4G",
                "shm_size": "256M",
                "stop_grace_seconds": 60,
            },
        }
        for section, values in settings.items():
            self.sections.setdefault(section, {}).update(values)
        self.write_settings()
        hatch = self.folder / "jupyterhub_config.d"
        hatch.mkdir()
        (hatch / "tests.py").write_text(HATCH.format(token=self.api_token, engine=self.engine_link))

    @property
    def image(self) -> str:
        return load(self.settings_file).image.name

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def engine(self) -> docker.APIClient:
        return docker.APIClient(base_url=f"unix://{self.engine_socket}", version="auto", timeout=240)

    def write_settings(self) -> None:
        lines = []
        for section, values in self.sections.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        self.settings_file.write_text("\n".join(lines) + "\n")

    # The admin's command line -----------------------------------------------------------------------

    def run(
        self, *arguments: str, check: bool = True, timeout: float = 1800
    ) -> subprocess.CompletedProcess[str]:
        """`respawner-hub …` as an admin types it."""
        command = [
            sys.executable,
            "-m",
            "respawner_hub.cli",
            "--settings",
            str(self.settings_file),
            *arguments,
        ]
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=ROOT,
            env=self.environment,
        )
        if check and result.returncode:
            raise AssertionError(
                f"{' '.join(arguments)} failed:\n{result.stdout}\n{result.stderr}\n{self.logs()}"
            )
        return result

    def up(self) -> str:
        return self.run("up").stdout

    def add_user(self, name: str, *, admin: bool = False) -> str:
        """Make an account; returns its one-time code."""
        output = self.run("user", "add", name, *(["--admin"] if admin else [])).stdout
        return code_in(output)

    def set_password(self, name: str, code: str, password: str = PASSWORD) -> None:
        """Use the one-time code as the page does."""
        session = requests.Session()
        page = f"{self.url}hub/set-password"
        session.get(page).raise_for_status()
        form = {
            "_xsrf": session.cookies["_xsrf"],
            "username": name,
            "code": code,
            "new_password": password,
            "repeat_password": password,
        }
        answer = session.post(page, data=form, allow_redirects=False)
        assert answer.status_code == 302, answer.text

    def browse(self, name: str, path: str) -> requests.Response:
        """What a browser gets that logs in as this user and opens a page."""
        session = requests.Session()
        page = f"{self.url}hub/login"
        session.get(page).raise_for_status()
        form = {"_xsrf": session.cookies["_xsrf"], "username": name, "password": PASSWORD}
        session.post(page, data=form).raise_for_status()
        return session.get(self.url + path)

    # JupyterHub's API -------------------------------------------------------------------------------

    def api(self, method: str, path: str, **kwargs: object) -> requests.Response:
        headers = {"Authorization": f"token {self.api_token}"}
        return requests.request(method, f"{self.url}hub/api/{path}", headers=headers, timeout=240, **kwargs)

    def start_server(self, user: str, options: dict[str, object] | None = None, timeout: float = 480) -> None:
        """Start a user's server and wait until it is ready.

        :raises SpawnFailed: with the message that the user sees.
        """
        self.api("POST", f"users/{user}")
        answer = self.api("POST", f"users/{user}/server", json=options or {})
        if answer.status_code == 400:
            raise SpawnFailed(answer.json()["message"])
        assert answer.status_code in (201, 202), answer.text
        for event in self._progress(user, timeout):
            if event.get("ready"):
                return
            if event.get("failed"):
                raise SpawnFailed(event["message"])
        raise AssertionError(f"no end of the progress of {user}'s spawn\n{self.logs()}")

    def _progress(self, user: str, timeout: float):
        url = f"{self.url}hub/api/users/{user}/server/progress"
        headers = {"Authorization": f"token {self.api_token}", "Accept": "text/event-stream"}
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
            for line in answer.iter_lines():
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])

    def stop_server(self, user: str, timeout: float = 240) -> None:
        answer = self.api("DELETE", f"users/{user}/server")
        assert answer.status_code in (202, 204, 404), answer.text
        wait_until(
            lambda: not self.api("GET", f"users/{user}").json()["servers"],
            timeout,
            f"{user}'s server to stop",
        )

    @contextlib.contextmanager
    def new_user(self, name: str) -> Iterator[str]:
        """A user with an account and a password, and nothing of it left at the end."""
        self.set_password(name, self.add_user(name))
        try:
            yield name
        finally:
            self.stop_server(name)
            self.remove_user(name)

    def remove_user(self, name: str) -> None:
        """Forget a user of a test: account, JupyterHub user and volumes."""
        self.api("DELETE", f"users/{name}")
        self.run("user", "remove", name, check=False)
        for volume in self.engine.volumes(filters={"name": f"-{name}"})["Volumes"] or []:
            self.engine.remove_volume(volume["Name"], force=True)

    # What is on the engine --------------------------------------------------------------------------

    def container(self, user: str) -> str:
        """Name of the user's container."""
        return f"{self.name}-{user}"

    def exec(self, user: str, *command: str) -> str:
        """Run a command in the user's container, as the user."""
        job = self.engine.exec_create(self.container(user), list(command))
        output = self.engine.exec_start(job["Id"]).decode()
        code = self.engine.exec_inspect(job["Id"])["ExitCode"]
        assert code == 0, f"{command} → {code}: {output}"
        return output

    def kernel_pids(self, user: str) -> list[str]:
        """Processes of the user's kernels, in the container's numbers; not this question's own shell."""
        return self.exec(user, "sh", "-c", "pgrep -f '[i]pykernel_launcher' || true").split()

    def hub_pid(self) -> int:
        config = self.folder / "state" / "run" / "supervisord.conf"
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(config), "pid", "hub"]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def restart_hub(self) -> None:
        """Kill the hub; its supervisor starts it again."""
        old = self.hub_pid()
        os.kill(old, signal.SIGKILL)

        def is_back() -> bool:
            try:
                return self.hub_pid() not in (0, old) and self.api("GET", "").ok
            except (OSError, subprocess.SubprocessError):
                return False

        wait_until(is_back, 240, "the hub to come back")

    @contextlib.contextmanager
    def engine_away(self) -> Iterator[None]:
        """Take the engine's socket away from the hub; the engine and its containers run on."""
        self.engine_link.unlink()
        try:
            yield
        finally:
            self.engine_link.symlink_to(self.engine_socket)

    def logs(self) -> str:
        """The ends of all logs, for messages of failures."""
        parts = []
        for file in sorted((self.folder / "state" / "log").glob("*.log")):
            parts.append(
                f"--- {file.name}\n" + "\n".join(file.read_text(errors="replace").splitlines()[-40:])
            )
        return "\n".join(parts)

    # The end ----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop and remove everything of this deployment; its logs stay in tests/artifacts."""
        with contextlib.suppress(Exception):
            self.run("down", check=False)
        try:
            self._clean_engine()
        finally:
            log = self.folder / "state" / "log"
            if log.exists():
                kept = ARTIFACTS / "logs" / self.name
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(log, kept)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _clean_engine(self) -> None:
        engine, label = self.engine, {"label": f"org.respawner.deployment={self.name}"}
        for container in engine.containers(all=True, filters=label):
            engine.remove_container(container["Id"], force=True, v=True)
        for volume in engine.volumes(filters={"name": f"{self.name}-"})["Volumes"] or []:
            engine.remove_volume(volume["Name"], force=True)
        for network in engine.networks(names=[self.name]):
            engine.remove_network(network["Id"])


class SpawnFailed(Exception):
    """A server did not start; the message is the user's."""


def code_in(output: str) -> str:
    """The one-time code in what `up` or `user add` printed."""
    found = re.search(r"code[^:\n]*: (\S{12,})", output)
    assert found, output
    return found.group(1)


def wait_until(condition, timeout: float, what: str) -> None:
    """Poll until `condition()` is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:.0f} s for {what}")
        time.sleep(0.2)
