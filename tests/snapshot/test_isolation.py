"""An object that cannot be saved or restored costs only itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.snapshot.test_fidelity import bare_shell

UNPICKLABLE = {
    "lock": "import threading\nbad = threading.Lock()",
    "generator": "bad = (i for i in range(3))",
    "socket": "import socket\nbad = socket.socket()",
    "open_file": "bad = open('/dev/null')",
    "binary_file": "bad = open('/dev/null', 'rb')",
    "thread": "import threading\nbad = threading.Thread(target=print)",
    "executor": "from concurrent.futures import ThreadPoolExecutor\nbad = ThreadPoolExecutor(1)",
    "process": "import subprocess\nbad = subprocess.Popen(['true']); bad.wait()",
    "database": "import sqlite3\nbad = sqlite3.connect(':memory:')",
    "loader_iterator": "import torch\nbad = iter(torch.utils.data.DataLoader([1, 2, 3]))",
    "reduce_raises": "class R:\n    def __reduce__(self): raise ValueError('not me')\nbad = R()",
    "getstate_raises": "class G:\n    def __getstate__(self): raise KeyError('nor me')\nbad = G()",
    "reduce_of_an_integer": "class N:\n    def __reduce__(self): return 5\nbad = N()",
    "reduce_of_nonsense_tuple": "class T:\n    def __reduce__(self): return (1, 2)\nbad = T()",
    "no_pairs": "class P:\n    def __reduce__(self): return dict, (), None, None, iter([5])\nbad = P()",
    "reduce_by_a_missing_name": "class M:\n    def __reduce__(self): return 'nowhere_to_be_found'\nbad = M()",
    "items_raise": "class I(list):\n    def __reduce__(self): return list, (), None, (1 / 0 for _ in 'a')\nbad = I()",
    "reduce_recurses": "class D:\n    def __reduce__(self): return self.__reduce__()\nbad = D()",
}


SURROUNDINGS = (
    "NAME_shared = [1]; NAME_box = {'inner': [NAME_shared, NAME], 'shared': NAME_shared}; NAME_alias = NAME"
)
KEPT = (
    "assert NAME_box['inner'][0] is NAME_box['shared'] is NAME_shared == [1]\n"
    "assert NAME_box['inner'][1] is NAME is NAME_alias\n"
    "assert type(NAME).__name__ == 'Placeholder', NAME\n"
)
REFUSES = (
    "from respawner.errors import LostObjectError\n"
    "assert 'lost' in repr(NAME) and 'NAME' in repr(NAME)\n"
    "for use in (lambda: NAME(), lambda: NAME.acquire, lambda: len(NAME), lambda: iter(NAME), lambda: NAME + 1):\n"
    "    try: use()\n"
    "    except LostObjectError as error: assert 'NAME was a ' in str(error)\n"
    "    else: raise AssertionError('a lost object was used')\n"
    "assert not hasattr(NAME, 'acquire')"
)


def cells(cases: dict[str, str], template: str) -> dict[str, str]:
    """One cell a case; its object is in a variable of the case's name."""
    return {
        name: f"{code.replace('bad', name)}\n{template.replace('NAME', name)}" for name, code in cases.items()
    }


