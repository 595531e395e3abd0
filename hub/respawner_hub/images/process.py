"""Commands whose whole output goes to a log file and whose last lines go into the error."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .errors import ImageError

TAIL_LINES = 15


class CommandError(Exception):
    """A command ended with a status other than 0.

    Attributes:
        tail: its last lines, stdout and stderr together.
    """

    def __init__(self, command: Sequence[str], status: int, tail: str) -> None:
        super().__init__(f"{' '.join(command)} ended with status {status}:\n{tail}")
        self.tail = tail


def run_logged(
    command: Sequence[str],
    log_file: Path,
    *,
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> None:
    """Run `command` to its end, append its output to `log_file`, and raise `CommandError` with the last lines.

    `environment` is added to this process's own. `on_line` sees every line while the command runs.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with log_file.open("a", encoding="utf-8") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        log.flush()
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(environment or {})},
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    log.write(line)
                    tail.append(line)
                    if on_line:
                        on_line(line.rstrip("\n"))
            except BaseException:  # Ctrl-C above all: the command must not go on without us
                process.kill()
                raise
    if process.returncode != 0:
        raise CommandError(command, process.returncode, "".join(tail).strip())


def root_prefix(purpose: str) -> list[str]:
    """What to put before a command that needs root: nothing, or sudo."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        return ["sudo"]
    raise ImageError(f"{purpose} needs root, and there is no sudo: run `make up` once as root.")
