"""An object that cannot be saved or restored costs only itself."""

from __future__ import annotations

import pickle
import re
import socket
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from respawner.pickling.unpicklable import one_line_reason

from tests.snapshot.fidelity import bare_shell

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
    "condition": "import threading\nbad = threading.Condition()",
    "semaphore": "import threading\nbad = threading.BoundedSemaphore(2)",
    "barrier": "import threading\nbad = threading.Barrier(2)",
    "rlock": "import threading\nbad = threading.RLock()",
    "coroutine": "async def work(): pass\nbad = work()",
    "async_generator": "async def items(): yield 1\nbad = items()",
    "mapped_file": "import mmap\nbad = mmap.mmap(-1, 4096)",
    "pointer": "import ctypes\nbad = ctypes.pointer(ctypes.c_int(3))",
    "context": "import contextvars\nbad = contextvars.copy_context()",
    "context_variable": "import contextvars\nbad = contextvars.ContextVar('bad')",
    "frame": "import sys\nbad = sys._getframe()",
    "traceback": "try: 1 / 0\nexcept ZeroDivisionError as error: bad = error.__traceback__",
    "queue_of_processes": "import multiprocessing\nbad = multiprocessing.Queue()",
    "pool": "import multiprocessing.pool\nbad = multiprocessing.pool.ThreadPool(1)",
    "event_loop": "import asyncio\nbad = asyncio.new_event_loop()",
    "compressed_file": "import gzip\nbad = gzip.open('none.gz', 'wb')",
    "loader_iterator_with_workers": "import torch\nbad = iter(torch.utils.data.DataLoader([1, 2, 3], num_workers=1))",
    "task": "import asyncio\nasync def work(): pass\nbad = asyncio.new_event_loop().create_task(work())",
    "asyncio_future": "import asyncio\nbad = asyncio.new_event_loop().create_future()",
    "unfinished_future": "from concurrent.futures import Future\nbad = Future()",
    "temporary_file": "import tempfile\nbad = tempfile.TemporaryFile()",
    "spooled_file": "import tempfile\nbad = tempfile.SpooledTemporaryFile()",
    "timer": "import threading\nbad = threading.Timer(1, print)",
    "callback_for_c": "import ctypes\nbad = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 3)",
    "finalizer": "import weakref\nclass F: pass\nf = F(); bad = weakref.finalize(f, print)",
    "folder_listing": "import os\nbad = os.scandir('/')",
    "folder_entry": "import os\nbad = next(os.scandir('/'))",
    "token_of_a_context": "import contextvars\nv = [contextvars.ContextVar('v')]; bad = v[0].set(3); del v",
    "ssl_context": "import ssl\nbad = ssl.create_default_context()",
    "cursor": "import sqlite3\nbad = sqlite3.connect(':memory:').cursor()",
    "array_iterator": "import numpy as np\nbad = np.arange(3).flat",
    "node_of_a_graph": "import torch\nbad = (torch.ones(1, requires_grad=True) * 2).grad_fn",
    "torch_future": "import torch\nbad = torch.futures.Future()",
    "torch_event": "import torch\nbad = torch.Event()",
    "view_of_a_mapped_file": "import mmap\nbad = memoryview(mmap.mmap(-1, 4096))",
    "view_of_records": "import numpy as np\nbad = memoryview(np.zeros(3, dtype=[('x', 'i4')]))",
    "view_of_swapped_bytes": "import numpy as np\nbad = memoryview(np.zeros(3, dtype='>i4'))",
    "interrupt_in_reduce": "class K:\n    def __reduce__(self): raise KeyboardInterrupt\nbad = K()",
    "exit_in_reduce": "class E:\n    def __reduce__(self): raise SystemExit(3)\nbad = E()",
    "wish_for_memory_in_reduce": "class W:\n    def __reduce__(self): return bytearray(10**15)\nbad = W()",
    "message_raises": "class V(Exception):\n    def __str__(self): raise ValueError\nclass U:\n    def __reduce__(self): raise V\nbad = U()",
    "class_attribute_raises": "class L:\n    @property\n    def __class__(self): raise ValueError('no class')\n    def __reduce__(self): return 7\nbad = L()",
    # Until Python 3.13 they come back: test_fidelity_more.py.
    **({"itertools": "import itertools\nbad = itertools.count(5)"} if sys.version_info >= (3, 14) else {}),
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
    [lost] = [lost for lost in saved["lost"] if re.split(r"\W", lost["path"])[0] == name]
    assert lost["path"] == name
    assert lost["reason"]
    assert not lost["reason"].startswith("TypeError: cannot pickle")
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


