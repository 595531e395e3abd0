"""Why CUDA is not to be had, and what to do about it: a pure function of the facts.

Three things have to be right and are looked at one by one: PyTorch's build, the way to the device (lease, driver,
device), and what this session has set itself. Of the way only the first obstacle is named: what lies behind it
cannot be judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from .facts import (
    DRIVER_NOT_LOADED,
    EXCLUSIVE_PROCESS,
    GPU_IS_LOST,
    LIBRARY_NOT_FOUND,
    NO_ANSWER,
    NO_BINDING,
    NO_PERMISSION,
    PROHIBITED,
    VERSION_MISMATCH,
    Device,
    Facts,
    Torch,
)

FIRST_DRIVER = {11: "450.80", 12: "525.60", 13: "580"}
"""First driver that runs every CUDA of that major version ("minor version compatibility"):
https://docs.nvidia.com/deploy/cuda-compatibility/"""


class Cause(str, Enum):
    """One value for each thing that a person would do next."""

    NO_TORCH = "no torch"
    CPU_BUILD = "CPU build of torch"
    ROCM_BUILD = "ROCm build of torch"
    MIXED_LIBRARIES = "mixed CUDA libraries"
    NO_LEASE = "no lease"
    NO_DRIVER = "no driver"
    NOT_HANDED_IN = "driver not handed in"
    DRIVER_NOT_LOADED = "driver not loaded"
    DRIVER_MISMATCH = "driver and library differ"
    DRIVER_HANGS = "driver hangs"
    NO_ACCESS = "no access to the device"
    DEVICE_LOST = "device lost"
    DEVICE_GONE = "device gone"
    NVML_FAILS = "NVML fails"
    NO_DEVICE = "no device"
    NO_COMPUTE = "no compute capability"
    DRIVER_TOO_OLD = "driver too old"
    NO_MIG_DEVICE = "no MIG device"
    PROHIBITED = "compute prohibited"
    EXCLUSIVE = "exclusive device in use"
    NO_CODE_FOR_DEVICE = "no code for this GPU"
    HIDDEN = "hidden by CUDA_VISIBLE_DEVICES"


_ENDS_RUNNING_CUDA = frozenset(
    {
        Cause.DEVICE_LOST,
        Cause.DEVICE_GONE,
        Cause.NO_ACCESS,
        Cause.DRIVER_HANGS,
        Cause.DRIVER_MISMATCH,
        Cause.NVML_FAILS,
    }
)
"""What can befall a process in which CUDA works; the others would have kept it from starting."""


@dataclass(frozen=True)
class Finding:
    cause: Cause
    what: str
    next_step: str


