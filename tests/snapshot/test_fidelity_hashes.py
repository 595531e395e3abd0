"""Objects with a hash of their own in sets and dictionaries that are made before the objects have their state."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from respawner.pickling import late_hashes
from respawner.pickling.late_hashes import hashes_wait

from tests.snapshot.dedented import dedented
from tests.snapshot.fidelity import Case, RoundTrip, bare_shell

CASES = [
    Case(
        "member_of_its_own_set",
        """
        class HS:
            def __init__(self, n): self.n = n; self.all = {self}; self.by = {self: 'me'}
            def __hash__(self): return hash(self.n)
            def __eq__(self, other): return isinstance(other, HS) and self.n == other.n
        hs = HS(5); hs_all = hs.all
        """,
        "assert hs in hs.all and hs.by[hs] == 'me' and hs.all is hs_all and len(hs.all) == 1 and HS(5) in hs.all and HS(6) not in hs.all",
    ),
    Case(
        "graph_of_nodes_that_know_each_other",
        """
        class HG:
            def __init__(self, n): self.n = n; self.near = set(); self.far = {}
            def __hash__(self): return hash(('HG', self.n))
            def __eq__(self, other): return self.n == other.n
            def __repr__(self): return f'HG({self.n})'
        hg = [HG(n) for n in range(30)]
        for hg_a in hg:
            for hg_b in hg:
                if hg_a.n % 7 == hg_b.n % 7: hg_a.near.add(hg_b)
                else: hg_a.far[hg_b] = hg_a.n - hg_b.n
        """,
        """
        for hg_a in hg:
            assert all((hg_b in hg_a.near) == (hg_a.n % 7 == hg_b.n % 7) for hg_b in hg)
            assert all(hg_a.far[hg_b] == hg_a.n - hg_b.n for hg_b in hg if hg_b not in hg_a.near)
            assert [b.n for b in hg_a.far] == [n for n in range(30) if n % 7 != hg_a.n % 7]
            assert all(any(b is x for x in hg) for b in hg_a.near)
        """,
    ),
    Case(
        "hash_that_answers_before_the_state_is_there",
        """
        import dataclasses
        @dataclasses.dataclass(frozen=True)
        class HD:
            name: str = ''
            peers: set = dataclasses.field(default_factory=set, compare=False)
        hd_a, hd_b = HD('a'), HD('b')
        for hd_x in (hd_a, hd_b): hd_x.peers.update((hd_a, hd_b))
        class HC:
            n = 0
            def __init__(self, n): self.n = n; self.d = {}
            def __hash__(self): return 7
            def __eq__(self, other): return self.n == other.n
        hc = [HC(1), HC(2), HC(3)]
        for hc_x in hc: hc_x.d.update({hc_y: hc_y.n for hc_y in hc})
        """,
        """
        assert hd_a.peers == {hd_a, hd_b} == hd_b.peers and HD('b') in hd_a.peers and HD('c') not in hd_a.peers
        assert all(hc_x.d[hc_y] == hc_y.n and len(hc_x.d) == 3 for hc_x in hc for hc_y in hc)
        """,
    ),
    Case(
        "frozenset_that_holds_its_owner",
        """
        class HF:
            def __init__(self, n): self.n = n; self.f = frozenset([self, 1]); self.d = {self.f: 'f'}; self.t = (self.f, self)
            def __hash__(self): return hash(self.n)
            def __eq__(self, other): return isinstance(other, HF) and self.n == other.n
        hf = HF('q'); hf_s = {hf.f}
        """,
        "assert hf in hf.f and 1 in hf.f and hf.d[hf.f] == 'f' and hf.f in hf_s and hf.t[0] is hf.f and frozenset([HF('q'), 1]) == hf.f and type(hf.f) is frozenset and hash(hf.f) == hash(frozenset([1, HF('q')]))",
    ),
    Case(
        "keys_that_hold_the_object",
        """
        import dataclasses
        class HK:
            def __init__(self, n): self.n = n; self.d = {(self, 1): 'a', ((self,), 2): 'b', frozenset([self]): 'c', HKE(self): 'd'}
            def __hash__(self): return hash(self.n)
            def __eq__(self, other): return isinstance(other, HK) and self.n == other.n
        @dataclasses.dataclass(frozen=True)
        class HKE: end: object
        hk = HK(3)
        """,
        "assert hk.d[hk, 1] == 'a' and hk.d[(hk,), 2] == 'b' and hk.d[frozenset([hk])] == 'c' and hk.d[HKE(hk)] == 'd' and list(hk.d.values()) == list('abcd')",
    ),
    Case(
        "subclasses_of_dict_and_set",
        """
        import collections
        class HMD(dict): pass
        class HMS(set): tag = None
        class HM:
            def __init__(self, n):
                self.n = n; self.o = collections.OrderedDict([(0, 'z'), (self, 'o'), (2, 't')]); self.dd = collections.defaultdict(list, {self: [1]}); self.c = collections.Counter([self, self])
                self.md = HMD({self: 'md'}); self.ms = HMS([self]); self.ms.tag = self; self.ks = self.o.keys()
            def __hash__(self): return hash(self.n)
            def __eq__(self, other): return isinstance(other, HM) and self.n == other.n
        hm = HM(9)
        """,
        "assert hm.o[hm] == 'o' and list(hm.o.values()) == ['z', 'o', 't'] and hm.dd[hm] == [1] and hm.c[hm] == 2 and hm.md[hm] == 'md' and hm in hm.ms and hm.ms.tag is hm and type(hm.ms) is HMS and hm in hm.ks; hm.o.move_to_end(hm); assert list(hm.o)[-1] is hm",
    ),
    Case(
        "registry_in_the_class",
        """
        class HR:
            registry = {}; names = set()
            def __init__(self, n): self.n = n; HR.registry[self] = n; HR.names.add(self)
            def __hash__(self): return hash(self.n)
            def __eq__(self, other): return self.n == other.n
        hr = [HR(n) for n in range(3)]; HR.default = HR(9)
        """,
        "assert [HR.registry[x] for x in hr] == [0, 1, 2] and all(x in HR.names for x in (*hr, HR.default)) and HR.registry[HR(9)] == 9 and HR.__hash__.__name__ == '__hash__' and HR.__hash__.__qualname__ == 'HR.__hash__'",
    ),
    Case(
        "enum_members_as_keys_in_their_class",
        """
        import enum
        class HE(enum.Enum):
            A = 1
            B = 2
        HE.labels = {HE.A: 'a', HE.B: 'b'}; HE.both = frozenset(HE); HE.A.partner = HE.B; HE.B.partners = {HE.A}
        class HEV(enum.Enum):
            X = 'x'
            def __hash__(self): return hash(self.value)
        HEV.d = {HEV.X: 1}
        """,
        "assert HE.labels == {HE.A: 'a', HE.B: 'b'} and HE.B in HE.both and HE.A.partner is HE.B and HE.A in HE.B.partners and HEV.d[HEV.X] == 1",
    ),
    Case(
        "slots_and_frozen_dataclasses_with_slots",
        """
        import dataclasses
        class HL:
            __slots__ = ('n', 'near', '__weakref__')
            def __init__(self, n): self.n = n; self.near = {self}
            def __hash__(self): return hash(self.n)
            def __eq__(self, other): return self.n == other.n
        hl = HL(4)
        @dataclasses.dataclass(frozen=True, slots=True)
        class HLF:
            n: int
            near: set = dataclasses.field(default_factory=set, compare=False)
        hlf = HLF(1); hlf.near.add(hlf)
        """,
        "assert hl in hl.near and HL(4) in hl.near and hlf in hlf.near and HLF(1) in hlf.near and HLF(2) not in hlf.near",
    ),
    Case(
        "attrs",
        """
        import attrs
        @attrs.frozen
        class HAF:
            n: int
            near: set = attrs.field(factory=set, eq=False)
        haf = HAF(3); haf.near.add(haf)
        """,
        "assert haf in haf.near and HAF(3) in haf.near",
    ),
    Case(
        "pydantic",
        """
        import pydantic
        class HPY(pydantic.BaseModel, frozen=True):
            n: int
            near: dict = {}
            def __hash__(self): return hash(self.n)
        hpy = HPY(n=2); hpy.near[hpy] = 1
        """,
        "assert hpy.near[hpy] == 1",
    ),
    Case(
        "weak_containers_and_caches",
        """
        import weakref, functools
        class HW:
            def __init__(self, n): self.n = n; self.ws = weakref.WeakSet([self]); self.wk = weakref.WeakKeyDictionary({self: 'k'})
            def __hash__(self): return hash(self.n)
            def __eq__(self, other): return isinstance(other, HW) and self.n == other.n
            @functools.lru_cache
            def f(self, x): self.calls = getattr(self, 'calls', 0) + 1; return [x]
        hw = HW(1); hw_1 = hw.f(1)
        """,
        "assert hw in hw.ws and hw.wk[hw] == 'k' and hw.f(1) is hw_1 and hw.calls == 1",
    ),
    Case(
        "hash_of_other_objects_with_hashes",
        """
        class HOA:
            def __init__(self, b): self.b = b; self.s = set()
            def __hash__(self): return hash(self.b)
            def __eq__(self, o): return isinstance(o, HOA) and self.b == o.b
        class HOB:
            def __init__(self, n): self.n = n; self.owners = {}
            def __hash__(self): return hash(self.n)
            def __eq__(self, o): return isinstance(o, HOB) and self.n == o.n
        hob = HOB(5); hoa = HOA(hob); hob.owners[hoa] = 1; hoa.s.add(hoa); hoa.s.add(hob)
        """,
        "assert hob.owners[hoa] == 1 and hoa in hoa.s and hob in hoa.s and HOA(HOB(5)) in hoa.s",
    ),
    Case(
        "reduction_of_its_own",
        """
        class HX:
            def __init__(self, n): self.n = n; self.s = {self}
            def __getstate__(self): return (self.n, self.s)
            def __setstate__(self, state): self.n, self.s = state; self.again = True
            def __hash__(self): return hash(self.n)
            def __eq__(self, o): return self.n == o.n
        hx = HX(5)
        """,
        "assert hx in hx.s and hx.again",
    ),
    Case(
        "subclass_of_a_class_with_a_hash",
        """
        class HPa:
            def __init__(self, n): self.n = n; self.s = {self}
            def __hash__(self): return hash(self.n)
            def __eq__(self, o): return self.n == o.n
        class HPb(HPa): pass
        class HPc(HPb):
            def __eq__(self, o): return type(o) is HPc and super().__eq__(o)
            __hash__ = HPa.__hash__
        class HPd(HPa):
            def __eq__(self, o): return True
        hpb, hpc = HPb(1), HPc(1)
        """,
        """
        assert hpb in hpb.s and hpc in hpc.s and HPb(1) in hpb.s and HPd.__hash__ is None and '__hash__' not in vars(HPb) and HPc.__hash__ is HPa.__hash__
        try: hash(HPd.__new__(HPd)); raise AssertionError
        except TypeError: pass
        """,
    ),
    Case(
        "in_an_array_and_a_series",
        """
        import numpy as np, pandas as pd
        class HN:
            def __init__(self, n): self.n = n; self.s = pd.Series([1], index=pd.Index([self], dtype=object)); self.a = np.array([self, {self}], dtype=object)
            def __hash__(self): return hash(self.n)
            def __eq__(self, o): return isinstance(o, HN) and self.n == o.n
        hn = HN(4)
        """,
        "assert hn.s[hn] == 1 and hn in hn.a[1] and hn.a[0] is hn",
    ),
]


@pytest.fixture(scope="module")
def trip(tmp_path_factory: pytest.TempPathFactory) -> RoundTrip:
    return RoundTrip(tmp_path_factory.mktemp("hashes") / "store", dedented(CASES))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_comes_back_as_it_was(trip: RoundTrip, case: Case) -> None:
    trip.check(case)


def test_nothing_is_lost(trip: RoundTrip) -> None:
    assert trip.lost == []


MODULE = """
class Node:
    def __init__(self, name): self.name = name; self.near = {self}
    def __hash__(self): return hash(self.name)
    def __eq__(self, other): return self.name == other.name