NESTED_BEFORE = """
import dataclasses, threading, types
import numpy as np, pandas as pd, torch
bad = threading.Lock()
@dataclasses.dataclass
class Box:
    item: object
    rest: list
class Slotted:
    __slots__ = ("item",)
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.guard = bad
def closure(item=bad):
    def inner(): return bad, item, captured
    captured = bad
    return inner
shared = [1]
in_dict = {"deep": [{"er": bad}], "shared": shared}
in_tuple = (shared, (bad,))
in_set = {bad}
in_dataclass = Box(bad, shared)
in_slots = Slotted(); in_slots.item = bad
in_closure = closure()
in_array = np.array([bad, shared, None], dtype=object)
in_frame = pd.DataFrame({"a": pd.Series([bad, shared], dtype=object), "b": [1, 2]})
in_net = Net(); in_net_layer = in_net.layer
in_namespace = types.SimpleNamespace(item=bad, rest=shared)
class WithAttribute:
    guard = bad
in_method = Box(bad, shared).__repr__
"""
NESTED_AFTER = {
    "dict": "assert in_dict['deep'][0]['er'] is bad and in_dict['shared'] is shared",
    "tuple": "assert in_tuple[1][0] is bad and in_tuple[0] is shared",
    "set": "assert in_set == {bad} and len(in_set) == 1",
    "dataclass": "assert in_dataclass.item is bad and in_dataclass.rest is shared and type(in_dataclass) is Box",
    "slots": "assert in_slots.item is bad and type(in_slots) is Slotted",
    "closure": "assert all(item is bad for item in in_closure()[1:]) and in_closure()[0] is bad",
    "object_array": "assert in_array[0] is bad and in_array[1] is shared and in_array[2] is None",
    "frame": "assert in_frame.a[0] is bad and in_frame.a[1] is shared and list(in_frame.b) == [1, 2]",
    "module": "assert in_net.guard is bad and in_net.layer is in_net_layer; in_net.layer(torch.ones(1, 2))",
    "namespace": "assert in_namespace.item is bad and in_namespace.rest is shared",
    "class": "assert WithAttribute.guard is bad",
    "method": "assert in_method.__self__.item is bad and in_method.__self__.rest is shared",
    "itself": "assert type(bad).__name__ == 'Placeholder' and shared == [1]",
}


def test_every_place_of_a_lost_object_holds_the_same_placeholder(tmp_path: Path) -> None:
    saved = bare_shell("save", tmp_path, {"before": NESTED_BEFORE})
    assert saved["outcome"]["before"] is None, saved["outcome"]["before"]
    assert [lost["path"] for lost in saved["lost"]] == ["bad"]
    loaded = bare_shell("load", tmp_path, NESTED_AFTER)
    assert not any(loaded["outcome"].values()), loaded["outcome"]


@pytest.mark.parametrize(
    ("reason", "maker"),
    [
        ("a lock belongs to the process that made it", "threading.Lock()"),
        ("a generator cannot be saved: Python does not tell where it stands", "(i for i in 'ab')"),
        ("a connection ends with its process", "socket.socket()"),
        ("objects of type sqlite3.Blob cannot be saved", "blob"),
    ],
)
def test_reasons_are_in_words_for_people(reason: str, maker: str) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table t (b blob)")
    connection.execute("insert into t values (zeroblob(9))")
    blob = connection.blobopen("t", "b", 1) if hasattr(connection, "blobopen") else None
    if maker == "blob" and blob is None:
        pytest.skip("blobs came with Python 3.11")
    with pytest.raises(TypeError) as raised:
        pickle.dumps(eval(maker, {"threading": threading, "socket": socket, "blob": blob}))
    assert one_line_reason(raised.value) == reason


