"""States that other versions of Python and of libraries have saved."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from respawner.portability import notes_on_versions
from respawner.version import __version__

from tests.snapshot.fidelity import bare_shell

HERE = {"python": platform.python_version(), "respawner": __version__}


def test_same_versions_need_no_note() -> None:
    assert notes_on_versions(HERE) == []


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        ({**HERE, "python": "3.9.1"}, ["saved with Python 3.9.1", f"here: Python {HERE['python']}"]),
        (
            {**HERE, "never-heard-of": "1.2"},
            ["saved with never-heard-of 1.2", "never-heard-of is not installed"],
        ),
        (
            {**HERE, "respawner": "9.0.0", "cloudpickle": "0.1"},
            ["Respawner 9.0.0, cloudpickle 0.1; here: Respawner"],
        ),
    ],
)
def test_other_versions_are_told_with_both_numbers(saved: dict[str, str], told: list[str]) -> None:
    [note] = notes_on_versions(saved)
    assert all(part in note for part in told), note


def test_builds_and_patch_releases_are_the_same() -> None:
    minor = ".".join(HERE["python"].split(".")[:2])
    assert notes_on_versions({"python": f"{minor}.99", "respawner": f"{__version__}+local"}) == []


def test_restore_of_a_snapshot_of_other_versions_says_so_and_loses_only_what_is_gone(tmp_path: Path) -> None:
    """The manifest is made by a capture that believes to run elsewhere, and takes a library along that is gone."""
    elsewhere = (
        "import respawner.capture as c, importlib.machinery, sys, types\n"
        "c._versions = lambda: {'python': '3.7.2', 'respawner': '0.0.1', 'torch': '1.0'}\n"
        "import respawner.pickling.notebook_code as n; n._magic = lambda: 1\n"
        "m = types.ModuleType('old_library'); exec('class Thing: pass', m.__dict__); m.Thing.__module__ = 'old_library'\n"
        "m.__spec__ = importlib.machinery.ModuleSpec('old_library', None); sys.modules['old_library'] = m\n"
        "thing = m.Thing(); thing.x = 1\ndef f(x): return x + k\nk = 2; data = {'a': [1]}; del c, n, m"
    )
    assert bare_shell("save", tmp_path, {"before": elsewhere})["lost"] == []
    loaded = bare_shell("load", tmp_path, {"check": "assert f(1) == 3 and data == {'a': [1]}"})
    assert loaded["outcome"]["check"] is None, loaded["outcome"]["check"]
    assert {lost["respawner_path"] for lost in loaded["lost"]} == {"thing"}
    [note] = [note for note in loaded["notes"] if "saved with" in note]
    assert "Python 3.7.2, Respawner 0.0.1, torch 1.0" in note
