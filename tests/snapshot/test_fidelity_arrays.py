"""Arrays of numpy: in a fresh process they share what they shared, by whatever way they shared it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.snapshot.dedented import dedented
from tests.snapshot.fidelity import Case, RoundTrip, bare_shell

IMPORTS = "import numpy as np, ctypes, mmap, array\n"

CASES = [
    # Geometry
    Case(
        "views_of_views",
        "vv = np.arange(24).reshape(2, 3, 4); vv_a = vv[1]; vv_b = vv_a.T[::-2]; vv_c = {'x': [vv_b, vv]}",
        """
        assert vv_c['x'][0] is vv_b and vv_c['x'][1] is vv
        vv_b[0, 0] = 77; assert vv[1, 0, 3] == 77 == vv_a[0, 3]
        """,
    ),
    Case(
        "view_alone_keeps_its_values",
        "va = np.arange(10)[8:2:-2]",
        "assert va.tolist() == [8, 6, 4]; va[0] = 1; assert va.tolist() == [1, 6, 4]",
    ),
    Case(
        "overlapping_windows",
        "ow = np.arange(6.0); ow_w = np.lib.stride_tricks.sliding_window_view(ow, 3, writeable=True)",
        "assert ow_w.shape == (4, 3); ow[2] = 50; assert ow_w[0, 2] == ow_w[1, 1] == ow_w[2, 0] == 50",
    ),
    Case(
        "broadcast_shares_with_its_source",
        "br_s = np.arange(3); br = np.broadcast_to(br_s, (1000, 3))",
        "br_s[1] = 9; assert br.shape == (1000, 3) and br[999, 1] == 9 and not br.flags.writeable",
    ),
    Case(
        "reinterpreted_and_real_imaginary_parts",
        "rp = np.zeros(4, 'f8'); rp_i = rp.view('u8'); rc = np.zeros(3, 'c16'); rc_r, rc_i = rc.real, rc.imag",
        "rp[1] = 1.0; assert rp_i[1] == 0x3FF0000000000000; rc_r[0] = 2; rc_i[0] = 3; assert rc[0] == 2 + 3j",
    ),
    Case(
        "fortran_order",
        "fo = np.asfortranarray(np.arange(6).reshape(2, 3)); fo_v = fo[:, 1]",
        "assert fo.flags.f_contiguous and not fo.flags.c_contiguous; fo_v[0] = 8; assert fo[0, 1] == 8",
    ),
    Case(
        "scalars_arrays_of_no_dimension_and_empty_ones",
        "zd = np.array(5.0); zd_v = zd[...]; ze = np.zeros((0, 3), 'f4'); zs = np.float32(1.5); zl = [zs, zs]",
        "zd_v[...] = 6; assert zd == 6.0 and zd.shape == (); assert ze.shape == (0, 3) and ze.dtype == 'f4'; assert zl[0] is zl[1] is zs and type(zs) is np.float32",
    ),
    Case(
        "read_only_flags",
        "ro = np.arange(5); ro_w = ro[1:3]; ro.flags.writeable = False; ro_v = ro[3:]",
        "assert (ro.flags.writeable, ro_w.flags.writeable, ro_v.flags.writeable) == (False, True, False); ro_w[0] = 7; assert ro[1] == 7",
    ),
    # Kinds of items
    Case(
        "structured_with_fields_as_views",
        "st = np.zeros(3, [('a', 'i4'), ('b', 'f8', (2,)), ('c', 'S3')]); st_b = st['b']; st_r = st[1]",
        "st_b[1, 0] = 2.5; assert st[1]['b'][0] == 2.5; st['c'][1] = b'xyz'; assert st_r['c'] == b'xyz'",
    ),
    Case(
        "record_array",
        "ra = np.rec.array([(1, 2.0), (3, 4.0)], dtype=[('x', 'i4'), ('y', 'f8')]); ra_x = ra.x",
        "assert type(ra) is np.recarray and ra.y.tolist() == [2.0, 4.0] and type(ra[0]) is np.record; ra_x[0] = 9; assert ra.x[0] == 9 and ra[0].x == 9",
    ),
    Case(
        "dates_byte_order_and_wide_items",
        "dt = np.array(['2026-01-01', 'NaT'], 'M8[ns]'); td = np.array([5], 'm8[h]'); bo = np.arange(3, dtype='>i4'); ld = np.array([1], np.longdouble) / 3; f2 = np.array([1.5], 'f2')",
        "assert str(dt[0])[:10] == '2026-01-01' and np.isnat(dt[1]) and td[0] == np.timedelta64(5, 'h') and bo.dtype.str == '>i4' and bo[2] == 2 and ld[0] * 3 == 1 and f2[0] == 1.5",
    ),
    Case(
        "texts",
        "tx = np.array(['a', 'bcd']); tb = np.array([b'q', b'rs']); tv = tx[1:]; ts = np.array(['short', 'l' * 200, None], dtype=np.dtypes.StringDType(na_object=None))",
        "tv[0] = 'zzz'; assert tx.tolist() == ['a', 'zzz'] and tb[1] == b'rs'; assert ts.tolist() == ['short', 'l' * 200, None] and ts.dtype.na_object is None",
    ),
    Case(
        "objects_with_aliases_and_views",
        """
        ob_x = [1]; ob = np.array([ob_x, None, {'k': ob_x}, 'q'], dtype=object); ob_v = ob[1:3]; ob_r = ob.reshape(2, 2).T
        oc = np.empty(2, object); oc[0] = oc; oc[1] = oc[:1]
        """,
        """
        assert ob[0] is ob_x is ob[2]['k'] and ob_r[0, 1] is ob[2]
        ob_v[0] = 'new'; assert ob[1] == 'new' == ob_r[1, 0]
        assert oc[0] is oc; oc[1][0] = 3; assert oc[0] == 3
        """,
    ),
    Case(
        "objects_in_fields",
        "of_x = [1]; of = np.array([(1, of_x)], [('n', 'i4'), ('o', 'O')])",
        "assert of['o'][0] is of_x and of['n'][0] == 1",
    ),
    # Subclasses
    Case(
        "masked_array_shares_data_and_mask",
        "ma_d = np.arange(4.0); ma_m = np.array([False, True, False, False]); ma = np.ma.MaskedArray(ma_d, ma_m, copy=False, fill_value=-5, hard_mask=True); ma_v = ma[1:]; ma_n = np.ma.array([1, 2]); ma_c = np.ma.masked",
        """
        assert type(ma) is np.ma.MaskedArray and ma.sum() == 5 and ma.fill_value == -5 and ma.hardmask
        ma_d[0] = 10; assert ma[0] == 10; ma_v[1] = 20; assert ma_d[2] == 20
        assert ma_n.mask is np.ma.nomask and ma_n.sum() == 3 and ma_c is np.ma.masked and ma[1] is np.ma.masked
        """,
    ),
    Case(
        "masked_records",
        "mr = np.ma.array([(1, 2.0), (3, 4.0)], mask=[(0, 1), (0, 0)], dtype=[('a', 'i4'), ('b', 'f8')])",
        "assert mr['a'].sum() == 4 and mr['b'][0] is np.ma.masked and mr['b'][1] == 4",
    ),
    Case(
        "matrix",
        "mx = np.matrix([[1, 2], [3, 4]]); mx_a = mx.A; mx_r = mx[1]",
        "assert type(mx) is np.matrix and (mx * mx)[0, 0] == 7; mx_a[1, 0] = 9; assert mx[1, 0] == 9 == mx_r[0, 0]",
    ),
    Case(
        "subclass_with_attributes",
        """
        class SC(np.ndarray):
            def __new__(cls, data, unit): new = np.asarray(data).view(cls); new.unit = unit; return new
            def __array_finalize__(self, other): self.unit = getattr(other, 'unit', None)
        sc_u = ['m']; sc_p = np.arange(4.0); sc = SC(sc_p, sc_u); sc_v = sc[1:]; sc_v.extra = sc; sc_o = SC(np.array([sc_u, None], object), 'o')
        """,
        """
        assert type(sc) is SC and sc.unit is sc_u is sc_v.unit and sc_v.extra is sc and type(sc_v) is SC
        sc_p[2] = 9; assert sc[2] == 9 == sc_v[1] and (sc * 2).unit is sc_u
        assert sc_o[0] is sc_u and sc_o.unit == 'o' and type(sc_o) is SC
        """,
    ),
    Case(
        "subclass_that_pickles_itself",
        """
        class SP(np.ndarray):
            def __reduce__(self):
                f, a, s = super().__reduce__(); return f, a, (s, 'mine')
            def __setstate__(self, state): super().__setstate__(state[0]); self.tag = state[1]
        sp = np.arange(3).view(SP)
        """,
        "assert type(sp) is SP and sp.tolist() == [0, 1, 2] and sp.tag == 'mine'",
    ),
    # Memory of others
    Case(
        "over_buffers",
        """
        bu = bytearray(b'abcdef'); bu_a = np.frombuffer(bu, 'u1', offset=2); bu_m = np.frombuffer(memoryview(bu)[1:3], 'u1')
        bu_r = array.array('d', [1, 2, 3]); bu_d = np.frombuffer(bu_r); bu_x = np.asarray(bu_r)
        bu_c = (ctypes.c_int * 3)(1, 2, 3); bu_i = np.ctypeslib.as_array(bu_c); bu_b = np.frombuffer(b'xyz', 'u1')
        """,
        """
        bu_a[0] = 65; assert bu == b'abAdef' and bu_m.tolist() == [98, 65]
        bu_d[1] = 9; assert bu_r[1] == 9 == bu_x[1]
        bu_i[2] = 8; assert bu_c[2] == 8
        assert bytes(bu_b) == b'xyz' and not bu_b.flags.writeable
        """,
    ),
    Case(
        "over_anonymous_mapping",
        "am = np.frombuffer(mmap.mmap(-1, 8192), 'u2'); am[5] = 6; am_v = am[4:]",
        "assert am[5] == 6; am_v[1] = 7; assert am[5] == 7",
    ),
    Case(
        "large_memory_is_written_once",
        "lm = np.random.default_rng(1).random((400, 500)); lm_t = lm.T; lm_m = lm.view(np.matrix)",
        "assert lm.flags.owndata; lm_m[3, 4] = 5; assert lm_t[4, 3] == 5; assert (lm.ravel()[:3] == np.random.default_rng(1).random(3)).all()",
    ),
    # Random numbers
    Case(
        "generators_share_their_bits",
        """
        gb = np.random.PCG64(3); gg = np.random.Generator(gb); gh = np.random.Generator(gb); gg.normal(size=3)
        gr = np.random.RandomState(4); gr.normal(); gm = gr.normal; gp = np.random.RandomState(gb); gs = gg.bit_generator.seed_seq
        gk = [np.random.default_rng(k(1)) for k in (np.random.MT19937, np.random.Philox, np.random.SFC64)]; gk_1 = [k.bit_generator.state for k in gk]
        ge_1 = np.random.Generator(type(gb)(0)); ge_1.bit_generator.state = gb.state; ge = list(ge_1.integers(99, size=4))
        gr_1 = np.random.RandomState(); gr_1.set_state(gr.get_state()); gr_e = list(gr_1.normal(size=3))
        """,
        """
        assert gg.bit_generator is gb is gh.bit_generator and gm.__self__ is gr and gp._bit_generator is gb and gb.seed_seq is gs
        assert [gg.integers(99), gh.integers(99), gg.integers(99), gh.integers(99)] == ge
        assert [gr.normal(), gm(), gr.normal()] == gr_e
        assert all(str(k.bit_generator.state) == str(s) for k, s in zip(gk, gk_1))
        """,
    ),
]

FROM_FILES = [
    Case(
        "mapped_file",
        """
        mf = np.memmap('mf.bin', 'f4', 'w+', offset=8192, shape=(4, 5)); mf[1] = 3; mf_v = mf[1:]; mf_a = np.asarray(mf)[1]; mf_p = mf.T
        np.save('nf.npy', np.arange(6)); nf = np.load('nf.npy', mmap_mode='r')
        mc = np.memmap('mf.bin', 'f4', 'c', offset=8192, shape=20); mc[0] = 44
        """,
        """
        assert type(mf) is np.memmap and mf.mode == 'r+' and mf.offset == 8192 and mf.filename.endswith('mf.bin') and type(mf_v) is np.memmap
        mf_v[0, 2] = 8; assert mf[1, 2] == 8 == mf_a[2] == mf_p[2, 1] and mf[1, 0] == 3
        mf.flush(); assert np.fromfile('mf.bin', 'f4', offset=8192)[7] == 8
        assert nf.tolist() == list(range(6)) and not nf.flags.writeable and nf.mode == 'r'
        assert mc[0] == 44 and mc[5] == 3 and mf[0, 0] == 0
        """,
        note="mf: its contents are in ",
    ),
    Case(
        "mapped_file_that_was_deleted",
        "import os\ndf = np.memmap('df.bin', 'i4', 'w+', shape=3); df[:] = 5; os.unlink('df.bin')",
        "assert df.tolist() == [5, 5, 5] and type(df) is np.memmap; df[0] = 1",
        note="df: its file ",
    ),
]


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> RoundTrip:
    first = Case("imports", IMPORTS, "")
    return RoundTrip(tmp_path_factory.mktemp("arrays") / "store", dedented([first, *CASES]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_comes_back_as_it_was(after: RoundTrip, case: Case) -> None:
    after.check(case)


def test_nothing_is_lost_nor_reported_needlessly(after: RoundTrip) -> None:
    after.check_that_all_is_well(CASES)


def test_mapped_files_come_back_by_reference(tmp_path: Path) -> None:
    where = Case("where", f"{IMPORTS}import os\nos.chdir({str(tmp_path)!r})", "")
    trip = RoundTrip(tmp_path / "store", dedented([where, *FROM_FILES]))
    for case in FROM_FILES:
        trip.check(case)
    assert trip.lost == []
    assert len(trip.notes) == 3


def test_mapped_file_that_is_gone_or_changed_is_reported(tmp_path: Path) -> None:
    before = f"""{IMPORTS}import os
os.chdir({str(tmp_path)!r})
gone = np.memmap('gone', 'u1', 'w+', shape=9); short = np.memmap('short', 'u1', 'w+', shape=9)
changed = np.memmap('changed', 'u1', 'w+', shape=9); aliases = [gone, gone[2:]]; other = 1
"""
    assert bare_shell("save", tmp_path / "store", {"a": before})["outcome"] == {"a": None}
    (tmp_path / "gone").unlink()
    (tmp_path / "short").write_bytes(b"123")
    (tmp_path / "changed").write_bytes(b"987654321")
    check = "assert changed[0] == ord('9') and other == 1 and aliases[0] is gone and 'gone' in repr(gone)"
    loaded = bare_shell("load", tmp_path / "store", {"b": check})
    assert loaded["outcome"] == {"b": None}
    said = json.dumps(loaded)
    assert f"{tmp_path}/gone is not there" in said
    assert f"{tmp_path}/short has 3 bytes" in said
    assert [n for n in loaded["notes"] if f"{tmp_path}/changed was written to" in n] == loaded["notes"]
