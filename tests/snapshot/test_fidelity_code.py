"""Functions and classes of the notebook, and objects of any shape, in a fresh process."""

from __future__ import annotations

import pytest

from tests.snapshot.fidelity import Case, RoundTrip

OBJECTS = [
    Case(
        "aliases_everywhere",
        "oa = [1]; oa_in = {'x': [oa, (oa,)], 'y': {1: oa}}",
        "assert oa is oa_in['x'][0] is oa_in['x'][1][0] is oa_in['y'][1]; oa.append(2); assert oa_in['y'][1] == [1, 2]",
    ),
    Case(
        "cycles",
        "oc_l = []; oc_t = (oc_l,); oc_l.append(oc_t); oc_d = {}; oc_d['me'] = oc_d\n"
        "class OC: pass\noc_o = OC(); oc_o.me = oc_o; oc_o.back = {'o': oc_o}\noc_s = OC(); oc_s.all = {oc_s}",
        "assert oc_l[0] is oc_t and oc_t[0] is oc_l and oc_d['me'] is oc_d\n"
        "assert oc_o.me is oc_o is oc_o.back['o'] and oc_s in oc_s.all",
    ),
    Case(
        "deep_lists_dicts_tuples",
        "dp_l, dp_d, dp_t = [], {}, ()\nfor _ in range(100_000): dp_l = [dp_l]; dp_d = {'k': dp_d}; dp_t = (dp_t,)",
        "for dp_x, dp_k in ((dp_l, 0), (dp_d, 'k'), (dp_t, 0)):\n"
        "    dp_n = 0\n    while dp_x: dp_x = dp_x[dp_k]; dp_n += 1\n    assert dp_n == 100_000\n"
        "while dp_l: dp_l = dp_l[0]\nwhile dp_d: dp_d = dp_d['k']\nwhile dp_t: dp_t = dp_t[0]",
    ),
    Case(
        "deep_linked_nodes",
        "class DN:\n    def __init__(self, next): self.next = next\n"
        "class DS:\n    __slots__ = ('next',)\n    def __init__(self, next): self.next = next\n"
        "dn_h = ds_h = None\nfor _ in range(100_000): dn_h = DN(dn_h); ds_h = DS(ds_h)\ndn_2 = dn_h.next.next",
        "assert dn_h.next.next is dn_2\n"
        "for dn_x, dn_c in ((dn_h, DN), (ds_h, DS)):\n"
        "    dn_n = 0\n    while dn_x: assert type(dn_x) is dn_c; dn_x = dn_x.next; dn_n += 1\n    assert dn_n == 100_000\n"
        "del dn_2\nwhile dn_h: dn_h = dn_h.next\nwhile ds_h: ds_h = ds_h.next",
    ),
    Case(
        "doubly_linked_nodes",
        "class DL:\n    def __init__(self): self.prev = self.next = None\n"
        "dl_h = dl_p = DL()\nfor _ in range(30_000): dl_n = DL(); dl_n.prev, dl_p.next = dl_p, dl_n; dl_p = dl_n",
        "dl_x, dl_c = dl_h, 0\nwhile dl_x.next: assert dl_x.next.prev is dl_x; dl_x = dl_x.next; dl_c += 1\n"
        "assert dl_c == 30_000 and dl_x is dl_p",
    ),
    Case(
        "deep_closures",
        "def dcl_make(f): return lambda: f\ndcl = None\nfor _ in range(20_000): dcl = dcl_make(dcl)",
        "dcl_n = 0\nwhile dcl: dcl = dcl(); dcl_n += 1\nassert dcl_n == 20_000",
    ),
    Case(
        "containers_of_the_library",
        "import collections, types, array\n"
        "cl_m = collections.ChainMap({'a': 1}, {}); cl_v = cl_m.maps[1]; cl_s = types.SimpleNamespace(a=[1]); cl_a = cl_s.a\n"
        "cl_d = collections.deque([cl_a], 3); cl_r = array.array('d', [1, 2]); cl_o = collections.OrderedDict(a=cl_a)\n"
        "cl_u = collections.UserDict(k=cl_a); cl_p = types.MappingProxyType({'z': cl_a}); cl_k = cl_o.keys()",
        "assert cl_m.maps[1] is cl_v and cl_s.a is cl_a is cl_d[0] is cl_o['a'] is cl_u['k'] is cl_p['z']\n"
        "cl_o['b'] = 1; assert list(cl_k) == ['a', 'b'] and cl_r.tolist() == [1, 2]",
    ),
    Case(
        "subclasses_of_builtins",
        "class SBL(list): pass\nclass SBD(dict):\n    def __missing__(self, k): return k * 2\n"
        "class SBI(int): pass\nclass SBS(str): pass\nclass SBT(tuple): pass\nclass SBE(set): pass\n"
        "sbl = SBL([1]); sbl.tag = sbl; sbd = SBD(a=1); sbd.tag = sbl; sbi = SBI(4); sbs = SBS('q'); sbs.x = 1; sbt = SBT((1,)); sbe = SBE([1]); sbe.me = sbe",
        "assert sbl.tag is sbl is sbd.tag and sbd['z'] == 'zz' and type(sbi) is SBI and sbs.x == 1 and type(sbt) is SBT and sbe.me is sbe",
    ),
    Case(
        "exceptions",
        "class XE(Exception):\n    def __init__(self, a, *, b): super().__init__(a, b); self.b = b\n"
        "xe = XE(1, b=[2]); xe_b = xe.b\n"
        "try:\n    try: 1 / 0\n    except ZeroDivisionError as error: raise KeyError('k') from error\n"
        "except KeyError as error: xe_c = error",
        "assert type(xe) is XE and xe.b is xe_b and xe.args == (1, [2]) and xe.args[1] is xe_b\n"
        "assert isinstance(xe_c.__cause__, ZeroDivisionError)",
    ),
    Case(
        "builtin_odds",
        "bo = [Ellipsis, NotImplemented, range(3), slice(1, 2), type(None), int, len, print, str.join, [].append, 'a'.join, complex(1, 2), frozenset([1]), memoryview(b'abc'), type(lambda: 0), property]\n"
        "bo_l = [1]; bo_m = bo_l.append",
        "assert bo[0] is ... and bo[1] is NotImplemented and bo[5] is int and bo[6] is len and bo[10](['x', 'y']) == 'xay'\n"
        "bo_m(2); assert bo_l == [1, 2] and bytes(bo[13]) == b'abc'",
    ),
    Case(
        "iterators",
        "it_l = [1, 2, 3]; it = iter(it_l); next(it)\nit_d = iter({'a': 1}); it_z = zip([1], [2]); it_e = enumerate('ab')",
        "assert next(it) == 2 and next(it_z) == (1, 2) and next(it_e) == (0, 'a') and next(it_d) == 'a'",
    ),
    Case(
        "weak_references",
        "import weakref\nclass WR: pass\nwr_t = WR(); wr_d = weakref.WeakKeyDictionary(); wr_d[wr_t] = 'v'\n"
        "wr_v = weakref.WeakValueDictionary(k=wr_t); wr_s = weakref.WeakSet([wr_t]); wr_p = weakref.proxy(wr_t); wr_box = [WR()]; wr_s.add(wr_box[0])",
        "import gc\nassert wr_d[wr_t] == 'v' and wr_v['k'] is wr_t and wr_t in wr_s and len(wr_s) == 2\n"
        "wr_t.x = 5; assert wr_p.x == 5; wr_box.clear(); gc.collect(); assert len(wr_s) == 1",
    ),
]

