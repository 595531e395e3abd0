"""The stand-in library is close enough to NVML for the tools that people use: the real gpustat and nvitop run on it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.standins import nvml_environment
from tests.standins.nvml_state import GIB, Gpu, Mig, Process, State

BIN = Path(sys.executable).parent


def run(library: Path, state: Path, *command: str) -> str:
    environment = {**os.environ, **nvml_environment(library, state)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_gpustat_shows_devices_use_and_processes(library, tmp_path):
    mine = Process(os.getpid(), 3 * GIB)
    busy = Gpu("GPU-a", utilization=37, temperature=61, memory_used=5 * GIB, processes=[mine])
    state = State([busy, Gpu("GPU-b", "STAND-IN L4", utilization=None)]).write(tmp_path / "state")
    shown = json.loads(run(library, state, str(BIN / "gpustat"), "--json"))
    first, second = shown["gpus"]
    assert (first["uuid"], first["utilization.gpu"], first["temperature.gpu"]) == ("GPU-a", 37, 61)
    assert (first["memory.used"], first["memory.total"]) == (5 * 1024, 80 * 1024)
    assert [(p["pid"], p["gpu_memory_usage"]) for p in first["processes"]] == [(os.getpid(), 3 * 1024)]
    assert (second["name"], second["utilization.gpu"]) == ("STAND-IN L4", None)


def test_nvitop_shows_gpus_and_mig_devices(library, tmp_path):
    parted = Gpu("GPU-b", migs=[Mig("MIG-1", gpu_instance=7, processes=[Process(os.getpid(), GIB)])])
    state = State([Gpu("GPU-a", utilization=37), parted]).write(tmp_path / "state")
    shown = run(library, state, str(BIN / "nvitop"), "--once")
    assert "Driver Version: 570.86.15" in shown
    assert "37%" in shown
    assert "1g.10gb @ GI/CI: 7/0" in shown
    assert str(os.getpid()) in shown


def test_gpustat_survives_a_gpu_that_is_lost(library, tmp_path):
    """Whatever it makes of it, it must meet NVML's own error, not a crash of the stand-in."""
    state = State([Gpu("GPU-a", lost=True), Gpu("GPU-b")]).write(tmp_path / "state")
    environment = {**os.environ, **nvml_environment(library, state)}
    result = subprocess.run([BIN / "gpustat"], env=environment, capture_output=True, text=True, check=False)
    assert "lost" in (result.stdout + result.stderr).lower()