@dataclass(frozen=True)
class Diagnosis:
    """`findings` are what keeps CUDA from working; with none of them, nothing that can be seen does."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def diagnose(facts: Facts) -> Diagnosis:
    """Everything that is wrong, as far as it can be known without asking CUDA."""
    found = [one for one in (build(facts), way_to_device(facts), hidden(facts)) if one]
    if facts.torch and facts.torch.initialised:
        found = [one for one in found if one.cause in _ENDS_RUNNING_CUDA]
    return Diagnosis(tuple(found), tuple(_notes(facts)))


def build(facts: Facts) -> Finding | None:
    """What is wrong with PyTorch itself."""
    torch = facts.torch
    if torch is None:
        return Finding(
            Cause.NO_TORCH,
            "This Python has no PyTorch.",
            "Start the session with an image that has it; `%pip install torch` takes several GB of your home.",
        )
    if torch.hip:
        return Finding(
            Cause.ROCM_BUILD,
            f"torch {torch.version} is built for AMD's ROCm {torch.hip}, not for CUDA.",
            "Start the session with a CUDA image, or install the CUDA build of torch.",
        )
    if torch.cuda is None:
        return Finding(
            Cause.CPU_BUILD,
            f"torch {torch.version} is a CPU build: it cannot use any GPU, whatever the session has.",
            "Start the session with a CUDA image (respawner/pytorch-cuda). If you installed torch yourself, "
            "`%pip uninstall torch` brings the image's back.",
        )
    if torch.mixed and not torch.initialised:
        return Finding(
            Cause.MIXED_LIBRARIES,
            f"CUDA libraries do not match torch {torch.version}: {'; '.join(torch.mixed)}.",
            "Remove what was installed over the image (`%pip uninstall` the wheels named here), then restart the kernel.",
        )
    return None


def way_to_device(facts: Facts) -> Finding | None:
    """The first obstacle between the session and a device that computes."""
    for look in (_lease, _driver, _devices, _libcuda, _driver_age, _modes, _code):
        if found := look(facts):
            return found
    return None


def hidden(facts: Facts) -> Finding | None:
    """Devices that are there and that ``CUDA_VISIBLE_DEVICES`` hides."""
    setting, here = facts.lease.cuda_visible, facts.own_devices
    if setting is None or not here or _shown(setting, here):
        return None
    return Finding(
        Cause.HIDDEN,
        f"CUDA_VISIBLE_DEVICES={setting!r} hides every device of this session from CUDA.",
        "Remove the setting where it is made (a cell, a startup file, the image) and restart the kernel: CUDA reads "
        "it once, when it starts.",
    )


def _lease(facts: Facts) -> Finding | None:
    lease = facts.lease
    if not lease.is_none:
        return None
    page = f" on the hub's page {lease.gpus_page}" if lease.gpus_page else ""
    step = f"Ask for one{page}: the session moves to it with its variables." if lease.in_session else ""
    return Finding(
        Cause.NO_LEASE,
        f"This session has no GPU: it was started without a lease (NVIDIA_VISIBLE_DEVICES={lease.visible}).",
        step or "Start the container with a GPU (docker run --gpus …).",
    )


def _driver(facts: Facts) -> Finding | None:
    driver, lease = facts.driver, facts.lease
    refused = {path: why for path, why in driver.nodes.items() if why}
    if driver.error == NO_BINDING:
        if driver.kernel_version or driver.nodes:
            return _refused(refused)
        return _no_driver(facts)
    if driver.error == LIBRARY_NOT_FOUND:
        if driver.kernel_version:
            return Finding(
                Cause.NOT_HANDED_IN,
                f"The machine runs NVIDIA's driver {driver.kernel_version}, but its libraries are not in this container"
                + (" although the session has a lease." if lease.uuids else "."),
                "Restart the session. If that does not help, tell your admin: the NVIDIA container toolkit did "
                "not do its work (`respawner-hub status`, `nvidia-ctk cdi list`).",
            )
        return _no_driver(facts)
    if driver.error == DRIVER_NOT_LOADED:
        return Finding(
            Cause.DRIVER_NOT_LOADED,
            "NVIDIA's driver is installed, but its kernel module is not loaded.",
            "Tell your admin: `modprobe nvidia` on the host, or a reboot after a new kernel.",
        )
    if driver.error == VERSION_MISMATCH:
        running = f" (running: {driver.kernel_version})" if driver.kernel_version else ""
        return Finding(
            Cause.DRIVER_MISMATCH,
            f"The driver's kernel module and its libraries have different versions{running}: "
            "the driver was upgraded while this session or the host ran.",
            "Restart the session, so that it gets the new libraries. If a new session says the same, the host must be rebooted.",
        )
    if driver.error == NO_ANSWER:
        return Finding(
            Cause.DRIVER_HANGS,
            "NVIDIA's driver does not answer: a call of NVML did not return in time.",
            "Save your work (`%snapshot`) and tell your admin: `dmesg | grep Xid` on the host, then a reset of "
            "the GPU or a reboot.",
        )
    if driver.error == NO_PERMISSION or (driver.error and refused):
        return _refused(refused) or Finding(
            Cause.NO_ACCESS,
            "The driver refuses this process (NVML: no permission).",
            "Restart the session; if that does not help, tell your admin.",
        )
    if driver.error == GPU_IS_LOST:
        return _lost("a GPU of this machine")
    if driver.error:
        return Finding(
            Cause.NVML_FAILS,
            f"NVIDIA's management library does not start (NVML error {driver.error}).",
            "Restart the session. After `systemctl daemon-reload` on the host, containers lose their GPUs this way; "
            "if a new session says the same, tell your admin.",
        )
    return _refused(refused)


def _no_driver(facts: Facts) -> Finding:
    where = "this session's machine" if facts.lease.in_session else "this machine"
    return Finding(
        Cause.NO_DRIVER,
        f"There is no NVIDIA driver on {where}.",
        "Start the session on a host with a GPU (the hub's page says where one is), or have the driver installed.",
    )


def _refused(refused: dict[str, str]) -> Finding | None:
    if not refused:
        return None
    path, why = next(iter(refused.items()))
    return Finding(
        Cause.NO_ACCESS,
        f"{path} is there and cannot be opened ({why}): the container's access to its GPU was taken away.",
        "`%snapshot`, then restart the session: a new container gets the device back. It happens when "
        "`systemctl daemon-reload` runs on the host (tell your admin if it comes again).",
    )


def _devices(facts: Facts) -> Finding | None:
    if facts.driver.error == NO_BINDING:
        return None
    here = {device.uuid for device in facts.devices}
    gone = [uuid for uuid in facts.lease.uuids if uuid not in here]
    lost = [device.uuid for device in facts.devices if device.error == GPU_IS_LOST]
    if lost and (gone or not facts.lease.uuids or set(lost) & set(facts.lease.uuids)):
        return _lost(lost[0])  # a lost GPU often does not even tell its UUID
    if gone and not facts.own_devices:
        return Finding(
            Cause.DEVICE_GONE,
            f"The lease names {', '.join(gone)}, and the driver does not know it (any more).",
            "`%snapshot`, then ask for another GPU on the hub's page. Tell your admin: the device fell off the bus, "
            "was reset, or its MIG devices were changed.",
        )
    if not facts.devices:
        return Finding(
            Cause.NO_DEVICE,
            f"The driver {facts.driver.version} is there and sees no GPU.",
            "Ask for a GPU on the hub's page, or on a machine of your own see `nvidia-smi -L` and `lspci | grep -i nvidia`.",
        )
    return None


def _lost(which: str) -> Finding:
    return Finding(
        Cause.DEVICE_LOST,
        f"The GPU is lost: {which} fell off the bus, and everything in its memory is gone.",
        "Stop and start the session on another GPU: its last snapshot is restored. Tell your admin (Xid 79: check power and "
        "cooling, reboot the host).",
    )


def _libcuda(facts: Facts) -> Finding | None:
    if facts.driver.has_libcuda is not False or facts.driver.error:
        return None
    given = facts.lease.capabilities
    return Finding(
        Cause.NO_COMPUTE,
        "The driver's management library is in this container and libcuda.so.1 is not"
        + (f" (NVIDIA_DRIVER_CAPABILITIES={given})." if given else "."),
        "Set NVIDIA_DRIVER_CAPABILITIES=compute,utility in the image or the profile, and restart the session.",
    )


def _driver_age(facts: Facts) -> Finding | None:
    driver, torch = facts.driver, facts.torch
    wanted = _cuda_of(torch)
    if driver.cuda is None or wanted is None or driver.cuda[0] >= wanted[0]:
        return None
    assert torch is not None
    first = FIRST_DRIVER.get(wanted[0])
    return Finding(
        Cause.DRIVER_TOO_OLD,
        f"Driver {driver.version} knows CUDA up to {_dotted(driver.cuda)}; torch {torch.version} is built with CUDA "
        f"{torch.cuda}" + (f" and needs driver {first} or newer." if first else "."),
        f"Choose an image whose torch is built with CUDA {driver.cuda[0]}, or ask your admin for a newer driver.",
    )


def _modes(facts: Facts) -> Finding | None:
    own = facts.own_devices
    parents = {device.parent for device in own}
    bare = [device for device in own if device.mig_mode and device.uuid not in parents]
    if bare and len(bare) == len([device for device in own if not device.parent]) and not any(parents):
        return Finding(
            Cause.NO_MIG_DEVICE,
            f"{bare[0].uuid} is in MIG mode and this session has no MIG device of it: CUDA sees none.",
            "Ask for a MIG device on the hub's page; an admin makes them (`nvidia-smi mig -cgi PROFILE -C`) or "
            "switches the mode off (`nvidia-smi -mig 0`).",
        )
    usable = [device for device in own if device.compute_mode != PROHIBITED]
    if own and not usable:
        return Finding(
            Cause.PROHIBITED,
            f"{own[0].uuid} is in compute mode PROHIBITED.",
            "Tell your admin: `nvidia-smi -c DEFAULT` on the host.",
        )
    mine = bool(facts.torch and facts.torch.initialised)
    taken = [d for d in usable if d.compute_mode == EXCLUSIVE_PROCESS and d.processes]
    if taken and len(taken) == len(usable) and not mine and not facts.lease.mps_serves:
        return Finding(
            Cause.EXCLUSIVE,
            f"{taken[0].uuid} is in compute mode EXCLUSIVE_PROCESS and another process has it.",
            "End the other kernel that uses it (Running Terminals and Kernels), or have your admin start an MPS server or "
            "set `nvidia-smi -c DEFAULT`.",
        )
    return None


def _code(facts: Facts) -> Finding | None:
    torch = facts.torch
    known = [device for device in facts.own_devices if device.capability]
    if torch is None or not torch.arches or not known or any(_runs(d, torch.arches) for d in known):
        return None
    device = known[0]
    assert device.capability is not None
    return Finding(
        Cause.NO_CODE_FOR_DEVICE,
        f"torch {torch.version} has no code for {device.name} (compute capability {_dotted(device.capability)}); it "
        f"was built for {', '.join(torch.arches)}.",
        "Choose an image with another torch: older GPUs need an older one, the newest GPUs a newer one.",
    )


def _notes(facts: Facts) -> Iterator[str]:
    driver, lease, torch = facts.driver, facts.lease, facts.torch
    if driver.error == NO_BINDING and driver.kernel_version:
        yield "memory and limits of the devices are not shown: `%pip install nvidia-ml-py`"
    wanted = _cuda_of(torch)
    if driver.cuda and wanted and driver.cuda[0] == wanted[0] and driver.cuda < wanted:
        yield (
            f"driver {driver.version} knows CUDA {_dotted(driver.cuda)}, torch has {_dotted(wanted)}: it works, but code "
            "that is compiled while it runs (PTX) may be refused"
        )
    here = {device.uuid for device in facts.devices}
    gone = [uuid for uuid in lease.uuids if uuid not in here]
    if gone and facts.own_devices:
        yield f"the lease also names {', '.join(gone)}, which the driver does not know (any more)"
    migs = [device for device in facts.own_devices if device.parent]
    if len(migs) > 1:
        yield "a process can use one MIG device only: choose it by CUDA_VISIBLE_DEVICES before CUDA starts"
    if lease.share and lease.share_bytes:
        if lease.share == "advisory":
            yield "the share is advisory: nothing stops a program that takes more, this one included"
        if (lease.mps_memory or lease.mps_threads) and not lease.mps_serves:
            yield "no MPS server runs here: CUDA_MPS_… limits have no effect"
    elif lease.mps_pipe and not lease.mps_serves:
        yield f"CUDA_MPS_PIPE_DIRECTORY={lease.mps_pipe} has no MPS server: CUDA starts without MPS"
    if torch and torch.mixed and torch.initialised:
        yield f"CUDA libraries do not match torch {torch.version}: {'; '.join(torch.mixed)}"
    if torch and lease.cuda_visible is not None and (shown := _shown(lease.cuda_visible, facts.own_devices)):
        whole = [device for device in facts.own_devices if not device.mig_mode]
        if len(shown) < len(whole):
            yield f"CUDA_VISIBLE_DEVICES={lease.cuda_visible!r} hides {len(whole) - len(shown)} of {len(whole)} devices"


def _shown(setting: str, devices: tuple[Device, ...]) -> list[Device]:
    """What CUDA makes of ``CUDA_VISIBLE_DEVICES``: indices or beginnings of UUIDs, until the first wrong one.
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables"""
    usable = [device for device in devices if not device.mig_mode]
    found: list[Device] = []
    for word in (part.strip() for part in setting.split(",")):
        if word.isdigit() and int(word) < len(usable):
            found.append(usable[int(word)])
        elif match := [d for d in usable if word[:4] in ("GPU-", "MIG-") and d.uuid.startswith(word)]:
            found.append(match[0])
        else:
            break
    return found


def _runs(device: Device, arches: tuple[str, ...]) -> bool:
    """Binary code runs on the same major version and a minor one that is not smaller; PTX on everything newer.
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#application-compatibility"""
    assert device.capability is not None
    for arch in arches:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
        if not found:
            continue
        kind, version, exact = found[1], (int(found[2]), int(found[3])), found[4]
        if exact == "a":
            fits = device.capability == version
        elif kind == "sm":
            fits = device.capability[0] == version[0] and device.capability >= version
        else:
            fits = device.capability >= version
        if fits:
            return True
    return False


def _cuda_of(torch: Torch | None) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", torch.cuda) if torch and torch.cuda else None
    return (int(found[1]), int(found[2])) if found else None


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