FUNCTIONS = [
    Case(
        "lambdas_of_a_loop",
        "ll = [lambda x, i=i: x + i for i in range(3)]; ll_c = [(lambda i: lambda: i)(i) for i in range(3)]",
        "assert [f(1) for f in ll] == [1, 2, 3] and [f() for f in ll_c] == [0, 1, 2]",
    ),
    Case(
        "default_is_an_alias",
        "fd_l = []\ndef fd(x, seen=fd_l): seen.append(x); return seen",
        "assert fd(1) is fd_l == [1] and fd.__defaults__[0] is fd_l",
    ),
    Case(
        "globals_statement",
        "gs_n = 0\ndef gs(): global gs_n, gs_new; gs_n += 1; gs_new = gs_n\ngs()",
        "gs(); assert gs_n == 2 == gs_new and gs.__globals__ is globals()",
    ),
    Case(
        "closure_cells",
        "def cc():\n    n, unset = [0], None\n    def up():\n        nonlocal n; n = n + [1]; return n\n    def get(): return n\n    def late(): return never\n    if unset: never = 1\n    return up, get, late\ncc_up, cc_get, cc_late = cc(); cc_n = cc_get()",
        "assert cc_get() is cc_n; cc_up(); assert cc_get() == [0, 1] and cc_up.__closure__[0] is cc_get.__closure__[0]\n"
        "try: cc_late(); raise AssertionError\nexcept NameError: pass",
    ),
    Case(
        "lru_cache_contents",
        "import functools\nlc_calls = []\n@functools.lru_cache(maxsize=3)\ndef lc(x, *, y=0): lc_calls.append(x); return [x]\nlc_1 = lc(1); lc(2, y=5); lc_i = lc.cache_info(); lc_o = lc",
        "assert lc is lc_o and lc(1) is lc_1 and lc(2, y=5) == [2] and lc_calls == [1, 2]\n"
        "assert lc.cache_info().maxsize == 3 and lc.cache_info().currsize == 2\n"
        "lc(3); lc(4); lc(1); assert lc_calls[2:] == [3, 4, 1]; assert lc.cache_parameters() == {'maxsize': 3, 'typed': False}",
    ),
    Case(
        "unbounded_cache_contents",
        "import functools\nuc_calls = []\n@functools.cache\ndef uc(n): uc_calls.append(n); return n if n < 2 else uc(n - 1) + uc(n - 2)\nuc(30)",
        "assert uc(30) == 832040 and len(uc_calls) == 31 and uc.cache_info().currsize == 31; uc.cache_clear(); uc(3); assert len(uc_calls) == 35",
    ),
    Case(
        "cached_method",
        "import functools\nclass CMT:\n    calls = []\n    @functools.lru_cache(maxsize=None)\n    def f(self, x): self.calls.append(x); return [x]\n"
        "    @functools.cached_property\n    def p(self): self.calls.append('p'); return [0]\n"
        "cmt = CMT(); cmt_1 = cmt.f(1); cmt_p = cmt.p; cmt_2 = CMT()",
        "assert cmt.f(1) is cmt_1 and cmt.p is cmt_p and CMT.calls == [1, 'p']; cmt_2.p; assert CMT.calls == [1, 'p', 'p']",
    ),
    Case(
        "typed_cache",
        "import functools\n@functools.lru_cache(typed=True)\ndef tc(x): return [x]\ntc_a, tc_b = tc(1), tc(1.0)",
        "assert tc(1) is tc_a and tc(1.0) is tc_b and tc_a is not tc_b",
    ),
    Case(
        "singledispatch",
        "import functools\n@functools.singledispatch\ndef sd(x): return 'any'\n@sd.register\ndef _(x: int): return 'int'\n"
        "class SDC: pass\n@sd.register(SDC)\ndef sd_c(x): return sd_k\nsd_k = 1\n"
        "class SDM:\n    @functools.singledispatchmethod\n    def f(self, x): return 'any'\n    @f.register\n    def _(self, x: str): return 'str'\n"
        "sd_m = SDM()",
        "sd_k = 7; assert sd(1) == 'int' and sd('') == 'any' and sd(SDC()) == 7 and sd_m.f(1) == 'any' and sd_m.f('') == 'str'\n"
        "@sd.register(float)\ndef _(x): return 'float'\nassert sd(1.0) == 'float' and sd.registry[SDC] is sd_c",
    ),
    Case(
        "wraps",
        "import functools\ndef wr_deco(f):\n    @functools.wraps(f)\n    def inner(*a):\n        inner.n += 1; return f(*a)\n    inner.n = 0\n    return inner\n@wr_deco\ndef wr_f(x): 'doc'; return x * wr_g\nwr_g = 2; wr_f(1)",
        "wr_g = 3; assert wr_f(2) == 6 and wr_f.n == 2 and wr_f.__doc__ == 'doc' and wr_f.__name__ == 'wr_f' and wr_f.__wrapped__(1) == 3",
    ),
    Case(
        "partials",
        "import functools, operator\npt_l = [1]\ndef pt_f(a, b=0, *, c=0): return a, b, c\npt = functools.partial(pt_f, pt_l, c=2); pt.note = 'n'\n"
        "pt_i = operator.itemgetter(1); pt_a = operator.attrgetter('x.y'); pt_m = operator.methodcaller('upper')\n"
        "class PT:\n    half = functools.partialmethod(lambda self, x, y: (self, x, y), 1)\npt_o = PT()",
        "assert pt(5) == (pt_l, 5, 2) and pt(5)[0] is pt_l and pt.func is pt_f and pt.note == 'n' and pt_i('ab') == 'b' and pt_m('a') == 'A' and pt_o.half(2) == (pt_o, 1, 2)",
    ),
    Case(
        "context_manager_functions",
        "import contextlib\n@contextlib.contextmanager\ndef cmf(): cmf_l.append('in'); yield 1; cmf_l.append('out')\ncmf_l = []",
        "with cmf() as cmf_x: pass\nassert cmf_x == 1 and cmf_l == ['in', 'out']",
    ),
    Case(
        "async_and_generator_functions",
        "async def af(): return 3\nasync def ag():\n    yield 1\ndef gf2():\n    x = yield 1\n    yield x",
        "import asyncio\nassert asyncio.run(af()) == 3\nga = gf2(); next(ga); assert ga.send(9) == 9",
    ),
    Case(
        "function_of_exec_elsewhere",
        "fe_ns = {'k': 1}; exec('def fe(): return k', fe_ns); fe = fe_ns['fe']",
        "assert fe() == 1; fe_ns['k'] = 2; assert fe() == 2 and fe_ns['fe'] is fe and fe.__globals__ is fe_ns",
    ),
    Case(
        "function_of_a_made_module",
        "import types\nmm = types.ModuleType('mm'); exec('k = 1\\ndef f(): return k\\nclass C: pass', mm.__dict__); mm_f = mm.f; mm_c = mm.C()",
        "assert mm_f() == 1; mm.k = 5; assert mm.f() == 5 == mm_f() and mm.f is mm_f and type(mm_c) is mm.C",
    ),
    Case(
        "patched_library_function",
        "import json as plf_j\nplf_d = plf_j.dumps\ndef plf(o): return 'mine ' + plf_d(o)",
        "assert plf(1) == 'mine 1' and plf_d is plf_j.dumps",
    ),
    Case(
        "bound_methods",
        "class BMS:\n    def m(self): return self\n    @classmethod\n    def c(cls): return cls\n    @staticmethod\n    def s(): return bms_k\n"
        "bms_k = 1; bms_o = BMS(); bms = [bms_o.m, BMS.c, bms_o.c, BMS.s, BMS.m]; bms_o.callback = bms_o.m",
        "bms_k = 2; assert bms[0]() is bms_o and bms[1]() is BMS is bms[2]() and bms[3]() == 2 and bms[4] is BMS.m and bms_o.callback.__self__ is bms_o",
    ),
    Case(
        "mutual_recursion",
        "def mr_even(n): return n == 0 or mr_odd(n - 1)\ndef mr_odd(n): return n != 0 and mr_even(n - 1)\nmr_even.other = mr_odd; mr_odd.other = mr_even",
        "assert mr_even(10) and mr_even.other is mr_odd and mr_odd.other is mr_even",
    ),
    Case(
        "annotations",
        "from __future__ import annotations\nimport typing\nclass AN: pass\ndef an(x: AN, y: typing.List[int] = None) -> AN: return x",
        "import typing\nassert typing.get_type_hints(an)['x'] is AN and an.__annotations__['return'] == 'AN'",
    ),
    Case(
        "code_objects_and_frames",
        "co_f = compile('co_r = 1 + co_k', 'x', 'exec'); co_k = 4",
        "exec(co_f); assert co_r == 5",
    ),
]