def assert_survives(store: Path, before: str, check: str) -> None:
    """What the cell ``before`` makes is saved and restored without a loss, and then passes ``check``."""
    saved = bare_shell("save", store, {"before": before})
    assert saved["outcome"]["before"] is None, saved["outcome"]["before"]
    assert saved["lost"] == []
    loaded = bare_shell("load", store, {"check": check})
    assert loaded["lost"] == []
    assert loaded["outcome"]["check"] is None, loaded["outcome"]["check"]


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
    "interrupt_in_setstate": "class J:\n    def __getstate__(self): return {'a': 1}\n    def __setstate__(self, state): raise KeyboardInterrupt\nbad = J()",
    "exit_in_rebuild": "def leave(x): raise SystemExit(3)\nclass Q:\n    def __reduce__(self): return leave, (1,)\nbad = Q()",
    "memory_in_rebuild": "def wish(x): return bytearray(10**15)\nclass O:\n    def __reduce__(self): return wish, (1,)\nbad = O()",
    "hash_raises": "class H:\n    def __hash__(self): return 1 // self.n\n    def __eq__(self, other): return self is other\nh = H(); h.n = 1; bad = {h}; h.n = 0; del h",
    "module_exits": "import sys, types, pathlib, tempfile\nfolder = tempfile.mkdtemp(); sys.path.insert(0, folder)\npathlib.Path(folder, 'exiting_module.py').write_text('raise SystemExit(1)')\nm = types.ModuleType('exiting_module'); exec('class G: pass', m.__dict__); m.G.__module__ = 'exiting_module'\nimport importlib.machinery\nm.__spec__ = importlib.machinery.ModuleSpec('exiting_module', None); sys.modules['exiting_module'] = m\nbad = m.G(); bad.x = 1; del m",
    "setstate_raises": "class S:\n    def __getstate__(self): return {'a': 1}\n    def __setstate__(self, state): raise ValueError('broken')\nbad = S()",
    "constructor_raises": "class C:\n    def __new__(cls, *a):\n        if not a: raise ValueError('broken')\n        return super().__new__(cls)\n    def __getstate__(self): return {}\nbad = C(1)",
    "rebuild_raises": "def rebuild(x): raise ValueError('broken')\nclass B:\n    def __reduce__(self): return rebuild, (1,)\nbad = B()",
    "append_raises": "class A(list):\n    def append(self, x): raise ValueError('broken')\n    extend = append\n    def __reduce__(self): return A, (), None, iter([1])\nbad = A()",
    "setitem_raises": "class D(dict):\n    def __setitem__(self, k, v): raise ValueError('broken')\n    def __reduce__(self): return D, (), None, None, iter([(1, 2)])\nbad = D()",
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


def test_what_refers_back_to_an_unrestorable_object_holds_its_placeholder(tmp_path: Path) -> None:
    before = (
        "class Node:\n"
        "    def __init__(self): self.children = []; self.by_name = {}\n"
        "    def __setstate__(self, state):\n"
        "        if 'broken' in state: raise ValueError('broken')\n"
        "        self.__dict__.update(state)\n"
        "top = Node(); top.broken = True; child = Node(); child.parent = top; child.by_name['up'] = top\n"
        "child.children.append(top); top.children.append(child); pair = [child, top]"
    )
    saved = bare_shell("save", tmp_path, {"before": before})
    assert saved["lost"] == []
    check = (
        "assert type(top).__name__ == 'Placeholder' and pair[0] is child and pair[1] is top\n"
        "assert child.parent is top and child.by_name['up'] is top and child.children[0] is top"
    )
    loaded = bare_shell("load", tmp_path, {"check": check})
    assert loaded["outcome"]["check"] is None, loaded["outcome"]["check"]


def test_weak_references_lead_to_the_objects_of_the_state(tmp_path: Path) -> None:
    before = (
        "import weakref, gc\n"
        "class Node:\n"
        "    def __init__(self, parent=None): self.parent = parent and weakref.ref(parent); self.children = []\n"
        "    def method(self): return self\n"
        "top = Node(); child = Node(top); top.children.append(child); top.me = weakref.ref(top)\n"
        "reference = weakref.ref(child); proxy = weakref.proxy(child); method = weakref.WeakMethod(child.method)\n"
        "values = weakref.WeakValueDictionary(a=top); keys = weakref.WeakKeyDictionary({child: [1]})\n"
        "members = weakref.WeakSet([top, child]); top.members = members\n"
        "gone = Node(); dead = weakref.ref(gone); values['gone'] = gone; del gone; gc.collect()\n"
        "outside = Node(); strangers = {'held': outside}; orphan = weakref.ref(outside)\n"
        "keep = [outside]; del strangers, outside\n"
        "from concurrent.futures import Future; Future.held = keep; del keep"
    )
    check = (
        "assert child.parent() is top and top.me() is top and top.children[0] is child\n"
        "assert reference() is child and method()() is child and proxy.parent is child.parent\n"
        "assert values['a'] is top and len(values) == 1 and keys[child] == [1]\n"
        "assert set(members) == {top, child} and top.members is members and dead() is None and orphan() is None"
    )
    assert_survives(tmp_path, before, check)


