"""A real agent process on the stand-in for NVML."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from respawner_spawner.agent.client import AgentClient, Seen

from tests.ports import free_port
from tests.standins import nvml_environment
from tests.standins.nvml_state import State

TOKEN = "the-token-of-the-tests"
FAST = ("--interval", "0.2", "--processes", "0.4", "--canary", "0.5")


class RunningAgent:
    """Use as a context manager. `state` is what its NVML shows; change it and call `write`."""

    def __init__(self, library: Path, folder: Path, state: State, *arguments: str, engine: str = "") -> None:
        self.folder, self.state = folder, state
        self.port = free_port()
        self.write()
        (folder / "token").write_text(TOKEN + "\n")
        self._arguments = [*FAST, "--port", str(self.port), "--host-name", "gpu-1", "--engine", engine]
        self._arguments += [*arguments, "--token-file", str(folder / "token")]
        self._environment = {**os.environ, **nvml_environment(library, folder / "state")}
        self.url = f"http://127.0.0.1:{self.port}"

    def write(self) -> None:
        self.state.write(self.folder / "state")

    def __enter__(self) -> RunningAgent:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        print(self.process.communicate()[0])

    def start(self) -> None:
        command = [sys.executable, "-m", "respawner_spawner.agent", *self._arguments]
        self.process = subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        deadline = time.monotonic() + 120
        while not self._listens():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def client(self, **options: object) -> AgentClient:
        return AgentClient(self.url, TOKEN, **{"timeout_seconds": 60, **options})  # type: ignore[arg-type]

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


async def until(client: AgentClient, true: Callable[[Seen], object], seconds: float = 120) -> Seen:
    """The first answer of which it is true."""
    import asyncio

    deadline = time.monotonic() + seconds
    while not true(seen := await client.ask()):
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.1)
    return seen
