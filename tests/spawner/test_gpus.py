"""The real pynvml on a stand-in library: which GPUs are found, and why there are none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.standins import build_fake_nvml, nvml_environment
from tests.standins.nvml_state import GIB, Gpu, State

ASK = """
import dataclasses, json
from respawner_spawner.gpus import inventory
print(json.dumps(dataclasses.asdict(inventory())))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Folder of the stand-in libnvidia-ml.so.1."""
    return build_fake_nvml(tmp_path_factory.mktemp("nvml"))


def ask(library: Path | None, state: Path | None) -> dict:
    """The inventory as a fresh process sees it: NVML is loaded once a process."""
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    if library and state:
        environment |= nvml_environment(library, state)
    result = subprocess.run(
        [sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout)


def test_gpus_are_found_by_uuid_with_name_and_memory(library, tmp_path):
    gpus = [Gpu("GPU-aaaa", "NVIDIA A100-SXM4-80GB"), Gpu("GPU-bbbb", "NVIDIA L4", memory_total=24 * GIB)]
    state = State(gpus).write(tmp_path / "state")
    assert ask(library, state) == {
        "gpus": [
            {"uuid": "GPU-aaaa", "name": "NVIDIA A100-SXM4-80GB", "memory_bytes": 85899345920},
            {"uuid": "GPU-bbbb", "name": "NVIDIA L4", "memory_bytes": 25769803776},
        ],
        "cause": "",
    }


def test_a_lost_gpu_is_left_out_and_named(library, tmp_path):
    state = State([Gpu("GPU-aaaa", lost=True), Gpu("GPU-bbbb")]).write(tmp_path / "state")
    found = ask(library, state)
    assert [gpu["uuid"] for gpu in found["gpus"]] == ["GPU-bbbb"]
    assert found["cause"] == "GPU at index 0: the GPU fell off the bus: reboot the machine"


@pytest.mark.parametrize(
    ("code", "words"), [(9, "not loaded"), (18, "different versions"), (4, "no permission"), (999, "NVML")]
)
def test_a_broken_driver_is_an_empty_inventory_with_its_cause(library, tmp_path, code, words):
    state = State([Gpu("GPU-aaaa")], init_error=code).write(tmp_path / "state")
    found = ask(library, state)
    assert found["gpus"] == []
    assert words in found["cause"]


def test_a_machine_without_a_driver_says_so():
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA driver")
    assert ask(None, None) == {
        "gpus": [],
        "cause": "no NVIDIA driver on this machine (libnvidia-ml.so.1 is missing)",
    }
