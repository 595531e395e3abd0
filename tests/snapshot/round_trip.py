"""Cases that go through one snapshot into a fresh process: what the fidelity tests share."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.snapshot.notebook import PYTHON

BARE_SHELL = Path(__file__).with_name("bare_shell.py")


@dataclass
class Case:
    """A cell run before the snapshot, and one that asserts in the fresh process what must be the same.

    ``notes``: the beginnings of what the report must say, ``"variable: text"``. Nothing else may be said of
    the variables whose names begin with those that the case assigns.
    """

    name: str
    before: str
    after: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.before = textwrap.dedent(self.before)
        self.after = textwrap.dedent(self.after)


@dataclass
class Outcome:
    """What went wrong in the fresh process, by case (None: nothing), and what the report says."""

    failures: dict[str, str | None]
    notes: list[str]


def round_trip(cases: Iterable[Case], store: Path, **environment: str) -> Outcome:
    """Run all cases through one snapshot. Each has variables of its own; nothing may be lost."""
    cases = list(cases)
    assert len({case.name for case in cases}) == len(cases)
    saved = bare_shell("save", store, {case.name: case.before for case in cases}, **environment)
    failed = {name: error for name, error in saved["outcome"].items() if error}
    assert not failed, "\n".join(failed.values())
    assert saved["lost"] == []
    loaded = bare_shell("load", store, {case.name: case.after for case in cases}, **environment)
    assert loaded["lost"] == []
    return Outcome(loaded["outcome"], [*saved["notes"], *loaded["notes"]])


def assert_notes(outcome: Outcome, cases: Iterable[Case]) -> None:
    """Everything that the cases expect is said, and nothing else."""
    expected = [note for case in cases for note in case.notes]
    missing = [note for note in expected if not any(said.startswith(note) for said in outcome.notes)]
    needless = [said for said in outcome.notes if not any(said.startswith(note) for note in expected)]
    assert (missing, needless) == ([], [])


def bare_shell(action: str, store: Path, cells: dict[str, str], **environment: str) -> dict[str, Any]:
    """Run cells in a process of their own, and capture after or restore before them."""
    done = subprocess.run(
        [PYTHON, str(BARE_SHELL), action, str(store)],
        input=json.dumps(cells),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
