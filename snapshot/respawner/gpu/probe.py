"""Asks CUDA itself, in a process of its own: this kernel stays without a CUDA context, and a crash costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys

SECONDS = 180
"""Importing torch and starting CUDA takes several seconds, on a cold disk a minute."""

_CODE = """
import json, sys
answer = {"available": False, "devices": 0, "error": ""}
try:
    import torch
    torch.cuda.init()
    answer["devices"] = torch.cuda.device_count()
    for index in range(answer["devices"]):
        square = torch.ones(64, 64, device=f"cuda:{index}")
        assert (square @ square).sum().item() == 64.0**3, "a matrix product on the GPU came out wrong"
    answer["available"] = torch.cuda.is_available()
except BaseException as error:
    answer["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(answer))
"""


def ask_cuda(seconds: float = SECONDS) -> str:
    """CUDA's own answer in one sentence. Takes a few hundred MB on each GPU while it runs."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CODE], capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return f"CUDA has not answered within {seconds:.0f} s in a process of its own: the driver hangs."
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return f"the process that asked CUDA died: {last}"
    if answer["available"]:
        count = answer["devices"]
        return f"CUDA works: a matrix product was right on {count} device{'' if count == 1 else 's'}."
    return f"CUDA says: {answer['error'].splitlines()[0] if answer['error'] else 'no device'}"
