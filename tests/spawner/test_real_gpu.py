"""What `devices` says of this host's GPUs beside nvidia-smi. Needs a GPU and its driver: skipped everywhere else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from respawner_spawner.devices import Monitor, inventory
from respawner_spawner.devices.monitor import Pace

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="needs a GPU: there is no nvidia-smi here"),
]
MIB = 1 << 20
WORK = """
import torch
a = torch.randn(8192, 8192, device="cuda")
print("begun", flush=True)
while True:
    for _ in range(20):
        b = a @ a
    torch.cuda.synchronize()
"""


def smi(query: str) -> list[list[str]]:
    asked = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    out = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    return [line.split(", ") for line in out.splitlines()]


def until(found: Callable[[], object], seconds: float = 60) -> object:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "this did not come"
        time.sleep(0.2)
    return value


def test_the_inventory_is_nvidia_smis() -> None:
    found = inventory()
    assert found.cause == ""
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    assert [gpu.uuid for gpu in found.found] == re.findall(r"UUID: ((?:GPU|MIG)-[^)]+)\)", listed)
    rows = smi("--query-gpu=uuid,name,memory.total,driver_version")
    whole = [gpu for gpu in found.found if not gpu.parent]
    for gpu, (uuid, name, mebibytes, driver) in zip(whole, rows, strict=True):
        assert (gpu.uuid, gpu.name, found.driver_version) == (uuid, name, driver)
        assert gpu.memory_bytes // MIB == int(mebibytes)
    header = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=True).stdout
    assert f"CUDA Version: {found.cuda_version}" in header


def test_a_working_process_is_seen_with_what_it_uses() -> None:
    pytest.importorskip("torch")
    monitor = Monitor(Pace(readings=0.2, lists=0.5))
    monitor.start()
    try:
        assert monitor.wait_for_first(60)
        idle = monitor.report()
        assert (idle.causes, idle.stale) == ((), "")
        assert all(health.ok for health in idle.health), idle.health
        with subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"begun\n"
                until(lambda: any((r.utilization_percent or 0) > 50 for r in monitor.report().readings))
                until(lambda: len(monitor.report().processes) > len(idle.processes))
                report = monitor.report()
                [busy] = [r for r in report.readings if (r.utilization_percent or 0) > 50]
                [[used, watts, celsius]] = [
                    row[1:]
                    for row in smi("--query-gpu=uuid,memory.used,power.draw,temperature.gpu")
                    if row[0] == busy.uuid
                ]
                assert busy.memory_used_bytes is not None
                assert abs(busy.memory_used_bytes / MIB - float(used)) < 64
                assert busy.power_watts is not None
                assert 0.3 < busy.power_watts / float(watts) < 3
                assert busy.temperature_celsius is not None
                assert abs(busy.temperature_celsius - float(celsius)) < 15
                told = {(int(pid), int(mib)) for pid, mib in smi("--query-compute-apps=pid,used_memory")}
                seen = {(p.pid, (p.used_bytes or 0) // MIB) for p in report.processes}
                assert seen == told
            finally:
                process.kill()
        until(lambda: len(monitor.report().processes) == len(idle.processes))
    finally:
        monitor.stop()
