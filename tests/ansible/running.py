"""Running playbooks as an admin does, with the ansible-core beside this Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ANSIBLE = Path(__file__).parents[2] / "ansible"
TOOLS = Path(sys.executable).parent

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="installs packages, so it needs root")


class PlaybookRun:
    """What a playbook said, and its counts for localhost."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status = done.returncode
        self.output = done.stdout + done.stderr
        recap = re.search(r"localhost\s+: (.*)", self.output)
        pairs = (pair.split("=") for pair in recap.group(1).split()) if recap else ()
        self.counts = {name: int(count) for name, count in pairs}


def run_playbook(*arguments: str, programs: Path = TOOLS) -> PlaybookRun:
    """
    :param programs: folder of programs that come before those of this machine.
    """
    done = subprocess.run(
        [str(TOOLS / "ansible-playbook"), *arguments],
        cwd=ANSIBLE,
        env={**os.environ, "PATH": f"{programs}:{TOOLS}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    return PlaybookRun(done)
