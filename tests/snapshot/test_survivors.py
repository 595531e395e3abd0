"""Objects that cannot be saved, but live: restoring in place keeps them, and the report says what was lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from respawner.origins import origin_of
from respawner.pickling.survivors import Survivors

from tests.snapshot.notebook import Notebook

MAKE = (
    "import threading, sqlite3\n"
    "lock = threading.Lock(); stream = (i for i in range(5)); next(stream)\n"
    "log = open('log.txt', 'w'); log.write('one '); connection = sqlite3.connect(':memory:')\n"
    "box = {'lock': lock, 'rest': [1]}; ids = [id(lock), id(stream), id(log), id(connection)]"
)
SAME = "print([id(lock), id(stream), id(log), id(connection)] == ids, box['lock'] is lock)"


def test_living_objects_come_back_themselves_in_place(notebook: Notebook) -> None:
    notebook.run(MAKE)
    notebook.run("%snapshot before")
    notebook.run("box['rest'].append(2)")
    ran = notebook.run("%restore before")
    assert "still the living objects, as they are now: lock, log, stream" in ran.text
    # sqlite3's connections allow no weak reference, so nobody could tell whether it is still the same one.
    assert ran.text.count("not restored") == 1
    assert "not restored: connection (sqlite3.Connection): a connection ends with its process" in ran.text
    assert (
        notebook.run("print([id(lock), id(stream), id(log)] == ids[:3], box['lock'] is lock)").text
        == "True True\n"
    )
    assert (
        notebook.run("print(box['rest'], next(stream), lock.acquire(False), log.write('two'))").text
        == "[1] 1 True 3\n"
    )


def test_undo_brings_back_what_only_the_replaced_state_held(notebook: Notebook) -> None:
    notebook.run("x = 1")
    notebook.run("%snapshot empty")
    notebook.run(MAKE)
    for _ in range(2):
        notebook.run("import respawner, gc; respawner.restore('empty'); gc.collect()")
        undo = notebook.last_undo()
        assert notebook.run("print('lock' in globals())").text == "False\n"
        notebook.run("y = 1")
        ran = notebook.run(f"%restore {undo}")
        assert "not restored" not in ran.text
        same = notebook.run(SAME)
        assert same.text == "True True\n", same.error
    notebook.run(f"%restore {notebook.last_undo()}")
    assert notebook.run("print('lock' in globals(), x)").text == "False 1\n"


def test_another_process_has_placeholders_and_says_who_made_them(notebook: Notebook) -> None:
    notebook.run("import threading, respawner")
    notebook.run("%%time\nlock = threading.Lock()")
    notebook.run("box = {}\nbox['inner'] = [lock, threading.RLock()]; huge = 1; respawner.exclude('huge')")
    notebook.run("(i for i in 'abc')")
    notebook.restart_after_kill()
    text = notebook.run("pass").text
    assert (
        "not restored: lock (_thread.lock): a lock belongs to the process that made it; "
        "made by cell [2]: `lock = threading.Lock()`"
    ) in text
    assert "not restored: box['inner'][1] (_thread.RLock)" in text
    assert "made by cell [3]: `box['inner'] = [lock, threading.RLock()]`" in text
    assert "not restored: Out[4] (generator)" in text
    assert "excluded, as asked: huge" in text
    error = notebook.run("lock.acquire()").error or ""
    assert "Make it again by running cell [2]: `lock = threading.Lock()`." in error
    # What was lost once is not told again as if it were news.
    notebook.restart_after_kill()
    text = notebook.run("pass").text
    assert "not restored" not in text
    assert "still missing since an earlier restore: Out[4], box['inner'][1], lock" in text
    assert "running cell [2]" in (notebook.run("lock.acquire()").error or "")


def test_tokens_lead_only_to_the_object_itself(tmp_path: Path) -> None:
    class Thing:
        pass

    ours, others = Survivors(), Survivors()
    thing, another = Thing(), Thing()
    token = ours.token(thing)
    assert ours.token(thing) == token
    assert ours.token(another) != token
    assert ours.find(token) is thing
    assert others.find(token) is None
    assert ours.token(object()) == ""
    del thing
    assert ours.find(token) is None


INPUTS = [
    "",
    "f = open('a')",
    "def make():\n    f = 1\n    return f",
    "with open('b') as f, open('c') as g:\n    pass",
    "f.name, (h, *rest) = 1, (2, 3)",
    "get_ipython().run_cell_magic('time', '', 'w = 1\\nw = open(\"long\", \"w\")\\n')",
    "broken = (",
    "import os.path as p, sys.x\nfrom a import b as c\nfor i, j in []: pass\nk: int = 0\nif (m := 1): pass\n(n := 2)",
]


@pytest.mark.parametrize(
    ("path", "origin"),
    [
        ("f", "cell [4]: `f.name, (h, *rest) = 1, (2, 3)`"),
        ("g['x'][0]", "cell [3]: `with open('b') as f, open('c') as g:`"),
        ("make", "cell [2]: `def make():`"),
        ("w.attribute", 'cell [5]: `w = open("long", "w")`'),
        ("rest", "cell [4]: `f.name, (h, *rest) = 1, (2, 3)`"),
        ("p", "cell [7]: `import os.path as p, sys.x`"),
        ("c", "cell [7]: `from a import b as c`"),
        ("j", "cell [7]: `for i, j in []: pass`"),
        ("k", "cell [7]: `k: int = 0`"),
        ("n", "cell [7]: `(n := 2)`"),
        ("Out[3][0]", "cell [3]"),
        ("broken", ""),
        ("nobody", ""),
    ],
)
def test_origin_is_the_last_cell_that_assigned_the_name(path: str, origin: str) -> None:
    assert origin_of(path, INPUTS) == origin
