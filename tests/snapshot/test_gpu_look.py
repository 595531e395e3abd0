"""How the facts are gathered: environment, cgroup, files, and PyTorch's build without importing it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from respawner.gpu import cell, look, nvml
from respawner.gpu.facts import Driver, Host, Use


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return folder


def test_lease_is_what_spawner_and_engine_have_set() -> None:
    lease = look.lease(
        {
            "NVIDIA_VISIBLE_DEVICES": "GPU-a, MIG-b",
            "JUPYTERHUB_USER": "ada",
            "JUPYTERHUB_BASE_URL": "/jupyter/",
            "RESPAWNER_GPU_SHARE": "advisory",
            "RESPAWNER_GPU_MEMORY_BYTES": str(10 << 30),
        }
    )
    assert lease.uuids == ("GPU-a", "MIG-b")
    assert lease.gpus_page == "/jupyter/hub/gpus/queue"
    assert (lease.share, lease.share_bytes) == ("advisory", 10 << 30)
    assert not lease.is_none


@pytest.mark.parametrize(("visible", "is_none"), [(None, False), ("void", True), ("", True), ("all", False)])
def test_no_lease_is_told_from_no_setting(visible: str | None, is_none: bool) -> None:
    environment = {} if visible is None else {"NVIDIA_VISIBLE_DEVICES": visible}
    assert look.lease(environment).is_none is is_none


def test_limits_of_a_cgroup_of_version_2(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        sys__fs__cgroup__cgroup_dot_controllers="cpu memory",
        sys__fs__cgroup__memory_dot_max=str(16 << 30),
        sys__fs__cgroup__memory_dot_current=str(3 << 30),
        sys__fs__cgroup__memory_dot_peak=str(7 << 30),
        sys__fs__cgroup__cpu_dot_max="250000 100000",
    )
    assert look.host(root) == Host(16 << 30, 3 << 30, 7 << 30, 2.5, None)


def test_limits_of_a_cgroup_of_version_1(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes=str(16 << 30),
        sys__fs__cgroup__memory__memory_dot_usage_in_bytes=str(3 << 30),
        sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us="400000",
        sys__fs__cgroup__cpu__cpu_dot_cfs_period_us="100000",
    )
    assert look.host(root) == Host(16 << 30, 3 << 30, None, 4.0, None)


@pytest.mark.parametrize("memory", ["max", str((1 << 63) - 4096)])
def test_no_limit_is_none(tmp_path: Path, memory: str) -> None:
    version_2 = written(
        tmp_path / "2",
        sys__fs__cgroup__cgroup_dot_controllers="",
        sys__fs__cgroup__memory_dot_max=memory,
        sys__fs__cgroup__cpu_dot_max="max 100000",
    )
    version_1 = written(
        tmp_path / "1",
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes=memory,
        sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us="-1",
        sys__fs__cgroup__cpu__cpu_dot_cfs_period_us="100000",
    )
    for root in (version_1, version_2):
        assert look.host(root).memory_bytes is None
        assert look.host(root).cpus is None


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 02:00:00 UTC 2025\nGCC version: 12",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder)",
    ],
)
def test_kernel_module_and_device_files_are_found(tmp_path: Path, text: str) -> None:
    root = written(tmp_path, proc__driver__nvidia__version=text, dev__nvidia_is_a_file="")
    (root / "dev" / "nvidia0").symlink_to("/dev/null")
    driver = look._with_files(Driver(error=12), root)
    assert driver.kernel_version == "570.86.15"
    assert driver.nodes == {str(root / "dev" / "nvidia0"): ""}
    assert look._opening(root / "dev") == "Is a directory"


def test_build_is_read_without_importing_torch(tmp_path: Path) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "version.py").write_text(
        "from typing import Optional\n__version__ = '2.7.1+cu126'\ncuda: Optional[str] = '12.6'\nhip: Optional[str] = None\n"
    )
    code = "from respawner.gpu.look import torch_build; found = torch_build(); print(found.version, found.cuda, found.hip)"
    environment = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "2.7.1+cu126 12.6 None\n"


def test_wheels_in_other_versions_than_torch_pins_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pins = [
        "nvidia-a-cu12==1.5; platform_system == 'Linux'",
        "nvidia-b-cu12==2.0",
        "nvidia-c-cu12==3.0",
        "sympy==9",
    ]
    here = {"nvidia-a-cu12": "1.6", "nvidia-b-cu12": "2.0"}

    def version(name: str) -> str:
        if name not in here:
            raise metadata.PackageNotFoundError(name)
        return here[name]

    monkeypatch.setattr(look.metadata, "requires", lambda name: pins)
    monkeypatch.setattr(look.metadata, "version", version)
    assert look.mixed_wheels() == ("nvidia-a-cu12 is 1.6, wanted 1.5",)


def test_driver_that_hangs_costs_the_patience_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    release = threading.Event()
    monkeypatch.setattr(nvml, "_ask", lambda: release.wait(30))
    assert nvml.look(patience_seconds=0.05) == (Driver(error=-2), ())
    monkeypatch.setattr(nvml, "_ask", lambda: pytest.fail("asked again while the first one hangs"))
    assert nvml.look(patience_seconds=30) == (Driver(error=-2), ())
    release.set()
    nvml._asking.join()


class RunningCuda(SimpleNamespace):
    """A stand-in for `torch.cuda` in which CUDA runs."""

    def __init__(self) -> None:
        super().__init__(allocated=1 << 30, peak=5 << 30)

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def get_device_properties(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(name="STAND-IN", total_memory=80 << 30, uuid="a")

    def memory_allocated(self, index: int) -> int:
        return self.allocated

    def memory_reserved(self, index: int) -> int:
        return 6 << 30

    def max_memory_allocated(self, index: int) -> int:
        return self.peak

    def reset_peak_memory_stats(self, index: int) -> None:
        self.peak = self.allocated


def test_cell_report_has_before_after_and_the_cells_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = RunningCuda()
    monkeypatch.setitem(sys.modules, "torch.cuda", cuda)
    assert look.uses() == (Use(0, "STAND-IN", 80 << 30, 1 << 30, 6 << 30, 5 << 30, "a"),)
    meter = cell.Meter()
    cuda.allocated, cuda.peak = 2 << 30, 3 << 30
    text = cell.report(meter.read())["text/plain"]
    assert (
        "cuda:0: 1.0 GiB before, 2.0 GiB after (+1.0 GiB), 3.0 GiB at its peak, 6.0 GiB reserved of 80.0 GiB"
        in text
    )


def test_nothing_is_asked_of_a_cuda_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.cuda", SimpleNamespace(is_initialized=lambda: False))
    assert look.uses() == ()
    assert "did not use CUDA" in cell.report(cell.Meter().read())["text/plain"]
