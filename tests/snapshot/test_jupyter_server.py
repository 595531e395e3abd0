"""With a real Jupyter Server: its autorestarter, ``%restart_clean``, and the injected configuration."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking import BlockingKernelClient
from respawner.flush import wait_until_durable
from respawner.runtime import running_kernels

from tests.ports import free_port
from tests.snapshot.notebook import INJECTED, PATIENCE_SECONDS, PYTHON, Ran

INJECTED_CONFIGURATION = INJECTED.parent / "jupyter"


class Server:
    """A Jupyter Server as the spawner starts it: the injected files, and a configuration of the user's."""

    def __init__(self, folder: Path, user_configuration: str = "") -> None:
        self.folder = folder
        startup = folder / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        shutil.copy(INJECTED, startup / "00-respawner.py")
        (folder / "config").mkdir()
        (folder / "config" / "jupyter_server_config.py").write_text(user_configuration)
        (folder / "work").mkdir()
        self.port = free_port()
        environment = {
            **{
                key: value
                for key, value in os.environ.items()
                if not key.startswith(("RESPAWNER", "JPY_", "JUPYTER"))
            },
            "HOME": str(folder),
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_CONFIG_PATH": str(INJECTED_CONFIGURATION),
            "JUPYTER_RUNTIME_DIR": str(folder / "jupyter-runtime"),
            "RESPAWNER_STORE": str(folder / "store"),
            "RESPAWNER_RUNTIME": str(folder / "runtime"),
        }
        self.log = open(folder / "server.log", "w+")  # noqa: SIM115 - closed with the server
        self.process = subprocess.Popen(
            [PYTHON, "-m", "jupyter_server", "--allow-root", "--no-browser", f"--port={self.port}",
             "--ServerApp.token=secret", "--KernelRestarter.time_to_dead=0.5", f"--ServerApp.root_dir={folder / 'work'}"],
            env=environment, stdout=self.log, stderr=self.log,
        )  # fmt: skip
        self._wait(lambda: self.request("GET", "status"), "the server answers")

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{path}",
            method=method,
            data=json.dumps(body).encode() if body else None,
            headers={"Authorization": "token secret"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
            return json.loads(response.read() or b"null")

    def open_notebook(self, name: str) -> str:
        """Start a session the way JupyterLab does, and return the kernel's id."""
        return self._start_session(name, name)

    def _start_session(self, path: str, name: str) -> str:
        body = {
            "path": path.lstrip("/"),
            "name": name.rpartition("/")[2],
            "type": "notebook",
            "kernel": {"name": "python3"},
        }
        return self.request("POST", "sessions", body)["kernel"]["id"]

    def second_kernel(self, name: str) -> str:
        """Another kernel that is told the same notebook: a session of its own, with the notebook's folder and name."""
        return self._start_session(f"{name.rpartition('/')[0]}/second-kernel", name)

    def client(self, kernel: str) -> BlockingKernelClient:
        connection = self.folder / "jupyter-runtime" / f"kernel-{kernel}.json"
        client = BlockingKernelClient(connection_file=str(connection))
        client.load_connection_file()
        client.start_channels()

        def ready() -> bool:
            try:
                client.wait_for_ready(timeout=PATIENCE_SECONDS)
            except RuntimeError:  # one late heartbeat counts as dead, which a loaded machine easily makes
                return False
            return True

        self._wait(ready, "the kernel answers")
        return client

    def run(self, kernel: str, code: str) -> Ran:
        client = self.client(kernel)
        ran = Ran()
        client.execute_interactive(code, output_hook=ran.take, timeout=PATIENCE_SECONDS)
        client.stop_channels()
        return ran

    def kernel_pid(self) -> int | None:
        """The living kernel's pid, from its status file."""
        kernels = running_kernels(self.folder / "runtime")
        return kernels[0]["pid"] if kernels else None

    def wait_for_another_kernel(self, pid: int) -> None:
        self._wait(lambda: self.kernel_pid() not in (None, pid), "the server restarts the kernel")

    def _wait(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except OSError:
                pass
            time.sleep(0.1)
        self.log.seek(0)
        pytest.fail(f"{what}: not within {PATIENCE_SECONDS} s\n{self.log.read()}")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_SECONDS)
        finally:
            self.process.kill()
            self.log.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.stop()


def test_killed_kernel_is_restarted_with_its_variables_and_restart_clean_without(server: Server) -> None:
    kernel = server.open_notebook("train.ipynb")
    server.run(kernel, "x = [1, 2]")
    pid = server.kernel_pid()
    assert pid is not None
    assert wait_until_durable(server.folder / "runtime", PATIENCE_SECONDS)["durable"]
    os.kill(pid, signal.SIGKILL)
    server.wait_for_another_kernel(pid)
    ran = server.run(kernel, "x.append(3); print(x)")
    assert "restored 1 variable" in ran.text
    assert ran.text.endswith("[1, 2, 3]\n")

    pid = server.kernel_pid()
    assert pid is not None
    assert "Restarting with an empty namespace" in server.run(kernel, "%restart_clean").text
    server.wait_for_another_kernel(pid)
    ran = server.run(kernel, "print('x' in globals())")
    assert ran.prompt == 1
    assert "started clean, as asked" in ran.text
    assert ran.text.endswith("False\n")
    snapshots = server.run(kernel, "%snapshots").text
    before = next(line.split()[0] for line in snapshots.splitlines() if "x.append" in line)
    server.run(kernel, f"%restore {before}")
    assert server.run(kernel, "print(x)").text == "[1, 2, 3]\n"


def test_kernel_gets_time_to_save_when_it_is_shut_down(server: Server) -> None:
    """The cell ignores the interrupt for longer than the five seconds that jupyter_client gives by default."""
    kernel = server.open_notebook("slow.ipynb")
    client = server.client(kernel)
    client.execute(
        "import time, pathlib\n"
        "try: pathlib.Path('reached').touch(); time.sleep(600)\nexcept KeyboardInterrupt: time.sleep(7); x = 'saved at the last moment'"
    )
    server._wait((server.folder / "work" / "reached").exists, "the cell runs")
    server.request("DELETE", f"kernels/{kernel}")
    client.stop_channels()
    kernel = server.open_notebook("slow.ipynb")
    assert server.run(kernel, "print(x)").text.endswith("saved at the last moment\n")


def test_configured_shutdown_time_is_left_alone(tmp_path: Path) -> None:
    server = Server(
        tmp_path,
        "c.KernelManager.shutdown_wait_time = 11.0\nc.ServerApp.jpserver_extensions = {'jupyter_server_terminals': False}",
    )
    try:
        kernel = server.open_notebook("any.ipynb")
        server.run(kernel, "x = 1")
    finally:
        server.stop()
    log = (tmp_path / "server.log").read_text()
    assert "respawner.server_extension | extension was successfully loaded" in log
    assert "respawner: kernels get" not in log
    assert "jupyter_server_terminals | extension was successfully loaded" not in log