@pytest.fixture(scope="module")
def unpicklable(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    store = tmp_path_factory.mktemp("unpicklable")
    saved = bare_shell("save", store, cells(UNPICKLABLE, SURROUNDINGS))
    return saved, bare_shell("load", store, cells(dict.fromkeys(UNPICKLABLE, ""), KEPT + REFUSES))


@pytest.mark.parametrize("name", UNPICKLABLE)
def test_unpicklable_object_costs_only_itself(
    unpicklable: tuple[dict[str, Any], dict[str, Any]], name: str
) -> None:
    saved, loaded = unpicklable
    assert saved["outcome"][name] is None, saved["outcome"][name]
    [lost] = [lost for lost in saved["lost"] if lost["path"].startswith(name)]
    assert lost["path"] == name
    assert lost["reason"]
    assert loaded["outcome"][name] is None, loaded["outcome"][name]


def test_failure_that_nobody_foresaw_costs_the_variables_that_reach_it(tmp_path: Path) -> None:
    """Without our checks the C pickler fails in the middle; then each variable is tried by itself."""
    before = (
        "import respawner.pickling.pickler as pickler\npickler._checked = lambda obj, reduced: reduced\n"
        "class P:\n    def __reduce__(self): return dict, (), None, None, iter([5])\n"
        "bad = P(); box = [bad]; good = [1]; alias = good; Out[7] = P(); Out[8] = good\ndel pickler"
    )
    saved = bare_shell("save", tmp_path, {"before": before})
    assert {lost["path"] for lost in saved["lost"]} == {"bad", "box", "Out[7]"}
    check = (
        "assert good == [1] and alias is good is Out[8] and 'lost' in repr(box) and 'lost' in repr(Out[7])"
    )
    loaded = bare_shell("load", tmp_path, {"check": check})
    assert loaded["outcome"]["check"] is None, loaded["outcome"]["check"]


def test_the_way_to_a_nested_object_is_told(tmp_path: Path) -> None:
    before = "import threading\nclass Holder: pass\nh = Holder(); h.deep = {'locks': [0, threading.Lock()]}"
    saved = bare_shell("save", tmp_path, {"before": before})
    assert [lost["path"] for lost in saved["lost"]] == ["h.deep['locks'][1]"]


def test_placeholder_is_saved_again_as_it_is(tmp_path: Path) -> None:
    bare_shell("save", tmp_path, {"before": "import threading\nlock = threading.Lock()"})
    loaded = bare_shell(
        "load",
        tmp_path,
        {
            "check": "import pickle\nagain = pickle.loads(pickle.dumps(lock))\nassert repr(again) == repr(lock)"
        },
    )
    assert loaded["outcome"]["check"] is None, loaded["outcome"]["check"]


UNRESTORABLE = {
    "setstate_raises": "class S:\n    def __getstate__(self): return {'a': 1}\n    def __setstate__(self, state): raise ValueError('broken')\nbad = S()",
    "constructor_raises": "class C:\n    def __new__(cls, *a):\n        if not a: raise ValueError('broken')\n        return super().__new__(cls)\nbad = C(1)",
    "rebuild_raises": "def rebuild(x): raise ValueError('broken')\nclass B:\n    def __reduce__(self): return rebuild, (1,)\nbad = B()",
    "append_raises": "class A(list):\n    def append(self, x): raise ValueError('broken')\n    extend = append\nbad = A.__new__(A); list.append(bad, 1)",
    "setitem_raises": "class D(dict):\n    def __setitem__(self, k, v): raise ValueError('broken')\nbad = D(); dict.__setitem__(bad, 1, 2)",
    "module_is_gone": "import sys, types\nm = types.ModuleType('gone_module'); exec('class G: pass', m.__dict__); m.G.__module__ = 'gone_module'\nimport importlib.machinery\nm.__spec__ = importlib.machinery.ModuleSpec('gone_module', None); sys.modules['gone_module'] = m\nbad = m.G(); bad.x = 1; del m",
}


@pytest.fixture(scope="module")
def unrestorable(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    store = tmp_path_factory.mktemp("unrestorable")
    arrays = {"arrays": "import numpy as np\narray = np.arange(100_000); view = array[::2]"}
    saved = bare_shell("save", store, cells(UNRESTORABLE, SURROUNDINGS) | arrays)
    assert saved["lost"] == []
    assert not any(saved["outcome"].values()), saved["outcome"]
    checks = cells(dict.fromkeys(UNRESTORABLE, ""), KEPT)
    return bare_shell("load", store, checks | {"arrays": "array[4] = 77; assert view[2] == 77"})


@pytest.mark.parametrize("name", UNRESTORABLE)
def test_unrestorable_object_costs_only_itself(unrestorable: dict[str, Any], name: str) -> None:
    assert unrestorable["outcome"][name] is None, unrestorable["outcome"][name]
    assert name in {lost["respawner_path"] for lost in unrestorable["lost"]}


def test_everything_else_is_whole_beside_unrestorable_objects(unrestorable: dict[str, Any]) -> None:
    assert unrestorable["outcome"]["arrays"] is None, unrestorable["outcome"]["arrays"]
    assert {lost["respawner_path"] for lost in unrestorable["lost"]} == set(UNRESTORABLE)
