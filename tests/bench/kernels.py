"""Kernels under the benchmark: ours, a plain one, and the peers', driven the way a frontend does it.

The peers get a virtual environment of their own under ``var/``, which sees the libraries of the environment
that the benchmark runs in, so that all contenders use the same torch.
"""

from __future__ import annotations

import ast
import os
import shutil
import site
import subprocess
import sys
import time
import uuid
import venv
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import KernelManager
from jupyter_client.kernelspec import KernelSpec

ROOT = Path(__file__).parents[2]
INJECTED = ROOT / "snapshot" / "inject" / "ipython_startup.py"
PEERS_FOLDER = ROOT / "var" / "bench-peers"
PEERS = ("kishu==0.3.4", "elastic-kernel==0.2.3", "dill==0.4.1", "cloudpickle")
PATIENCE_SECONDS = 600


def peers_python() -> Path:
    """The interpreter that has the peers; installs them when it is called first."""
    python = PEERS_FOLDER / "bin" / "python"
    done = PEERS_FOLDER / ".installed"
    if not done.exists():
        shutil.rmtree(PEERS_FOLDER, ignore_errors=True)
        venv.create(PEERS_FOLDER, with_pip=True)
        (purelib,) = PEERS_FOLDER.glob("lib/python*/site-packages")
        # Found after the peers' own folder, so theirs win where they need another version.
        (purelib / "zz_bench.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        torch = f"torch=={_version('torch')}".partition("+")[0]  # never a CUDA build by accident
        command = [python, "-m", "pip", "install", "--quiet", "--quiet", *PEERS, torch]
        subprocess.run(command, check=True, stdout=sys.stderr)
        done.touch()
    return python


def _version(distribution: str) -> str:
    from importlib.metadata import version

    return version(distribution)


class Kernel:
    """One running kernel. ``kind``: ``ours``, ``plain``, ``elastic`` or ``kishu``."""

    def __init__(self, kind: str, folder: Path, store: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.kind = kind
        self.folder = folder
        self.store = store or folder / "store"
        self.notebook = folder / "notebook.ipynb"
        if not self.notebook.exists():
            nbformat.write(nbformat.v4.new_notebook(), self.notebook)
        self._environment = self._make_environment()
        python = str(peers_python() if kind in ("elastic", "kishu") else sys.executable)
        module = "elastic_kernel.kernel" if kind == "elastic" else "ipykernel_launcher"
        # kishu tells its kernel by a file name of this form.
        self._manager = KernelManager(connection_file=str(folder / f"kernel-{uuid.uuid4()}.json"))
        self._manager._kernel_spec = KernelSpec(
            argv=[python, "-m", module, "-f", "{connection_file}"], display_name=kind, language="python"
        )
        self._client: Any = None

    def _make_environment(self) -> dict[str, str]:
        startup = self.folder / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True, exist_ok=True)
        if self.kind == "ours":
            shutil.copy(INJECTED, startup / "00-respawner.py")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RESPAWNER", "JPY_"))}
        return {
            **kept,
            "HOME": str(self.folder),
            "IPYTHONDIR": str(self.folder / "ipython"),
            "JPY_SESSION_NAME": str(self.notebook),
            "RESPAWNER_STORE": str(self.store),
            "RESPAWNER_RUNTIME": str(self.folder / "runtime"),
        }

    def __enter__(self) -> Kernel:
        self._manager.start_kernel(env=self._environment, cwd=str(self.folder))
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=120)
        if self.kind == "kishu":
            self.cells([f"from kishu import init_kishu; init_kishu({str(self.notebook)!r})"])
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    @property
    def pid(self) -> int:
        return self._manager.provisioner.process.pid

    def cells(self, codes: list[str]) -> list[float]:
        """Send all at once; the seconds from sending to each reply. Raises where one fails."""
        started = time.perf_counter()
        waiting = [self._client.execute(code) for code in codes]
        replied: list[float] = []
        while len(replied) < len(waiting):
            reply = self._client.get_shell_msg(timeout=PATIENCE_SECONDS)
            if reply["parent_header"].get("msg_id") == waiting[len(replied)]:
                replied.append(time.perf_counter() - started)
                if reply["content"]["status"] != "ok":
                    raise RuntimeError(f"{self.kind}: {reply['content']}")
        while self._client.iopub_channel.msg_ready():
            self._client.get_iopub_msg()
        return replied

    def value(self, expression: str) -> Any:
        """A literal's value, by an execution that leaves no trace."""
        reply = self._client.execute_interactive(
            "",
            silent=True,
            user_expressions={"it": expression},
            timeout=PATIENCE_SECONDS,
            output_hook=lambda message: None,
        )
        found = reply["content"]["user_expressions"]["it"]
        if found["status"] != "ok":
            raise RuntimeError(f"{self.kind}: {expression}: {found['ename']}: {found['evalue']}")
        return ast.literal_eval(found["data"]["text/plain"])

    def flush(self) -> None:
        if self.kind == "ours" and not self.value("__import__('respawner').flush()"):
            error = self.value("__import__('respawner').status()['error']")
            raise RuntimeError(f"the state was not saved: {error}")

    def pack_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.store.rglob("*.pack"))

    def store_bytes(self) -> int:
        """What the store takes on the disk, manifests and holes considered."""
        return sum(path.stat().st_blocks * 512 for path in self.store.rglob("*") if path.is_file())
