"""Modes of torch. The default dtype and the generator are saved with the random states."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import Any

_DEFAULTS: dict[str, Any] = {
    "default_device": "cpu",
    "deterministic_algorithms": (False, False),
    "grad_mode": True,
    "anomaly_mode": False,
    "matmul_precision": "highest",
    "cudnn.benchmark": False,
    "cudnn.deterministic": False,
    "printing": {"precision": 4, "threshold": 1000, "edgeitems": 3, "linewidth": 80, "sci_mode": None},
}


def changed(shell: Any, before: dict[str, Any]) -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    present = {
        "deterministic_algorithms": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "grad_mode": torch.is_grad_enabled(),
        "anomaly_mode": torch.is_anomaly_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "printing": dict(vars(torch._tensor_str.PRINT_OPTS)),
    }
    if hasattr(torch, "get_default_device"):
        present["default_device"] = str(torch.get_default_device())
    found = {key: value for key, value in present.items() if value != _DEFAULTS[key]}
    # Their defaults depend on the machine: on the same one, the same numbers are right in any case.
    found["threads"] = (torch.get_num_threads(), torch.get_num_interop_threads(), _cpus())
    return found


def put(shell: Any, key: str, value: Any) -> None:
    torch = importlib.import_module("torch")
    match key:
        case "default_device":
            if value.startswith("cuda") and not torch.cuda.is_available():
                raise RuntimeError(f"there is no {value} here")
            torch.set_default_device(value)
        case "deterministic_algorithms":
            torch.use_deterministic_algorithms(value[0], warn_only=value[1])
        case "grad_mode":
            torch.set_grad_enabled(value)
        case "anomaly_mode":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # told when it was switched on
                torch.autograd.set_detect_anomaly(value)
        case "matmul_precision":
            torch.set_float32_matmul_precision(value)
        case "cudnn.benchmark" | "cudnn.deterministic":
            setattr(torch.backends.cudnn, key.partition(".")[2], value)
        case "printing":
            torch.set_printoptions(**value)
        case "threads":
            _put_threads(torch, *value)
        case _:
            raise KeyError("this version of Respawner does not know it")


def _put_threads(torch: Any, threads: int, between: int, cpus: int) -> None:
    if cpus != _cpus():
        return  # the numbers were that machine's, or chosen for it
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != between:
        torch.set_num_interop_threads(between)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
