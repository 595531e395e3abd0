"""Every way of writing that version counters, `id`s or a look at the code miss: hashes see it.

Each case writes twice: after a capture in the process that made the memory, and in the next one, which has it
mapped from a pack and tells written pages from clean ones.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.snapshot.libraries import lacking
from tests.snapshot.notebook import PYTHON

DRIVER = Path(__file__).with_name("rewriting.py")
IMPORTS = "import torch, numpy as np, ctypes, warnings, mmap; warnings.simplefilter('ignore'); torch.manual_seed(0)\n"


@dataclass(frozen=True)
class Case:
    """``value`` must be another after ``write``, and the same after a restore."""

    name: str
    before: str
    write: str
    value: str


def tensor(name: str, write: str, before: str = "X = torch.zeros(200_000)") -> Case:
    """One whose variable stands in the cells as X."""
    return Case(
        name, IMPORTS + before.replace("X", name), write.replace("X", name), f"{name}.double().sum().item()"
    )


STEP = "{0}_m({0}_m.weight.new_ones(4, 400)).square().sum().backward(); {0}_o.step()"
MODEL = "{0}_m = torch.nn.Linear(400, 400); {0}_o = "
TOTAL = "sum(p.detach().double().sum().item() for p in {0}_m.parameters()), sum(v.double().sum().item() for s in {0}_o.state.values() for v in s.values() if torch.is_tensor(v))"


def optimizer(name: str, make: str) -> Case:
    return Case(name, IMPORTS + MODEL.format(name) + make.format(name), STEP.format(name), TOTAL.format(name))


CASES = [
    optimizer("adam_fused", "torch.optim.Adam({0}_m.parameters(), fused=True)"),
    optimizer("adamw_foreach", "torch.optim.AdamW({0}_m.parameters(), foreach=True)"),
    optimizer("sgd_fused", "torch.optim.SGD({0}_m.parameters(), .001, momentum=.9, fused=True)"),
    Case(
        "running_mean",
        IMPORTS + "bn = torch.nn.BatchNorm1d(70_000)",
        "bn(torch.randn(3, 70_000) + 5)",
        "bn.running_mean.sum().item(), bn.running_var.sum().item(), bn.num_batches_tracked.item()",
    ),
    tensor("by_data", "X.data[77] += 3; X.data.add_(1)", "X = torch.nn.Parameter(torch.zeros(200_000))"),
    tensor("by_detach", "X.detach()[5] += 3", "X = torch.nn.Parameter(torch.zeros(200_000))"),
    tensor("by_numpy", "X_n[199_999] += 4; X_n[3:9] -= 1", "X = torch.zeros(200_000); X_n = X.numpy()"),
    tensor("under_numpy", "X_n[5] += 4", "X_n = np.zeros(200_000); X = torch.from_numpy(X_n)"),
    # NumPy's array is read-only where torch is older than that part of the protocol.
    tensor(
        "by_dlpack",
        "X_y = np.from_dlpack(X); X_y.flags.writeable and X_y.__setitem__(11, 6); del X_y; torch.from_dlpack(X)[12] += 1",
    ),
    tensor("by_set", "X.set_(torch.full((200_000,), float(X[0]) + 2))"),
    tensor("by_pointer", "ctypes.c_float.from_address(X.data_ptr() + 400_000).value += 5"),
    tensor("by_memmove", "ctypes.memmove(X.data_ptr(), (X + 1).data_ptr(), 400)"),
    tensor("by_storage", "X.untyped_storage()[40_000] += 1"),
    tensor("by_view", "X_v += 1", "X = torch.zeros(200_000); X_v = X.view(400, 500)[3, ::7]"),
    tensor("by_other_type", "X_v[9] += 0x100000", "X = torch.ones(200_000); X_v = X.view(torch.int32)"),
    tensor("by_out", "torch.add(X, 1, out=X)"),
    tensor("by_copy", "X.copy_(X + 1)"),
    tensor(
        "by_index_put", "X[torch.tensor([1, 5])] += 1; X.scatter_add_(0, torch.tensor([9]), torch.ones(1))"
    ),
    tensor(
        "without_gradient", "with torch.no_grad(): X += 1", "X = torch.zeros(200_000, requires_grad=True)"
    ),
    tensor("by_swapping_data", "X.data = X.data + 1", "X = torch.nn.Parameter(torch.zeros(200_000))"),
    tensor("shared_memory", "X += 1", "X = torch.zeros(200_000).share_memory_()"),
    Case(
        "vector_to_parameters",
        IMPORTS + "vp = torch.nn.Linear(400, 400)",
        "torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(vp.parameters()) + 1, vp.parameters())",
        "vp.weight.sum().item(), vp.bias.sum().item()",
    ),
    Case(
        "to_half_and_back",
        IMPORTS + "th = torch.nn.Linear(400, 400)",
        "th = th.half() if th.weight.dtype is torch.float32 else th.float()",
        "th.weight.dtype, th.weight.double().sum().item()",
    ),
    Case(
        "inference_tensor",
        IMPORTS + "with torch.inference_mode(): it = torch.zeros(200_000)",
        "with torch.inference_mode(): it += 1; it[7] = it[7] * 3",
        "it.is_inference(), it.sum().item()",
    ),
    Case(
        "gradient_accumulated",
        IMPORTS + "gr = torch.nn.Parameter(torch.ones(200_000)); gr.grad = torch.zeros(200_000)",
        "(gr * 2).sum().backward()",
        "gr.grad.sum().item()",
    ),
    Case(
        "load_state_dict",
        IMPORTS + "ls = torch.nn.Linear(400, 400)",
        "ls.load_state_dict({k: v + 1 for k, v in ls.state_dict().items()})",
        "ls.weight.sum().item()",
    ),
    Case(
        "averaged_model",
        IMPORTS + "am = torch.nn.Linear(400, 400); am_e = torch.optim.swa_utils.AveragedModel(am)",
        "with torch.no_grad(): am.weight += 1\nam_e.update_parameters(am)",
        "am_e.module.weight.sum().item(), am_e.n_averaged.item()",
    ),
    Case(
        "spectral_norm_in_forward",
        IMPORTS + "sn = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(40_000, 9))",
        "sn.train(); sn(torch.ones(1, 40_000)); sn.parametrizations.weight[0]._v.neg_()",
        "sn.parametrizations.weight[0]._v.sum().item()",
    ),
    Case(
        "array_by_view_buffer_and_pointer",
        IMPORTS + "av = np.zeros((500, 500)); av_v = av[::-1, 3]; av_m = memoryview(av).cast('B')",
        "av_v += 1; av_m[80_000] ^= 1; ctypes.memset(av.ctypes.data + 1_000_003, 63, 2)",
        "(float(np.nansum(av)), av_m[80_000], av.view('u1').reshape(-1)[1_000_003])",
    ),
    Case(
        "array_in_place_by_a_function",
        IMPORTS + "ap = np.arange(200_000.0); ap_r = np.random.default_rng(0)",
        "ap_r.shuffle(ap); np.add.at(ap, [1, 1], 1); ap.sort(); ap[::2] *= -1; np.copyto(ap[:5], ap[5:10])",
        "float(ap.sum()), ap[:3].tolist(), ap_r.bit_generator.state['state']['state']",
    ),
    Case(
        "bytes_of_a_bytearray",
        "ba = bytearray(400_000); ba_m = memoryview(ba)[100:]",
        "ba_m[300_000] += 1",
        "sum(ba)",
    ),
    Case(
        "frame_by_its_memory",
        IMPORTS + "import pandas as pd; fr_a = np.zeros((100_000, 2)); fr = pd.DataFrame(fr_a, copy=False)",
        "fr_a[99_999, 1] += 2; fr.iloc[3, 0] += 1",
        "float(fr.to_numpy().sum())",
    ),
    Case(
        "arrow_over_an_array",
        IMPORTS + "import pyarrow as pa; pa_n = np.zeros(200_000); pa_t = pa.table({'x': pa.array(pa_n)})",
        "pa_n[150_000] += 2",
        "sum(pa_t['x'].to_pylist())",
    ),
    Case(
        "attribute_of_an_object_deep_inside",
        "class Deep: pass\ndeep = [{'k': (Deep(), [])}]; deep[0]['k'][0].n = 0",
        "deep[0]['k'][0].n += 1; deep[0]['k'][1].append(1)",
        "deep[0]['k'][0].n, deep[0]['k'][1]",
    ),
    Case(
        "default_closure_and_class_attribute",
        "def counted(x=[]):\n    n = 0\n    def up():\n        nonlocal n; n += 1; x.append(n); Counted.total += 1; return n, x\n    return up\nclass Counted: total = 0\ncounter = counted()",
        "counter()",
        "(Counted.total, counted.__defaults__[0])",
    ),
    Case(
        "state_of_random_streams",
        IMPORTS + "import random; rs_r = random.Random(1); rs_g = torch.Generator().manual_seed(2)",
        "rs_r.random(); torch.rand(1, generator=rs_g)",
        "hash(rs_r.getstate()[1]), hash(tuple(rs_g.get_state().tolist()))",
    ),
]


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Three processes, each with what the one before has saved."""
    store = tmp_path_factory.mktemp("missed") / "store"
    cases = [asdict(case) for case in CASES if not _lacks(case)]
    return [_live(store, life, cases) for life in ("first", "next", "next")]


def _lacks(case: Case) -> bool:
    return any(name in case.before for name in lacking())


def _live(store: Path, life: str, cases: list[dict[str, str]]) -> dict[str, Any]:
    done = subprocess.run(
        [PYTHON, str(DRIVER), str(store), life],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_write_that_nothing_announces_is_in_the_next_snapshot(
    lives: list[dict[str, Any]], case: Case
) -> None:
    if _lacks(case):
        pytest.skip(f"{case.name} needs a library that is not here")
    first, second, third = lives
    assert first["before"][case.name] != first["after"][case.name]
    assert second["restored"][case.name] == first["after"][case.name]
    assert second["before"][case.name] != second["after"][case.name]
    assert third["restored"][case.name] == second["after"][case.name]
