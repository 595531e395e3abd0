"""The benchmark itself: what it computes, what it prints, what it leaves behind. Never how fast it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import docker
import pytest

from ..e2e.deployment import ROOT
from .spawn import summary
from .visit import PHASES

MINUTES = {"VISIT_LIMIT_SECONDS": "300"}
"""What is tested may take them: no result is made of it."""
COMMAND = {"args": [sys.executable, "-m", "tests.bench.spawn"], "cwd": ROOT, "text": True}


def visit(*seconds: float) -> dict[str, float]:
    return dict(zip(PHASES, seconds, strict=True))


def test_the_ratio_is_of_neighbouring_visits_not_of_medians():
    ours = [visit(0, 1, 0, 0), visit(0, 4, 0, 0), visit(0, 20, 0, 0)]
    stock = [visit(0, 2, 0, 0), visit(0, 5, 0, 0), visit(0, 10, 0, 0)]
    result = summary(ours, stock)
    assert (result["ours_s"], result["stock_s"], result["ratio"]) == (4, 5, 0.8)


def test_a_visit_lasts_as_long_as_its_phases_together():
    result = summary([visit(0.5, 3, 0.25, 1)], [visit(0.5, 4, 0.25, 1)])
    assert (result["ours_s"], result["stock_s"], result["repetitions"]) == (4.75, 5.75, 1)
    assert result["phases"]["stock"] == visit(0.5, 4, 0.25, 1)


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_wrong_repetitions_are_told_before_anything_starts(text):
    result = subprocess.run(**COMMAND, env={**os.environ, "REPETITIONS": text}, capture_output=True)
    assert result.returncode == 1
    assert f"REPETITIONS='{text}': must be a whole number" in result.stderr
    assert result.stdout == ""


def test_no_engine_is_told_with_the_next_step(tmp_path):
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    result = subprocess.run(**COMMAND, env=environment, capture_output=True)
    assert result.returncode == 1
    assert "`make up` starts it" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.docker
def test_one_repetition_ends_with_a_json_object_and_leaves_nothing():
    result = subprocess.run(**COMMAND, env={**os.environ, **MINUTES, "REPETITIONS": "1"}, capture_output=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["repetitions"] == 1
    assert set(found["phases"]["ours"]) == set(found["phases"]["stock"]) == set(PHASES)
    assert left_on_the_engine(result.stderr) == []


@pytest.mark.docker
def test_ctrl_c_leaves_nothing():
    with subprocess.Popen(
        **COMMAND,
        env={**os.environ, **MINUTES},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=_listen_to_ctrl_c,
    ) as process:
        first = process.stderr.readline()
        assert "warm-up" in process.stderr.readline()  # a visit has been, the next one runs
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=600)[1]
    assert process.returncode == 130, rest
    assert left_on_the_engine(first) == []


def _listen_to_ctrl_c() -> None:
    """A shell's background job ignores it, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def left_on_the_engine(stderr: str) -> list[str]:
    """Names of what carries the run's name, which the first line on stderr tells."""
    name = stderr.partition(":")[0]
    assert name.startswith("rbench-"), stderr
    engine = docker.APIClient(base_url=os.environ["DOCKER_HOST"], version="auto")
    containers = engine.containers(all=True, filters={"name": name})
    volumes = engine.volumes(filters={"name": name})["Volumes"] or []
    networks = engine.networks(names=[name])
    return [*(c["Names"][0] for c in containers), *(v["Name"] for v in volumes + networks)]
