"""Open files come back by name, mode and position where that is safe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.snapshot.fidelity import bare_shell

LINES = "".join(f"line {number}\n" for number in range(3000))
CASES = {
    "text": (
        "f = open(PATH); f.readline()",
        "assert f.readline() == 'line 1\\n' and f.mode == 'r' and f.name == PATH",
    ),
    "text_far": (
        "f = open(PATH, encoding='utf-8'); [f.readline() for _ in range(2000)]",
        "assert f.readline() == 'line 2000\\n'",
    ),
    "binary": (
        "f = open(PATH, 'rb'); f.read(7)",
        "assert f.read(6) == b'line 1' and type(f).__name__ == 'BufferedReader'",
    ),
    "unbuffered": (
        "f = open(PATH, 'rb', buffering=0); f.read(7)",
        "assert f.read(6) == b'line 1' and type(f).__name__ == 'FileIO'",
    ),
    "aliases": (
        "f = open(PATH); f.readline(); box = [f, f.buffer, f.buffer.raw]",
        "assert box[0] is f and box[1] is f.buffer and box[2] is f.buffer.raw and f.readline() == 'line 1\\n'",
    ),
    "append": (
        "f = open(PATH, 'a'); f.write('one '); f.flush()",
        "f.write('two'); f.close(); assert open(PATH).read().endswith('one two') and f.mode == 'a'",
    ),
    "write": (
        "f = open(PATH, 'w'); f.write('one ')",
        "f.write('two'); f.close(); assert open(PATH).read() == 'one two' and f.mode == 'w'",
    ),
    "write_binary": (
        "f = open(PATH, 'wb'); f.write(b'one ')",
        "f.write(b'two'); f.close(); assert open(PATH).read() == 'one two'",
    ),
    "create": (
        "f = open(PATH + '.new', 'x'); f.write('one ')",
        "f.write('two'); f.close(); assert open(PATH + '.new').read() == 'one two'",
    ),
    "update": (
        "f = open(PATH, 'r+b'); f.write(b'LINE'); f.read(1)",
        "assert f.read(1) == b'0'; f.write(b'!'); f.close(); assert open(PATH).read(8) == 'LINE 0!l'",
    ),
    "closed": (
        "f = open(PATH)\nwith f: f.read()",
        "assert f.closed and f.name == PATH and f.mode == 'r'\ntry: f.read()\nexcept ValueError: pass\nelse: raise AssertionError",
    ),
    "closed_and_deleted": (
        "import os\nwith open(PATH + '.tmp', 'wb') as f: pass\nos.remove(PATH + '.tmp')",
        "assert f.closed and f.name == PATH + '.tmp' and not os.path.exists(f.name)",
    ),
    "relative": (
        "import os\nos.chdir(os.path.dirname(PATH)); f = open('data'); os.chdir('/'); f.readline()",
        "assert f.name == 'data' and f.readline() == 'line 1\\n'",
    ),
    "line_buffered": (
        "f = open(PATH, 'a', buffering=1)",
        "assert f.line_buffering; f.write('seen\\n'); assert open(PATH).read().endswith('seen\\n')",
    ),
    "temporary": (
        "import tempfile; f = tempfile.NamedTemporaryFile('w+', dir=PATH + '.d'); f.write('one'); f.flush(); import os; f._closer.close_called = True",
        "f.seek(0); assert f.read() == 'one'",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_open_file_comes_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data"
    path.write_text(LINES)
    (tmp_path / "data.d").mkdir()
    before, after = CASES[name]
    saved = bare_shell("save", tmp_path / "store", {"before": f"PATH = {str(path)!r}\n{before}"})
    assert saved["outcome"]["before"] is None, saved["outcome"]["before"]
    assert saved["lost"] == []
    loaded = bare_shell("load", tmp_path / "store", {"after": after})
    assert loaded["outcome"]["after"] is None, loaded["outcome"]["after"]
    assert loaded["lost"] == []
    assert loaded["notes"] == []


NOT_SAVED = {
    "device": ("f = open('/dev/null')", "not a regular one"),
    "pipe": ("import os; f = open(os.pipe()[0])", "without a name"),
    "deleted": ("import os; f = open(PATH); os.remove(PATH)", "has been deleted"),
    "in_a_loop": ("f = open(PATH); next(f)", "in the middle of a loop over its lines"),
    "borrowed": ("g = open(PATH); f = open(g.fileno(), closefd=False)", "without a name"),
    "compressed": ("import gzip; f = gzip.open(PATH + '.gz', 'wb')", "an open file cannot be saved"),
}


@pytest.mark.parametrize("name", NOT_SAVED)
def test_file_that_cannot_come_back_is_a_placeholder(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data"
    path.write_text(LINES)
    before, reason = NOT_SAVED[name]
    saved = bare_shell(
        "save", tmp_path / "store", {"before": f"PATH = {str(path)!r}\n{before}; both = [f, PATH]"}
    )
    [lost] = saved["lost"]
    assert lost["path"] == "f"
    assert reason in lost["reason"]
    check = "assert both[0] is f and type(f).__name__ == 'Placeholder'"
    loaded = bare_shell("load", tmp_path / "store", {"check": check})
    assert loaded["outcome"]["check"] is None, loaded["outcome"]["check"]


def replace(path: Path) -> None:
    path.with_suffix(".other").write_text("another\n" * 1000)
    path.with_suffix(".other").replace(path)


CHANGED = {
    "gone": ("r", Path.unlink, "No such file"),
    "replaced": ("r+", replace, "is another file now"),
    "replaced_for_appending": ("a", replace, "is another file now"),
    "shortened": ("r+", lambda path: os.truncate(path, 5), "is shorter than when it was written to"),
    "now_a_folder": ("r", lambda path: (path.unlink(), path.mkdir()), "is no regular file any more"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_file_that_changed_is_a_placeholder_and_is_left_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / "data"
    path.write_text(LINES)
    mode, change, reason = CHANGED[name]
    bare_shell(
        "save",
        tmp_path / "store",
        {"before": f"f = open({str(path)!r}, {mode!r}); f.seek(0, 2); both = [f, f.buffer]"},
    )
    change(path)
    before = path.read_bytes() if path.is_file() else None
    check = "assert type(f).__name__ == 'Placeholder' and both[0] is f and both[1] is f, (f, both)"
    loaded = bare_shell("load", tmp_path / "store", {"check": check})
    assert loaded["outcome"]["check"] is None, loaded["outcome"]["check"]
    [lost] = loaded["lost"]
    assert lost["respawner_path"] == "f"
    assert reason in lost["respawner_reason"]
    assert before == (path.read_bytes() if path.is_file() else None)


def test_file_that_changed_is_opened_for_reading_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text(LINES)
    bare_shell("save", tmp_path / "store", {"before": f"f = open({str(path)!r}); f.readline()"})
    path.write_text("LINE 0\nother\n")
    loaded = bare_shell("load", tmp_path / "store", {"check": "assert f.readline() == 'other\\n'"})
    assert loaded["outcome"]["check"] is None, loaded["outcome"]["check"]
    assert loaded["notes"] == [f"f: {path} has changed since the snapshot; it is open at its old position"]