"""


def test_class_of_a_module_keeps_its_own_hash_function(tmp_path: Path) -> None:
    (tmp_path / "nodes_of_a_module.py").write_text(MODULE)
    before = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import nodes_of_a_module as m; node = m.Node('a')"
    assert bare_shell("save", tmp_path / "store", {"before": before})["lost"] == []
    check = "assert node in node.near and m.Node('a') in node.near and m.Node.__hash__.__code__.co_filename == m.__file__"
    loaded = bare_shell("load", tmp_path / "store", {"check": check})
    assert (loaded["outcome"]["check"], loaded["lost"]) == (None, [])


def test_hash_that_fails_in_the_end_as_well_costs_only_itself(tmp_path: Path) -> None:
    before = (
        "class K:\n    def __hash__(self): return 1 // self.n\n    def __eq__(self, o): return self is o\n"
        "k = K(); k.n = 1; k.s = {k}; k.n = 0; good = [1]; alias = good"
    )
    assert bare_shell("save", tmp_path, {"before": before})["lost"] == []
    check = "assert alias is good == [1] and next(iter(k.s)) is k and len(k.s) == 1"
    loaded = bare_shell("load", tmp_path, {"check": check})
    assert loaded["outcome"]["check"] is None, loaded["outcome"]["check"]
    assert "cannot be found in it" in loaded["notes"][0]


FAILING_IN_THE_END = """
import sys, weakref, functools
sys.answer = 1
class K:
    def __init__(self, n): self.n = n; self.w = weakref.WeakKeyDictionary({self: 1})
    def __hash__(self): return sys.answer
    def __eq__(self, o): return self is o
