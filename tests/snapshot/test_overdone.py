"""Objects whose own code does not return, makes objects without end, or returns too much."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from respawner.pickling import watch
from respawner.pickling.limits import OVERDONE, TakesTooLong
from respawner.pickling.watch import Watch

from tests.snapshot.fidelity import bare_shell
from tests.snapshot.notebook import Notebook
from tests.snapshot.test_isolation import KEPT, SURROUNDINGS, cells

HANGING = {
    "loop": "class L:\n    def __reduce__(self):\n        while True: pass\nbad = L()",
    "stubborn_loop": "class B:\n    def __reduce__(self):\n        while True:\n            try: 1 / 0\n            except Exception: pass\nbad = B()",
    "sleep": "import time\nclass S:\n    def __getstate__(self): time.sleep(1000)\nbad = S()",
    "lock": "import threading\nclass K:\n    def __reduce__(self):\n        lock = threading.Lock(); lock.acquire(); lock.acquire()\nbad = K()",
    "condition_variable": "import threading\nclass C:\n    def __reduce__(self):\n        c = threading.Condition(); c.acquire(); c.wait()\nbad = C()",
    "silent_peer": "import socket\nclass R:\n    def __reduce__(self): pair = socket.socketpair(); pair[0].recv(1)\nbad = R()",
    "child": "import subprocess\nclass P:\n    def __reduce__(self): subprocess.run(['sleep', '1000'])\nbad = P()",
    "endless_items": "import itertools\nclass I(list):\n    def __reduce__(self): return list, (), None, (1 for _ in itertools.count())\nbad = I()",
}
OVERDONE_OTHERWISE = {
    "tree_of_state": "class T:\n    def __reduce__(self): return T, (), {'a': T(), 'b': [T()]}\nbad = T()",
    "tree_of_arguments": "class A:\n    def __init__(self, *parts): pass\n    def __reduce__(self): return A, ([A()], A())\nbad = A()",
    "tree_in_plain_objects": "class Plain: pass\nclass W:\n    def __reduce__(self):\n        p = Plain(); p.next = W(); return W, (), {'p': p}\nbad = W()",
    "enormous": "class G:\n    def __reduce__(self): return bytes, (b'x' * 3_000_000,)\nbad = G()",
    "enormous_list": "class E:\n    def __getstate__(self): return {'parts': [0] * 3_000_000}\nbad = E()",
}


@pytest.fixture(scope="module")
def overdone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    store = tmp_path_factory.mktemp("overdone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESPAWNER_OBJECT_SECONDS", "0.5")
        patch.setenv("RESPAWNER_MOST_OBJECT_BYTES", "1e6")
        cases = HANGING | OVERDONE_OTHERWISE
        plain = "text = 'y' * 3_000_000; numbers = list(range(1_000_000)); same = [text, numbers]"
        saved = bare_shell("save", store, cells(cases, SURROUNDINGS) | {"plain": plain})
        check = "assert text == 'y' * 3_000_000 and numbers[-1] == 999_999 and same[0] is text and same[1] is numbers"
        return saved, bare_shell("load", store, cells(dict.fromkeys(cases, ""), KEPT) | {"plain": check})


@pytest.mark.parametrize("name", HANGING)
def test_hanging_object_costs_only_itself(overdone: Any, name: str) -> None:
    saved, loaded = overdone
    assert {"path": name, "reason": "its own code did not return within 0.5 s"}.items() <= next(
        lost for lost in saved["lost"] if lost["path"] == name
    ).items()
    assert loaded["outcome"][name] is None, loaded["outcome"][name]


@pytest.mark.parametrize("name", OVERDONE_OTHERWISE)
def test_enormous_and_endless_objects_cost_only_themselves(overdone: Any, name: str) -> None:
    saved, loaded = overdone
    [reason] = [lost["reason"] for lost in saved["lost"] if lost["path"] == name]
    assert reason == (
        "its __reduce__ makes new objects without end"
        if "tree" in name
        else "its __reduce__ returns more than one object may hold (1.0 MB)"
    )
    assert loaded["outcome"][name] is None, loaded["outcome"][name]


def test_large_plain_data_of_the_user_is_not_limited(overdone: Any) -> None:
    saved, loaded = overdone
    assert {lost["path"] for lost in saved["lost"]} == set(HANGING | OVERDONE_OTHERWISE)
    assert loaded["outcome"]["plain"] is None, loaded["outcome"]["plain"]


def test_hanging_object_behind_deep_nesting_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the pickler runs in a thread whose ``sleep`` no signal ends: the thread is left behind."""
    monkeypatch.setenv("RESPAWNER_OBJECT_SECONDS", "0.5")
    before = (
        "import time\nclass S:\n    def __reduce__(self): time.sleep(1000)\n"
        "class L:\n    def __reduce__(self):\n        while True: pass\n"
        "deep = []\nfor _ in range(20_000): deep = [deep]\nbad = S(); worse = L(); rest = [bad, worse, deep]"
    )
    saved = bare_shell("save", tmp_path, {"before": before})
    assert [lost["path"] for lost in saved["lost"]] == ["bad", "worse"]
    check = (
        "assert rest[0] is bad and rest[1] is worse and rest[2] is deep\ndepth = 0\n"
        "while deep: deep = deep[0]; depth += 1\nassert depth == 20_000"
    )
    loaded = bare_shell("load", tmp_path, {"check": check})
    assert loaded["outcome"]["check"] is None, loaded["outcome"]["check"]


