"""Classes and functions that run code of their own when they are made, pickled or looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.snapshot.fidelity import Case, RoundTrip, bare_shell

CASES = [
    Case(
        "subclass_hook_with_keywords_is_not_asked_again",
        """
rg_seen = []
class RG:
    registry = {}
    def __init_subclass__(cls, /, key, **more):
        super().__init_subclass__(**more); cls.key = key; RG.registry[key] = cls; rg_seen.append(key)
class RGa(RG, key='a'): pass
class RGb(RGa, key='b'): pass
rg = RGb()
""",
        """
assert RG.registry == {'a': RGa, 'b': RGb} and rg_seen == ['a', 'b'] and type(rg) is RG.registry['b']
class RGc(RG, key='c'): pass
assert RG.registry['c'] is RGc
""",
    ),
    Case(
        "metaclass_is_not_asked_again",
        """
mt_made = []
class MT(type):
    def __new__(meta, name, bases, ns, **kw):
        cls = super().__new__(meta, name, bases, ns); cls.kw = kw; mt_made.append(name); return cls
    def __init__(cls, name, bases, ns, **kw): super().__init__(name, bases, ns)
    def __setattr__(cls, name, value):
        if name == 'locked': raise AttributeError(name)
        super().__setattr__(name, value)
class MTx(metaclass=MT, flag=1):
    locked = 5
    def f(self): return __class__
mtx = MTx()
""",
        """
assert mt_made == ['MTx'] and MTx.kw == {'flag': 1} and type(MTx) is MT and mtx.f() is MTx and MTx.locked == 5
class MTy(metaclass=MT): pass
assert mt_made == ['MTx', 'MTy']
""",
    ),
    Case(
        "enums_with_constructors",
        """
import enum
class EP(enum.Enum):
    EARTH = (5.97, 6.37)
    def __init__(self, mass, radius): self.mass = mass; self.radius = radius
class EB(bytes, enum.Enum):
    def __new__(cls, value, label):
        obj = bytes.__new__(cls, [value]); obj._value_ = value; obj.label = label; return obj
    X = (1, 'one')
class ET(str, enum.Enum): A = 'a'; B = 'b'; ALIAS = 'a'
class EF(enum.IntFlag): R = 1; W = 2
class EU(enum.Enum): GREEN = [2]
ep, eb, et, ef, eu = EP.EARTH, EB.X, ET.ALIAS, EF.R | EF.W, EU.GREEN; ET.later = 'set later'
""",
        """
assert ep is EP.EARTH and ep.mass == 5.97 and EP((5.97, 6.37)) is ep
assert eb is EB.X and eb.label == 'one' and eb == bytes([1]) and EB(1) is eb
assert et is ET.A is ET.ALIAS and et == 'a' and list(ET) == [ET.A, ET.B] and ET['ALIAS'] is et and ET.later
assert ef is EF(3) and EF.R in ef and ~EF.R & ef is EF.W and eu is EU.GREEN is EU([2])
""",
    ),
    Case(
        "attributes_made_up_by_the_class",
        """
class GA:
    def __init__(self, inner): self.inner = inner
    def __getattr__(self, name): return getattr(self.inner, name)
class GB:
    def __getattr__(self, name): return 'made up ' + name
class GC:
    def __getattribute__(self, name): return object.__getattribute__(self, 'x') if name == 'y' else object.__getattribute__(self, name)
class GS:
    __slots__ = ('a',)
    def __setattr__(self, name, value): raise AttributeError('read-only')
ga = GA([1, 2]); gb = GB(); gb.real = 4; gc_o = GC(); gc_o.x = gc_o; gs = GS(); object.__setattr__(gs, 'a', 7)
""",
        "assert ga.count(1) == 1 and gb.other == 'made up other' and gb.real == 4 and gc_o.y is gc_o and gs.a == 7",
    ),
    Case(
        "descriptor_is_named_once",
        """
ds_named = []
class DS:
    def __set_name__(self, owner, name): self.name = name; self.owner = owner; ds_named.append(name)
    def __get__(self, obj, cls): return self if obj is None else obj.__dict__.get(self.name, 'unset')
    def __set__(self, obj, value): obj.__dict__[self.name] = value
class DSo: x = DS()
ds = DSo(); ds.x = 4
""",
        "assert ds.x == 4 and DSo.x.owner is DSo and DSo().x == 'unset' and ds_named == ['x']",
    ),
    Case(
        "class_rerun",
        """
class RR:
    def who(self): return 'old'
    def me(self): return __class__
class RRsub(RR): pass
rr_old, rr_old_sub, rr_first = RR(), RRsub(), RR
class RR:
    def who(self): return 'new'
class RRsub(RR): pass
rr_new_sub = RRsub()
""",
        """
assert rr_old.who() == 'old' and type(rr_old) is rr_first is rr_old.me() is not RR and RR().who() == 'new'
assert type(rr_old_sub).__mro__[1] is rr_first and RRsub.__mro__[1] is RR and type(rr_new_sub) is RRsub
assert not isinstance(rr_old, RR) and isinstance(rr_old_sub, rr_first)
""",
    ),
    Case(
        "exception_whose_constructor_takes_something_else",
        """