class E:
    def __init__(self, n, s): self.n = n; self.s = s; s.add(self)
    def __hash__(self): return 7
    def __eq__(self, o): return self.n == o.n and sys.answer
e = E(1, set()); z = e.s; f = E(2, z); f.n = 1
k = K(1); good = [1]; alias = good
"""


def test_hash_and_comparison_that_fail_in_the_end_empty_nothing_and_cost_nothing_else(tmp_path: Path) -> None:
    """``sys.answer`` is not there in the fresh process; ``z`` is reached by ``e``, which is in it."""
    assert bare_shell("save", tmp_path, {"before": FAILING_IN_THE_END})["lost"] == []
    check = "assert alias is good == [1] and k.n == 1 and e.n == f.n == 1 and {id(o) for o in z} == {id(e), id(f)}"
    loaded = bare_shell("load", tmp_path, {"check": check})
    assert loaded["outcome"]["check"] is None, loaded["outcome"]["check"]
    notes = "\n".join(loaded["notes"])
    assert "a set holds what cannot be found in it" in notes
    assert "a weak container held" in notes


def test_other_threads_have_hashes_and_comparisons_as_ever() -> None:
    class Held:
        def __hash__(self) -> int:
            return 5

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Held)

    with hashes_wait():
        late = late_hashes.current()
        assert late is not None
        late.class_is_there(Held)
        table = {"main": [hash(Held()) == 5, Held() == Held()]}

        def ask() -> None:
            table["other"] = [hash(Held()) == 5, Held() == Held()]

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    # Empty objects are not believed where objects are made.
    assert table == {"main": [False, False], "other": [True, True]}
    assert hash(Held()) == 5
