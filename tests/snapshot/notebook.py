"""A notebook with a real kernel, driven the way a frontend does it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client import KernelManager
from jupyter_client.connect import LocalPortCache
from respawner.flush import wait_until_durable
from respawner.manifest import Manifest
from respawner.store.layout import slug_of
from respawner.store.timeline import Timeline

from tests.ports import free_port

INJECTED = Path(__file__).parents[2] / "snapshot" / "inject" / "ipython_startup.py"
PATIENCE_SECONDS = 240

LocalPortCache.find_available_port = lambda self, ip: free_port(ip)  # type: ignore[method-assign]


@dataclass
class Ran:
    """What the frontend got for one cell."""

    prompt: int | None = None
    replied: int | None = None
    text: str = ""
    html: str = ""
    error: str | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)

    def take(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        content = message["content"]
        match message["msg_type"]:
            case "execute_input":
                self.prompt = content["execution_count"]
            case "stream":
                self.text += content["text"]
            case "display_data" | "execute_result":
                self.text += content["data"].get("text/plain", "") + "\n"
                self.html += content["data"].get("text/html", "")
            case "error":
                self.error = f"{content['ename']}: {content['evalue']}"


class Notebook:
    """One notebook and its kernel, which gets the injected startup file and a store of its own."""

    def __init__(self, folder: Path, name: str = "/home/ada/training.ipynb", **environment: str) -> None:
        self.folder = folder
        self.name = name
        self.store = folder / "store"
        self.runtime = folder / "runtime"
        profile = folder / "ipython" / "profile_default" / "startup"
        if not profile.exists():
            profile.mkdir(parents=True)
            shutil.copy(INJECTED, profile / "00-respawner.py")
        self.startup_folder = profile
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("RESPAWNER", "JPY_"))},
            "IPYTHONDIR": str(folder / "ipython"),
            "JPY_SESSION_NAME": name,
            "RESPAWNER_STORE": str(self.store),
            "RESPAWNER_RUNTIME": str(self.runtime),
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        self.manager = KernelManager()
        self.options: dict[str, Any] = {}
        """For the kernel's process, as `subprocess.Popen` takes them."""
        self.client: Any = None

    def start(self) -> Notebook:
        """Start the kernel; after `kill` this is what Jupyter's autorestarter does."""
        if self.client is None:
            self.manager.start_kernel(env=self.environment, cwd=str(self.folder), **self.options)
        else:
            self.manager.restart_kernel(now=True, env=self.environment)
        return self._connect()

    def _connect(self) -> Notebook:
        if self.client is not None:
            self.client.stop_channels()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE_SECONDS)
        return self

    def run(self, code: str, **options: Any) -> Ran:
        """Run a cell and collect what it shows; a failing cell is in the result, not raised."""
        ran = Ran()
        reply = self.client.execute_interactive(
            code, output_hook=ran.take, timeout=PATIENCE_SECONDS, stop_on_error=False, **options
        )
        ran.replied = reply["content"].get("execution_count")
        return ran

    def run_all(self, cells: list[str]) -> None:
        """All at once, as "Run All" does; returns when the last one has ended."""
        os.kill(self.pid, signal.SIGSTOP)  # until all are there, however slow it is to send them
        for code in cells:
            last = self.client.execute(code)
        os.kill(self.pid, signal.SIGCONT)
        while self.client.get_shell_msg(timeout=PATIENCE_SECONDS)["parent_header"]["msg_id"] != last:
            pass

    def interrupt_in(self, code: str) -> None:
        """Interrupt a cell that has begun (and does not end by itself); wait until its state is on disk."""
        begun = self.folder / "begun"
        self.client.execute(f"{code.partition(chr(10))[0]}; open({str(begun)!r}, 'w').close()\n{code}")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not begun.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        begun.unlink()
        self.manager.interrupt_kernel()
        self.settle()

    def value(self, expression: str) -> str:
        """``repr`` of an expression, by a hidden execution that leaves no trace in the history."""
        reply = self.client.execute_interactive(
            "",
            silent=True,
            user_expressions={"it": expression},
            timeout=PATIENCE_SECONDS,
            output_hook=lambda m: None,
        )
        found = reply["content"]["user_expressions"]["it"]
        assert found["status"] == "ok", found
        return found["data"]["text/plain"]

    def settle(self) -> dict[str, Any]:
        """Wait until what has run is durable (or has failed to become so)."""
        return wait_until_durable(self.runtime, PATIENCE_SECONDS)

    @property
    def pid(self) -> int:
        return self.manager.provisioner.pid

    def kill(self) -> None:
        """SIGKILL, once the last cell is durable; nothing of the kernel gets to run."""
        assert self.settle()["durable"]
        self.kill_at_once()

    def kill_at_once(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.manager.provisioner.process.wait()

    def restart_in_order(self) -> Notebook:
        """What "Restart Kernel" does: interrupt, ask to shut down for a restart, wait, start again."""
        self.manager.shutdown_wait_time = PATIENCE_SECONDS
        self.manager.restart_kernel(now=False, env=self.environment)
        return self._connect()

    def restart_after_kill(self) -> Notebook:
        self.kill()
        return self.start()

    def shut_down(self) -> None:
        if self.client is not None:
            self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)

    # What is on disk, read without the kernel ----------------------------------------------------------

    @property
    def timeline(self) -> Timeline:
        found = Timeline.find(self.store, slug_of(self.name))
        assert found is not None, f"no timeline of {self.name}"
        return found

    def manifests(self) -> list[Manifest]:
        """Newest first; every one must be readable."""
        found = list(self.timeline.snapshots())
        assert all(isinstance(item, Manifest) for item in found), found
        return found  # type: ignore[return-value]

    def last_undo(self) -> str:
        """Id of the state before the last ``%restore``."""
        return next(manifest.id for manifest in self.manifests() if manifest.kind == "undo")

    def cells(self) -> list[str]:
        """First lines of the cells that have a snapshot, oldest first."""
        return [m.cell["first_line"] for m in reversed(self.manifests()) if m.kind == "cell"]


def flip_a_byte(path: Path, offset: int) -> None:
    """In place: a kernel may have the file mapped."""
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


PYTHON = sys.executable
