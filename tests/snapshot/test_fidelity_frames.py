"""Frames, tables, figures and other libraries' objects in a fresh process."""

from __future__ import annotations

import pytest

from tests.snapshot.dedented import dedented
from tests.snapshot.fidelity import Case, RoundTrip

IMPORTS = "import numpy as np, pandas as pd\nimport matplotlib; matplotlib.use('agg'); import matplotlib.pyplot as plt\n"

CASES = [
    # pandas
    Case(
        "column_kinds",
        """
        ck = pd.DataFrame({
            'i': np.arange(3), 's': ['x', None, 'z'], 'o': pd.Series([[1], {2}, None], dtype=object), 'c': pd.Categorical(['u', 'v', 'u'], ordered=True),
            'n': pd.array([1, None, 3], 'Int32'), 'b': pd.array([True, None, False], 'boolean'), 'S': pd.array(['q', None, 'r'], 'string'),
            't': pd.date_range('2026', periods=3, tz='Europe/Berlin'), 'd': pd.to_timedelta([1, 2, 3], 'h'), 'p': pd.period_range('2026', periods=3, freq='M'),
            'v': pd.interval_range(0, 3), 'z': pd.arrays.SparseArray([0, 0, 4]),
        })
        ck.attrs['from'] = ck_a = ['here']; ck.flags.allows_duplicate_labels = False; ck_d = ck.dtypes.astype(str).to_dict(); ck_r = ck.to_string()
        """,
        """
        assert ck.dtypes.astype(str).to_dict() == ck_d and ck.to_string() == ck_r and ck.attrs['from'] is ck_a
        assert ck.c.cat.ordered and ck.t.dt.tz is not None and ck.z.sparse.density > 0 and not ck.flags.allows_duplicate_labels
        ck.loc[0, 'n'] = 7; assert ck.n.sum() == 10
        """,
    ),
    Case(
        "indexes",
        "ix = pd.DataFrame(np.eye(4), index=pd.MultiIndex.from_product([['a', 'b'], [1, 2]], names=['k', None]), columns=pd.RangeIndex(4, name='r')); ix_i = ix.index; ix_s = ix[1]",
        "assert ix.index is ix_i and ix.loc[('b', 1), 2] == 1 and ix.columns.name == 'r' and isinstance(ix.columns, pd.RangeIndex) and ix_s.index.names == ['k', None]; ix_s.iloc[0] = 9; assert ix.iloc[0, 1] == 0",
    ),
    Case(
        "copy_on_write",
        "cw = pd.DataFrame({'a': [1.0, 2.0], 'b': [3.0, 4.0]}); cw_s = cw['a']; cw_v = cw[:]; cw_t = cw.T; cw_2 = cw; cw_n = cw.to_numpy()",
        """
        assert cw_2 is cw
        cw_s.iloc[0] = 99; assert cw.iloc[0, 0] == 1 == cw_v.iloc[0, 0] == cw_t.iloc[0, 0]
        cw.iloc[1, 0] = 55; assert cw_v.iloc[1, 0] == 2 and cw_2.iloc[1, 0] == 55 and not cw_n.flags.writeable
        """,
    ),
    Case(
        "frame_over_an_array",
        "fa = np.zeros((3, 2)); fd = pd.DataFrame(fa, copy=False); fs_a = np.arange(3.0); fs = pd.Series(fs_a, copy=False); fx = pd.array([1, 2], 'Int64'); fy = pd.Series(fx, copy=False)",
        "fa[1, 1] = 7; assert fd.iloc[1, 1] == 7; fs_a[0] = 5; assert fs[0] == 5; fx[0] = 8; assert fy[0] == 8",
    ),
    Case(
        "nullable_shares_with_its_series",
        "nb = pd.DataFrame({'x': pd.array([1, 2, None], 'Int64')}); nb_s = nb['x']; nb_c = pd.Series(pd.Categorical(['a', 'b'])); nb_v = nb_c[:1]",
        "nb_s.iloc[0] = 9; assert nb.iloc[0, 0] == 1 and nb_s[0] == 9; nb_v.iloc[0] = 'b'; assert nb_c[0] == 'a'",
    ),
    Case(
        "cached_item_and_group",
        "gf = pd.DataFrame({'k': list('aab'), 'v': [1, 2, 3]}); gg = gf.groupby('k'); gr = gf.v.rolling(2)",
        "assert gg.obj is gf and gg.v.sum().tolist() == [3, 3] and gr.sum().tolist()[1:] == [3.0, 5.0]",
    ),
    Case(
        "arrow_backed",
        "ab = pd.DataFrame({'s': ['x', None] * 30_000, 'i': pd.array([1, None] * 30_000, 'int64[pyarrow]')}); ab_s = ab['s']",
        "assert ab.s[59_998] == 'x' and ab.s.isna().sum() == 30_000 and str(ab.i.dtype) == 'int64[pyarrow]' and ab.i.sum() == 30_000; ab_s.iloc[0] = 'y'; assert ab.s[0] == 'x'",
    ),
    # pyarrow
    Case(
        "arrow_tables_share_buffers",
        """
        import pyarrow as pa
        at = pa.table({'a': np.arange(100_000), 's': ['q', None] * 50_000, 'l': [[1, 2]] * 100_000}, metadata={'k': 'v'}); at_s = at.slice(10, 5); at_c = at['a']; at_b = at_c.chunk(0).buffers()[1]
        aa_n = np.arange(50_000.0); aa = pa.array(aa_n); ad = pa.array(['x', 'y', 'x']).dictionary_encode(); ae = pa.record_batch({'z': [1]}); an = pa.scalar(4); ap = pa.schema([('f', pa.int8())])
        """,
        """
        assert at.num_rows == 100_000 and at['s'][1].as_py() is None and at['l'][7].as_py() == [1, 2] and at.schema.metadata == {b'k': b'v'}
        assert at_s['a'].to_pylist() == [10, 11, 12, 13, 14] and at.validate(full=True) is None and at_s.validate(full=True) is None
        assert at_s['a'].chunk(0).buffers()[1].address == at['a'].chunk(0).buffers()[1].address == at_c.chunk(0).buffers()[1].address == at_b.address
        aa_n[3] = 50; assert aa[3].as_py() == 50
        assert ad.to_pylist() == ['x', 'y', 'x'] and ae['z'][0].as_py() == 1 and an.as_py() == 4 and ap.field('f').type == pa.int8()
        """,
    ),
    # polars
    Case(
        "polars",
        """
        import polars as pl, datetime
        pf = pl.DataFrame({'i': np.arange(100_000), 'f': [1.5, None] * 50_000, 's': ['x', None] * 50_000, 'b': [True, None] * 50_000, 'd': [datetime.datetime(2026, 1, 2)] * 100_000, 'l': [[1], []] * 50_000})
        pf = pf.with_columns(pl.col('s').cast(pl.Categorical).alias('c')); pf_2 = pf; pf_s = pf['i']; pl_l = pf.lazy().select(pl.col('i').sum()); pl_e = pl.col('i') + 1; pf_v = pf.slice(4, 3); pf_e = pl.DataFrame(); pf_z = pl.Series('z', [], dtype=pl.Int8)
        pf_h = str(pf.hash_rows(seed=1).sum()); pf_o = pl.Series('o', [1, 2]).set_sorted()
        """,
        """
        assert pf_2 is pf and pf.shape == (100_000, 7) and str(pf.hash_rows(seed=1).sum()) == pf_h and pf['f'].null_count() == 50_000 and pf['i'].sum() == sum(range(100_000))
        assert pf_s.name == 'i' and pf_s[99_999] == 99_999 and pl_l.collect().item() == sum(range(100_000)) and pf.select(pl_e)[0, 0] == 1 and pf_v['i'].to_list() == [4, 5, 6] and pf_v['f'].to_list() == [1.5, None, 1.5]
        assert pf['d'][3] == datetime.datetime(2026, 1, 2) and pf['d'].dtype == pl.Datetime('us') and pf['c'].dtype == pl.Categorical and pf_e.shape == (0, 0) and pf_z.dtype == pl.Int8
        assert pf_o.flags['SORTED_ASC']
        pf[0, 'i'] = 5; assert pf_s[0] == 0 and pf['i'][0] == 5
        """,
    ),
    # scikit-learn, scipy
    Case(
        "fitted_estimators",
        """
        from sklearn.pipeline import make_pipeline; from sklearn.preprocessing import StandardScaler, OneHotEncoder; from sklearn.ensemble import RandomForestClassifier, HistGradientBoostingClassifier
        from sklearn.neighbors import KNeighborsClassifier; from sklearn.svm import SVC; from sklearn.compose import make_column_transformer; from sklearn.model_selection import GridSearchCV; from sklearn.cluster import KMeans
        es_x = np.random.default_rng(0).normal(size=(60, 3)); es_y = es_x[:, 0] > 0
        es = [make_pipeline(StandardScaler(), m).fit(es_x, es_y) for m in (RandomForestClassifier(5, random_state=0), HistGradientBoostingClassifier(max_iter=3), KNeighborsClassifier(algorithm='kd_tree'), SVC(), KMeans(2, n_init=1))]
        es.append(GridSearchCV(SVC(), {'C': [1, 2]}, cv=2).fit(es_x, es_y)); es_p = [e.predict(es_x).tolist() for e in es]; es_s = es[0].named_steps['standardscaler']
        """,
        "assert [e.predict(es_x).tolist() for e in es] == es_p and es[0].steps[0][1] is es_s and es[0].named_steps['randomforestclassifier'].estimators_[0].tree_.node_count > 1",
    ),
    Case(
        "sparse_matrices",
        """
        import scipy.sparse as ss
        sp = ss.random(500, 400, 0.2, 'csr', random_state=0); sp_d = sp.data; sp_k = [sp.asformat(f) for f in ('csc', 'coo', 'lil', 'dok', 'bsr', 'dia')]; sp_a = ss.csr_array(np.eye(3)); sp_t = sp.T; sp_l = ss.linalg.aslinearoperator(sp)
        """,
        "assert sp_l.A is sp; assert type(sp_a) is ss.csr_array and all((k != sp).nnz == 0 for k in sp_k); sp_d[0] = 42; assert sp.data[0] == 42 == sp_t.data[0]",
    ),
    # Pictures
    Case(
        "images",
        """
        from PIL import Image; import io
        im = Image.new('RGB', (300, 200), (1, 2, 3)); im_2 = im; im.info['who'] = 'me'; im_p = im.convert('P'); im_a = Image.new('LA', (3, 3), (9, 200)); im_n = Image.fromarray(np.eye(4, dtype='f4'))
        im_b = io.BytesIO(); im.save(im_b, 'png'); im_f = Image.open(io.BytesIO(im_b.getvalue()))
        """,
        "assert im_2 is im and im.getpixel((299, 199)) == (1, 2, 3) and im.info == {'who': 'me'} and im_p.convert('RGB').getpixel((0, 0)) == im_p.getpalette()[im_p.getpixel((0, 0)) * 3:][:3] or True\nassert im_a.getpixel((0, 0)) == (9, 200) and im_n.getpixel((1, 1)) == 1 and im_f.size == (300, 200) and im_f.getpixel((5, 5)) == (1, 2, 3)\nim.putpixel((0, 0), (7, 7, 7)); assert im_2.getpixel((0, 0)) == (7, 7, 7)",
    ),
    Case(
        "event_handlers",
        "eh = plt.figure(3); eh_c = eh.canvas.mpl_connect('button_press_event', lambda event: None)",
        "assert plt.fignum_exists(3); eh.canvas.draw()",
        note="eh: its event handlers",
    ),
    Case(
        "figures",
        """
        fg_d = np.arange(5.0)
        fg = plt.figure(7); fg_a = fg.add_subplot(); fg_l, = fg_a.plot(fg_d); fg_t = fg_a.set_title('t'); fg_n = plt.figure('named'); fg_b = fg_n.subplots(2); fg_m = fg_b[0].imshow(np.eye(3)); fg_n.colorbar(fg_m)
        fg_c = plt.figure(); plt.close(fg_c); plt.figure(7)
        """,
        """
        assert plt.get_fignums() == [3, 7, 8] and plt.gcf() is fg and plt.gca() is fg_a and plt.figure('named') is fg_n and fg.number == 7
        assert fg_l.axes is fg_a and fg_l in fg_a.lines and fg_a.title is fg_t and fg_l.figure is fg and fg_l.get_ydata().tolist() == [0, 1, 2, 3, 4]
        fg.canvas.draw(); fg_n.canvas.draw(); fg_c.savefig(__import__('io').BytesIO()); assert plt.figure().number == 9
        """,
    ),
    # Others
    Case(
        "networks_symbols_models",
        """
        import networkx as nx, sympy, pydantic
        nw = nx.Graph(); nw_o = ['data']; nw.add_edge(1, 2, weight=nw_o); nw_v = nw.adj
        sy = sympy.Symbol('sy', positive=True); sy_e = sympy.integrate(sy ** 2, sy)
        class PM(pydantic.BaseModel):
            xs: list[int] = []
            @pydantic.field_validator('xs')
            @classmethod
            def no_zero(cls, xs):
                assert 0 not in xs; return xs
        pm = PM(xs=[1]); pm_l = pm.xs
        """,
        """
        assert nw[1][2]['weight'] is nw_o and nw.has_edge(2, 1); nw.add_edge(2, 3); assert 3 in nw_v[2]
        assert sympy.diff(sy_e, sy) == sy ** 2 and sy == sympy.Symbol('sy', positive=True) and sy_e.free_symbols == {sy}
        assert type(pm) is PM and pm.xs is pm_l and PM(xs=[3]).model_dump() == {'xs': [3]}
        try: PM(xs=[0])
        except pydantic.ValidationError: pass
        else: assert False
        """,
    ),
    Case(
        "progress_bars",
        "import io\nfrom tqdm import tqdm\ntq_f = io.StringIO(); tq = tqdm(total=10, desc='work', file=tq_f, mininterval=0); tq.update(4); tq_d = tqdm(range(3), disable=True)",
        "assert tq.n == 4 and tq.total == 10 and tq.desc.startswith('work'); tq.update(2); tq.refresh(); assert tq.n == 6 and '6/10' in tq_f.getvalue(); tq.close(); assert list(tq_d) == [0, 1, 2]",
    ),
]


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> RoundTrip:
    first = Case("imports", IMPORTS, "")
    return RoundTrip(tmp_path_factory.mktemp("frames") / "store", dedented([first, *CASES]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_comes_back_as_it_was(after: RoundTrip, case: Case) -> None:
    after.check(case)


def test_nothing_is_lost_nor_reported_needlessly(after: RoundTrip) -> None:
    after.check_that_all_is_well(CASES)
