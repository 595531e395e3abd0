"""A real kernel of any Python, timed from where the user sits: the client's side of the protocol."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import queue
import shutil
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpecManager

ROOT = Path(__file__).parents[2]
INJECTED = ROOT / "snapshot" / "inject" / "ipython_startup.py"
PATIENCE_SECONDS = 600

PLAIN = "ipykernel_launcher"
ELASTIC = "elastic_kernel.kernel"


class CellFailed(Exception):
    """A cell that was meant to run did not."""


class KernelDied(Exception):
    """The kernel ended, or did not answer within its patience."""


class Kernel:
    """One kernel in a folder of its own, which outlives it: a second `start` finds what the first left there.

    ``saving``: with the injected startup file, so that Respawner is on.
    """

    def __init__(
        self, folder: Path, python: str, *, module: str = PLAIN, saving: bool = False, **environment: str
    ) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.notebook = folder / "notebook.ipynb"
        self.patience_seconds = PATIENCE_SECONDS
        self._make_folder(python, module, saving)
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("RESPAWNER", "JPY_", "OMP_"))},
            "IPYTHONDIR": str(folder / "ipython"),
            "JPY_SESSION_NAME": str(self.notebook),
            "RESPAWNER_STORE": str(self.store),
            "RESPAWNER_RUNTIME": str(folder / "runtime"),
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "",
            **environment,
        }
        self._manager: Any = None
        self._client: Any = None
        self._begun = ""

    def _make_folder(self, python: str, module: str, saving: bool) -> None:
        startup = self.folder / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True, exist_ok=True)
        if saving:
            shutil.copy(INJECTED, startup / "00-respawner.py")
        spec = self.folder / "kernels" / "timed"
        spec.mkdir(parents=True, exist_ok=True)
        argv = [python, "-m", module, "-f", "{connection_file}"]
        content = {"argv": argv, "display_name": "timed", "language": "python"}
        (spec / "kernel.json").write_text(json.dumps(content))
        if not self.notebook.exists():
            empty = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
            self.notebook.write_text(json.dumps(empty))

    # Life ----------------------------------------------------------------------------------------------

    def start(self) -> Kernel:
        specs = KernelSpecManager(kernel_dirs=[str(self.folder / "kernels")], ensure_native_kernel=False)
        self._manager = KernelManager(
            kernel_name="timed",
            kernel_spec_manager=specs,
            # kishu reads the kernel's id out of this name, as Jupyter Server makes it
            connection_file=str(self.folder / f"kernel-{uuid.uuid4()}.json"),
        )
        with (self.folder / "kernel.log").open("ab") as log:
            self._manager.start_kernel(env=self._environment, cwd=str(self.folder), stdout=log, stderr=log)
        self._client = self._manager.client()
        self._client.start_channels()
        try:
            self._client.wait_for_ready(timeout=self.patience_seconds)
        except RuntimeError as error:
            raise KernelDied(str(error)) from error
        return self

    @property
    def pid(self) -> int:
        return self._manager.provisioner.pid

    def kill(self) -> None:
        """SIGKILL: nothing of the kernel gets to run."""
        os.kill(self.pid, signal.SIGKILL)
        self._manager.provisioner.process.wait()
        self._forget()

    def stop(self, grace_seconds: float = 0) -> None:
        """Shut down, gracefully where a grace time is given; does nothing where it has ended."""
        if self._manager is None:
            return
        self._manager.shutdown_wait_time = grace_seconds
        if self._manager.has_kernel:
            self._manager.shutdown_kernel(now=not grace_seconds)
        self._forget()

    def _forget(self) -> None:
        if self._client is not None:
            self._client.stop_channels()
        self._manager.cleanup_resources()
        self._client = self._manager = None

    # Cells ---------------------------------------------------------------------------------------------

    def run(self, *cells: str, hidden: bool = False, meanwhile: Callable[[], object] | None = None) -> float:
        """Send the cells at once, one after the other; seconds from the first request to the last reply.

        ``hidden`` is what frontends do for themselves: no history, no snapshot. ``meanwhile`` is called every
        second. Raises `CellFailed`.
        """
        started = time.perf_counter()
        waiting = [self._client.execute(c, silent=hidden, store_history=not hidden) for c in cells]
        for cell, request in zip(cells, waiting, strict=True):
            content = self._reply_to(request, meanwhile)
            ended = time.perf_counter()
            if content["status"] != "ok":
                raise CellFailed(f"{content.get('ename')}: {content.get('evalue')} (in {_first_line(cell)})")
        return ended - started

    def begin(self, cell: str) -> None:
        """Send a cell, whose reply nobody waits for."""
        self._begun = self._client.execute(cell)

    def check_runs(self) -> None:
        """Raises `KernelDied`, or `CellFailed` where the cell that `begin` sent has ended."""
        if not self.lives:
            raise KernelDied("the kernel ended while a cell ran")
        with contextlib.suppress(queue.Empty):
            while True:
                reply = self._client.get_shell_msg(timeout=0)
                if reply["parent_header"].get("msg_id") == self._begun:
                    content = reply["content"]
                    raise CellFailed(f"{content.get('ename')}: {content.get('evalue')} (in what was begun)")

    @property
    def lives(self) -> bool:
        return bool(self._manager.is_alive())

    def run_to_death(self, cell: str) -> None:
        """Send a cell that kills the kernel."""
        self.begin(cell)
        self._manager.provisioner.process.wait(self.patience_seconds)
        self._forget()

    def value(self, expression: str) -> Any:
        """A literal, by a hidden execution. Raises `CellFailed`."""
        # IPython shows no more than 1000 items of a list, but all of a text.
        request = self._client.execute("", silent=True, user_expressions={"it": f"repr({expression})"})
        found = self._reply_to(request)["user_expressions"]["it"]
        if found["status"] != "ok":
            raise CellFailed(f"{found['ename']}: {found['evalue']} (in {_first_line(expression)})")
        return ast.literal_eval(ast.literal_eval(found["data"]["text/plain"]))

    def flush(self) -> None:
        """Wait until the last cell's state is durable (in a kernel that saves)."""
        if self.value("__import__('respawner').flush()") is not True:
            raise CellFailed("not saved: " + str(self.value("__import__('respawner').status()['error']")))

    def _reply_to(self, request: str, meanwhile: Callable[[], object] | None = None) -> dict[str, Any]:
        deadline = time.monotonic() + self.patience_seconds
        while time.monotonic() < deadline:
            try:
                reply = self._client.get_shell_msg(timeout=1)
            except Exception as error:  # queue.Empty; look whether it still lives
                if not self.lives:
                    raise KernelDied("the kernel ended while a cell ran") from error
                if meanwhile is not None:
                    meanwhile()
                continue
            if reply["parent_header"].get("msg_id") == request:
                return reply["content"]
        raise KernelDied(f"no answer in {self.patience_seconds} s")


def _first_line(cell: str) -> str:
    line, _, rest = cell.partition("\n")
    return repr(line[:60] + (" …" if rest or len(line) > 60 else ""))