CLASSES = [
    Case(
        "class_changed_later",
        "class CL:\n    n = 0\n    def old(self): return 1\ncl_i = CL(); CL.n = 5; CL.added = lambda self: self.n; CL.old = lambda self: 2",
        "assert type(cl_i) is CL and cl_i.added() == 5 and cl_i.old() == 2\nCL.n = 6; assert cl_i.added() == 6; del CL.added; assert not hasattr(cl_i, 'added')",
    ),
    Case(
        "super_and_class_cell",
        "class SU:\n    def f(self): return ['SU']\n    @classmethod\n    def c(cls): return [cls.__name__]\nclass SV(SU):\n    def f(self): return super().f() + [__class__.__name__]\n    @classmethod\n    def c(cls): return super().c() + ['v']\nclass SW(SV):\n    def f(self): return super(SW, self).f() + ['W']\nsu = SW()",
        "assert su.f() == ['SU', 'SV', 'W'] and SW.c() == ['SW', 'v'] and SV.f.__closure__[0].cell_contents is SV",
    ),
    Case(
        "class_redefined",
        "class RD:\n    v = 1\n    def who(self): return __class__\nrd_old = RD(); rd_cls = RD\nclass RDS(RD): pass\nrd_sub = RDS()\n"
        "class RD:\n    v = 2\n    def who(self): return __class__\nrd_new = RD()",
        "assert rd_old.v == 1 and rd_new.v == 2 and type(rd_old) is rd_cls is not RD and type(rd_new) is RD\n"
        "assert rd_old.who() is rd_cls and rd_new.who() is RD and isinstance(rd_sub, rd_cls) and not isinstance(rd_sub, RD)\n"
        "rd_cls.v = 9; assert rd_old.v == 9 and rd_sub.v == 9 and rd_new.v == 2",
    ),
    Case(
        "class_made_by_a_function",
        "def cf(n):\n    class Local:\n        k = n\n        def get(self): return n, cf_g\n        @property\n        def cls(self): return Local\n    return Local\ncf_g = 1; cf_a, cf_b = cf(1), cf(2); cf_i, cf_j = cf_a(), cf_b()",
        "cf_g = 8; assert type(cf_i) is cf_a is not cf_b and cf_i.get() == (1, 8) and cf_j.get() == (2, 8) and cf_i.cls is cf_a\nassert cf(3)().get() == (3, 8)",
    ),
    Case(
        "nested_classes",
        "class NO:\n    class NI:\n        class NN: x = 1\n        def up(self): return NO\nno = NO.NI(); nn = NO.NI.NN()",
        "assert type(no) is NO.NI and no.up() is NO and type(nn) is NO.NI.NN and NO.NI.__qualname__ == 'NO.NI'",
    ),
    Case(
        "class_holds_instances",
        "class CH:\n    registry = []\n    def __init__(self): self.registry.append(self)\nch = CH(); CH.default = CH(); CH.me = CH",
        "assert CH.registry[0] is ch and CH.registry[1] is CH.default is ch.default and CH.me is CH; CH(); assert len(CH.registry) == 3",
    ),
    Case(
        "dataclasses",
        "from dataclasses import dataclass, field, KW_ONLY, fields, asdict\nimport dataclasses\n"
        "@dataclass(slots=True)\nclass DCS:\n    a: int\n    b: list = field(default_factory=list)\n"
        "@dataclass(frozen=True, slots=True)\nclass DCF:\n    a: int\n    b: object = None\n"
        "@dataclass(order=True, kw_only=True)\nclass DCO:\n    a: int\n    c: int = field(compare=False, default=0)\n"
        "@dataclass\nclass DCB(DCO):\n    z: int = 1\n    def __post_init__(self): self.made = 1\n"
        "dcs = DCS(1); dcs_b = dcs.b; dcf = DCF(1, dcs); dco = DCO(a=1); dcb = DCB(a=2, z=3); dc_d = {dcf.a: dcf}",
        "assert dcs.b is dcs_b and dcf.b is dcs and type(dcf) is DCF and dc_d[1] is dcf and DCS(2).b == []\n"
        "assert dco < DCO(a=2) and dcb == DCB(a=2, z=3) and dcb.made == 1 and dataclasses.replace(dcf, a=5).b is dcs\n"
        "assert [f.name for f in fields(DCB)] == ['a', 'c', 'z'] and fields(DCB)[2].default == 1 and asdict(dco) == {'a': 1, 'c': 0}\n"
        "assert fields(DCS)[1].default is dataclasses.MISSING and fields(DCS)[0]._field_type is dataclasses._FIELD\n"
        "@dataclass\nclass DCN(DCB):\n    w: int = 4\nassert DCN(a=1).w == 4\n"
        "try: dcf.a = 3; raise AssertionError\nexcept dataclasses.FrozenInstanceError: pass",
    ),
    Case(
        "enums",
        "import enum\nclass EC(enum.Enum):\n    R = 1\n    G = 'g'\n    ALIAS = 1\n    def hi(self): return self.name, en_k\nclass EF(enum.Flag):\n    A = enum.auto()\n    B = enum.auto()\n    AB = A | B\n"
        "class EI(enum.IntEnum):\n    X = 3\nclass EIF(enum.IntFlag):\n    P = 1\n    Q = 2\nclass EM(enum.Enum):\n    M = (1, 2)\n    def __init__(self, a, b): self.a, self.b = a, b\n"
        "class EV(str, enum.Enum):\n    S = 'sss'\nEFn = enum.Enum('EFn', 'U V')\n"
        "en_k = 1; en = [EC.R, EC.ALIAS, EF.A | EF.B, EF.A, EI.X, EIF.P | EIF.Q, EM.M, EV.S, EFn.U, {EC.G: 1}]",
        "en_k = 2; assert en[0] is EC.R is en[1] is EC(1) is EC['ALIAS'] and EC.R.hi() == ('R', 2) and en[2] is EF.AB and en[3] is EF.A and en[4] is EI.X == 3\n"
        "assert en[5] == EIF.P | EIF.Q and EIF.P in en[5] and en[6] is EM.M and EM.M.b == 2 and EM((1, 2)) is EM.M and en[7] is EV.S == 'sss' and en[8] is EFn.U and en[9][EC.G] == 1\n"
        "assert list(EC) == [EC.R, EC.G] and EF.A | EF.B is EF.AB and ~EF.A == EF.B and list(EC.__members__) == ['R', 'G', 'ALIAS'] and EF(0) == EF.A & EF.B",
    ),
    Case(
        "named_tuples",
        "import typing, collections\nclass TN(typing.NamedTuple):\n    a: int\n    b: str = 'q'\n    def both(self): return self.a, self.b, tn_k\nCN = collections.namedtuple('CN', 'x y', defaults=[5])\nclass CNS(CN):\n    __slots__ = ()\n    def total(self): return self.x + self.y\n"
        "tn_k = 1; tn = TN(1); cn = CN(1); cns = CNS(1, 2)\nclass TD(typing.TypedDict): a: int\ntd = TD(a=1)",
        "tn_k = 2; assert tn.both() == (1, 'q', 2) and type(tn) is TN and TN._field_defaults == {'b': 'q'} and cn == (1, 5) and cn._replace(x=3).x == 3 and cns.total() == 3 and type(cns) is CNS and isinstance(cns, CN) and TD.__annotations__ and td == {'a': 1}",
    ),
    Case(
        "protocols_abcs_generics",
        "import typing, abc\nT_ = typing.TypeVar('T_')\n@typing.runtime_checkable\nclass PR(typing.Protocol):\n    def go(self): ...\nclass PRI:\n    def go(self): return 1\n"
        "class GE(typing.Generic[T_]):\n    def __init__(self, x: T_): self.x = x\nclass GEI(GE[int]): pass\nge = GE[int]([1]); gei = GEI(2); ge_a = GE[str]; pri = PRI()\n"
        "class AB_(abc.ABC):\n    @property\n    @abc.abstractmethod\n    def p(self): ...\nclass AB2: pass\nAB_.register(AB2)\nclass AB3(AB_):\n    p = 3\nab2 = AB2(); ab3 = AB3()",
        "assert isinstance(pri, PR) and not isinstance(ge, PR) and type(ge) is GE and GEI.__orig_bases__ == (GE[int],) and ge_a == GE[str] and typing.get_args(ge_a) == (str,) and ge.__orig_class__ == GE[int]\n"
        "assert isinstance(ab2, AB_) and ab3.p == 3 and GE.__parameters__ == (T_,)\n"
        "try: AB_(); raise AssertionError\nexcept TypeError: pass",
    ),
    Case(
        "metaclasses",
        "class MM(type):\n    made = []\n    def __new__(m, name, bases, ns, **kw):\n        cls = super().__new__(m, name, bases, ns); m.made.append(name); cls.kw = kw; return cls\n    def __init__(cls, name, bases, ns, **kw): super().__init__(name, bases, ns)\n    def __call__(cls, *a): o = super().__call__(*a); o.called = 1; return o\n    @property\n    def mp(cls): return cls.__name__\n"
        "class MU(metaclass=MM, flag=2): pass\nclass MV(MU): pass\nmu = MU(); mv = MV()",
        "assert type(MU) is MM and MU.kw == {'flag': 2} and MM.made == ['MU', 'MV'] and mu.called == 1 and MV.mp == 'MV' and type(mv) is MV\nclass MX(MU): pass\nassert MM.made[-1] == 'MX'",
    ),
    Case(
        "init_subclass_and_set_name",
        "class ISD:\n    def __set_name__(self, owner, name): self.owner, self.name = owner, name; isd_calls.append(name)\n    def __get__(self, o, t): return self if o is None else o.__dict__.get('_' + self.name, 0)\n    def __set__(self, o, v): o.__dict__['_' + self.name] = v * 2\nisd_calls = []\n"
        "class ISB:\n    subs = []\n    def __init_subclass__(cls, tag=None, **kw): super().__init_subclass__(**kw); cls.tag = tag; ISB.subs.append(cls)\nclass ISC(ISB, tag='t'):\n    d = ISD()\nisc = ISC(); isc.d = 4",
        "assert isc.d == 8 and ISC.d.owner is ISC and isd_calls == ['d'] and ISB.subs == [ISC] and ISC.tag == 't'\nisc.d = 1; assert isc.d == 2\nclass ISE(ISB, tag='e'): pass\nassert ISB.subs[-1] is ISE",
    ),
    Case(
        "properties",
        "class PP:\n    def __init__(self): self._x = 1\n    @property\n    def x(self): 'doc'; return self._x * pp_k\n    @x.setter\n    def x(self, v): self._x = v\n    @x.deleter\n    def x(self): self._x = 0\npp_k = 1; pp = PP(); pp_p = PP.__dict__['x']",
        "pp_k = 3; assert pp.x == 3; pp.x = 2; assert pp.x == 6; del pp.x; assert pp.x == 0 and PP.x.__doc__ == 'doc' and PP.__dict__['x'] is pp_p",
    ),
    Case(
        "slots_of_a_hierarchy",
        "class SO:\n    __slots__ = ('a', '__weakref__')\nclass SP(SO):\n    __slots__ = ('b',)\nclass SQ(SP): pass\nso = SQ(); so.a = so; so.b = [1]; so.c = so.b; sp = SP(); sp.a = 1",
        "assert so.a is so and so.b is so.c and sp.a == 1 and not hasattr(sp, 'b') and SP.a is SO.a\ntry: sp.zz = 1; raise AssertionError\nexcept AttributeError: pass\nsp.b = 3; assert sp.b == 3",
    ),
    Case(
        "custom_reduction",
        "class CR:\n    def __init__(self, a): self.a = a\n    def __getstate__(self): return {'a': self.a}\n    def __setstate__(self, s): self.a = s['a']; self.restored = True\nclass CRR:\n    def __init__(self, a): self.a = a\n    def __reduce__(self): return CRR, (self.a,)\nclass CRN:\n    def __new__(cls, a): o = super().__new__(cls); o.a = a; return o\n    def __getnewargs__(self): return (self.a,)\ncr_l = [1]; cr, crr, crn = CR(cr_l), CRR(cr_l), CRN(cr_l)",
        "assert cr.a is cr_l is crr.a is crn.a and cr.restored and type(crr) is CRR",
    ),
    Case(
        "singleton",
        "class SI:\n    _it = None\n    def __new__(cls):\n        if cls._it is None: cls._it = super().__new__(cls)\n        return cls._it\nsi = SI(); si.v = [1]",
        "assert SI() is si is SI._it and si.v == [1]",
    ),
    Case(
        "dynamic_attributes",
        "class DY:\n    def __init__(self): self.__dict__['d'] = {'k': 1}\n    def __getattr__(self, n):\n        try: return self.__dict__['d'][n]\n        except KeyError: raise AttributeError(n)\n    def __setattr__(self, n, v): self.__dict__['d'][n] = v\n    def __eq__(self, o): return True\n    __hash__ = None\ndy = DY(); dy.z = dy; dy_h = [dy]",
        "assert dy.z is dy is dy_h[0] and dy.k == 1; dy.q = 4; assert dy.d['q'] == 4",
    ),
    Case(
        "callable_operators_context",
        "class OP:\n    def __init__(self, v): self.v = v\n    def __call__(self): return self.v\n    def __add__(self, o): return OP(self.v + o.v)\n    def __len__(self): return 0\n    def __bool__(self): raise TypeError\n    def __enter__(self): return self\n    def __exit__(self, *a): self.v = None\n    def __hash__(self): return hash(self.v)\n    def __eq__(self, o): return self.v == o.v\nop_a = OP(1); op_s = {op_a: 'x', OP(2): 'y'}",
        "assert op_a() == 1 and (op_a + op_a).v == 2 and op_s[OP(2)] == 'y' and len(op_s) == 2 and next(iter(op_s)) is op_a",
    ),
    Case(
        "unions_and_generic_aliases",
        "import typing\nua = [typing.Optional[int], typing.List[str], list[int], int | None, typing.Callable[[int], str], typing.Literal['a'], typing.Any, typing.Annotated[int, 'x']]; UAN = typing.NewType('UAN', int); ua_n = UAN",
        "import typing\nassert ua == [typing.Optional[int], typing.List[str], list[int], int | None, typing.Callable[[int], str], typing.Literal['a'], typing.Any, typing.Annotated[int, 'x']] and UAN is ua_n and UAN(3) == 3",
    ),
    Case(
        "pydantic_models",
        "import pydantic, typing\nclass PA(pydantic.BaseModel):\n    n: int\n    tags: typing.List[str] = pydantic.Field(default_factory=list)\n    _secret: int = pydantic.PrivateAttr(3)\n    @pydantic.field_validator('n')\n    @classmethod\n    def pos(cls, v):\n        if v < pa_min: raise ValueError('small')\n        return v\n    @pydantic.computed_field\n    @property\n    def twice(self) -> int: return self.n * 2\n"
        "class PB(PA):\n    model_config = pydantic.ConfigDict(frozen=True)\n    inner: PA\n    opt: typing.Optional['PB'] = None\npa_min = 1; pa = PA(n='4'); pa._secret = 7; pb = PB(n=2, inner=pa); pa_t = pa.tags",
        "assert type(pa) is PA and pa.n == 4 and pa._secret == 7 and pa.tags is pa_t and pb.inner is pa and type(pb) is PB and pa.twice == 8 and pb.model_dump()['inner']['n'] == 4\n"
        "assert PB.model_validate({'n': 3, 'inner': {'n': 5}}).inner.n == 5 and PA.model_fields['n'].annotation is int\n"
        "pa_min = 10\ntry: PA(n=5); raise AssertionError\nexcept pydantic.ValidationError: pass\n"
        "try: pb.n = 9; raise AssertionError\nexcept pydantic.ValidationError: pass\n"
        "class PC(PB): z: int = 1\nassert PC(n=10, inner=pa).z == 1 and PC.model_json_schema()['properties']['z']",
    ),
    Case(
        "pydantic_dataclass_and_generic",
        "import pydantic, typing\nPT_ = typing.TypeVar('PT_')\nclass PGM(pydantic.BaseModel, typing.Generic[PT_]):\n    v: PT_\n@pydantic.dataclasses.dataclass\nclass PDC:\n    x: int\npgm = PGM[int](v='3'); pgm_c = PGM[int]; pdc = PDC(x='5'); pgm_a = pydantic.TypeAdapter(typing.List[int])",
        "import pydantic\nassert pgm.v == 3 and type(pgm) is pgm_c and isinstance(pgm, PGM) and pdc.x == 5 and type(pdc) is PDC\n"
        "try: PDC(x='no'); raise AssertionError\nexcept pydantic.ValidationError: pass\nassert pgm_a.validate_python(['1']) == [1]",
    ),
    Case(
        "library_class_subclassed",
        "import threading, logging, argparse, collections, json, random\nclass LE(json.JSONEncoder):\n    def default(self, o): return repr(type(o))\nclass LR(random.Random): pass\nlr = LR(5); lr_s = lr.getstate(); le_l = logging.getLogger('le'); ap = argparse.ArgumentParser(); ap.add_argument('--x', type=int, default=3); le_ns = ap.parse_args([])",
        "assert json.dumps(json, cls=LE) if False else json.dumps({1: lr}, cls=LE) and lr.getstate() == lr_s and le_l is logging.getLogger('le') and ap.parse_args(['--x', '5']).x == 5 and le_ns.x == 3",
    ),
]

CASES = [*OBJECTS, *FUNCTIONS, *CLASSES]


@pytest.fixture(scope="module")
def trip(tmp_path_factory: pytest.TempPathFactory) -> RoundTrip:
    return RoundTrip(tmp_path_factory.mktemp("fidelity") / "store", CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_comes_back_as_it_was(trip: RoundTrip, case: Case) -> None:
    trip.check(case)


def test_nothing_is_lost(trip: RoundTrip) -> None:
    assert trip.lost == []
