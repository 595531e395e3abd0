"""Proxy, agent and hub as processes that are looked after: supervisor starts them again and rotates their logs.

Not for the Docker engine, which outlives `respawner-hub down` together with the sessions.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from .processes import wait_for_end
from .settings import SETTINGS_ENV

PROGRAMS = ("proxy", "agent", "hub")
START_SECONDS = 60
STOP_SECONDS = 40

_CONFIG = """\
; Made by `respawner-hub up`.
[unix_http_server]
file = {socket}
chmod = 0700

[supervisord]
logfile = {log}/supervisord.log
pidfile = {run}/supervisord.pid
childlogdir = {log}
{user}

[supervisorctl]
serverurl = unix://{socket}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""

_PROGRAM = """
[program:{name}]
command = {python} -m respawner_hub.cli run {name}
directory = {folder}
environment = {environment}
autostart = false
autorestart = true
startsecs = 2
startretries = 5
stopwaitsecs = 30
stopasgroup = false
redirect_stderr = true
stdout_logfile = {log}/{name}.log
stdout_logfile_maxbytes = 20MB
stdout_logfile_backups = 5
"""


class ProcessError(Exception):
    """A program did not start; the message has the end of its log."""


class Supervisor:
    """The supervisor of one deployment.

    :param settings_file: handed to the processes, which start in `folder`.
    """

    def __init__(self, state_dir: Path, folder: Path, settings_file: Path | None) -> None:
        self.run_dir, self.log_dir = state_dir / "run", state_dir / "log"
        self.folder, self.settings_file = folder, settings_file
        self.socket = _short_path(self.run_dir / "supervisor.sock")

    def is_running(self) -> bool:
        try:
            self._rpc.getState()
        except (OSError, xmlrpc.client.Error):
            return False
        return True

    def start(self) -> bool:
        """Start the supervisor, which starts nothing by itself. False when it runs already."""
        if self.is_running():
            self._teach_new_programs()
            return False
        for folder in (self.run_dir, self.log_dir):
            folder.mkdir(parents=True, exist_ok=True)
        config = self._write_config()
        self.socket.unlink(missing_ok=True)  # left over from a machine that lost power
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        deadline = time.monotonic() + START_SECONDS
        while not self.is_running():
            if result.returncode or time.monotonic() > deadline:
                raise ProcessError(f"supervisord did not start: {result.stdout}{result.stderr}")
            time.sleep(0.1)
        return True

    def _teach_new_programs(self) -> None:
        """To a supervisor that an older version started."""
        missing = set(PROGRAMS) - {process["name"] for process in self._processes()}
        if missing:
            self._write_config()
            self._rpc.reloadConfig()
        for name in missing:
            self._rpc.addProcessGroup(name)

    def stop(self) -> bool:
        """Stop all programs and the supervisor. False when it does not run."""
        if not self.is_running():
            return False
        pid = int(self._rpc.getPID())  # type: ignore[arg-type]
        self._rpc.shutdown()
        # Until it has ended it may remove the socket, by name: also that of the next supervisor.
        if not wait_for_end(pid, STOP_SECONDS):
            raise ProcessError(f"supervisord (process {pid}) did not stop within {STOP_SECONDS} s.")
        return True

    def ensure(self, name: str, fingerprint: str, *, restart: bool = False) -> str:
        """Run a program with what `fingerprint` stands for. Returns "running", "started" or "restarted".

        :param restart: also restart one that runs with this fingerprint.
        """
        file = self.run_dir / f"{name}.fingerprint"
        running = self.states()[name] in ("RUNNING", "STARTING")
        if running and not restart and file.exists() and file.read_text() == fingerprint:
            return "running"
        if running:
            self._rpc.stopProcess(name, True)
        file.write_text(fingerprint)
        try:
            self._rpc.startProcess(name, True)
        except xmlrpc.client.Fault as error:
            raise ProcessError(
                f"The {name} did not start ({error.faultString}). {self.log_tail(name)}"
            ) from error
        return "restarted" if running else "started"

    def states(self) -> Mapping[str, str]:
        """Program → supervisor's word for its state, "STOPPED" when nothing runs."""
        if not self.is_running():
            return dict.fromkeys(PROGRAMS, "STOPPED")
        states = {process["name"]: process["statename"] for process in self._processes()}
        return {**dict.fromkeys(PROGRAMS, "STOPPED"), **states}

    def pids(self) -> Mapping[str, int]:
        """Program → its process, 0 while it does not run. A change means that it ended and was started again."""
        return {process["name"]: process["pid"] for process in self._processes()}

    def _processes(self) -> list[dict[str, Any]]:
        return self._rpc.getAllProcessInfo()  # type: ignore[return-value]

    def give_up(self, name: str) -> ProcessError:
        """Stop a program that cannot start; the error has the end of its log."""
        with contextlib.suppress(xmlrpc.client.Fault):
            self._rpc.stopProcess(name, True)
        return ProcessError(f"The {name} does not start. {self.log_tail(name)}")

    def log_tail(self, name: str, lines: int = 15) -> str:
        file = self.log_dir / f"{name}.log"
        if not file.exists():
            return f"{file} is empty."
        tail = file.read_text(errors="replace").splitlines()[-lines:]
        return f"The end of {file}:\n" + "\n".join(tail)

    @property
    def _rpc(self) -> xmlrpc.client.ServerProxy:
        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor  # type: ignore[return-value]

    def _write_config(self) -> Path:
        file = self.run_dir / "supervisord.conf"
        file.write_text(self._config())
        return file

    def _config(self) -> str:
        environment = f'{SETTINGS_ENV}="{self.settings_file}"' if self.settings_file else ""
        values = {
            "socket": self.socket,
            "run": self.run_dir,
            "log": self.log_dir,
            "folder": self.folder,
            "python": sys.executable,
            "environment": environment,
        }
        escaped = {key: str(value).replace("%", "%%") for key, value in values.items()}
        user = "user = root" if os.geteuid() == 0 else ""
        parts = [_CONFIG.format(**escaped, user=user)]
        parts += [_PROGRAM.format(**escaped, name=name) for name in PROGRAMS]
        return "".join(parts)


def _short_path(path: Path) -> Path:
    """The path itself, or one under the temporary folder where it is too long for a Unix socket."""
    if len(str(path)) < 90:
        return path
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"respawner-{os.geteuid()}-{digest}.sock"
