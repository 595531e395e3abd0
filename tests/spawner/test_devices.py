"""The real pynvml on a stand-in library: which devices are found, and why there are none. Asked once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from respawner_spawner.devices import Gpu as Found
from respawner_spawner.devices import Inventory
from respawner_spawner.leases.model import Device, Kind

from tests.standins import nvml_environment
from tests.standins.nvml_state import GIB, Gpu, Mig, State

ASK = """
import dataclasses, json, sys
from respawner_spawner.devices import inventory
print(json.dumps(dataclasses.asdict(inventory(timeout_seconds=float(sys.argv[1])))))
"""


def ask(library: Path | None, state: Path | None, seconds: float = 120) -> dict:
    """The inventory as a fresh process sees it: NVML is loaded once a process."""
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    if library and state:
        environment |= nvml_environment(library, state)
    result = subprocess.run(
        [sys.executable, "-c", ASK, str(seconds)], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout)


def test_gpus_are_found_by_uuid_with_name_and_memory(library, tmp_path):
    gpus = [Gpu("GPU-aaaa", "NVIDIA A100-SXM4-80GB"), Gpu("GPU-bbbb", "NVIDIA L4", memory_total=24 * GIB)]
    found = ask(library, State(gpus).write(tmp_path / "state"))
    assert [(gpu["uuid"], gpu["name"], gpu["memory_bytes"]) for gpu in found["found"]] == [
        ("GPU-aaaa", "NVIDIA A100-SXM4-80GB", 80 * GIB),
        ("GPU-bbbb", "NVIDIA L4", 24 * GIB),
    ]
    assert found["cause"] == ""


def test_a_gpu_in_mig_mode_is_listed_with_its_mig_devices(library, tmp_path):
    migs = [Mig("MIG-1"), Mig("MIG-2", "STAND-IN A100 MIG 2g.20gb", 20 * GIB, gpu_instance=3)]
    found = ask(library, State([Gpu("GPU-a", migs=migs), Gpu("GPU-b")]).write(tmp_path / "state"))
    shown = [(gpu["uuid"], gpu["parent"], gpu["profile"], gpu["mig_mode"]) for gpu in found["found"]]
    assert shown == [
        ("GPU-a", "", "", True),
        ("MIG-1", "GPU-a", "1g.10gb", False),
        ("MIG-2", "GPU-a", "2g.20gb", False),
        ("GPU-b", "", "", False),
    ]


def test_a_profile_that_the_name_does_not_tell_is_made_from_the_slices(library, tmp_path):
    mig = Mig("MIG-1", "STAND-IN A100", 20 * GIB, slices=2)
    found = ask(library, State([Gpu("GPU-a", migs=[mig])]).write(tmp_path / "state"))
    assert found["found"][1]["profile"] == "2g.20gb"


def test_a_gpu_in_mig_mode_without_mig_devices_is_a_cause_with_the_next_step(library, tmp_path):
    found = ask(library, State([Gpu("GPU-a", mig_mode=1)]).write(tmp_path / "state"))
    assert "GPU-a is in MIG mode and has no MIG device: `nvidia-smi mig" in found["cause"]


def test_a_lost_gpu_is_left_out_and_named(library, tmp_path):
    found = ask(library, State([Gpu("GPU-aaaa", lost=True), Gpu("GPU-bbbb")]).write(tmp_path / "state"))
    assert [gpu["uuid"] for gpu in found["found"]] == ["GPU-bbbb"]
    assert found["cause"] == "GPU at index 0: the GPU fell off the bus: reboot the machine"


@pytest.mark.parametrize(
    ("code", "words"), [(9, "not loaded"), (18, "different versions"), (4, "no permission"), (999, "NVML")]
)
def test_a_broken_driver_is_an_empty_inventory_with_its_cause(library, tmp_path, code, words):
    found = ask(library, State([Gpu("GPU-aaaa")], init_error=code).write(tmp_path / "state"))
    assert found["found"] == []
    assert words in found["cause"]


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetName"])
def test_a_driver_that_hangs_does_not_hang_who_asks(library, tmp_path, function):
    found = ask(library, State([Gpu("GPU-a")], hang=function).write(tmp_path / "state"), 5)
    assert found["found"] == []
    assert "the NVIDIA driver has not answered for 5 s" in found["cause"]


def test_a_driver_without_the_second_memory_structure_is_read_with_the_first(library, tmp_path):
    state = State([Gpu("GPU-a", memory_total=24 * GIB)], errors={"nvmlDeviceGetMemoryInfo_v2": 13})
    assert ask(library, state.write(tmp_path / "state"))["found"][0]["memory_bytes"] == 24 * GIB


def test_a_machine_without_a_driver_says_so():
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA driver")
    found = ask(None, None)
    assert found["found"] == []
    assert found["cause"] == "no NVIDIA driver on this machine (libnvidia-ml.so.1 is missing)"


def test_the_scheduler_gets_gpus_and_mig_devices_but_no_divided_gpu():
    found = Inventory(
        (
            Found("GPU-a", "NVIDIA A100", 80 * GIB, mig_mode=True),
            Found("MIG-1", "NVIDIA A100 MIG 1g.10gb", 10 * GIB, parent="GPU-a", profile="1g.10gb"),
            Found("GPU-b", "NVIDIA L4", 24 * GIB),
        )
    )
    assert found.devices("gpu-1", {"GPU-b": "too hot"}) == (
        Device("MIG-1", "gpu-1", "NVIDIA A100", 10 * GIB, Kind.MIG, parent="GPU-a", profile="1g.10gb"),
        Device("GPU-b", "gpu-1", "NVIDIA L4", 24 * GIB, cordon="too hot"),
    )
