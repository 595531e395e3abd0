"""Secrets of one deployment: made once, readable by their owner only, never in the settings or a log."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

from .whole_files import whole_file


def cookie_secret_file(state_dir: Path) -> Path:
    """JupyterHub's cookie secret, 32 bytes as hex. Deleting the file logs everybody out."""
    return _ensure(state_dir / "secrets" / "cookie")


def proxy_token(state_dir: Path) -> str:
    """The token with which the hub speaks to the proxy."""
    return _ensure(state_dir / "secrets" / "proxy-token").read_text().strip()


def gpu_token(state_dir: Path) -> str:
    """The token of `respawner-hub gpu` at the hub's API: it may do with GPUs what an admin may."""
    return _ensure(state_dir / "secrets" / "gpu-token").read_text().strip()


def metrics_token(state_dir: Path) -> str:
    """The token with which Prometheus reads the hub's metrics: it may do nothing else."""
    return _ensure(state_dir / "secrets" / "metrics-token").read_text().strip()


def agent_token_file(state_dir: Path) -> Path:
    """The token with which the hub and Prometheus speak to this machine's agent."""
    return _ensure(state_dir / "secrets" / "agent-token")


def _ensure(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        # of a cluster's proxy and hub, which start together, one is first
        with contextlib.suppress(FileExistsError), whole_file(path, 0o600, replace=False) as file:
            file.write(f"{secrets.token_hex(32)}\n".encode())
    return path
