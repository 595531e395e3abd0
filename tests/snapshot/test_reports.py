"""What a person sees of snapshots and restores."""

from __future__ import annotations

from .notebook import Notebook


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
