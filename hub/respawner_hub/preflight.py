"""What would make `up` fail later, found out first and said with the next step."""

from __future__ import annotations

import errno
import shutil
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

from .settings import Settings
from .supervision import PROGRAMS

MIN_FREE_BYTES = 2 << 30


class PreflightError(Exception):
    """The machine is not ready; every problem stands on a line of its own."""


def check(settings: Settings, *, ours_runs: bool) -> None:
    """Check folder, disk and ports.

    :param ours_runs: the programs of this deployment run already, so their ports are in use by right.
    :raises PreflightError: with all problems at once.
    """
    problems = list(folder_problems(settings.state_dir))
    if not ours_runs:
        problems += port_problems(settings, PROGRAMS)
    if problems:
        raise PreflightError("\n".join(problems))


def folder_problems(state_dir: Path) -> Iterator[str]:
    """What keeps the hub from keeping its state there."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        probe = state_dir / ".probe"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        yield f"{state_dir} cannot be written ({error.strerror}): run as its owner, or change [hub] state_dir."
        return
    free = shutil.disk_usage(state_dir).free
    if free < MIN_FREE_BYTES:
        yield f"Only {free / (1 << 30):.1f} GiB free at {state_dir}, at least {MIN_FREE_BYTES >> 30} are needed: free some, or change [hub] state_dir."


def port_problems(settings: Settings, programs: Collection[str]) -> Iterator[str]:
    """Ports of these programs (of `supervision.PROGRAMS`) that something else has."""
    hub = settings.hub
    ports = (
        ("proxy", "[hub] port", hub.bind, hub.port),
        ("proxy", "[hub] proxy_api_port", "127.0.0.1", hub.proxy_api_port),
        ("agent", "[agent] port", "127.0.0.1", settings.agent.port),
    )
    for program, key, address, port in ports:
        if program not in programs:
            continue
        if problem := port_problem(key, address, port):
            yield problem


def port_problem(key: str, address: str, port: int) -> str:
    """Why nothing can listen there now; "" where something can.

    :param key: the setting that names the port.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except PermissionError:
            return f"Port {port} needs root: run `sudo make up`, or set another {key}."
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return f"{address}, where port {port} ({key}) is to be, is no address of this machine: see `ip address`."
            return (
                f"Port {port} on {address} is taken ({error.strerror}): see `ss -ltnp 'sport = :{port}'`, "
                f"stop that program, or set another {key} in respawner.toml."
            )
    return ""
