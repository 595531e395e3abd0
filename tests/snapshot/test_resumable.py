"""``%%resumable``: which loops of a cell are made to go on, and that they do."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from types import CodeType

import pytest
from respawner.safepoints.resumable import RejectedCell, resumable

from tests.snapshot.notebook import Notebook
from tests.snapshot.test_resume import PLAIN, SETUP, kill_after, trace_of, undisturbed
from tests.snapshot.test_safepoints import AT_EVERY

OpenNotebook = Callable[..., Notebook]
RESUME = "__import__('respawner').resume"


def rewritten(source: str, known: dict[str, CodeType] | None = None) -> list[str]:
    """Headers of the loops that were wrapped, with lines."""
    tree = resumable(ast.parse(source), (known or {}).get)
    loops = [
        node for node in ast.walk(tree) if isinstance(node, ast.For) and RESUME in ast.unparse(node.iter)
    ]
    return [
        f"{node.lineno}: {ast.unparse(node.iter)}".replace(RESUME, "resume")
        for node in sorted(loops, key=lambda node: node.lineno)
    ]


def test_the_cells_own_loops_and_those_that_train_are_wrapped() -> None:
    cell = """
def train(model):
    for p in model.parameters():
        p.zero_()
    for epoch in range(3):
        for i, x in enumerate(loader):
            one(x)
            for p in model.parameters():
                p.clamp_(0)
def one(x):
    loss(x).backward()
with open('log') as log:
    for word in log:
        for letter in word:
            count(letter)
"""
    assert rewritten(cell) == [
        "5: resume(range(3))",
        "6: resume(loader, counted=True, start=0)",
        "13: resume(log)",
    ]


def test_functions_of_other_cells_are_looked_into() -> None:
    space: dict[str, object] = {}
    exec(
        "def outer(x):\n    return inner(x)\ndef inner(x):\n    x.backward()\ndef other(x):\n    return x",
        space,
    )
    known = {name: space[name].__code__ for name in ("outer", "inner", "other")}  # type: ignore[attr-defined]
    cell = "for a in b:\n    for c in d:\n        outer(c)\n    for e in f:\n        other(e)"
    assert rewritten(cell, known) == ["1: resume(b)", "2: resume(d)"]


def test_what_is_wrapped_already_and_progress_bars() -> None:
    cell = "for a in respawner.resume(b, name='b'):\n    pass\nfor c in tqdm(d, desc='x'):\n    pass"
    assert rewritten(cell) == ["3: tqdm(resume(d), desc='x')"]


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("x = 1", "found no `for` loop"),
        ("train()", "Put it into the cell that has the loop"),
        (
            "while x < 3:\n    o.step()",
            "`while` in line 1: it has no items to count.*if not \\(x < 3\\): break",
        ),
        ("async def f():\n    async for x in y:\n        o.step()", "`async for` in line 2"),
    ],
)
def test_what_cannot_go_on_is_told_before_anything_runs(cell: str, told: str) -> None:
    with pytest.raises(RejectedCell, match=told):
        rewritten(cell)


def test_counting_and_zipping_begin_what_they_are_given_when_the_loop_begins() -> None:
    cell = "for a in enumerate(b, 1): pass\nfor a in tqdm(enumerate(tqdm(b), start=n)): pass\nfor a in enumerate(zip(b, c)): pass"
    zipped = "__import__('respawner.safepoints.positions', fromlist=['Zipped']).Zipped(b, c)"
    assert rewritten(cell) == [
        "1: resume(b, counted=True, start=1)",
        "2: tqdm(tqdm(resume(b, counted=True, start=n)))",
        f"3: resume({zipped}, counted=True, start=0)",
    ]


def test_a_while_inside_a_loop_that_is_wrapped_needs_nothing() -> None:
    assert rewritten("for e in x:\n    while k < 3:\n        o.step()") == ["1: resume(x)"]
    called = "def episode():\n    while k < 3:\n        o.step()\ndef one():\n    episode()\nfor e in x:\n    one()"
    assert rewritten(called) == ["6: resume(x)"]
    with pytest.raises(RejectedCell, match="`while` in line 2"):
        rewritten("def episode():\n    while k < 3:\n        o.step()\nfor e in x:\n    pass\nepisode()")


def test_a_while_around_a_loop_needs_nothing() -> None:
    assert rewritten("while t < 3:\n    for x in y:\n        o.step()") == ["2: resume(y)"]


def test_cell_that_is_killed_goes_on_bit_for_bit(open_notebook: OpenNotebook, tmp_path: Path) -> None:
    """The training of `test_resume`, written as it is without Respawner."""
    cell = re.sub(r"respawner\.resume\((\w+(?:\([^)]*\))?)[^)]*\)", r"\1", PLAIN)
    assert "for x in loader:" in cell
    assert "for epoch in range(5 * length):" in cell
    printed, trace = undisturbed(cell, tmp_path / "undisturbed")
    notebook = open_notebook(**AT_EVERY).start()
    notebook.run(SETUP)
    for lines in (5, 4):
        kill_after(notebook, "%%resumable\n" + cell, lines)
        notebook.start()
    ran = notebook.run("%%resumable\n" + cell)
    assert ran.error is None, ran.error
    assert "`for x in loader` goes on with item" in ran.text
    assert printed[-1] in ran.text
    assert dict.fromkeys(trace_of(notebook)) == dict.fromkeys(trace)


def test_bad_uses_and_line_numbers(notebook: Notebook) -> None:
    ran = notebook.run("%%resumable\nx = 1\nfor i in [1, 0]:\n    y = 1 / i\n")
    assert ran.error == "ZeroDivisionError: division by zero"
    [traceback] = [m["content"]["traceback"] for m in ran.messages if m["msg_type"] == "error"]
    assert re.search(r"line.{0,20}4\b|----> .{0,20}4\b", "\n".join(traceback)), traceback
    assert notebook.value("x") == "1"
    assert notebook.run("%%resumable\nsum(range(3))").error is not None
    for cell, told in (
        ("%%resumable all\nfor i in x: pass", "%%resumable takes nothing behind it, and there is 'all'"),
        ("%%time\n%%resumable\nx = 2", "must be the first line of the cell"),
        ("%%resumable\nx = 2", "found no `for` loop"),
    ):
        ran = notebook.run(cell)
        shown = (ran.error or "") + ran.text + "".join(str(m["content"]) for m in ran.messages)
        assert told in shown, shown
    assert notebook.value("x") == "1"
    assert notebook.run("for i in range(3):\n    pass\ni").text.strip() == "2", "other cells are left alone"
    ran = notebook.run("%%resumable\nfor i in range(3):\n    pass\ni + 1")
    assert ran.text.strip() == "3", "and the last expression is shown"


def test_a_rejected_cell_is_one_line_and_one_with_a_syntax_error_leaves_nothing_behind(
    notebook: Notebook,
) -> None:
    ran = notebook.run("%%resumable\nx = 2")
    [traceback] = [m["content"]["traceback"] for m in ran.messages if m["msg_type"] == "error"]
    assert "\n".join(traceback).startswith("UsageError: %%resumable found no `for` loop")
    assert "\n" not in "\n".join(traceback)
    assert "SyntaxError" in (notebook.run("%%resumable\nfor i in:\n    pass").error or "")
    ran = notebook.run("y = 3", silent=True)
    assert notebook.value("y") == "3", "a frontend's own execution is not taken for that cell"
