"""Why CUDA is not to be had: a table of cases, each with its cause and its next step."""

from __future__ import annotations

from dataclasses import replace

import pytest
from respawner.gpu.diagnosis import Cause, diagnose
from respawner.gpu.facts import (
    DRIVER_NOT_LOADED,
    EXCLUSIVE_PROCESS,
    GPU_IS_LOST,
    LIBRARY_NOT_FOUND,
    NO_ANSWER,
    NO_BINDING,
    NO_PERMISSION,
    PROHIBITED,
    UNKNOWN,
    VERSION_MISMATCH,
    Device,
    Driver,
    Facts,
    Lease,
    Torch,
)

A = "GPU-a"
A100 = Device(A, "A100", 80 << 30, capability=(8, 0))
PARTED = replace(A100, mig_mode=True)
PART = Device("MIG-a1", "A100 MIG 1g.10gb", 10 << 30, parent=A, capability=(8, 0))

SESSION = Lease(visible=A, in_session=True, gpus_page="/hub/gpus/queue")
DRIVER = Driver(version="570.86", kernel_version="570.86", cuda=(12, 8), has_libcuda=True)
CUDA126 = Torch("2.7.1+cu126", cuda="12.6", imported=True, arches=("sm_50", "sm_80", "sm_90", "compute_90"))
GOOD = Facts(SESSION, DRIVER, (A100,), CUDA126)


def but(facts: Facts = GOOD, **changed: object) -> Facts:
    """`facts` with parts replaced, and parts of parts as ``driver_error=9``."""
    parts: dict[str, dict[str, object]] = {}
    whole = {}
    for key, value in changed.items():
        part, _, name = key.partition("_")
        if name:
            parts.setdefault(part, {})[name] = value
        else:
            whole[key] = value
    whole |= {part: replace(getattr(facts, part), **values) for part, values in parts.items()}
    return replace(facts, **whole)


NOTHING = Driver(error=LIBRARY_NOT_FOUND)

