"""The benchmarks themselves, at a small size: what they print and leave behind. Never how fast it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from . import meters
from .capabilities import Outcome, Respawner, all_cases, page_of, try_case
from .capability_cases import Case
from .kernel import ROOT, CellFailed, Kernel, KernelDied
from .peers import Peers
from .table import middle, ratios, scratch_parent, table

SNAPSHOT_KEYS = {
    "idle_cell_vs_pickle",
    "idle_cell_vs_elastic_kernel",
    "changed_stall_vs_torch_save",
    "durable_vs_raw",
    "one_tensor_bytes_vs_changed",
    "scattered_rows_share",
    "peak_extra_share",
    "epochs_store_vs_ideal",
}
TRAINING_KEYS = {
    "stall_median_vs_torch_save",
    "stall_worst_vs_torch_save",
    "slowdown",
    "lost_seconds_p95",
    "stated_age_s",
    "bytes_per_hour",
}
RESTORE_KEYS = {"first_cell_vs_torch_load", "all_touched_vs_torch_load"}
OF_PEERS = {"idle_cell_vs_elastic_kernel"}
"""Null where the peer cannot be had."""


def run(module: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"tests.bench.{module}"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("module", "keys"), [("snapshot", SNAPSHOT_KEYS), ("restore", RESTORE_KEYS)])
def test_one_small_turn_ends_with_a_json_object_and_leaves_nothing(module: str, keys: set[str]) -> None:
    before = set(scratch_parent().glob(f"bench-{module}-*"))  # other tests put their logs beside it
    done = run(module, REPETITIONS="1", STATE_MB="11")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["repetitions"] == 1
    assert 10e6 < result["state_bytes"] < 12e6
    numbers = {key: result[key] for key in keys}
    missing = {key for key, value in numbers.items() if not isinstance(value, int | float)}
    assert missing <= (OF_PEERS if "elastic-kernel" in result["left_out"] else set())
    assert set(scratch_parent().glob(f"bench-{module}-*")) == before


def test_one_small_turn_of_training_loses_no_more_than_it_states() -> None:
    done = run("training", REPETITIONS="1", STATE_MB="4", WORKLOADS="large", RESPAWNER_SAFEPOINT_SECONDS="1")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["repetitions"] == 1
    assert list(result["workloads"]) == ["large"]
    assert all(isinstance(result[key], int | float) for key in TRAINING_KEYS), result
    # Parameters, moments and gradients, of which torch.save writes three quarters.
    assert 5e6 < result["snapshot_bytes"] < 6e6
    assert result["snapshots_in_windows"] >= 1


def test_training_refuses_a_workload_that_there_is_not() -> None:
    done = run("training", WORKLOADS="large gpt2")
    assert (done.returncode, done.stdout) == (1, "")
    assert "WORKLOADS names gpt2; there are plain, gpt, large" in done.stderr


@pytest.mark.parametrize("module", ["snapshot", "restore", "training"])
@pytest.mark.parametrize("setting", ["REPETITIONS", "STATE_MB"])
def test_wrong_settings_are_told_before_anything_starts(module: str, setting: str) -> None:
    done = run(module, **{setting: "0"})
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{setting}='0': must be a whole number from 1" in done.stderr


def test_ratios_are_of_neighbours_and_the_middle_of_nothing_is_none() -> None:
    assert middle(ratios([1, 4, 20], [2, 5, 10])) == 0.8
    assert middle([]) is None


def test_table_shows_three_digits_and_a_dash_for_nothing() -> None:
    assert (
        table(["", "s"], [["a", 1.23456], ["b", None]]) == "|  | s |\n| --- | --- |\n| a | 1.23 |\n| b | – |"
    )


def test_packs_that_were_collected_do_not_hide_growth() -> None:
    old, new = Path("1.pack"), Path("2.pack")
    assert meters.growth({old: 100}, {new: 30}) == 30
    assert meters.growth({old: 100}, {old: 104}) == 4


def test_raw_write_leaves_no_file() -> None:
    folder = scratch_parent() / "raw"
    folder.mkdir()
    try:
        assert meters.raw_direct_write_seconds(folder, 5000) > 0
        assert list(folder.iterdir()) == []
    finally:
        folder.rmdir()


@pytest.fixture
def kernel(tmp_path: Path) -> Any:
    kernel = Kernel(tmp_path, sys.executable, saving=True).start()
    yield kernel
    kernel.stop()


def test_cpu_and_peak_are_those_of_the_kernel_with_its_threads(kernel: Kernel) -> None:
    burn = "import threading, time\ndef burn():\n    end = time.thread_time() + 0.3\n    while time.thread_time() < end: pass"
    kernel.run(burn)
    before = meters.cpu_seconds(kernel.pid)
    kernel.run("t = threading.Thread(target=burn); t.start(); t.join()")
    assert meters.cpu_seconds(kernel.pid) - before >= 0.3
    meters.reset_peak(kernel.pid)
    resident = meters.resident_bytes(kernel.pid)
    kernel.run("big = bytearray(50_000_000); del big")
    assert meters.peak_bytes(kernel.pid) - resident > 45_000_000


def test_a_failing_cell_and_a_dead_kernel_are_told(kernel: Kernel) -> None:
    with pytest.raises(CellFailed, match=r"ZeroDivisionError: division by zero \(in 'a = 1 …'\)"):
        kernel.run("a = 1\n1 / 0")
    with pytest.raises(KernelDied):
        kernel.run("import os; os._exit(1)")


# Capabilities ---------------------------------------------------------------------------------------------

US = Respawner(Peers(sys.executable, {}))


def test_a_case_that_holds_and_one_that_does_not(tmp_path: Path) -> None:
    for name, check, outcome in (
        ("holds", "ok = a == 5", Outcome(True)),
        ("not", "ok = a == 6", Outcome(False, "not the same")),
        ("raises", "ok = b", Outcome(False, "NameError: name 'b' is not defined (in 'ok = b')")),
    ):
        (tmp_path / name).mkdir()
        assert try_case(US, Case(name, ("a = 5",), check), tmp_path / name) == outcome


def test_a_case_whose_cells_fail_unexpectedly_counts_as_not_saved(tmp_path: Path) -> None:
    outcome = try_case(US, Case("typo", ("a = ",), "ok = True"), tmp_path)
    assert not outcome.holds
    assert outcome.why.startswith("not saved: SyntaxError")


def test_the_page_names_what_fails_and_why() -> None:
    case = Case("two names", ("a = 1",), "ok = True")
    outcomes = {
        ("respawner", "two names"): Outcome(False, "not the same"),
        ("dill", "two names"): Outcome(True),
    }
    page = page_of([("Identity", case)], ["respawner", "dill"], outcomes, {"kishu": "no wheel"})
    assert "| two names | ✗ | ✓ |" in page
    assert "- two names: not the same" in page
    assert "- kishu: no wheel" in page


def test_there_are_many_cases_with_names_of_their_own() -> None:
    names = [case.name for _, case in all_cases()]
    assert len(names) >= 40
    assert len(names) == len(set(names))
