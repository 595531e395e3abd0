"""Cases of what must be the same in a fresh process: cells before the capture, and checks after the restore."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.snapshot.libraries import lacks
from tests.snapshot.notebook import PYTHON

BARE_SHELL = Path(__file__).with_name("bare_shell.py")


@dataclass
class Case:
    """``note`` is a part of a note that the snapshot must carry for a variable of this case; ``until`` the first
    version of Python that cannot do it any more."""

    name: str
    before: str
    after: str
    note: str = ""
    until: tuple[int, int] = (4, 0)

    @property
    def is_gone(self) -> bool:
        return sys.version_info >= self.until


class RoundTrip:
    """All cases through one snapshot: they share a namespace, so each has names of its own."""

    def __init__(self, store: Path, cases: list[Case]) -> None:
        cases = [case for case in cases if not case.is_gone]
        saved = bare_shell("save", store, {case.name: case.before for case in cases})
        self.left_out = {name for name, error in saved["outcome"].items() if lacks(error)}
        failed = {n: error for n, error in saved["outcome"].items() if error and n not in self.left_out}
        assert not failed, failed
        checks = {case.name: case.after for case in cases if case.name not in self.left_out}
        loaded = bare_shell("load", store, checks)
        self.outcome: dict[str, str | None] = loaded["outcome"]
        self.lost = [*saved["lost"], *loaded["lost"]]
        self.notes: list[str] = saved["notes"]

    def check(self, case: Case) -> None:
        """Assert that the case's checks passed in the fresh process, and that its note is there."""
        if case.is_gone:
            pytest.skip(f"Python {'.'.join(map(str, case.until))} cannot pickle this any more")
        if case.name in self.left_out:
            pytest.skip(f"{case.name} needs a library that is not here")
        assert self.outcome[case.name] is None, self.outcome[case.name]
        assert not case.note or any(case.note in note for note in self.notes), self.notes

    def check_that_all_is_well(self, cases: list[Case]) -> None:
        """Assert that nothing was lost, and that no note was made that no case expects."""
        expected = [case.note for case in cases if case.note]
        assert self.lost == []
        assert [note for note in self.notes if not any(part in note for part in expected)] == []


def bare_shell(action: str, store: Path, cells: dict[str, str]) -> dict[str, Any]:
    """Run cells in a process of their own, beside the store, and capture after or restore before them."""
    done = subprocess.run(
        [PYTHON, str(BARE_SHELL), action, str(store)],
        input=json.dumps(cells),
        capture_output=True,
        text=True,
        cwd=store.parent,  # cells write files
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