CASES = {
    "cpu build": (
        but(torch_cuda=None, torch_version="2.7.1+cpu"),
        Cause.CPU_BUILD,
        "2.7.1+cpu is a CPU build",
        "CUDA image",
    ),
    "rocm build": (but(torch_cuda=None, torch_hip="6.3"), Cause.ROCM_BUILD, "ROCm 6.3", "CUDA build"),
    "no torch": (but(torch=None), Cause.NO_TORCH, "no PyTorch", "image"),
    "wheels of two versions": (
        but(torch_mixed=("nvidia-cudnn-cu12 is 9.9, wanted 9.5",)),
        Cause.MIXED_LIBRARIES,
        "nvidia-cudnn-cu12 is 9.9",
        "pip uninstall",
    ),
    "session without a lease": (
        but(lease_visible="void", driver=NOTHING, devices=()),
        Cause.NO_LEASE,
        "started without a lease",
        "/hub/gpus/queue",
    ),
    "container without a GPU": (
        but(lease=Lease(visible="none"), driver=NOTHING, devices=()),
        Cause.NO_LEASE,
        "NVIDIA_VISIBLE_DEVICES=none",
        "--gpus",
    ),
    "no driver": (
        but(lease=Lease(), driver=NOTHING, devices=()),
        Cause.NO_DRIVER,
        "no NVIDIA driver",
        "host with a GPU",
    ),
    "no driver and no pynvml": (
        but(lease=Lease(), driver=Driver(error=NO_BINDING), devices=()),
        Cause.NO_DRIVER,
        "no NVIDIA driver",
        "host with a GPU",
    ),
    "driver on the host only": (
        but(driver_error=LIBRARY_NOT_FOUND, devices=()),
        Cause.NOT_HANDED_IN,
        "570.86, but its libraries are not in this container although",
        "container toolkit",
    ),
    "module not loaded": (
        but(driver_error=DRIVER_NOT_LOADED, devices=()),
        Cause.DRIVER_NOT_LOADED,
        "module",
        "modprobe",
    ),
    "upgraded under the session": (
        but(driver_error=VERSION_MISMATCH, devices=()),
        Cause.DRIVER_MISMATCH,
        "running: 570.86",
        "Restart the session",
    ),
    "driver hangs": (
        but(driver_error=NO_ANSWER, devices=()),
        Cause.DRIVER_HANGS,
        "does not answer",
        "%snapshot",
    ),
    "no permission": (but(driver_error=NO_PERMISSION, devices=()), Cause.NO_ACCESS, "refuses", "Restart"),
    "cgroup took the device away": (
        but(driver_error=UNKNOWN, driver_nodes={"/dev/nvidia0": "Operation not permitted"}, devices=()),
        Cause.NO_ACCESS,
        "/dev/nvidia0 is there and cannot be opened (Operation not permitted)",
        "daemon-reload",
    ),
    "NVML fails and nobody knows why": (
        but(driver_error=UNKNOWN, devices=()),
        Cause.NVML_FAILS,
        "999",
        "daemon-reload",
    ),
    "GPU fell off the bus": (
        but(devices=(replace(A100, error=GPU_IS_LOST),)),
        Cause.DEVICE_LOST,
        "GPU-a fell off the bus",
        "another GPU",
    ),
    "lost GPU that does not tell its UUID": (
        but(devices=(Device("the GPU at index 0", error=GPU_IS_LOST), replace(A100, uuid="GPU-b"))),
        Cause.DEVICE_LOST,
        "fell off the bus",
        "another GPU",
    ),
    "leased device is unknown": (
        but(devices=(replace(A100, uuid="GPU-b"),)),
        Cause.DEVICE_GONE,
        "names GPU-a, and the driver does not know it",
        "%snapshot",
    ),
    "driver sees nothing": (but(lease=Lease(), devices=()), Cause.NO_DEVICE, "sees no GPU", "nvidia-smi -L"),
    "utility only": (
        but(driver_has_libcuda=False, lease_capabilities="utility"),
        Cause.NO_COMPUTE,
        "NVIDIA_DRIVER_CAPABILITIES=utility",
        "compute,utility",
    ),
    "driver too old": (
        but(driver_cuda=(11, 4), driver_version="470.1"),
        Cause.DRIVER_TOO_OLD,
        "Driver 470.1 knows CUDA up to 11.4; torch 2.7.1+cu126 is built with CUDA 12.6 and needs driver 525.60",
        "image whose torch is built with CUDA 11",
    ),
    "MIG mode without a MIG device": (but(devices=(PARTED,)), Cause.NO_MIG_DEVICE, "in MIG mode", "-cgi"),
    "compute prohibited": (
        but(devices=(replace(A100, compute_mode=PROHIBITED),)),
        Cause.PROHIBITED,
        "PROHIBITED",
        "-c DEFAULT",
    ),
    "exclusive and taken": (
        but(devices=(replace(A100, compute_mode=EXCLUSIVE_PROCESS, processes=1),)),
        Cause.EXCLUSIVE,
        "another process has it",
        "MPS",
    ),
    "GPU too old for the build": (
        but(devices=(replace(A100, name="K80", capability=(3, 7)),)),
        Cause.NO_CODE_FOR_DEVICE,
        "no code for K80 (compute capability 3.7)",
        "another torch",
    ),
    "hidden by the user": (
        but(lease_cuda_visible=""),
        Cause.HIDDEN,
        "CUDA_VISIBLE_DEVICES='' hides every device",
        "restart the kernel",
    ),
    "hidden by a wrong index": (
        but(lease_cuda_visible="3"),
        Cause.HIDDEN,
        "'3' hides every device",
        "restart the kernel",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_cause_is_named_with_the_next_step(name: str) -> None:
    facts, cause, what, step = CASES[name]
    [finding] = diagnose(facts).findings
    assert finding.cause is cause
    assert what in finding.what
    assert step in finding.next_step


def test_every_cause_has_a_case() -> None:
    assert {case[1] for case in CASES.values()} == set(Cause)


RIGHT = {
    "a leased GPU": GOOD,
    "torch is not imported yet": but(torch_imported=False, torch_arches=()),
    "a MIG device": but(lease_visible="MIG-a1", devices=(PARTED, PART)),
    "older minor version": but(driver_cuda=(12, 2)),
    "a newer GPU by PTX": but(devices=(replace(A100, capability=(12, 0)),)),
    "two GPUs and one of them is not ours": but(devices=(A100, replace(A100, uuid="GPU-b", error=0))),
    "an own machine": but(lease=Lease()),
    "every GPU": but(lease_visible="all"),
    "hidden in part": but(lease=Lease(cuda_visible="GPU-b"), devices=(A100, replace(A100, uuid="GPU-b1"))),
    "somebody else's GPU is lost": but(devices=(A100, Device("the GPU at index 1", error=GPU_IS_LOST))),
    "exclusive under MPS": but(
        lease_mps_serves=True, devices=(replace(A100, compute_mode=EXCLUSIVE_PROCESS, processes=1),)
    ),
    "exclusive and free": but(devices=(replace(A100, compute_mode=EXCLUSIVE_PROCESS),)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_nothing_is_found_where_cuda_should_work(name: str) -> None:
    assert diagnose(RIGHT[name]).findings == ()


def test_build_and_lease_are_told_together() -> None:
    facts = but(torch_cuda=None, lease_visible="void", driver=NOTHING, devices=())
    assert [finding.cause for finding in diagnose(facts).findings] == [Cause.CPU_BUILD, Cause.NO_LEASE]


def test_running_cuda_is_not_explained_away() -> None:
    """What would have kept it from starting cannot be true; a device that is lost can."""
    running = but(lease_visible="void", torch_initialised=True)
    assert diagnose(running).findings == ()
    lost = but(torch_initialised=True, devices=(replace(A100, error=GPU_IS_LOST),))
    assert [finding.cause for finding in diagnose(lost).findings] == [Cause.DEVICE_LOST]


@pytest.mark.parametrize(
    ("facts", "note"),
    [
        (but(driver_cuda=(12, 2)), "PTX"),
        (but(lease=replace(SESSION, share="advisory", share_bytes=10 << 30)), "the share is advisory"),
        (but(lease=replace(SESSION, share="mps", share_bytes=10 << 30, mps_memory="0=10G")), "no MPS server"),
        (but(lease_mps_pipe="/tmp/mps"), "CUDA starts without MPS"),
        (but(lease_visible="GPU-a,GPU-b"), "also names GPU-b"),
        (but(driver_error=NO_BINDING, devices=()), "pip install nvidia-ml-py"),
        (
            but(lease_visible="MIG-a1,MIG-a2", devices=(PARTED, PART, replace(PART, uuid="MIG-a2"))),
            "one MIG device only",
        ),
        (
            but(lease=Lease(cuda_visible="0"), devices=(A100, replace(A100, uuid="GPU-b"))),
            "hides 1 of 2 devices",
        ),
    ],
)
def test_what_does_not_stop_cuda_is_a_note(facts: Facts, note: str) -> None:
    diagnosis = diagnose(facts)
    assert diagnosis.findings == ()
    assert note in " ".join(diagnosis.notes)
