"""NVML's errors and NVIDIA's Xids in words that say what to do. Source of the Xids:
https://docs.nvidia.com/deploy/xid-errors/
"""

from __future__ import annotations

import pynvml

APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""Caused by a program, not by the GPU (a wild pointer in a kernel, for example): counted, no reason for a cordon.
The same list as in NVIDIA's device plugin for Kubernetes."""

_XIDS = {
    13: "a program's kernel did something wrong",
    31: "a program used a wrong address",
    43: "a program's kernel was stopped",
    45: "a program's work was removed",
    48: "memory error that could not be corrected",
    61: "the GPU's microcontroller stopped",
    62: "the GPU's microcontroller halted",
    63: "a memory row was replaced by a spare one: reset the GPU soon",
    64: "a memory row could not be replaced: reset the GPU",
    68: "video decoder error",
    74: "NVLink error: check bridge and cables",
    79: "the GPU fell off the bus: check power and cooling, reboot the machine",
    92: "many corrected memory errors",
    94: "memory error, contained to one program",
    95: "memory error that reached several programs: reset the GPU",
    109: "a context switch took too long",
    119: "the GPU's system processor does not answer: reset the GPU or reboot",
    120: "the GPU's system processor failed: reset the GPU or reboot",
}

_ERRORS = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver on this machine (libnvidia-ml.so.1 is missing)",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is installed but not loaded: try `modprobe nvidia` or reboot",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "NVIDIA's driver and library have different versions: reboot after the upgrade",
    pynvml.NVML_ERROR_NO_PERMISSION: "no permission to talk to the NVIDIA driver",
    pynvml.NVML_ERROR_GPU_IS_LOST: "the GPU fell off the bus: reboot the machine",
}


def explain(error: pynvml.NVMLError) -> str:
    """An error of NVML, with the next step where there is one."""
    return _ERRORS.get(error.value, f"NVML: {error}")


def explain_xid(code: int) -> str:
    """An Xid, for example "Xid 79: the GPU fell off the bus: …"."""
    return f"Xid {code}: {_XIDS.get(code, 'see https://docs.nvidia.com/deploy/xid-errors/')}"
