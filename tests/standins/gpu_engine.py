"""A Docker engine of its own whose GPUs are stand-ins: dockerd is real, `DeviceRequests` are real, the hook is not.

Nothing of it can meet another engine on the machine: own folders, own bridge, own address range, own cgroup
parent, own containerd, and no packet filter rules. Needs root and dockerd.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests

HOOK = Path(__file__).with_name("nvidia_hook.py")
START_SECONDS = 240


class GpuEngine:
    """Start it with `start`; `kill` is what a crash is; `close` stops it and leaves nothing behind."""

    def __init__(
        self, uuids: Sequence[str], *, log_to: Path | None = None, live_restore: bool = False
    ) -> None:
        """
        :param log_to: folder into which the engine's log is copied at the end.
        :param live_restore: whether containers go on when dockerd ends; without it they end when it is back.
        """
        self._live_restore = live_restore
        self.name = f"rsg{secrets.token_hex(3)}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))  # short: it holds Unix sockets
        self.socket = self.folder / "docker.sock"
        self._log_to = log_to
        self._process: subprocess.Popen[bytes] | None = None
        self._range = free_range()
        self.set_gpus(uuids)
        (self.folder / "bin").mkdir()
        hook = self.folder / "bin" / "nvidia-container-runtime-hook"
        hook.write_text(f'#!/bin/sh\nexec {sys.executable} {HOOK} {self.folder} "$@"\n')
        hook.chmod(0o755)

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def address(self) -> str:
        """Where its containers reach this machine."""
        return f"{self._range}.0.1"

    @property
    def subnet(self) -> str:
        """For a network on it that no other engine's network meets."""
        return f"{self._range}.128.0/24"

    @property
    def client(self) -> docker.APIClient:
        return docker.APIClient(base_url=self.url, version="auto", timeout=240)

    # The stand-in GPUs ------------------------------------------------------------------------------------

    def set_gpus(self, uuids: Sequence[str]) -> None:
        """The devices that this machine has from now on."""
        (self.folder / "gpus").write_text("\n".join(uuids) + "\n")

    def grants(self) -> list[dict[str, Any]]:
        """What the hook has written down, oldest first: `container`, `granted`, and who was `alive` with the same."""
        log = self.folder / "grants.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    # Its life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Return when it answers; starting a running one is fine."""
        if self._answers():
            return
        self._make_bridge()
        command = ["dockerd", "--host", self.url, "--pidfile", str(self.folder / "dockerd.pid")]
        command += ["--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec")]
        # No --default-address-pool: with it a dockerd that starts for the second time deletes the machine's docker0.
        command += ["--bridge", self.name]
        command += ["--iptables=false", "--ip-forward=false", "--ip-masq=false"]
        command += ["--cgroup-parent", f"/{self.name}", "--containerd-namespace", self.name]
        command += ["--live-restore"] if self._live_restore else []
        environment = {**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process is None or self._process.poll() is not None:
                # Again, as an init system would: a killed dockerd's containerd may still be in the way for a moment.
                with open(self.folder / "dockerd.log", "ab") as log:
                    self._process = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
                    )
            if time.monotonic() > deadline:
                raise AssertionError(f"the stand-in engine did not start:\n{self.log_tail()}")
            time.sleep(0.5)

    def kill(self) -> None:
        """End dockerd as a crash does. Its containers go on until it is started again, or with `live_restore` for good."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Remove containers, stop, remove bridge and folders."""
        try:
            self.start()  # also after a kill: only it can end its containers
            client = self.client
            for container in client.containers(all=True, quiet=True):
                with contextlib.suppress(docker.errors.APIError):
                    client.remove_container(container["Id"], force=True, v=True)
            for network in client.networks():
                if network["Driver"] == "bridge" and network["Name"] != "bridge":
                    client.remove_network(network["Id"])
        finally:
            self._stop()
            if self._log_to:
                self._log_to.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.folder / "dockerd.log", self._log_to / f"{self.name}.log")
            subprocess.run(["ip", "link", "del", self.name], capture_output=True, check=False)
            for group in Path("/sys/fs/cgroup").glob(f"**/{self.name}"):
                with contextlib.suppress(OSError):
                    group.rmdir()
            for mount in Path("/proc/mounts").read_text().splitlines():
                if mount.split()[1].startswith(f"{self.folder}/"):
                    subprocess.run(["umount", "--lazy", mount.split()[1]], check=False)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def log_tail(self) -> str:
        return "\n".join((self.folder / "dockerd.log").read_text(errors="replace").splitlines()[-30:])

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except (docker.errors.DockerException, requests.exceptions.RequestException):
            return False

    def _make_bridge(self) -> None:
        """Without a bridge of its own a second dockerd takes docker0 from the first."""
        if subprocess.run(["ip", "link", "show", self.name], capture_output=True, check=False).returncode:
            subprocess.run(["ip", "link", "add", self.name, "type", "bridge"], check=True)
            subprocess.run(["ip", "addr", "add", f"{self.address}/24", "dev", self.name], check=True)
        subprocess.run(["ip", "link", "set", self.name, "up"], check=True)


@contextlib.contextmanager
def running(
    uuids: Sequence[str], log_to: Path | None = None, *, live_restore: bool = False
) -> Iterator[GpuEngine]:
    """A started engine with these stand-in GPUs; gone at the end."""
    engine = GpuEngine(uuids, log_to=log_to, live_restore=live_restore)
    try:
        engine.start()
        yield engine
    finally:
        engine.close()


def free_range() -> str:
    """The first two numbers of an address range that no interface of this machine is in."""
    addresses = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    free = [f"10.{number}" for number in range(201, 251) if f" 10.{number}." not in addresses]
    return secrets.choice(free)
