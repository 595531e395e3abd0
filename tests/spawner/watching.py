"""A Monitor in a process of its own, on the stand-in for NVML: NVML's state belongs to a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from respawner_spawner.agent import wire
from respawner_spawner.devices import Report

from tests.standins import nvml_environment

CHILD = """
import sys
from pathlib import Path
from respawner_spawner.agent import wire
from respawner_spawner.devices import Monitor
from respawner_spawner.devices.monitor import Pace

pace = Pace(readings=0.1, lists=0.3, reopen=0.5, rescan=1e9, stale=float(sys.argv[2]))
monitor = Monitor(pace, proc=Path(sys.argv[1]))
monitor.start()
monitor.wait_for_first(60)
for line in sys.stdin:
    word, _, uuid = line.strip().partition(" ")
    if word == "clear":
        monitor.clear(uuid)
    if monitor.needs_new_process:
        break
    print(wire.encode(wire.Answer("h", "boot", 0, monitor.report())).decode(), flush=True)
monitor.stop()
print("stopped", flush=True)
"""


class Watched:
    """Use as a context manager.

    :param stale: seconds from which on it says that NVML does not answer; an idle process may stand still for some.
    """

    def __init__(self, library: Path, state: Path, proc: Path = Path("/proc"), stale: float = 60) -> None:
        environment = {**os.environ, **nvml_environment(library, state)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(proc), str(stale)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Watched:
        self.report()  # after its first round
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def say(self, line: str) -> Report:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return wire.decode(self._process.stdout.readline().encode()).report

    def report(self) -> Report:
        return self.say("report")

    def until(self, true: Callable[[Report], object], seconds: float = 120) -> Report:
        """The first report of which it is true."""
        deadline = time.monotonic() + seconds
        while not true(report := self.report()):
            assert time.monotonic() < deadline, report
            time.sleep(0.05)
        return report

    def gave_up(self, seconds: float = 120) -> bool:
        """Whether it says within the time that only a new process can go on."""
        deadline = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                self.report()
            except (wire.NotAnAgent, BrokenPipeError):
                return True
            time.sleep(0.05)
        return False

    def end(self) -> int:
        """Let it stop by itself; its exit code."""
        rest, _ = self._process.communicate(timeout=120)
        assert rest == "stopped\n"
        return self._process.returncode