def test_queues_events_and_log_handlers_come_back_with_locks_of_their_own(tmp_path: Path) -> None:
    before = (
        "import logging, queue, sys, threading\n"
        "shared = [1]; jobs = queue.Queue(5); jobs.put(shared); jobs.put(2)\n"
        "first = queue.PriorityQueue(); first.put(3); first.put(1); stop = threading.Event(); stop.set()\n"
        "class Counting(logging.Handler):\n"
        "    count = 0\n"
        "    def emit(self, record): self.count += 1\n"
        "handler = Counting(); log = logging.getLogger('mine'); log.addHandler(handler); log.error('one')\n"
        "plain = logging.StreamHandler(); box = {'handler': handler}"
    )
    check = (
        "assert jobs.maxsize == 5 and jobs.get() is shared and jobs.get_nowait() == 2 and first.get() == 1\n"
        "jobs.task_done(); jobs.task_done(); jobs.join(); assert stop.is_set() and stop.wait(0)\n"
        "log.addHandler(handler); log.error('two'); assert handler.count == 2 and box['handler'] is handler\n"
        "plain.handle(logging.makeLogRecord({'msg': 'shown'})); assert plain.stream is sys.stderr"
    )
    assert_survives(tmp_path, before, check)


def test_second_names_of_the_process_are_the_new_processes_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment holds secrets: another name for it must not take them to the disk."""
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "a-secret-of-the-hub")
    before = (
        "import os, sys\nenvironment = os.environ; path = sys.path; modules = sys.modules\n"
        "box = [environment, {'deep': (path,)}, os.environb, sys.stdin, sys.argv]; sys.stderr = sys.stdout"
    )
    saved = bare_shell("save", tmp_path, {"before": before})
    assert saved["lost"] == []
    packs = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"a-secret-of-the-hub" not in packs
    check = (
        "assert environment is os.environ and path is sys.path and modules is sys.modules\n"
        "assert box[0] is os.environ and box[1]['deep'][0] is sys.path and box[2] is os.environb\n"
        "assert box[3] is sys.stdin and box[4] is sys.argv"
    )
    loaded = bare_shell("load", tmp_path, {"check": check})
    assert loaded["outcome"]["check"] is None, loaded["outcome"]["check"]


def test_object_that_hands_attributes_on_comes_back(tmp_path: Path) -> None:
    """Plain pickle asks the empty object for ``__setstate__`` and gets a KeyError or endless recursion."""
    before = (
        "class Proxy:\n"
        "    def __init__(self, inner): self.inner = inner\n"
        "    def __getattr__(self, name): return getattr(self.__dict__['inner'], name)\n"
        "class Recursing:\n"
        "    def __init__(self, inner): self.inner = inner\n"
        "    def __getattr__(self, name): return getattr(self.inner, name)\n"
        "shared = [1, 2]; proxy = Proxy(shared); recursing = Recursing(proxy)"
    )
    check = "assert proxy.inner is shared and recursing.inner is proxy and recursing.count(1) == 1"
    assert_survives(tmp_path, before, check)


def test_code_that_runs_while_restoring_sees_the_modules_and_functions_of_the_notebook(
    tmp_path: Path,
) -> None:
    before = (
        "class Table:\n"
        "    def __init__(self, rows): self.rows = deque(rows); self.size = measure(self.rows)\n"
        "    def __getstate__(self): return list(self.rows)\n"
        "    def __setstate__(self, rows): self.__init__(rows)\n"
        "def measure(rows): return math.floor(len(rows) + offset)\n"
        "offset = 0.5; import math; from collections import deque; table = Table([1, 2])\n"
    )
    assert_survives(tmp_path, before, "assert table.size == 2 and table.rows == deque([1, 2])")


def test_class_that_lost_an_attribute_costs_only_what_needs_it(tmp_path: Path) -> None:
    """A module of the user's that was edited between the two processes."""
    module = tmp_path / "shapes.py"
    module.write_text(
        "import enum\nclass Shape:\n    class Part: pass\nclass Color(enum.Enum):\n    RED = 1\n    BLUE = 2\n"
        "def make(): pass\n"
    )
    before = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import shapes\n"
        "whole = shapes.Shape(); part = shapes.Shape.Part(); color = shapes.Color.BLUE; red = shapes.Color.RED\n"
        "make = shapes.make; both = [whole, part, color, red, make]"
    )
    saved = bare_shell("save", tmp_path / "store", {"before": before})
    assert saved["lost"] == []
    module.write_text("import enum\nclass Shape: pass\nclass Color(enum.Enum):\n    RED = 1\n")
    check = (
        "lost = [part, color, make]\nassert all(type(x).__name__ in ('Placeholder', 'LostClass') for x in lost), lost\n"
        "assert type(whole) is shapes.Shape and red is shapes.Color.RED\n"
        "assert all(a is b for a, b in zip(both, [whole, part, color, red, make]))"
    )
    loaded = bare_shell("load", tmp_path / "store", {"check": check})
    assert loaded["outcome"]["check"] is None, loaded["outcome"]["check"]
    assert {lost["respawner_path"] for lost in loaded["lost"]} >= {"part", "color", "make"}
