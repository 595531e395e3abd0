"""Objects of the standard library and of the language that a notebook may hold, in a fresh process."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
from respawner.pickling import notebook_code, standard_library

from tests.snapshot.dedented import dedented
from tests.snapshot.fidelity import Case, RoundTrip, bare_shell

LANGUAGE = [
    Case(
        "closure_shared_by_functions_and_a_class",
        """
        def ls():
            n = [0]
            def up():
                nonlocal n; n = [n[0] + 1]
            class Reader:
                start = n
                def get(self): return n
                @classmethod
                def put(cls, x):
                    nonlocal n; n = x
            return up, Reader, lambda: n
        ls_up, LSR, ls_get = ls(); ls_o = LSR()
        """,
        "ls_up(); assert ls_o.get() is ls_get() == [1]; LSR.put([7]); assert ls_get() == [7] and LSR.start == [0] and type(ls_o) is LSR and LSR.__qualname__ == 'ls.<locals>.Reader'",
    ),
    Case(
        "builtins_bound_again",
        "lb_print = print; lb_real = __builtins__; import builtins as lb\ndef len(x): return 42\nlb_len = len; lb_in = {'f': sorted, 't': dict.fromkeys, 'n': NotImplemented}",
        "import builtins\nassert len('abc') == 42 and lb_len is len and builtins.len('abc') == 3 and lb_print is builtins.print and lb is builtins and lb_in['f'] is builtins.sorted and lb_in['t']('a') == {'a': None}; del len",
    ),
    Case(
        "annotations_of_the_notebook",
        "la: int = 5; la_b: 'list[str]' = []\nglobals().setdefault('__annotations__', {})['mine'] = float",
        "import sys\nassert __annotations__['mine'] is float and (sys.version_info >= (3, 14) or __annotations__['la'] is int and __annotations__['la_b'] == 'list[str]')",
    ),
    Case(
        "slots_with_weakref_and_dict",
        "import weakref\nclass LW:\n    __slots__ = ('a', '__weakref__', '__dict__')\nclass LX(LW):\n    __slots__ = ('b',)\nlw = LX(); lw.a = 1; lw.b = [2]; lw.c = lw.b; lw_r = weakref.ref(lw)",
        "assert lw_r() is lw and lw.a == 1 and lw.b is lw.c and vars(lw) == {'c': lw.b}; lw.z = 1",
    ),
    Case(
        "singledispatch_with_registered_methods_and_abcs",
        """
        import functools, collections.abc, abc, numbers
        class LDI(abc.ABC):
            @classmethod
            def __subclasshook__(cls, other): return hasattr(other, 'quack') or NotImplemented
        class LDO:
            def quack(self): return 1
        @functools.singledispatch
        def ld(x, *more): return 'any'
        @ld.register(collections.abc.Sequence)
        def _(x): return 'seq', ld_k
        @ld.register
        def _(x: numbers.Number): return 'num'
        @ld.register(LDI)
        def _(x): return 'duck'
        ld_k = 1; ld([]); ld(3)
        class LDM:
            @functools.singledispatchmethod
            @classmethod
            def f(cls, x): return 'any'
            @f.register(int)
            @classmethod
            def _(cls, x): return cls
        """,
        "ld_k = 4; assert ld([1]) == ('seq', 4) and ld(3.5) == 'num' and ld(LDO()) == 'duck' and ld({}) == 'any' and LDM.f(1) is LDM and LDM.f('') == 'any' and isinstance(LDO(), LDI)",
    ),
    Case(
        "method_descriptors_of_every_kind",
        """
        import functools
        class LM:
            def m(self, x=1): return self, x
            c = classmethod(lambda cls: cls); s = staticmethod(lambda: lm_k)
            p = property(lambda self: lm_k, doc='d'); pm = functools.partialmethod(m, x=5)
            @functools.cached_property
            def cp(self): return [lm_k]
            @functools.lru_cache(8)
            def lc(self, a): return [a]
            @classmethod
            @functools.lru_cache
            def clc(cls): return [cls]
            alias = m
        lm_k = 1; lm = LM(); lm_b = lm.m; lm_c = LM.c; lm_cp = lm.cp; lm_lc = lm.lc(1); lm_clc = LM.clc(); lm_u = LM.m; lm_g = LM.__dict__['c'].__func__; lm_s = LM.s
        lm.own = lm.m; lm.bound = lm.lc
        """,
        "lm_k = 2; assert lm_b() == (lm, 1) and lm_b.__self__ is lm and lm_c() is LM and lm.cp is lm_cp and lm.lc(1) is lm_lc and LM.clc() is lm_clc and lm_u is LM.m is LM.alias and lm.pm()[1] == 5 and lm.p == 2 == lm_s() and lm.own() == (lm, 1) and lm.bound(1) is lm_lc and LM.p.__doc__ == 'd'",
    ),
    Case(
        "enum_kinds",
        """
        import enum
        class LEa(enum.IntFlag):
            A = 1; B = 2; AB = 3
            def both(self): return self | LEa.B, le_k
        class LEb(enum.Enum):
            def _generate_next_value_(name, start, count, last): return name.lower()
            X = enum.auto(); Y = enum.auto()
            @classmethod
            def default(cls): return cls.Y
            @property
            def shout(self): return self.value.upper()
            @classmethod
            def _missing_(cls, value): return cls.X
        class LEc(enum.Enum):
            _ignore_ = ['z']; z = 1; ADD = (lambda a, b: a + b,)
            def __call__(self, *a): return self.value[0](*a)
        class LEd(float, enum.Enum): PI = 3.14
        @enum.unique
        class LEe(enum.IntEnum):
            ONE = 1
            def next(self): return self + 1
        le_k = 1; le = [LEa.A | LEa.B, LEa(9), LEb.X, LEc.ADD, LEd.PI, LEe.ONE, LEb]; le_d = {LEa.A: 1, LEb.Y: LEb.X}; LEE_F = enum.Flag('LEE_F', ['P', 'Q']); le_f = LEE_F.P | LEE_F.Q
        """,
        "le_k = 3; assert le[0] is LEa.AB and le[1] == 9 and type(le[1]) is LEa and LEa.A.both() == (LEa.AB, 3) and le[2] is LEb.X is LEb('nope') and LEb.default() is LEb.Y and LEb.X.shout == 'X' and le[3](1, 2) == 3 and le[4] is LEd.PI == 3.14 and le[5] is LEe.ONE == 1 and LEe.ONE.next() == 2 and le_d[LEb.Y] is LEb.X and (__import__('sys').version_info < (3, 11) or list(le_f) == [LEE_F.P, LEE_F.Q] and [m.name for m in LEa(3)] == ['A', 'B'])",
    ),
    Case(
        "deep_dataclasses_and_mixed_chains",
        """
        import dataclasses
        @dataclasses.dataclass
        class LDC: next: object; items: list
        ldc = None
        for _ in range(100_000): ldc = LDC(ldc, [])
        ldm = None
        for _ in range(33_000): ldm = [{'k': (ldm,)}]
        """,
        "ldc_n = 0\nldc_x = ldc\nwhile ldc_x is not None: ldc_x = ldc_x.next; ldc_n += 1\nassert ldc_n == 100_000\nldm_n = 0\nldm_x = ldm\nwhile ldm_x: ldm_x = ldm_x[0]['k'][0]; ldm_n += 1\nassert ldm_n == 33_000\nwhile ldc is not None: ldc = ldc.next\nwhile ldm: ldm = ldm[0]['k'][0]\ndel ldc_x, ldm_x",
    ),
    Case(
        "named_tuple_class_run_again",
        "import typing, collections\nclass LNT(typing.NamedTuple):\n    a: int = 1\nlnt_old = LNT(); lnt_c = LNT\nclass LNT(typing.NamedTuple):\n    a: int = 1\n    b: int = 2\nlnt_new = LNT(); LNC = collections.namedtuple('LNC', 'x'); lnc_old = LNC(1); LNC = collections.namedtuple('LNC', 'x y'); lnc_new = LNC(1, 2)",
        "assert type(lnt_old) is lnt_c is not LNT and lnt_new.b == 2 and type(lnt_new) is LNT and lnt_old == (1,) and type(lnc_old) is not LNC and lnc_old._fields == ('x',) and type(lnc_new) is LNC",
    ),
    Case(
        "exceptions_with_causes_notes_and_groups",
        """
        class LXE(Exception):
            def __init__(self, code, *, detail): super().__init__(f'code {code}'); self.code = code; self.detail = detail
        def lx_f():
            try: {}['k']
            except KeyError as error: raise LXE(3, detail=[1]) from error
        try: lx_f()
        except LXE as error: lx = error
        lx_t = {'e': lx}
        try:
            try: 1 / 0
            finally: [][1]
        except IndexError as error: lx_c = error
        """,
        "assert type(lx) is LXE and lx.code == 3 and lx.detail == [1] and str(lx) == 'code 3' and type(lx.__cause__) is KeyError and lx_t['e'] is lx and type(lx_c.__context__) is ZeroDivisionError\ntry: raise lx\nexcept LXE as error: assert error is lx",
    ),
    Case(
        "generic_aliases_and_type_variables",
        """
        import typing, collections.abc
        T1_ = typing.TypeVar('T1_', bound='LGB'); T2_ = typing.TypeVar('T2_', int, str); P1_ = typing.ParamSpec('P1_')
        class LGB(typing.Generic[T1_]):
            x: T1_
            def f(self, g: typing.Callable[P1_, T1_]) -> 'LGB': ...
        class LGP(typing.Protocol[T2_]):
            def go(self) -> T2_: ...
        LGA = LGB[int] | None; lg = LGB[str](); lg_a = [collections.abc.Callable[[int], LGB], dict[str, LGB], typing.Optional[LGB], type[LGB], typing.Annotated[LGB, lg]]
        class LGD(typing.TypedDict, total=False): a: int
        """,
        "import typing\nassert lg.__orig_class__ == LGB[str] and typing.get_args(lg_a[1])[1] is LGB and typing.get_args(lg_a[2])[0] is LGB and lg_a[4].__metadata__[0] is lg and LGB.__parameters__ == (T1_,) and LGP.__parameters__ == (T2_,) and T2_.__constraints__ == (int, str) and typing.get_args(LGA)[0] == LGB[int] and LGD.__total__ is False and LGP[int] and typing.get_type_hints(LGB.f)['return'] is LGB",
    ),
    Case(
        "instances_that_share_or_are_their_dict",
        """
        class SDB:
            shared = {}
            def __init__(self): self.__dict__ = self.shared
        sdb_a, sdb_b = SDB(), SDB(); sdb_a.x = [1]; sdb_d = SDB.shared
        class SDA(dict):
            def __init__(self, *a, **k): super().__init__(*a, **k); self.__dict__ = self
        sda = SDA(a=1, b=SDA(c=[2])); sda_b = sda.b
        class SDL(dict):
            def __init__(self, **k): super().__init__(**k); object.__setattr__(self, '_order', list(k))
            def __getattr__(self, name):
                try: return self[name]
                except KeyError: raise AttributeError(name) from None
            def __setattr__(self, name, value): self[name] = value
        sdl = SDL(p=1); sdl.q = sdl
        """,
        "sdb_a.y = 2; assert sdb_b.y == 2 and sdb_b.x is sdb_a.x and vars(sdb_a) is SDB.shared is sdb_d and SDB().y == 2; sda.new = 5; assert sda['new'] == 5 and sda.b is sda_b is sda['b'] and sda_b.c == [2] and vars(sda) is sda; sda['z'] = 1; assert sda.z == 1; sdl.r = 3; assert sdl.q is sdl and sdl['r'] == 3 and sdl._order == ['p']",
    ),
    Case(
        "operators_and_abstract_containers",
        """
        import collections.abc
        class LO(collections.abc.MutableMapping):
            def __init__(self): self.d = {}
            def __getitem__(self, k): return self.d[k]
            def __setitem__(self, k, v): self.d[k] = v; LO.sets += 1
            def __delitem__(self, k): del self.d[k]
            def __iter__(self): return iter(self.d)
            def __len__(self): return len(self.d)
        LO.sets = 0; lo = LO(); lo['a'] = lo; lo['b'] = 2
        class LOL(list):
            def append(self, x): LOL.n += 1; super().append(x)
            def __iter__(self): return (x * 2 for x in list.__iter__(self))
        LOL.n = 0; lol = LOL(); lol.append(3); lol.me = lol
        class LOD(dict):
            def __setitem__(self, k, v): super().__setitem__(k, v + 1)
        lod = LOD(); lod['a'] = 1
        class LOF(float):
            def __new__(cls, v, unit): self = super().__new__(cls, v); self.unit = unit; return self
        lof = LOF(3.5, 'm'); lof_a = lof
        class LOX(dict):
            def __setitem__(self, k, v): raise TypeError('read-only')
            def items(self): return []
        lox = LOX(a=lof); lox.me = lox
        class LON:
            made = []
            def __new__(cls, a): o = super().__new__(cls); cls.made.append(o); return o
            def __init__(self, a): self.a = a
        lon = LON(1)
        class LOT(tuple):
            def __new__(cls, a, b): return super().__new__(cls, (a, b))
        lot = LOT([1], 2); lot.x = lot
        class LOS(set):
            def add(self, x): raise TypeError
        los = LOS([1]); los.tag = los
        """,
        "assert lo['a'] is lo and LO.sets == 2 and dict.items(lo.d) and isinstance(lo, collections.abc.Mapping) and lol.me is lol and list.__getitem__(lol, 0) == 3 and lod['a'] == 2 and lof == 3.5 and lof.unit == 'm' and lof_a is lof and dict.__getitem__(lox, 'a') is lof and lox.me is lox and LON.made == [lon] and lon.a == 1 and LON(2) in LON.made and lot == ([1], 2) and lot.x is lot and los == {1} and los.tag is los",
    ),
]

LIBRARY = [
    Case(
        "numbers_dates_paths",
        """
        import decimal, fractions, zoneinfo, datetime, pathlib, uuid, ipaddress, collections
        decimal.getcontext().prec = 7; lb_c = decimal.Context(prec=3, traps=[]); lb_d = decimal.Decimal(1) / 3; lb_f = fractions.Fraction(1, 3)
        lb_z = zoneinfo.ZoneInfo('Europe/Berlin'); lb_t = datetime.datetime(2026, 3, 29, 2, 30, tzinfo=lb_z, fold=1); lb_tz = datetime.timezone(datetime.timedelta(hours=2), 'X')
        lb_p = pathlib.Path('a') / 'b'; lb_pp = pathlib.PureWindowsPath('c:/x'); lb_u = uuid.uuid4(); lb_i = ipaddress.ip_network('10.0.0.0/8'); lb_l = [lb_u, lb_z]
        """,
        "import decimal\nassert lb_l[0] is lb_u and lb_t.tzinfo is lb_z is lb_l[1] and lb_t.fold == 1 and lb_tz.tzname(None) == 'X' and str(lb_d) == '0.3333333' and lb_c.prec == 3 and str(lb_c.divide(1, 3)) == '0.333' and lb_p.name == 'b' and str(lb_pp) == 'c:\\\\x' and lb_i.num_addresses == 2**24",
    ),
    Case(
        "random_number_generators",
        "import random, secrets\nlr = random.Random(3); lr.random(); lr_g = lr.gauss; lr_g(0, 1); lr_s = random.SystemRandom(); lr_e = lr.getstate(); lr_t = random.Random(); lr_t.setstate(lr_e); lr_n = [lr_t.gauss(0, 1), lr_t.random()]",
        "assert [lr_g(0, 1), lr.random()] == lr_n and 0 <= lr_s.random() < 1",
    ),
    Case(
        "buffers",
        """
        import array, ctypes, io
        lu_a = array.array('i', [1, 2, 3]); lu_m = memoryview(lu_a); lu_b = bytearray(b'abcdef'); lu_v = memoryview(lu_b)[1:4]; lu_r = memoryview(b'xyz'); lu_c2 = memoryview(lu_a).cast('B').cast('i', [3])
        lu_c = (ctypes.c_double * 3)(1, 2, 3); lu_cc = ((ctypes.c_int * 2) * 3)(); lu_cc[1][1] = 5; lu_i = ctypes.c_int(7); lu_s = io.StringIO('abc'); lu_s.read(1); lu_y = io.BytesIO(b'abc'); lu_y.seek(2)
        lu_x = memoryview(lu_a)[::-2]; lu_2 = memoryview(bytes(range(6))).cast('B', [2, 3]); lu_rr = memoryview(lu_b).toreadonly()
        class LUP(ctypes.Structure): _fields_ = [('x', ctypes.c_int), ('y', ctypes.c_double)]
        lup = LUP(3, 4.5); lup_a = (LUP * 2)(lup)
        """,
        """
        lu_a[0] = 9; assert lu_m[0] == 9, 'memoryview of an array'
        lu_b[2] = 65
        assert lu_x.tolist() == [3, 9] and lu_c2[0] == 9 and lu_2.shape == (2, 3) and lu_2[1, 2] == 5 and bytes(lu_rr) == b'abAdef' and lu_rr.readonly; lu_x[0] = 4; assert lu_a[2] == 4 and bytes(lu_v) == b'bAd' and not lu_v.readonly and lu_r.readonly
        assert list(lu_c) == [1, 2, 3] and lu_cc[1][1] == 5 and lu_i.value == 7 and lu_s.read() == 'bc' and lu_y.read() == b'c' and lup.x == 3 and lup.y == 4.5 and lup_a[0].y == 4.5
        """,
    ),
    Case(
        "loggers_and_handlers_of_the_notebook",
        """
        import logging, io
        lg_s = io.StringIO(); lg_h = logging.StreamHandler(lg_s); lg_h.setFormatter(logging.Formatter('%(name)s|%(message)s')); lg_l = logging.getLogger('lg.mine'); lg_l.addHandler(lg_h); lg_l.setLevel(logging.DEBUG); lg_l.propagate = False
        class LGF(logging.Filter):
            def filter(self, record): return 'secret' not in record.msg
        lg_l.addFilter(LGF()); lg_a = logging.LoggerAdapter(lg_l, {'k': 1}); lg_l.debug('one')
        """,
        "import logging\nassert lg_l is logging.getLogger('lg.mine') and lg_a.logger is lg_l; lg_l.debug('two'); lg_l.debug('secret'); assert lg_s.getvalue() == 'lg.mine|one\\nlg.mine|two\\n', lg_s.getvalue()",
    ),
    Case(
        "contexts_and_stacks",
        "import contextlib\nlcx = []\nlc_s = contextlib.ExitStack(); lc_s.callback(lcx.append, 1); lc_n = contextlib.nullcontext([1]); lc_u = contextlib.suppress(KeyError); lc_r = contextlib.redirect_stdout(None)",
        "lc_s.close(); assert lcx == [1] and lc_n.enter_result == [1]\nwith lc_u: {}[1]",
    ),
    Case(
        "templates_parsers_patterns",
        """
        import string, re, argparse, configparser, struct, textwrap, json, csv, difflib, ast, types, functools, operator, itertools, html.parser
        lt = string.Template('$x'); lt_r = re.compile(r'(?P<a>\\w)', re.I); lt_c = configparser.ConfigParser(); lt_c['s'] = {'k': 'v'}; lt_s = struct.Struct('<id'); lt_j = json.JSONEncoder(indent=2); lt_a = ast.parse('x = 1')
        lt_n = types.SimpleNamespace(a=1); lt_n.me = lt_n; lt_cd = csv.DictReader; lt_p = argparse.ArgumentParser(prog='p'); lt_g = lt_p.add_subparsers(); lt_g.add_parser('run').add_argument('-n', type=int, default=2)
        lt_m = re.search(r'b(?P<q>.)', 'abc'); lt_i = list(re.finditer(r'\\d', 'a1b2'))[1]; lt_0 = lt_r.fullmatch('x')
        """,
        "assert lt.substitute(x=3) == '3' and lt_r.match('q')['a'] == 'q' and lt_c['s']['k'] == 'v' and lt_s.size == 12 and lt_j.encode([1]) == '[\\n  1\\n]' and lt_a.body[0].value.value == 1 and lt_m['q'] == 'c' and lt_m.span() == (1, 3) and lt_m.re.pattern == 'b(?P<q>.)' and lt_i.group() == '2' and lt_0['a'] == 'x' and lt_n.me is lt_n and lt_p.parse_args(['run', '-n', '4']).n == 4",
    ),
    Case(
        "pools_of_names",
        "import collections, types, sched, heapq, graphlib, statistics\nlp_t = graphlib.TopologicalSorter({1: {2}}); lp_h = [3, 1]; heapq.heapify(lp_h); lp_n = statistics.NormalDist(1, 2); lp_c = collections.ChainMap({}, {'a': 1}); lp_u = collections.UserList([1]); lp_l = collections.UserString('x'); lp_d = collections.deque(maxlen=2); lp_d.append(lp_d); lp_f = types.MethodType(lambda self: self, lp_u); lp_g = types.GenericAlias(list, int)",
        "assert list(lp_t.static_order()) == [2, 1] and lp_n.mean == 1 and lp_d[0] is lp_d and lp_f() is lp_u and lp_g == list[int] and lp_c['a'] == 1",
    ),
    Case(
        "asyncio_primitives",
        """
        import asyncio
        aq = asyncio.Queue(3); aq.put_nowait([1]); aq_p = asyncio.PriorityQueue(); aq_p.put_nowait(2); aq_e = asyncio.Event(); aq_e.set(); aq_s = asyncio.Semaphore(2); aq_l = asyncio.Lock(); aq_c = asyncio.Condition()
        """,
        """
        import asyncio
        async def aq_main():
            assert await aq.get() == [1] and aq.maxsize == 3 and await aq_p.get() == 2 and aq_e.is_set(); await aq_e.wait()
            async with aq_l: assert aq_l.locked()
            async with aq_s: pass
            async with aq_c: pass
            await aq.put(5); assert await asyncio.wait_for(aq.get(), 1) == 5
        asyncio.run(aq_main())
        """,
    ),
    Case(
        "iterators_half_way",
        """
        import inspect
        li_m = map(lambda x: x + li_k, [1, 2]); li_k = 1; li_f = filter(None, [0, 1]); li_r = reversed([1, 2]); li_i = iter(lambda: 1, 2)
        def li_d(a, b: int = 3): pass
        li_s = inspect.signature(li_d)
        """,
        "li_k = 5; assert list(li_m) == [6, 7] and list(li_f) == [1] and list(li_r) == [2, 1] and next(li_i) == 1 and str(li_s) == '(a, b: int = 3)'",
    ),
    Case(
        "iterators_of_itertools",
        """
        import itertools
        lj_t, lj_u = itertools.tee([1, 2, 3]); next(lj_t); lj_c = itertools.cycle('ab'); next(lj_c); lj_p = itertools.product('ab', [1]); next(lj_p); lj_g = itertools.groupby('aab'); lj_z = itertools.zip_longest('a', 'bc'); lj_n = itertools.count(5); next(lj_n); lj_x = [lj_t, {'c': lj_c}]
        """,
        "assert lj_x[0] is lj_t and next(lj_t) == 2 and next(lj_u) == 1 and next(lj_c) == 'b' and next(lj_p) == ('b', 1) and next(lj_g)[0] == 'a' and list(lj_z) == [('a', 'b'), (None, 'c')] and next(lj_n) == 6",
        until=(3, 14),  # what cannot come back there: test_isolation
    ),
    Case(
        "thread_locals_futures_and_c_libraries",
        """
        import threading, concurrent.futures, ctypes, struct
        lf_l = threading.local(); lf_l.x = [1]; lf_x = lf_l.x; lf_f = concurrent.futures.Future(); lf_f.set_result(lf_x); lf_e = concurrent.futures.Future(); lf_e.set_exception(KeyError('k'))
        lf_c = ctypes.CDLL(None); lf_s = lf_c.strlen; lf_s.restype = ctypes.c_size_t; lf_s.argtypes = [ctypes.c_char_p]
        class LFN(ctypes.Structure):
            def twice(self): return self.v * 2
        LFN._fields_ = [('v', ctypes.c_int), ('next', ctypes.POINTER(LFN))]
        class LFU(ctypes.Union): _fields_ = [('i', ctypes.c_uint32), ('b', ctypes.c_ubyte * 4)]
        class LFP(ctypes.BigEndianStructure): _pack_ = 1; _fields_ = [('a', ctypes.c_uint8), ('b', ctypes.c_uint32)]
        lfu = LFU(i=0x01020304); lfp = LFP(1, 2); lf_cb = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int); lf_t = [type(threading.Lock()), lf_cb, ctypes.POINTER(LFN), LFN * 3]
        """,
        "assert lf_l.x is lf_x is lf_f.result() and lf_f.done() and type(lf_e.exception()) is KeyError and lf_c.strlen is lf_s and lf_s(b'abc') == 3 and lfu.b[0] == 4 and bytes(lfp) == b'\\1\\0\\0\\0\\2' and LFN(4).twice() == 8 and lf_cb(lambda x: x + 1)(2) == 3 and lf_t[0] is type(__import__('threading').Lock()) and ctypes.sizeof(LFN) == 16\nlf_n = LFN(1, ctypes.pointer(LFN(7))); assert lf_n.next.contents.v == 7 and lf_t[2] is ctypes.POINTER(LFN)",
    ),
    Case(
        "weak_containers",
        """
        import weakref
        class LWK: pass
        lwk = LWK(); lwk_v = weakref.WeakValueDictionary({'a': lwk}); lwk_k = weakref.WeakKeyDictionary({lwk: lwk_v}); lwk_s = weakref.WeakSet([lwk])
        lwk.back = lwk_k; lwk.refs = [weakref.ref(lwk), weakref.proxy(lwk)]; lwk = [lwk]
        """,
        "import gc\nassert lwk_v['a'] is lwk[0] and lwk_k[lwk[0]] is lwk_v and lwk[0] in lwk_s and lwk[0].refs[0]() is lwk[0] and lwk[0].refs[1].back is lwk_k; lwk.clear(); gc.collect(); assert not lwk_v and not lwk_k and not lwk_s",
    ),
]

ARRAYS = [
    Case(
        "views_of_views_with_negative_strides",
        "import numpy as np\nna = np.arange(60).reshape(3, 4, 5); na_v = na[::-1, 1:3][..., ::-2]; na_w = na_v.T[1]; na_z = na[1, 2, 3:4].reshape(()); na_d = na.diagonal(); na_r = na.ravel('K')[5:]; na_s = na_v.squeeze()[None]",
        "na[1, 2, 3] = -1; assert na_z[()] == -1 and na_z.shape == (); na_w[...] = 0; assert (na[:, 1:3, 2] == 0).all() and na_v.strides == (-160, 40, -16); na_r[0] = 77; assert na[0, 1, 0] == 77; na[0, 0, 0] = 5; assert na_d[0, 0] == 5 and not na_d.flags.writeable",
    ),
    Case(
        "random_generators_shared",
        """
        import numpy as np
        nr_b = np.random.SFC64(1); nr_g = np.random.Generator(nr_b); nr_p = np.random.Generator(np.random.Philox(3)); nr_p.normal(); nr_d = np.random.Generator(np.random.PCG64DXSM(4)); nr_d.integers(3, size=3, dtype='i4'); nr_q = np.random.SeedSequence(5); nr_c = nr_q.spawn(2); nr_h = nr_g.spawn(1)[0]
        class NRD:
            def __init__(self, rng): self.rng = rng
        nr_o = NRD(nr_g); nr_f = [x.bit_generator.state for x in (nr_p, nr_d)]; nr_m = nr_g.normal
        nr_t = np.random.Generator(np.random.SFC64()); nr_t.bit_generator.state = nr_b.state; nr_e = nr_t.random(2).tolist()
        """,
        "assert nr_o.rng is nr_g and nr_g.bit_generator is nr_b and [nr_m.__self__.random(), nr_o.rng.random()] == nr_e and nr_q.spawn(1)[0].spawn_key == (2,) and str([x.bit_generator.state for x in (nr_p, nr_d)]) == str(nr_f)",
    ),
    Case(
        "dtypes_and_scalars",
        "import numpy as np\nnd = np.dtype([('a', 'i4'), ('b', 'f8', (2,))], align=True); nd_m = np.dtype('f4', metadata={'u': 1}); nd_s = [np.int8(3), np.datetime64('2026'), np.str_('q'), np.bool_(True), np.void(b'ab'), np.complex64(1j)]; nd_u = np.sum; nd_f = np.vectorize(lambda x: x * nd_k); nd_k = 2; nd_p = np.poly1d([1, 2]);",
        "nd_k = 3; assert nd.itemsize == 24 and nd.isalignedstruct and nd_s[0] == 3 and type(nd_s[0]) is np.int8 and nd_u is np.sum and nd_f([1]).tolist() == [3] and nd_p(1) == 3 and nd_s[4].tobytes() == b'ab'",
    ),
    Case(
        "object_arrays_of_arrays",
        "import numpy as np\nno_b = np.zeros(3); no = np.empty((2, 2), object); no[0, 0] = no_b; no[0, 1] = no_b[1:]; no[1, 0] = no; no[1, 1] = {'a': no_b}; no_f = np.asfortranarray(no); no_v = no[::-1, 0]",
        "no_b[1] = 5; assert no[0, 0] is no_b and no[0, 1][0] == 5 and no[1, 0] is no and no_v[0] is no and no[1, 1]['a'] is no_b and no_f[0, 0] is no_b",
    ),
    Case(
        "pandas_odds",
        """
        import numpy as np, pandas as pd
        pq = pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']}); pq.attrs['u'] = 'm'; pq_s = pq['a']; pq_c = pd.CategoricalDtype(['q', 'p'], ordered=True); pq_i = pd.IntervalIndex.from_breaks([0, 1, 2]); pq_m = pd.MultiIndex.from_tuples([(1, 'a'), (2, 'b')], names=['x', 'y'])
        pq_p = pd.Period('2026-03', 'M'); pq_t = pd.Timestamp('2026', tz='UTC'); pq_n = pd.NA; pq_nat = pd.NaT; pq_o = pd.offsets.BusinessDay(2); pq_f = pd.Series([1, 2], index=pq_m); pq_st = pq.style if __import__('importlib.util').util.find_spec('jinja2') else None; pq_r = pq.rolling(2) if False else None; pq_g = pq.groupby('b').a
        class PQ(pd.DataFrame):
            _metadata = ['unit']
            @property
            def _constructor(self): return PQ
        pq_z = PQ({'a': [1]}); pq_z.unit = 'kg'; pq_u = [pq, pq_s]
        """,
        "assert pq.attrs == {'u': 'm'} and pq_u[0] is pq and pq_u[1] is pq_s and pq_c.ordered and pq_i[0].right == 1 and pq_f.loc[2, 'b'] == 2 and pq_p.month == 3 and pq_n is pd.NA and pq_nat is pd.NaT and type(pq_z) is PQ and pq_z.unit == 'kg' and pq_g.sum()['x'] == 1 and pq_o.n == 2 and (pq_st is None or 'table' in pq_st.to_html())",
    ),
    Case(
        "pipelines_figures_images",
        """
        import numpy as np, matplotlib; matplotlib.use('agg')
        import matplotlib.pyplot as plt
        from matplotlib.animation import FuncAnimation
        from PIL import Image
        pf_f, pf_a = plt.subplots(2, 2, sharex=True); pf_l, = pf_a[0, 0].plot([1, 2], label='q'); pf_a[0, 0].legend(); pf_t = pf_a[1, 1].twinx(); pf_s = pf_a[0, 1].scatter([1], [2]); pf_cm = plt.get_cmap('viridis'); pf_n = plt.Normalize(0, 5); pf_m = plt.cm.ScalarMappable(pf_n, pf_cm)
        Image.new('RGB', (4, 3), (9, 8, 7)).save('pf.png'); pf_i = Image.open('pf.png'); pf_i2 = pf_i
        """,
        "import os\nassert pf_l in pf_a[0, 0].lines and pf_a[0, 0].get_legend() is not None and pf_t.figure is pf_f; pf_a[0, 0].set_xlim(0, 9); assert pf_a[1, 0].get_xlim() == (0, 9); pf_f.canvas.draw(); assert pf_i.getpixel((1, 1)) == (9, 8, 7) and pf_i2 is pf_i and pf_m.to_rgba(5)[3] == 1; os.unlink('pf.png') if os.path.exists('pf.png') else None",
    ),
    Case(
        "sparse_arrays_and_estimators",
        """
        import numpy as np, scipy.sparse as sps, scipy.spatial, scipy.interpolate, scipy.stats
        from sklearn.pipeline import Pipeline, FeatureUnion; from sklearn.preprocessing import FunctionTransformer; from sklearn.base import BaseEstimator, TransformerMixin; from sklearn.linear_model import SGDClassifier; from sklearn.feature_extraction.text import TfidfVectorizer
        class SKM(BaseEstimator, TransformerMixin):
            def __init__(self, k=1): self.k = k
            def fit(self, X, y=None): self.n_ = X.shape[1]; return self
            def transform(self, X): return X * self.k
        sk_f = lambda X: X + sk_k
        sk_k = 1; sk = Pipeline([('m', SKM(2)), ('f', FunctionTransformer(sk_f)), ('c', SGDClassifier(random_state=0))]).fit(np.eye(3), [0, 1, 0]); sk_m = sk['m']; sk_v = TfidfVectorizer(tokenizer=str.split, token_pattern=None).fit(['a b', 'b c'])
        sp_all = {f: sps.random(30, 20, .3, format=f, random_state=1) for f in ('csr', 'csc', 'coo', 'lil', 'dok', 'bsr', 'dia')}; sp_sum = {f: m.toarray().sum() for f, m in sp_all.items()}; sp_a = sps.coo_array(np.eye(2)); sp_b = sps.block_diag([sp_a, sp_a])
        sp_t = scipy.spatial.cKDTree(np.random.default_rng(0).random((20, 2))); sp_q = sp_t.query([0, 0]); sp_i = scipy.interpolate.interp1d([0, 1], [0, 2]); sp_r = scipy.stats.norm(1, 2); sp_c = scipy.interpolate.CubicSpline([0, 1, 2], [0, 1, 4])
        """,
        "sk_k = 2; assert sk['m'] is sk_m and type(sk_m) is SKM and sk.predict(np.eye(3)).shape == (3,) and sk['f'].transform(np.zeros((1, 1)))[0, 0] == 2 and sk_v.transform(['a']).sum() == 1 and all(m.format == f and m.toarray().sum() == sp_sum[f] for f, m in sp_all.items()) and sp_t.query([0, 0]) == sp_q and sp_i(0.5) == 1 and sp_r.mean() == 1 and sp_b.shape == (4, 4) and abs(sp_c(1.5) - 2.25) < .5",
    ),
    Case(
        "frames_of_polars_and_arrow",
        """
        import polars as pl, pyarrow as pa, pyarrow.compute as pc, datetime
        fq = pl.DataFrame({'a': [1, 2, 3], 'b': [{'x': 1}, None, {'x': 3}], 'c': [[1], None, []], 'd': [datetime.timedelta(1)] * 3, 'e': ['p', 'q', 'p']}).with_columns(pl.col('e').cast(pl.Enum(['p', 'q']))); fq_z = fq.lazy().filter(pl.col('a') > 1).group_by('e').agg(pl.col('a').sum()); fq_c = pl.Config
        fa = pa.table({'x': pa.array([1, None, 3]), 's': pa.array(['a', 'b', None]).dictionary_encode()}); fa_2 = fa.select(['x']); fa_c = fa.column(0); fa_t = pa.struct([('a', pa.int8())]); fa_ch = pa.chunked_array([[1], [2, 3]]); fa_u = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([5])]); fa_b = pa.py_buffer(b'abc'); fa_x = pc.field('x') > 1
        """,
        "assert fq['b'].to_list() == [{'x': 1}, None, {'x': 3}] and fq['e'].dtype == pl.Enum(['p', 'q']) and sorted(fq_z.collect().rows()) == [('p', 3), ('q', 2)] and fa['s'].to_pylist() == ['a', 'b', None] and fa_2.column(0).chunk(0).buffers()[1].address == fa_c.chunk(0).buffers()[1].address and fa_ch.to_pylist() == [1, 2, 3] and fa_u[0].as_py() == 5 and fa_b.to_pybytes() == b'abc' and fa.filter(fa_x).num_rows == 1",
    ),
]

TORCH = [
    Case(
        "scaler_averages_and_groups_added_later",
        """
        import torch
        ta_m = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)); ta_n = torch.nn.Linear(2, 2); ta_o = torch.optim.Adam(ta_m.parameters(), lr=.1); ta_c = torch.optim.swa_utils.AveragedModel(ta_m, use_buffers=True); ta_w = torch.optim.swa_utils.SWALR(ta_o, .05)
        def ta_step(): ta_o.zero_grad(); ta_m(ta_n(torch.ones(3, 2) * ta_i)).sum().backward(); ta_o.step(); ta_c.update_parameters(ta_m)
        ta_i = 1.0; ta_step(); ta_o.add_param_group({'params': ta_n.parameters(), 'lr': .5, 'name': 'late'}); ta_step(); ta_o.param_groups[1]['note'] = ta_l = ['x']
        """,
        "assert [p for g in ta_o.param_groups for p in g['params']][-1] is ta_n.bias and ta_o.param_groups[1]['note'] is ta_l and ta_w.optimizer is ta_o and ta_c.n_averaged == 2 and len(ta_o.state) == 6; ta_step(); assert ta_c.n_averaged == 3 and ta_o.state[ta_n.weight]['step'] == 2",
    ),
    Case(
        "accumulate_hooks_that_step",
        "import torch\ntk_p = torch.nn.Parameter(torch.ones(2)); tk_d = {tk_p: torch.optim.SGD([tk_p], lr=1.0)}\ndef tk_h(p): tk_d[p].step(); tk_d[p].zero_grad()\ntk_r = tk_p.register_post_accumulate_grad_hook(tk_h)",
        "tk_p.sum().backward(); assert tk_p.tolist() == [0, 0] and tk_p.grad is None; tk_r.remove(); tk_p.sum().backward(); assert tk_p.tolist() == [0, 0] and tk_p.grad.tolist() == [1, 1]",
    ),
    Case(
        "script_functions_and_attributes",
        """
        import torch, typing
        @torch.jit.script
        def ts_f(x: torch.Tensor, k: int = 2) -> torch.Tensor: return x * k
        class TSM(torch.nn.Module):
            words: typing.Dict[str, int]
            def __init__(self): super().__init__(); self.words = {'a': 1}; self.n = 3; self.l = torch.nn.Linear(2, 2)
            def forward(self, x): return self.l(x) * self.n
            @torch.jit.export
            def look(self, w: str) -> int: return self.words[w]
        ts_m = torch.jit.script(TSM()); ts_m.tag = ts_t = ['mine']; ts_a = {'m': ts_m, 'f': ts_f}; ts_m.eval(); ts_y = ts_m(torch.ones(1, 2)).detach(); ts_h = []; ts_m.n = 5
        ts_tr = torch.jit.trace(lambda x: x + 1, torch.ones(2)); ts_o = torch.optim.SGD(ts_m.parameters(), .1)
        """,
        "assert ts_f(torch.ones(2)).tolist() == [2, 2] and ts_a['f'] is ts_f and ts_a['m'] is ts_m and ts_m.look('a') == 1 and not ts_m.training and torch.allclose(ts_m(torch.ones(1, 2)).detach(), ts_y / 3 * 5) and ts_tr(torch.ones(2)).tolist() == [2, 2] and isinstance(ts_f, torch.jit.ScriptFunction) and ts_o.param_groups[0]['params'][0] is ts_m.l.weight and ts_m.tag is ts_t and ts_m.n == 5",
    ),
    Case(
        "weight_and_spectral_norm_old_and_new",
        """
        import torch, warnings
        with warnings.catch_warnings():
            warnings.simplefilter('ignore'); to_w = torch.nn.utils.weight_norm(torch.nn.Linear(2, 2)); to_s = torch.nn.utils.spectral_norm(torch.nn.Linear(2, 2))
        to_n = torch.nn.Sequential(torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 3)), torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(3, 2))); to_o = torch.optim.SGD([*to_w.parameters(), *to_s.parameters(), *to_n.parameters()], .1)
        to_w(torch.ones(1, 2)).sum().backward(); to_o.step(); to_y = [m.eval()(torch.ones(1, 2)).detach() for m in (to_w, to_s, to_n)]
        """,
        "assert all(torch.equal(m(torch.ones(1, 2)).detach(), y) for m, y in zip((to_w, to_s, to_n), to_y)); to_w.train(); to_o.zero_grad(); to_w(torch.ones(1, 2)).sum().backward(); to_o.step(); assert to_w.weight_g.grad is not None and len(to_n.state_dict()) >= 6",
        note="to_w: its autograd graph",
    ),
    Case(
        "subclass_by_torch_function",
        """
        import torch
        class TF(torch.Tensor):
            @staticmethod
            def __new__(cls, data, *, unit): return torch.as_tensor(data).as_subclass(cls)
            def __init__(self, data, *, unit): self.unit = unit
            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None):
                out = super().__torch_function__(func, types, args, kwargs or {})
                if isinstance(out, TF): out.unit = next((a.unit for a in args if isinstance(a, TF) and hasattr(a, 'unit')), None)
                return out
        tf = TF([1.0, 2.0], unit='m'); tf_b = tf + 1; tf_v = tf[1:]
        class TFL:
            def __init__(self, t): self.t = t
            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None): return TFL(func(*(a.t if isinstance(a, TFL) else a for a in args), **(kwargs or {})))
        tfl = TFL(tf)
        """,
        "assert type(tf) is TF and tf.unit == 'm' and (tf * 2).unit == 'm' and tf_b.unit == 'm'; tf[1] = 9; assert tf_v[0] == 9 and tfl.t is tf and torch.add(tfl, 1).t.tolist() == [2, 10]",
    ),
    Case(
        "random_position_of_a_loader",
        """
        import torch
        class TR(torch.utils.data.IterableDataset):
            def __init__(self): self.seen = 0
            def __iter__(self):
                while self.seen < 6: self.seen += 1; yield self.seen
        tr_d = TR(); tr_l = torch.utils.data.DataLoader(tr_d, batch_size=2); tr_g = torch.Generator().manual_seed(1); tr_s = torch.utils.data.RandomSampler(range(9), generator=tr_g); tr_b = torch.utils.data.BatchSampler(tr_s, 2, True); tr_m = torch.utils.data.DataLoader(range(9), batch_sampler=tr_b); list(tr_m)
        tr_k = tr_g.get_state(); tr_e = [x.tolist() for x in tr_m]; tr_g.set_state(tr_k); tr_c = torch.utils.data.ConcatDataset([torch.utils.data.TensorDataset(torch.ones(2)), torch.utils.data.StackDataset(torch.ones(2))])
        """,
        "assert tr_l.dataset is tr_d and tr_m.batch_sampler is tr_b and tr_b.sampler is tr_s and tr_s.generator is tr_g and [x.tolist() for x in tr_m] == tr_e and len(tr_c) == 4 and next(iter(tr_l)).tolist() == [1, 2]",
    ),
    Case(
        "functional_and_autograd_odds",
        """
        import torch
        class TO(torch.nn.Module):
            def __init__(self): super().__init__(); self.a = torch.nn.ParameterList([torch.ones(1)]); self.d = torch.nn.ModuleDict({'x': torch.nn.Identity()}); self.register_parameter('none', None); self.register_buffer('nb', None); self._h = self.register_load_state_dict_pre_hook(lambda *a: to_c.append(1)); self.fn = torch.nn.functional.gelu; self.dev = torch.device('cpu'); self.dt = torch.bfloat16
            def forward(self, x): return self.d['x'](x) * self.a[0]
        to_c = []; to_m = TO(); to_f = torch.func.functional_call; to_v = torch.vmap(lambda x: x * to_k); to_k = 2; to_gr = torch.func.grad(lambda x: (x ** 2).sum()); to_ck = torch.utils.checkpoint.checkpoint; to_am = torch.autocast('cpu', dtype=torch.bfloat16); to_ng = torch.no_grad(); to_ev = [torch.strided, torch.contiguous_format, torch.per_tensor_affine, torch.Size([2])]
        """,
        "to_m.load_state_dict(to_m.state_dict()); assert to_c == [1] and to_m.none is None and to_m.fn is torch.nn.functional.gelu and to_m(torch.ones(1)).item() == 1 and to_ev[0] is torch.strided and to_ev[2] is torch.per_tensor_affine\nto_k = 3; assert to_v(torch.ones(2)).tolist() == [3, 3] and to_gr(torch.ones(1)).item() == 2\nwith to_am: assert torch.mm(torch.ones(1, 1), torch.ones(1, 1)).dtype is torch.bfloat16\nwith to_ng: assert not torch.is_grad_enabled()",
    ),
    Case(
        "layouts_jagged_and_quantised",
        """
        import torch, warnings
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            tl_r = torch.eye(4).to_sparse_csr(); tl_c = torch.eye(4).to_sparse_csc(); tl_b = torch.eye(4).to_sparse_bsr((2, 2)); tl_d = torch.eye(4).to_sparse_bsc((2, 2)); tl_j = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=torch.jagged); tl_jv = tl_j.values(); tl_n = torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)]); tl_q = torch.quantize_per_channel(torch.ones(2, 2), torch.tensor([.1, .2]), torch.tensor([0, 1]), 1, torch.quint8); tl_p = torch.nn.Parameter(torch.eye(3).to_sparse()); tl_s = torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.long), torch.zeros(0, 2), (3, 2)); tl_m = torch.masked.masked_tensor(torch.ones(2), torch.tensor([True, False]))
            with torch.inference_mode(): tl_i = torch.nn.Linear(2, 2)
        """,
        "assert [x.layout for x in (tl_r, tl_c, tl_b, tl_d)] == [torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc] and all(x.to_dense().trace() == 4 for x in (tl_r, tl_c, tl_b, tl_d)) and tl_j.layout is torch.jagged and [t.shape[0] for t in tl_j.unbind()] == [2, 1] and [len(t) for t in tl_n.unbind()] == [2, 3] and tl_q.q_per_channel_axis() == 1 and isinstance(tl_p, torch.nn.Parameter) and tl_p.is_sparse and tl_s.shape == (3, 2) and tl_m.get_mask().tolist() == [True, False] and tl_i.weight.is_inference()\ntl_jv[0, 0] = 7; assert tl_j.values()[0, 0] == 7",
    ),
    Case(
        "hooks_of_a_distributed_wrapper",
        """
        import torch, torch.distributed as td_d
        td_d.init_process_group('gloo', store=td_d.HashStore(), rank=0, world_size=1)
        def td_hook(state, bucket): state.append(bucket.index()); f = torch.futures.Future(); f.set_result(bucket.buffer() * td_k); return f
        td_k = 1.0; td_s = []; td = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2)); td.register_comm_hook(td_s, td_hook); td_n = []; td.register_forward_hook(lambda m, i, o: td_n.append(m)); td(torch.ones(1, 2)).sum().backward(); td_s.clear(); td_n.clear(); td.zero_grad(); td_d.destroy_process_group()
        """,
        "td_k = 3.0; td(torch.ones(1, 2)).sum().backward(); assert td_s and td_n == [td] and td.module.weight.grad.tolist() == [[3, 3], [3, 3]]; td_d.destroy_process_group()",
    ),
    Case(
        "tied_across_models_and_lists",
        "import torch, copy\ntt_e = torch.nn.Embedding(4, 2); tt_d = torch.nn.Linear(2, 4, bias=False); tt_d.weight = tt_e.weight; tt_l = [tt_e.weight, tt_d]; tt_c = copy.deepcopy(torch.nn.ModuleList([tt_e, tt_d])); tt_sd = tt_d.state_dict(); tt_np = tt_e.weight.detach().numpy(); tt_g = {id(tt_e): 'by id'}; tt_flat = torch.nn.utils.parameters_to_vector(tt_d.parameters()); tt_e.weight.grad = torch.ones(4, 2); tt_gr = tt_e.weight.grad.view(-1)",
        "with torch.no_grad(): tt_d.weight[0, 0] = 42\nassert tt_e.weight[0, 0] == 42 == tt_sd['weight'][0, 0] == tt_np[0, 0] and tt_l[0] is tt_d.weight and tt_c[0].weight is tt_c[1].weight is not tt_e.weight; tt_gr[0] = 5; assert tt_d.weight.grad[0, 0] == 5",
    ),
]

GROUPS = {"language": LANGUAGE, "library": LIBRARY, "arrays": ARRAYS, "torch": TORCH}
CASES = [(group, case) for group, cases in GROUPS.items() for case in cases]


@pytest.fixture(scope="module")
def trips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RoundTrip]:
    folder = tmp_path_factory.mktemp("more")
    return {group: RoundTrip(folder / group, dedented(cases)) for group, cases in GROUPS.items()}


@pytest.mark.parametrize(("group", "case"), CASES, ids=[case.name for _, case in CASES])
def test_comes_back_as_it_was(trips: dict[str, RoundTrip], group: str, case: Case) -> None:
    trips[group].check(case)


@pytest.mark.parametrize("group", GROUPS)
def test_nothing_is_lost(trips: dict[str, RoundTrip], group: str) -> None:
    assert trips[group].lost == []


def test_match_is_found_again_without_a_search_that_takes_for_ever() -> None:
    """``fullmatch`` would try 2**100 ways of splitting the letters."""
    second = list(re.finditer("(a|aa)+", "a" * 200 + "b" + "a" * 3))[1]
    make, arguments = standard_library.REDUCERS[re.Match](second)
    assert make(*arguments).regs == second.regs


def test_looking_for_the_module_of_a_file_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            raise ImportError(f"{name} needs a library that is not installed")

    lazy = Lazy("lazy")
    monkeypatch.setattr(sys, "modules", {"lazy": lazy, **sys.modules})
    assert notebook_code._source_of(types.__file__) == ("", "types", -1)
    assert notebook_code._source_of("<string>") is None


def test_object_by_the_constructor_of_a_library_that_wants_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wants_arguments.py").write_text(
        "class Base:\n    def __new__(cls, size): return object.__new__(cls)\n"
    )
    cells = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import wants_arguments\n"
        "class Mine(wants_arguments.Base):\n    def __new__(cls): return super().__new__(cls, 5)\n"
        "mine = Mine(); mine.x = [1]"
    )
    assert bare_shell("save", tmp_path / "store", {"before": cells})["lost"] == []
    loaded = bare_shell("load", tmp_path / "store", {"check": "assert type(mine) is Mine and mine.x == [1]"})
    assert (loaded["outcome"]["check"], loaded["lost"]) == (None, [])