UNRESTORABLE = {
    "setstate_loops": "class L:\n    def __getstate__(self): return {'a': 1}\n    def __setstate__(self, state):\n        while True: pass\nbad = L()",
    "rebuild_sleeps": "import time\nclass S:\n    def __reduce__(self): return time.sleep, (1000,)\nbad = S()",
    "constructor_waits": "import threading\ndef wait(): threading.Event().wait()\nclass W:\n    def __reduce__(self): return wait, ()\nbad = W()",
    "hash_loops": "class H:\n    def __hash__(self):\n        while self.n: pass\n        return 1\nh = H(); h.n = 0; bad = {h}; h.n = 1; del h",
}


def test_hanging_while_restoring_costs_only_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = bare_shell("save", tmp_path, cells(UNRESTORABLE, SURROUNDINGS))
    assert saved["lost"] == []
    monkeypatch.setenv("RESPAWNER_OBJECT_SECONDS", "0.1")
    loaded = bare_shell("load", tmp_path, cells(dict.fromkeys(UNRESTORABLE, ""), KEPT))
    assert not any(loaded["outcome"].values()), loaded["outcome"]
    assert {lost["respawner_path"] for lost in loaded["lost"]} == set(UNRESTORABLE)
    assert {lost["respawner_reason"] for lost in loaded["lost"]} == {
        "its own code did not return within 0.6 s"
    }


# In a kernel ------------------------------------------------------------------------------------------------


def test_object_that_hung_is_not_waited_for_again_until_asked(open_notebook: Any) -> None:
    notebook: Notebook = open_notebook(RESPAWNER_OBJECT_SECONDS="0.5").start()
    notebook.run("tries = []; import time; hangs = True")
    notebook.run(
        "class S:\n"
        "    def __reduce__(self):\n"
        "        tries.append(1)\n"
        "        if hangs: time.sleep(1000)\n"
        "        return S, ()\n"
        "slow = S()"
    )
    notebook.run("x = 1")
    notebook.run("x = 2")
    assert notebook.run("print(len(tries))").text == "1\n"
    notebook.run("hangs = False")
    notebook.run("%snapshot")
    notebook.restart_after_kill()
    assert notebook.run("print(type(slow) is S, x)").text.endswith("True 2\n")


# The watch itself -------------------------------------------------------------------------------------------


def hang() -> None:
    time.sleep(1000)


def guarded(call: Any) -> str:
    try:
        call()
    except TakesTooLong:
        return "ended"
    return "returned"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Watch:
    monkeypatch.setenv("RESPAWNER_OBJECT_SECONDS", "0.05")
    return Watch({guarded.__code__}, restoring=True)


def test_users_timer_and_handler_are_put_back(quick: Watch) -> None:
    rang = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rang.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 1000, 7)
        with quick:
            assert guarded(hang) == "ended"
        left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 900 < left < 1000
        assert interval == 7
        signal.raise_signal(signal.SIGALRM)
        assert rang == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_users_timer_that_was_due_meanwhile_rings_afterwards(
    quick: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 2000.0])
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    rang = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda number, frame: rang.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 1000)
        with quick:
            assert guarded(hang) == "ended"
            assert not rang.is_set()
        assert rang.wait(30)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_code_that_is_none_of_an_objects_own_is_never_ended(quick: Watch) -> None:
    with quick:
        time.sleep(1)  # more than three times the deadline for a restore


def test_calls_that_return_in_time_may_be_many(quick: Watch) -> None:
    until = time.monotonic() + 1
    with quick:
        while time.monotonic() < until:
            assert guarded(lambda: time.sleep(0.01)) == "returned"


def test_imports_take_as_long_as_they_take(
    quick: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time; time.sleep(1)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with quick:
        assert guarded(lambda: __import__("slow_to_import")) == "returned"


def test_what_is_remembered_is_told_apart_by_identity_and_then_by_type() -> None:
    class Slow:
        pass

    first, second, third = Slow(), Slow(), Slow()
    OVERDONE.remember(first, "slow")
    try:
        assert OVERDONE.reason(first) == "slow"
        assert OVERDONE.reason(second) is None
        OVERDONE.remember(second, "slow")
        assert OVERDONE.reason(third) == "like others of its type: slow"
        assert OVERDONE.types() == {Slow}
        del first
        assert OVERDONE.types() == {Slow}
        assert OVERDONE.reason(third) is None
    finally:
        OVERDONE.forget()
