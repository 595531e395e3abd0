"""Is everything of a session on disk? Asked before its container is stopped, by the spawner and by the scheduler."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from respawner import contract

from .engine import CALL_FAILED, Engine

ANSWER_SECONDS = 10
"""On top of the time that the kernels get: how long the engine may take to bring their answer."""


@dataclass(frozen=True)
class Saved:
    """What the session's kernels say."""

    durable: bool
    reason: str = ""
    """Why not, in words for a person."""
    seconds: float = 0.0
    """How long it took."""


async def flush(engine: Engine, container: str, timeout_seconds: float) -> Saved:
    """Wait until every kernel of the container has its variables on disk, or until waiting does not help. Never raises
    for what goes wrong with that: what cannot be confirmed is not durable."""
    started = time.monotonic()
    command = ["python3", "-m", contract.FLUSH_MODULE, "--timeout", str(timeout_seconds)]
    environment = {"PYTHONPATH": f"{contract.BUNDLE_DIR}/lib"}
    try:
        job = await engine.call("exec_create", container, command, environment=environment, stderr=False)
        output = await asyncio.wait_for(
            engine.call("exec_start", job["Id"]), timeout_seconds + ANSWER_SECONDS
        )
        report = json.loads(output)
        durable, kernels = bool(report["durable"]), report["kernels"]
    except TimeoutError:
        return Saved(False, f"its kernels did not answer within {timeout_seconds + ANSWER_SECONDS:.0f} s")
    except CALL_FAILED as error:
        return Saved(False, f"its kernels could not be asked: {error}")
    except (ValueError, KeyError, TypeError):
        said = output.decode(errors="replace").strip()[:200]
        return Saved(False, f"the session cannot say whether it is saved (it needs python3): {said!r}")
    reason = "" if durable else "; ".join(map(_explain, kernels)) or "no kernel said why"
    return Saved(durable, reason, time.monotonic() - started)


def _explain(kernel: Mapping[str, Any]) -> str:
    notebook = kernel.get("timeline") or f"process {kernel.get('pid')}"
    if kernel.get("state") == "saved":
        return f"{notebook} is saved"
    if kernel.get("state") == "failed":
        return f"{notebook} could not be saved: {kernel.get('error') or 'no reason given'}"
    return f"{notebook} has a running cell, or one whose result is still being written"
