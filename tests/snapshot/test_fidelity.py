"""What must be the same in a fresh process. Each case has names of its own; all go through one snapshot."""

from __future__ import annotations

import pytest

from tests.snapshot.fidelity import Case, RoundTrip

CASES = [
    Case("alias", "al_a = [1]; al_b = al_a; al_c = {'x': al_a}", "assert al_a is al_b is al_c['x']"),
    Case("cycle", "cy = []; cy.append(cy)", "assert cy[0] is cy"),
    Case(
        "bytes",
        "by = bytes(range(256)) * 2000; by2 = by",
        "assert by == bytes(range(256)) * 2000 and by2 is by",
    ),
    Case(
        "bytearray",
        "ba = bytearray(300_000); ba[7] = 1",
        "assert len(ba) == 300_000 and ba[7] == 1; ba.append(2)",
    ),
    Case("long_text", "lt = 'ä€😀' * 100_000", "assert lt == 'ä€😀' * 100_000"),
    Case("surrogates", r"sg = '\ud800'", r"assert sg == '\ud800'"),
    Case(
        "deep_nesting",
        "dn = []\nfor _ in range(100_000): dn = [dn]",
        "n = 0\nwhile dn: dn = dn[0]; n += 1\nassert n == 100_000",
    ),
    # Code of the notebook
    Case("function_sees_later_globals", "fg_k = 1\ndef fg(): return fg_k", "fg_k = 2\nassert fg() == 2"),
    Case(
        "function_calls_later_function",
        "def fl(): return fl_helper()",
        "def fl_helper(): return 5\nassert fl() == 5",
    ),
    Case("function_sets_global", "fs_n = 0\ndef fs():\n    global fs_n; fs_n += 1", "fs(); assert fs_n == 1"),
    Case(
        "function_attributes",
        "def fa(x: int = 3, *, y='q') -> str:\n    'doc'\n    return x, y\nfa.mark = [1]",
        "assert fa() == (3, 'q') and fa.__doc__ == 'doc' and fa.mark == [1]\n"
        "assert fa.__annotations__ == {'x': int, 'return': str} and fa.__name__ == 'fa' and fa.__module__ == '__main__'",
    ),
    Case(
        "closures_share_cells",
        "def cs():\n    n = 0\n    def up():\n        nonlocal n; n += 1\n    def get(): return n\n    return up, get\ncs_up, cs_get = cs()",
        "cs_up(); cs_up(); assert cs_get() == 2",
    ),
    Case(
        "recursive_closure",
        "def rc():\n    def fact(n): return n * fact(n - 1) if n else 1\n    return fact\nrc_fact = rc()",
        "assert rc_fact(5) == 120 and rc_fact.__closure__[0].cell_contents is rc_fact",
    ),
    Case(
        "lambda_in_container", "li_k = 2; li = {'f': lambda x: x * li_k}", "li_k = 3; assert li['f'](2) == 6"
    ),
    Case("generator_function", "def gf():\n    yield from range(3)", "assert list(gf()) == [0, 1, 2]"),
    Case(
        "decorated",
        "import functools\n@functools.lru_cache\ndef dc(x): return x + 1\ndc(1)",
        "assert dc(1) == 2",
    ),
    Case(
        "partial",
        "import functools\ndef pa_f(a, b): return a - b\npa = functools.partial(pa_f, 5)",
        "assert pa(3) == 2 and pa.func is pa_f",
    ),
    Case(
        "bound_method",
        "class BM:\n    def m(self): return self\nbm_o = BM(); bm = bm_o.m",
        "assert bm() is bm_o",
    ),
    Case(
        "class_identity",
        "class CI:\n    n = 0\n    def __init__(self): type(self).n += 1\n    def who(self): return type(self)\nci = CI(); ci_t = type(ci)",
        "assert type(ci) is CI is ci_t is ci.who() and CI.n == 1\nCI.extra = 4\nassert ci.extra == 4",
    ),
    Case(
        "inheritance_and_super",
        "class IA:\n    def f(self): return 'a'\nclass IB(IA):\n    def f(self): return super().f() + 'b'\nib = IB()",
        "assert ib.f() == 'ab' and isinstance(ib, IA) and IB.__mro__[1] is IA",
    ),
    Case(
        "class_methods_see_globals",
        "cg_k = 1\nclass CG:\n    @property\n    def p(self): return cg_k\n    @classmethod\n    def c(cls): return cls, cg_k\n    @staticmethod\n    def s(): return cg_k\ncg = CG()",
        "cg_k = 9; assert cg.p == 9 and cg.c() == (CG, 9) and cg.s() == 9",
    ),
    Case(
        "slots",
        "class SL:\n    __slots__ = ('a', 'b')\nsl = SL(); sl.a = 1",
        "assert sl.a == 1 and not hasattr(sl, 'b')",
    ),
    Case(
        "dataclass",
        "from dataclasses import dataclass, field, replace\n@dataclass(frozen=True)\nclass DA:\n    x: int\n    y: list = field(default_factory=list)\nda = DA(1, [2])",
        "assert replace(da, x=3) == DA(3, [2]) and type(da) is DA",
    ),
    Case(
        "enum",
        "import enum\nclass EN(enum.Enum):\n    A = 1\n    B = 2\nen = [EN.A, {EN.B: 1}]",
        "assert en[0] is EN.A and en[1][EN.B] == 1",
    ),
    Case(
        "namedtuple",
        "from collections import namedtuple\nNT = namedtuple('NT', 'a b')\nnt = NT(1, 2)",
        "assert nt.a == 1 and type(nt) is NT",
    ),
    Case(
        "abstract_class",
        "import abc\nclass AB(abc.ABC):\n    @abc.abstractmethod\n    def f(self): ...\nclass AC(AB):\n    def f(self): return 1\nac = AC()",
        "assert ac.f() == 1 and isinstance(ac, AB)",
    ),
    Case(
        "metaclass",
        "class ME(type):\n    def hello(cls): return cls.__name__\nclass MC(metaclass=ME): pass\nmc = MC()",
        "assert MC.hello() == 'MC' and type(MC) is ME and type(mc) is MC",
    ),
    Case(
        "typing",
        "import typing\nty = typing.TypeVar('ty'); ty_g: 'list[int]' = []\nclass TY(typing.Generic[ty]): pass",
        "assert TY[int]().__class__ is TY",
    ),
    Case(
        "exception",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    ex = error",
        "assert isinstance(ex, ZeroDivisionError) and ex.args == ('division by zero',)",
    ),
    Case(
        "custom_exception",
        "class CE(Exception):\n    def __init__(self, a, b): super().__init__(a); self.a, self.b = a, b\nce = CE(1, 2) if False else None",
        "assert ce is None and CE(1, 2).b == 2",
    ),
    # Library objects
    Case(
        "modules",
        "import json, os.path as mo_p",
        "assert json.dumps([1]) == '[1]' and mo_p.join('a', 'b') == 'a/b'",
    ),
    Case("namespace_itself", "ns = globals(); ns_in = [globals()]", "assert ns is globals() is ns_in[0]"),
    Case("get_ipython", "from IPython import get_ipython as gi_f\ngi = gi_f()", "assert gi is gi_f()"),
    Case(
        "collections",
        "from collections import defaultdict, OrderedDict, Counter, deque\nco = [defaultdict(list, a=[1]), OrderedDict(b=2), Counter('aab'), deque([1, 2], 5)]",
        "co[0]['z'].append(1); assert co[2]['a'] == 2 and co[3].maxlen == 5 and co[1] == {'b': 2}",
    ),
    Case(
        "empty_ordered_dictionary",
        "from collections import OrderedDict\neo = OrderedDict(); eo_two = [eo, OrderedDict()]\neo_named = OrderedDict(); eo_named.about = 'hooks'",
        "assert type(eo) is OrderedDict and not eo and eo_two[0] is eo is not eo_two[1]\nassert eo_named.about == 'hooks'; eo['b'] = 1; eo['a'] = 2; assert list(eo_two[0]) == ['b', 'a']",
    ),
    Case(
        "dates",
        "import datetime as dt\nda_t = dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc)",
        "assert da_t.isoformat() == '2026-01-02T00:00:00+00:00'",
    ),
    Case("regex", "import re\nrx = re.compile('a+')", "assert rx.match('aa')"),
    Case(
        "random_streams",
        "import random\nrandom.seed(1); random.random(); rs_s = random.getstate(); rs_r = random.Random(5); rs_m = random.random",
        "random.setstate(rs_s); rs_a = random.random(); random.setstate(rs_s); assert rs_m() == rs_a",
    ),
    Case("underscored_name", "_un = 4", "assert _un == 4"),
    # numpy
    Case(
        "array_view",
        "import numpy as np\nav = np.arange(12.0).reshape(3, 4); av_row = av[1]; av_t = av.T; av_r = av[::-1, ::2]",
        "av_row[2] = 60; assert av[1, 2] == 60 == av_t[2, 1] == av_r[1, 1] and av_row.base is not None",
    ),
    Case(
        "array_owns_its_data",
        "import numpy as np\nao = np.ones((3, 3), np.float32); aof = np.asfortranarray(np.arange(6).reshape(2, 3))",
        "assert ao.flags.owndata and aof.flags.f_contiguous and aof.tolist() == [[0, 1, 2], [3, 4, 5]]; ao.resize((9,), refcheck=False)",
    ),
    Case(
        "array_small_view_of_large",
        "import numpy as np\nasv_a = np.zeros(200_000); asv = asv_a[5:7]",
        "asv_a[6] = 3; assert asv[1] == 3",
    ),
    Case(
        "array_large_content",
        "import numpy as np\nalc = np.random.default_rng(0).normal(size=300_000)",
        "assert (alc == np.random.default_rng(0).normal(size=300_000)).all()",
    ),
    Case(
        "array_read_only",
        "import numpy as np\narr_o = np.arange(5); arr_o.flags.writeable = False; arr_v = arr_o[1:]",
        "assert not arr_o.flags.writeable and not arr_v.flags.writeable and arr_v[0] == 1",
    ),
    Case(
        "array_dtypes",
        "import numpy as np\nadt = [np.array(['2026-01-01'], 'M8[D]'), np.array([(1, 2.0)], [('a', 'i4'), ('b', 'f8')]), np.array(['ab', 'c']), np.array([1 + 2j]), np.array(5.0), np.array([], 'u1'), np.array([True]), np.float32(3)]",
        "assert adt[0][0] == np.datetime64('2026-01-01') and adt[1]['b'][0] == 2.0 and adt[2][0] == 'ab' and adt[3][0].imag == 2 and adt[4] == 5.0 and adt[4].shape == () and adt[5].shape == (0,) and adt[6][0] and adt[7].dtype == 'f4'",
    ),
    Case(
        "array_of_objects",
        "import numpy as np\naob_x = [1]; aob = np.array([aob_x, None, 'q'], dtype=object)",
        "assert aob[0] is aob_x and aob[2] == 'q'",
    ),
    Case(
        "array_over_bytes",
        "import numpy as np\nabu_b = bytearray(b'abcdef'); abu = np.frombuffer(abu_b, 'u1', offset=2); abu_c = np.frombuffer(b'xyz', 'u1')",
        "abu[0] = 65; assert abu_b[2] == 65 and bytes(abu_c) == b'xyz' and not abu_c.flags.writeable",
    ),
    Case(
        "array_broadcast",
        "import numpy as np\nabr = np.broadcast_to(np.arange(3), (1000, 3))",
        "assert abr.shape == (1000, 3) and abr.strides[0] == 0 and abr[999, 2] == 2",
    ),
    Case(
        "array_transposed_3d",
        "import numpy as np\nat3 = np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1).copy('K')",
        "assert at3[3, 1, 2] == 23 and at3.shape == (4, 2, 3)",
    ),
    Case(
        "masked_array",
        "import numpy as np\nma = np.ma.array([1, 2, 3], mask=[0, 1, 0])",
        "assert ma.sum() == 4",
    ),
    Case(
        "numpy_generator",
        "import numpy as np\nng = np.random.default_rng(3); ng.normal(); ng_next = ng.bit_generator.state",
        "assert ng.bit_generator.state == ng_next",
    ),
    Case(
        "numpy_global_stream",
        "import numpy as np\nfrom numpy.random import rand as ngs_rand\nngs_state = np.random.get_state()",
        "np.random.seed(9); ngs_x = ngs_rand(); np.random.seed(9); assert np.random.rand() == ngs_x; np.random.set_state(ngs_state)",
    ),
    # torch
    Case(
        "tensor_views",
        "import torch\ntv = torch.arange(10.0); tv_a = tv[2:5]; tv_b = tv.view(2, 5).t(); tv_d = tv.detach()",
        "tv_a[0] = 99; assert tv[2] == 99 == tv_b[2, 0] == tv_d[2]",
    ),
    Case(
        "tensor_resizable",
        "import torch\ntr = torch.zeros(4)",
        "tr.resize_(100_000); assert tr.numel() == 100_000",
    ),
    Case(
        "tensor_and_array",
        "import torch, numpy as np\nta_a = np.arange(6.0); ta_t = torch.from_numpy(ta_a[2:]); ta_u = torch.arange(5); ta_n = ta_u.numpy(); ta_v = ta_n[1:3]",
        "ta_a[3] = 50; assert ta_t[1] == 50; ta_u[2] = 70; assert ta_n[2] == 70 == ta_v[1]",
    ),
    Case(
        "tensor_and_array_large",
        "import torch, numpy as np\ntl_a = np.zeros((500, 500)); tl_t = torch.from_numpy(tl_a); tl_w = torch.zeros(300_000); tl_n = tl_w.numpy()",
        "tl_a[4, 4] = 8; assert tl_t[4, 4] == 8; tl_w[9] = 3; assert tl_n[9] == 3",
    ),
    Case(
        "tensor_dtypes",
        "import torch\ntd = [torch.zeros(3, dtype=d) for d in (torch.float16, torch.bfloat16, torch.uint16, torch.float8_e4m3fn, torch.bool, torch.complex64, torch.int8)]",
        "assert [t.dtype for t in td] == [torch.float16, torch.bfloat16, torch.uint16, torch.float8_e4m3fn, torch.bool, torch.complex64, torch.int8]",
    ),
    Case(
        "gradients",
        "import torch\ngr = torch.ones(3, requires_grad=True); (gr * 2).sum().backward(); gr_g = gr.grad",
        "assert gr.grad.tolist() == [2, 2, 2] and gr.grad is gr_g and gr.requires_grad and gr.is_leaf",
    ),
    Case(
        "parameter",
        "import torch\npm = torch.nn.Parameter(torch.ones(2), requires_grad=False); pm.tag = 'x'",
        "assert type(pm) is torch.nn.Parameter and not pm.requires_grad and pm.tag == 'x'",
    ),
    Case(
        "non_leaf_is_detached",
        "import torch\nnl_w = torch.ones(2, requires_grad=True); nl = (nl_w * 3).sum()",
        "assert nl.item() == 6 and not nl.requires_grad and nl_w.requires_grad",
    ),
    Case(
        "conjugate_and_sparse",
        "import torch\ncj = torch.tensor([1 + 2j]).conj(); sp = torch.eye(3).to_sparse()",
        "assert cj[0].imag == -2 and sp.to_dense().sum() == 3",
    ),
    Case(
        "optimizer_and_parameters",
        "import torch\nop_m = torch.nn.Linear(2, 2); op = torch.optim.SGD(op_m.parameters(), lr=0.1, momentum=0.9); op_m(torch.ones(1, 2)).sum().backward(); op.step()",
        "assert op.param_groups[0]['params'][0] is op_m.weight and op_m.weight in op.state",
    ),
    Case(
        "tied_weights",
        "import torch\ntw_a = torch.nn.Linear(3, 3); tw_b = torch.nn.Linear(3, 3); tw_b.weight = tw_a.weight",
        "assert tw_b.weight is tw_a.weight",
    ),
    Case(
        "torch_generator",
        "import torch\ntg = torch.Generator().manual_seed(7); torch.rand(3, generator=tg); tg_s = tg.get_state().clone()",
        "assert (tg.get_state() == tg_s).all()",
    ),
    Case(
        "dataset_and_loader",
        "import torch\nclass DS(torch.utils.data.Dataset):\n    def __len__(self): return 4\n    def __getitem__(self, i): return i\ndl = torch.utils.data.DataLoader(DS(), batch_size=2)",
        "assert [b.tolist() for b in dl] == [[0, 1], [2, 3]] and type(dl.dataset) is DS",
    ),
    # pandas, scikit-learn, matplotlib
    Case(
        "data_frame",
        "import pandas as pd, numpy as np\ndf = pd.DataFrame({'a': np.arange(5), 'b': list('vwxyz'), 'c': pd.date_range('2026', periods=5)}).set_index('b')",
        "assert df.loc['x', 'a'] == 2 and df.c.dt.year.eq(2026).all()",
    ),
    Case(
        "copy_on_write",
        "import pandas as pd\ncw = pd.DataFrame({'a': [1.0, 2.0], 'b': [3.0, 4.0]}); cw_s = cw['a']; cw_v = cw[:]; cw_i = pd.Index(cw_s)",
        "cw_s.iloc[0] = 99; assert pd.__version__ < '3' or cw.iloc[0, 0] == 1 and cw_v.iloc[0, 0] == 1 and cw_s.iloc[0] == 99\ncw.iloc[1, 0] = 55; assert pd.__version__ < '3' or cw_v.iloc[1, 0] == 2 and cw_i[1] == 2.0",
    ),
    Case(
        "copy_on_write_of_an_index",
        "import pandas as pd\ncwi_s = pd.Series([1.0, 2.0]); cwi = pd.Index(cwi_s)",
        "cwi_s.iloc[0] = 99; assert pd.__version__ < '3' or cwi[0] == 1.0 and cwi_s.iloc[0] == 99",
    ),
    Case(
        "categorical",
        "import pandas as pd\nct = pd.Series(['x', 'y', 'x'], dtype='category')",
        "assert ct.cat.codes.tolist() == [0, 1, 0]",
    ),
    Case(
        "estimator",
        "from sklearn.linear_model import LogisticRegression\nimport numpy as np\nes = LogisticRegression().fit(np.arange(10)[:, None], np.arange(10) > 4)",
        "assert es.predict([[9]])[0]",
    ),
]


@pytest.fixture(scope="module")
def trip(tmp_path_factory: pytest.TempPathFactory) -> RoundTrip:
    return RoundTrip(tmp_path_factory.mktemp("fidelity") / "store", CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_comes_back_as_it_was(trip: RoundTrip, case: Case) -> None:
    trip.check(case)


def test_nothing_is_lost(trip: RoundTrip) -> None:
    assert trip.lost == []


def test_lost_autograd_graph_is_reported(trip: RoundTrip) -> None:
    """Of torch."""
    assert any(note.startswith("nl: its autograd graph") for note in trip.notes)