class XC(Exception):
    def __init__(self, a, b): super().__init__(f'{a} {b}'); self.a, self.b = a, b
try:
    try: raise OSError(2, 'gone', 'file')
    except OSError as error: raise XC(1, [2]) from error
except XC as error: xc = error
""",
        "assert type(xc) is XC and xc.b == [2] and str(xc) == '1 [2]' and xc.__cause__.filename == 'file' and xc.__cause__.errno == 2",
    ),
    Case(
        "oldest_entry_of_a_cache_goes_first",
        """
import functools
lo_calls = []
@functools.lru_cache(maxsize=2)
def lo(x, *, y=0): lo_calls.append(x); return [x, y]
lo_1 = lo(1); lo_2 = lo(2, y=5); lo(1)
@functools.lru_cache(None)
def lo_deep(n): return n if n < 2 else lo_deep(n - 1) + lo_deep(n - 2)
lo_deep(50)
""",
        """
assert lo(2, y=5) is lo_2 and lo(1) is lo_1 and lo_calls == [1, 2]
lo(3); assert lo(1) is lo_1; lo(2, y=5); assert lo_calls == [1, 2, 3, 2]
assert lo.cache_parameters() == {'maxsize': 2, 'typed': False} and lo.__wrapped__(7) == [7, 0]
assert lo_deep.cache_info().currsize == 51 and lo_deep(300) > 1
""",
    ),
    Case(
        "wrapper_by_a_library_keeps_the_librarys_globals",
        "import bisect\nlw = eval('lambda f: (lambda *a: (insort, f(*a)))', bisect.__dict__)(lambda x: x)",
        "assert lw.__globals__ is bisect.__dict__ and lw(3) == (bisect.insort, 3)",
    ),
    Case(
        "sort_keys_and_type_parameters",
        "import functools, typing\nsk = functools.cmp_to_key(lambda a, b: b - a); sp = typing.ParamSpec('sp'); sn = typing.NewType('sn', int)",
        "assert sorted([1, 3, 2], key=sk) == [3, 2, 1] and sp.__name__ == 'sp' and sn.__supertype__ is int",
    ),
    Case(
        "source_of_a_function",
        "def so(x):\n    # a comment that only the source has\n    return x",
        "import inspect\nassert '# a comment that only the source has' in inspect.getsource(so)",
    ),
    Case(
        "deep_closures",
        "def dc_wrap(f): return lambda: f\ndc = None\nfor _ in range(20_000): dc = dc_wrap(dc)",
        "n = 0\nwhile dc: dc = dc(); n += 1\nassert n == 20_000",
    ),
    Case(
        "setstate_uses_names_of_the_notebook",
        """
import threading
SU_DEFAULT = [3]
class SU:
    def __init__(self): self.lock = threading.Lock()
    def __getstate__(self): return {}
    def __setstate__(self, state): self.lock = threading.Lock(); self.default = SU_DEFAULT; self.cls = SU
su = SU()
""",
        "assert su.default is SU_DEFAULT and su.cls is SU and su.lock.acquire()",
    ),
]


@pytest.fixture(scope="module")
def trip(tmp_path_factory: pytest.TempPathFactory) -> RoundTrip:
    return RoundTrip(tmp_path_factory.mktemp("classes") / "store", CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_comes_back_as_it_was(trip: RoundTrip, case: Case) -> None:
    trip.check(case)


def test_nothing_is_lost(trip: RoundTrip) -> None:
    assert trip.lost == []


OTHER_PYTHON = "import respawner.pickling.notebook_code as nc; nc._magic = lambda: 1; del nc\n"


def test_code_of_another_python_is_compiled_from_its_source(tmp_path: Path) -> None:
    """The snapshot says that another Python made it, so its bytecode must not be run."""
    functions = (
        "def outer(n):\n    def inner(x): return x + n\n    return inner\nadd = outer(2)\n"
        "class K:\n    def m(self): return [x for x in 'ab'], __class__\nk = K(); f = lambda x: x * 3"
    )
    saved = bare_shell("save", tmp_path, {"code": functions, "other": OTHER_PYTHON})
    assert (saved["outcome"], saved["lost"]) == ({"code": None, "other": None}, [])
    check = "assert add(3) == 5 and outer(1)(1) == 2 and k.m() == (['a', 'b'], K) and f(2) == 6"
    loaded = bare_shell("load", tmp_path, {"check": check})
    assert (loaded["outcome"]["check"], loaded["lost"]) == (None, [])


def test_code_of_another_python_without_source_is_lost_alone(tmp_path: Path) -> None:
    functions = "exec(compile('def f(): return 1', '<nowhere>', 'exec')); box = [f]; alias = f; good = [1]"
    bare_shell("save", tmp_path, {"code": functions, "other": OTHER_PYTHON})
    loaded = bare_shell("load", tmp_path, {"check": "assert good == [1] and box[0] is alias is f"})
    assert loaded["outcome"]["check"] is None, loaded["outcome"]["check"]
    assert {lost["respawner_path"] for lost in loaded["lost"]} == {"f"}
    assert "another version of Python" in loaded["lost"][0]["respawner_reason"]
