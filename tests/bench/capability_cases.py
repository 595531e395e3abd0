"""What a notebook may hold, and whether it is the same after its kernel was killed: the cases of `make capabilities`.

A case is cells that a person runs, then the end of the kernel, then a cell in the next kernel that sets ``ok``.
The cells are written as people write them; checks import what they need, so that a missing import is never the
reason. ``{folder}`` stands for the kernel's folder.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    name: str
    cells: tuple[str, ...]
    check: str
    fails: bool = False
    """The last cell ends in an error."""
    by_itself: bool = False
    """Nobody does anything after the restart: no load, no checkout."""
    dies_in: str = ""
    """A cell in which the kernel gets SIGKILL, after the last save."""


NET = """\
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
    def forward(self, x):
        return self.layer(x)
model = Net()"""

ADAM = """\
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
model(torch.ones(2, 3)).sum().backward()
optimizer.step()"""

LOCK = "import threading; lock = threading.Lock()"

GROUPS: dict[str, list[Case]] = {
    "Identity": [
        Case("two names for one list", ("a = [1]; b = a",), "ok = a is b"),
        Case("one list inside another object", ("a = [1]; d = {'k': [a]}",), "ok = d['k'][0] is a"),
        Case("an object that holds itself", ("a = []; a.append(a)",), "ok = a[0] is a"),
        Case(
            "100,000 levels of nesting",
            ("deep = []\nfor _ in range(100_000): deep = [deep]",),
            "levels, at = 0, deep\nwhile at: at = at[0]; levels += 1\nok = levels == 100_000",
        ),
        Case(
            "a deleted variable stays deleted",
            ("a = 1; b = 2", "del a"),
            "ok = b == 2 and 'a' not in globals()",
        ),
        Case(
            "an object with a hash of its own in a set that it holds",
            (
                (
                    "class Node:\n    def __init__(self, name): self.name = name; self.near = {self}\n"
                    "    def __hash__(self): return hash(self.name)\n"
                    "    def __eq__(self, other): return self.name == other.name\nnode = Node('a')"
                ),
            ),
            "ok = node in node.near and Node('a') in node.near",
        ),
        Case(
            "weak references lead to the same objects",
            (
                "import weakref\nclass C: pass\nc = C(); table = weakref.WeakValueDictionary({'c': c}); r = weakref.ref(c)",
            ),
            "ok = table['c'] is c and r() is c",
        ),
        Case("`Out[n]` is the variable, not a copy", ("a = [1]", "a"), "ok = Out[2] is a"),
    ],
    "Functions and classes of the notebook": [
        Case("a function reads a global", ("k = 3\ndef f(): return k",), "ok = f() == 3"),
        Case(
            "a function sees a later change of the global",
            ("k = 3\ndef f(): return k",),
            "k = 9\nok = f() == 9",
        ),
        Case(
            "a function counts with `global`",
            ("n = 0\ndef count():\n    global n\n    n += 1", "count()"),
            "count()\nok = n == 2",
        ),
        Case(
            "two closures share a variable",
            (
                (
                    "def pair():\n    n = 0\n    def add():\n        nonlocal n\n        n += 1\n    def get(): return n\n"
                    "    return add, get\nadd, get = pair()"
                ),
            ),
            "add()\nok = get() == 1",
        ),
        Case("a lambda in a dict", ("table = {'double': lambda x: 2 * x}",), "ok = table['double'](4) == 8"),
        Case(
            "a function with `lru_cache`",
            ("import functools\n@functools.lru_cache\ndef square(n): return n * n", "square(3)"),
            "ok = square(4) == 16",
        ),
        Case("an instance is of its class", ("class C: pass\nc = C()",), "ok = type(c) is C"),
        Case(
            "a class attribute that was changed later",
            ("class C: rate = 1\nc = C()", "C.rate = 5"),
            "ok = C.rate == c.rate == 5",
        ),
        Case(
            "`super()` and a hierarchy",
            (
                "class A:\n    def hi(self): return 'a'\nclass B(A):\n    def hi(self): return super().hi() + 'b'\nb = B()",
            ),
            "ok = b.hi() == 'ab' and isinstance(b, A)",
        ),
        Case(
            "an instance of a class that was defined again",
            (
                "class C:\n    def version(self): return 1\nold = C()",
                "class C:\n    def version(self): return 2\nnew = C()",
            ),
            "ok = (old.version(), new.version()) == (1, 2) and type(new) is C",
        ),
        Case(
            "an enum's members as keys of a table in the enum",
            (
                "import enum\nclass Color(enum.Enum):\n    RED = 1\n    BLUE = 2\nColor.names = {Color.RED: 'red'}; c = Color.RED",
            ),
            "ok = Color.names[c] == 'red' and c is Color.RED",
        ),
        Case(
            "dataclass, enum and namedtuple",
            (
                (
                    "import collections, dataclasses, enum\n"
                    "@dataclasses.dataclass\nclass Point:\n    x: int\n"
                    "class Color(enum.Enum):\n    RED = 1\n"
                    "Pair = collections.namedtuple('Pair', 'a b')\n"
                    "point, color, pair = Point(3), Color.RED, Pair(1, 2)"
                ),
            ),
            "ok = point == Point(3) and color is Color.RED and pair == Pair(1, 2) and type(pair) is Pair",
        ),
    ],
    "torch": [
        Case(
            "a model of a class of the notebook",
            (NET,),
            "import torch\nok = model(torch.ones(1, 3)).shape == (1, 3)",
        ),
        Case(
            "the optimizer's parameters are the model's",
            (NET, ADAM),
            "ok = optimizer.param_groups[0]['params'][0] is next(model.parameters())",
        ),
        Case(
            "training on gives what it gives without a restart",
            (NET, ADAM, "import copy; twin, state = copy.deepcopy((model, optimizer))"),
            "import torch\n"
            "for m, o in ((model, optimizer), (twin, state)):\n"
            "    o.zero_grad(); m(torch.ones(2, 3)).sum().backward(); o.step()\n"
            "ok = all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters())) "
            "and len(optimizer.state) == 2",
        ),
        Case(
            "scheduler → optimizer",
            (NET, ADAM, "scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)"),
            "scheduler.step()\nok = scheduler.optimizer is optimizer and abs(optimizer.param_groups[0]['lr'] - 0.01) < 1e-9",
        ),
        Case("`.grad`", (NET, ADAM), "ok = next(model.parameters()).grad is not None"),
        Case(
            "tied weights",
            (
                NET,
                "model.layer.weight = model.layer.weight; other = torch.nn.Linear(3, 3); other.weight = model.layer.weight",
            ),
            "ok = other.weight is model.layer.weight",
        ),
        Case(
            "views of one storage",
            ("import torch; t = torch.zeros(4, 4); row = t[1]",),
            "row += 1\nok = t[1].sum().item() == 4",
        ),
        Case(
            "a transposed view keeps its strides",
            ("import torch; t = torch.arange(6.0).reshape(2, 3); u = t.t()",),
            "u[0, 0] = 9\nok = u.stride() == (1, 3) and t[0, 0].item() == 9",
        ),
        Case(
            "a forward hook",
            (NET, "seen = []\nhandle = model.register_forward_hook(lambda m, i, o: seen.append(1))"),
            "import torch\nmodel(torch.ones(1, 3))\nok = len(seen) == 1",
        ),
        Case(
            "a tensor's hook",
            (
                "import torch; w = torch.ones(2, requires_grad=True); handle = w.register_hook(lambda g: 2 * g)",
            ),
            "w.sum().backward()\nok = w.grad.tolist() == [2.0, 2.0]",
        ),
        Case(
            "sparse, complex and float8 tensors",
            (
                (
                    "import torch\ns = torch.eye(3).to_sparse(); c = torch.ones(2, dtype=torch.complex64)\n"
                    "f = torch.ones(4).to(torch.float8_e4m3fn)"
                ),
            ),
            "ok = s.is_sparse and s.to_dense().sum().item() == 3 and c.is_complex() and f.float().sum().item() == 4",
        ),
        Case(
            "a `torch.Generator`",
            ("import torch; g = torch.Generator().manual_seed(5); torch.rand(3, generator=g)",),
            "import torch\nh = torch.Generator().manual_seed(5); torch.rand(3, generator=h)\n"
            "ok = torch.equal(torch.rand(3, generator=g), torch.rand(3, generator=h))",
        ),
        Case(
            "a TorchScript function and module",
            (
                (
                    "import torch\n@torch.jit.script\ndef double(x): return x * 2\n"
                    "m = torch.jit.script(torch.nn.Linear(2, 2)); m.note = 'mine'; o = torch.optim.SGD(m.parameters(), 0.1)"
                ),
            ),
            "import torch\nok = double(torch.ones(1)).item() == 2 and m.note == 'mine' and o.param_groups[0]['params'][0] is m.weight",
        ),
        Case(
            "a weight-normed layer (parametrization) trains on",
            (
                "import torch; m = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2)); o = torch.optim.SGD(m.parameters(), 0.1)",
            ),
            "import torch\nw = m.weight.detach().clone(); m(torch.ones(1, 2)).sum().backward(); o.step()\nok = not torch.equal(w, m.weight)",
        ),
        Case(
            "a DataLoader with its dataset",
            (
                (
                    "import torch\ndata = torch.utils.data.TensorDataset(torch.arange(6.0))\n"
                    "loader = torch.utils.data.DataLoader(data, batch_size=2)"
                ),
            ),
            "ok = loader.dataset is data and len(list(loader)) == 3",
        ),
    ],
    "numpy, pandas and others": [
        Case(
            "an array and the tensor over it",
            ("import numpy as np, torch; a = np.zeros(3); t = torch.from_numpy(a)",),
            "t[0] = 7\nok = a[0] == 7",
        ),
        Case(
            "views of an array",
            ("import numpy as np; a = np.zeros((3, 3)); v = a[:, 1]",),
            "v[:] = 2\nok = a[:, 1].sum() == 6",
        ),
        Case(
            "a memory-mapped file stays one",
            (
                "import numpy as np; m = np.memmap('{folder}/mapped', 'f4', 'w+', shape=(10,)); m[3] = 5; m.flush()",
            ),
            "import numpy as np\nm[4] = 6; m.flush()\n"
            "ok = isinstance(m, np.memmap) and np.fromfile('{folder}/mapped', 'f4')[4] == 6",
        ),
        Case(
            "a memoryview of an array",
            ("import array; a = array.array('d', [1, 2]); v = memoryview(a)",),
            "a[0] = 7\nok = v[0] == 7",
        ),
        Case(
            "an object array's elements are the variables",
            ("import numpy as np; a = [1]; o = np.array([a, None], dtype=object)",),
            "ok = o[0] is a",
        ),
        Case(
            "a frame with categories",
            (
                "import pandas as pd; df = pd.DataFrame({'c': pd.Categorical(['x', 'y', 'x']), 'n': [1, 2, 3]})",
            ),
            "ok = list(df.c.cat.categories) == ['x', 'y'] and df.n.sum() == 6",
        ),
        Case(
            "a fitted scikit-learn pipeline",
            (
                (
                    "from sklearn.pipeline import make_pipeline\nfrom sklearn.preprocessing import StandardScaler\n"
                    "from sklearn.linear_model import LinearRegression\n"
                    "p = make_pipeline(StandardScaler(), LinearRegression()).fit([[0.0], [1.0]], [0.0, 1.0])"
                ),
            ),
            "ok = abs(p.predict([[2.0]])[0] - 2) < 1e-6",
        ),
    ],
    "State of the process": [
        Case(
            "`random`",
            ("import random; random.seed(1); random.random()",),
            "import random\nr = random.Random(1); r.random()\nok = random.random() == r.random()",
        ),
        Case(
            "`numpy.random`",
            ("import numpy as np; np.random.seed(1); np.random.rand()",),
            "import numpy as np\nr = np.random.RandomState(1); r.rand()\nok = np.random.rand() == r.rand()",
        ),
        Case(
            "torch's generator",
            ("import torch; torch.manual_seed(1); torch.rand(1)",),
            "import torch\nr = torch.Generator().manual_seed(1); torch.rand(1, generator=r)\n"
            "ok = torch.equal(torch.rand(1), torch.rand(1, generator=r))",
        ),
        Case(
            "working folder",
            ("import os; os.makedirs('{folder}/work'); os.chdir('{folder}/work')",),
            "import os\nok = os.getcwd().endswith('/work')",
        ),
        Case(
            "a variable of the environment",
            ("import os; os.environ['MY_SETTING'] = 'on'",),
            "import os\nok = os.environ.get('MY_SETTING') == 'on'",
        ),
        Case(
            "`sys.path`",
            ("import sys; sys.path.insert(0, '{folder}/lib')",),
            "import sys\nok = sys.path[0] == '{folder}/lib'",
        ),
        Case("an import under another name", ("import json as j",), "ok = j.dumps([1]) == '[1]'"),
        Case("`In` and `Out`", ("21 * 2", "a = 1"), "ok = Out[1] == 42 and In[1] == '21 * 2'"),
        # IPython counts a cell when it begins: in the third one it says 4
        Case("the prompt's number goes on", ("a = 1", "b = 2"), "ok = get_ipython().execution_count == 4"),
        Case(
            "matplotlib's rcParams",
            ("import matplotlib; matplotlib.rcParams['lines.linewidth'] = 7.5",),
            "import matplotlib\nok = matplotlib.rcParams['lines.linewidth'] == 7.5",
        ),
        Case(
            "pandas' options",
            ("import pandas as pd; pd.set_option('display.max_rows', 7)",),
            "import pandas as pd\nok = pd.get_option('display.max_rows') == 7",
        ),
        Case(
            "warnings filters",
            ("import warnings; warnings.filterwarnings('ignore', message='noise of mine')",),
            "import warnings\nok = any(f[1] and 'noise of mine' in f[1].pattern for f in warnings.filters)",
        ),
        Case(
            "a logger with a handler of the notebook",
            (
                (
                    "import io, logging; text = io.StringIO(); log = logging.getLogger('mine')\n"
                    "log.addHandler(logging.StreamHandler(text)); log.setLevel(logging.INFO); log.info('one')"
                ),
            ),
            "log.info('two')\nok = text.getvalue() == 'one\\ntwo\\n'",
        ),
        Case(
            "a loaded IPython extension",
            ("%load_ext autoreload",),
            "ok = any(name.endswith('autoreload') for name in get_ipython().extension_manager.loaded)",
        ),
    ],
    "Cells of every kind": [
        Case("what a failing cell made", ("a = 1", "b = 2\n1 / 0"), "ok = (a, b) == (1, 2)", fails=True),
        Case(
            "what an interrupted cell made",
            ("a = 1", "b = 2\nraise KeyboardInterrupt"),
            "ok = (a, b) == (1, 2)",
            fails=True,
        ),
        Case("what an async cell made", ("import asyncio; await asyncio.sleep(0.01); a = 1",), "ok = a == 1"),
        Case(
            "what a magic made",
            ("%%time\na = 1", "%env MY_MAGIC=2"),
            "import os\nok = a == 1 and os.environ.get('MY_MAGIC') == '2'",
        ),
    ],
    "One bad object": [
        Case("a lock: the other variables", (LOCK + "; a = 5",), "ok = a == 5"),
        Case("a lock: variables of later cells", (LOCK, "a = 5"), "ok = a == 5"),
        Case(
            "a lock inside a dict: the dict's other parts, with identity",
            ("data = [1]; import threading; box = {'lock': threading.Lock(), 'data': data}",),
            "ok = box['data'] is data",
        ),
        Case(
            "a lock that is gone says so when it is used",
            (LOCK,),
            "try:\n    lock.acquire(); ok = True\nexcept NameError:\n    ok = False\nexcept Exception as error:\n    ok = 'lock' in str(error)",
        ),
        Case(
            "a generator: the other variables", ("g = (n for n in range(9)); next(g); a = 5",), "ok = a == 5"
        ),
        Case(
            "a running thread: the other variables",
            (
                "import threading, time; t = threading.Thread(target=time.sleep, args=(600,), daemon=True); t.start(); a = 5",
            ),
            "ok = a == 5",
        ),
        Case("an open file: the other variables", ("f = open('{folder}/log', 'w'); a = 5",), "ok = a == 5"),
        Case("a socket: the other variables", ("import socket; s = socket.socket(); a = 5",), "ok = a == 5"),
        Case(
            "an iterator of a DataLoader: the other variables",
            ("import torch; it = iter(torch.utils.data.DataLoader(list(range(9)))); next(it); a = 5",),
            "ok = a == 5",
        ),
        Case(
            "an object that cannot be pickled: the other variables",
            ("class Bad:\n    def __reduce__(self): raise ValueError('no')\nbad = Bad(); a = 5",),
            "ok = a == 5",
        ),
        Case(
            "an object that cannot be unpickled: the other variables",
            (
                (
                    "class Bad:\n    def __init__(self): self.n = 1\n    def __setstate__(self, state): raise ValueError('no')\n"
                    "bad = Bad(); a = 5"
                ),
            ),
            "ok = a == 5",
        ),
    ],
    "Nothing is run again": [
        Case(
            "a cell's side effect is not repeated",
            ("a = 5; open('{folder}/effects', 'a').write('x')",),
            "ok = a == 5 and open('{folder}/effects').read() == 'x'",
        ),
        Case(
            "… neither where the cell made something that cannot be saved",
            (LOCK + "; a = 5; open('{folder}/effects', 'a').write('x')",),
            "ok = a == 5 and open('{folder}/effects').read() == 'x'",
        ),
        Case(
            "unseeded random weights are the same",
            (
                LOCK
                + "; import random; w = random.SystemRandom().random(); open('{folder}/first', 'a').write(f'{w}\\n')",
            ),
            "ok = str(w) == open('{folder}/first').readline().strip()",
        ),
    ],
    "The end": [
        Case("it comes back by itself", ("a = 5",), "ok = a == 5", by_itself=True),
        Case(
            "killed in a cell: the state before it",
            ("a = 5",),
            "ok = a == 5",
            dies_in="a = 6; import os; os.kill(os.getpid(), 9)",
        ),
    ],
}
