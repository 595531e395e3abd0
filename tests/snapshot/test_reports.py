"""What a person sees of snapshots and restores."""

from __future__ import annotations

import pickle

import pytest
from respawner.overview import Status

from tests.snapshot.notebook import Notebook


def test_snapshots_are_a_table_with_heads(notebook: Notebook) -> None:
    notebook.run("a = '<1>' # <b>")
    notebook.run("%snapshot good")
    ran = notebook.run("%snapshots")
    head, *rows = ran.text.splitlines()
    [labelled] = [row for row in rows if row.endswith("good")]
    assert head.split() == [
        "id",
        "saved",
        "at",
        "age",
        "after",
        "cell",
        "state",
        "variables",
        "size",
        "changed",
        "labels",
    ]
    assert labelled.rindex("good") == head.index("labels")
    assert "<th" in ran.html
    assert "&lt;b&gt;" in ran.html
    assert "<b>" not in ran.html


def test_damaged_snapshot_is_marked_in_the_table(notebook: Notebook) -> None:
    notebook.run("x = 1")
    notebook.settle()
    notebook.run("x = 2")
    notebook.settle()
    timeline = notebook.timeline
    oldest = notebook.manifests()[-1]
    timeline.manifest_path(oldest.sequence).write_bytes(b"{}")
    ran = notebook.run("%snapshots")
    assert f"number {oldest.sequence}" in ran.text
    assert "damaged: " in ran.text
    assert "damaged: " in ran.html


def test_restore_of_what_is_not_there_is_one_line_with_what_was_meant(notebook: Notebook) -> None:
    notebook.run("x = 1")
    notebook.run("%snapshot before-tuning")
    ran = notebook.run("%restore before-tunin")
    assert ran.error is None
    [line] = ran.text.splitlines()
    assert "there is no snapshot 'before-tunin'; did you mean before-tuning?" in line
    assert notebook.run("print(x)").text == "1\n"


def test_report_folds_its_details_and_names_older_placeholders_in_one_line(notebook: Notebook) -> None:
    notebook.run("\n".join(["import threading", *(f"lock{i} = threading.Lock()" for i in range(6))]))
    first = notebook.restart_after_kill().run("x = '<i>'")
    assert "<details><summary" in first.html
    assert "6 not restored</summary>" in first.html
    assert "made by cell [1]" in first.html
    second = notebook.restart_after_kill().run("pass")
    assert "<details open>" in second.html
    [line] = [line for line in second.text.splitlines() if "lock0" in line]
    assert line.split(": ")[1] == "lock0, lock1, lock2, lock3, lock4, lock5"


def test_what_was_written_for_each_snapshot_is_shown(notebook: Notebook) -> None:
    notebook.run("import numpy as np; big = np.random.default_rng(0).random(1_000_000); import respawner")
    notebook.run("x = 1")
    notebook.settle()
    newer, older = notebook.manifests()
    assert older.added_bytes is not None
    assert newer.added_bytes is not None
    assert 8_000_000 < older.added_bytes < 8_100_000
    assert newer.size_bytes > 8_000_000
    assert newer.added_bytes < 100_000
    [head, *rows] = notebook.run("%snapshots").text.splitlines()
    column = head.index("changed") + len("changed")
    assert rows[-1][:column].endswith("  8.0 MB")
    assert rows[-2][:column].endswith(" kB")
    assert notebook.value("respawner.snapshots()[-1]['added_bytes']") == str(older.added_bytes)


# The status -------------------------------------------------------------------------------------------------


def test_status_is_a_block_for_people_and_a_plain_dict_for_code(notebook: Notebook) -> None:
    notebook.run(
        "import respawner, json, pickle, threading; x = '<1>'; respawner.exclude('huge'); lock = threading.Lock()"
    )
    notebook.settle()
    ran = notebook.run("s = respawner.status(); s")
    first, *rows = ran.text.splitlines()
    assert first == "Respawner: saved up to the last cell that has ended; 6 variables"
    assert [row.split(":")[0].strip() for row in rows] == [
        "snapshot",
        "timeline",
        "folder",
        "stall",
        "excluded",
    ]
    assert "s old, 1 not saved" in rows[0]
    assert rows[4].split() == ["excluded:", "huge"]
    assert "<b>Respawner: saved up to" in ran.html
    assert notebook.run("print(respawner.status())").text.startswith("Respawner: ")
    assert notebook.value("isinstance(s, dict) and json.loads(json.dumps(s)) == dict(s)") == "True"
    notebook.restart_after_kill().run("pass")
    assert notebook.value("type(s)") == "dict"
    assert notebook.value("s['excluded']") == "['huge']"


def test_status_says_what_failed(notebook: Notebook) -> None:
    notebook.run(
        "import respawner\nfrom respawner.store.writer import TimelineWriter as W\n"
        "def fail(self, manifest): raise OSError(28, '<no> space')\nright = W.publish; W.publish = fail"
    )
    notebook.settle()
    ran = notebook.run("respawner.status()")
    assert "Respawner: the last attempt failed" in ran.text
    assert "error:     the disk is full (OSError: [Errno 28] <no> space)" in ran.text
    assert "&lt;no&gt; space" in ran.html
    notebook.run("W.publish = right")
    notebook.settle()
    assert "saved up to" in notebook.run("respawner.status()").text


def test_status_where_it_is_off() -> None:
    assert repr(Status({"active": False, "why": "<off>", "error": None})) == "Respawner: off: <off>"
    assert "&lt;off&gt;" in (Status({"active": False, "why": "<off>", "error": None})._repr_html_() or "")
    assert type(pickle.loads(pickle.dumps(Status({"active": False})))) is dict


# Leaving variables out -------------------------------------------------------------------------------------------


def test_excluded_names_are_told_and_include_undoes_it(notebook: Notebook) -> None:
    notebook.run("import respawner; respawner.exclude('huge', 'other'); huge = 1; small = 2")
    assert "  excluded, as asked: huge, other\n" in notebook.restart_after_kill().run("import respawner").text
    notebook.run("respawner.include('huge'); respawner.include('huge'); huge = 3")
    ran = notebook.restart_after_kill().run("print(huge, small)")
    assert "  excluded, as asked: other\n" in ran.text
    assert ran.text.endswith("3 2\n")


@pytest.mark.parametrize(
    "call", ["exclude(huge)", "include(huge)", "exclude('huge', 5)", "exclude('my dict')"]
)
def test_what_is_no_name_is_refused(notebook: Notebook, call: str) -> None:
    ran = notebook.run(f"import respawner; huge = [1]; respawner.{call}")
    assert "is no variable's name; write it in quotes" in (ran.error or "")
    notebook.settle()
    assert notebook.run("print(respawner.status()['excluded'])").text == "[]\n"


def test_status_without_some_of_its_parts_shows_as_a_dict() -> None:
    """A user's own dict by then: `del status["skipped"]` must not end in a KeyError below their cell."""
    assert repr(Status({"active": True})) == "{'active': True}"
    assert Status({"active": True})._repr_html_() is None
    assert repr(Status()) == "{}"
