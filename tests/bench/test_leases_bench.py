"""The lease benchmark in small: schedules that were worked out by hand, and the metrics of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from respawner_spawner.leases.model import Rules

from . import lease_peers, lease_trace
from .lease_decisions import Traffic, measure_decisions
from .lease_metrics import jain_index, measure, quantile
from .lease_player import Player
from .lease_trace import Job, Load
from .leases import columns, play
from .table import BenchError


def starts(load: Load, runs: list[lease_peers.Run]) -> list[float]:
    assert [run.end - run.first_start for run in runs] == [job.duration for job in load.jobs]
    return [run.first_start for run in runs]


# two GPUs; the second job needs both and waits for the first until 100
BLOCKED = Load(
    "blocked", (Job(0, 100, 1, "a"), Job(1, 50, 2, "b"), Job(2, 90, 1, "a"), Job(3, 200, 1, "c")), 2
)


def test_fifo_keeps_the_order() -> None:
    assert starts(BLOCKED, lease_peers.fifo(BLOCKED)) == [0, 100, 150, 150]


def test_easy_lets_pass_who_ends_before_the_first_can_start() -> None:
    assert starts(BLOCKED, lease_peers.easy(BLOCKED)) == [0, 100, 2, 150]


def test_static_partition_has_room_for_the_largest_job_and_the_rest_by_demand() -> None:
    load = Load("parts", (Job(0, 100, 1, "a"), Job(0, 100, 1, "a"), Job(0, 10, 2, "b")), 4)
    assert lease_peers.partition(load) == {"a": 2, "b": 2}
    assert starts(load, lease_peers.static(load)) == [0, 0, 0]


def test_ours_passes_a_large_request_for_as_long_as_it_is_patient() -> None:
    assert starts(BLOCKED, Player(BLOCKED, Rules()).play()) == [0, 292, 2, 92]
    impatient = Rules(patience_seconds=0, pass_seconds=0)
    assert starts(BLOCKED, Player(BLOCKED, impatient).play()) == [0, 100, 150, 150]


def test_a_suspended_job_works_as_long_as_it_would_have_and_pays_for_suspend_and_resume() -> None:
    """One GPU: the long job is suspended for the short one at its minimum run time and comes back."""
    load = Load("turns", (Job(0, 10000, 1, "a"), Job(5000, 100, 1, "b")), 1)
    player = Player(
        load, Rules(preempt=True, min_run_seconds=600, slice_seconds=1000, suspend_cost_seconds=120)
    )
    long, short = player.play()
    assert player.suspends == 1
    assert short.spans == [(5060, 5160)]
    assert long.spans == [(0, 5000), (5220, 10220)]


def test_metrics_of_a_schedule_by_hand() -> None:
    load = Load("two", (Job(0, 100, 1, "a"), Job(0, 100, 1, "b"), Job(200, 100, 1, "a")), 1)
    metrics = measure(load, lease_peers.fifo(load))
    assert metrics.utilisation == 1.0
    assert metrics.wait_max == 100
    assert metrics.jain == pytest.approx((1.0 + 0.5) ** 2 / 2 / (1.0 + 0.25))
    assert metrics.worst_group == 0.5
    assert jain_index([1, 1, 1]) == 1
    assert quantile([3, 1, 2], 0.5) == 2


def test_the_baselines_agree_with_the_published_table_of_the_team_cluster() -> None:
    """GPU use % and p95 wait in hours, from the README of the data."""
    load = lease_trace.team()
    for policy, use, p95 in (
        (lease_peers.fifo, 71.31, 66.44),
        (lease_peers.easy, 72.06, 48.06),
        (lease_peers.static, 60.68, 453.61),
    ):
        metrics = measure(load, policy(load))
        assert round(metrics.utilisation * 100, 2) == use
        assert round(metrics.wait_p95 / 3600, 2) == p95


def test_every_policy_plays_a_small_load_to_its_end() -> None:
    load = lease_trace.synthetic(gpus=48, days=1, load=0.5)
    metrics = play(load)
    assert set(metrics) == {"ours", "ours_suspend", "fifo", "easy", "static"}
    assert set(columns(metrics)["jain"]) == set(metrics)


def test_a_partition_that_has_no_room_for_the_largest_jobs_is_left_out() -> None:
    jobs = (Job(0, 60, 4, "a"), Job(1, 60, 3, "b"), Job(2, 60, 1, "b"))
    metrics = play(Load("small", jobs, 4))
    assert metrics["static"] is None
    assert metrics["easy"] is not None
    assert columns(metrics)["jain"]["static"] is None


def test_decisions_are_timed_on_a_cluster_that_stays_full() -> None:
    traffic = Traffic(16, Rules())
    waiting = len(traffic.view.queue)
    assert all(traffic.step() > 0 for _ in range(10))
    assert len(traffic.view.queue) + len(traffic.view.leases) > waiting


def test_every_part_of_a_decision_is_timed() -> None:
    result = measure_decisions(sizes=(8, 16), steps=3)
    for part in ("p50", "p99", "from_nothing", "following", "sentences"):
        assert result[f"decision_ms_{part}_at_16"] > 0
    assert result["decision_ms_p50_at_16_with_turns"] > 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("submit_s,gpus\n1,2\n", "line 2: no duration_s, group; the columns are submit_s, "),
        ("submit_s,duration_s,gpus,user,group,kind\n0,5,1,,g,\nx1,5,1,,g,\n", "line 3: submit_s='x1'"),
        ("submit_s,duration_s,gpus,user,group,kind\n0,nan,1,,g,job\n", "duration_s='nan'"),
        ("submit_s,duration_s,gpus,user,group,kind\n0,5,1.5,,g,job\n", "gpus='1.5'.*whole number"),
        ("submit_s,duration_s,gpus,user,group,kind\n0,5,1,,g,job\n", "every submit_s is 0"),
        ("submit_s,duration_s,gpus,user,group,kind\n0,0,1,,g,job\n", "line 2"),
        ("submit_s,duration_s,gpus,user,group,kind\n", "no jobs"),
        ("submit_s,duration_s,gpus,user,group,kind\n1,5,99,,g,job\n", "set GPUS=99"),
    ],
)
def test_a_trace_that_cannot_be_played_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(BenchError, match=said):
        lease_trace.read(path, 8)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xb8\xff\x00")
    with pytest.raises(BenchError, match="no CSV"):
        lease_trace.read(path, 8)


def test_a_trace_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="No such file"):
        lease_trace.read(tmp_path / "none.csv", 8)
