"""Ports for what tests start a moment later: below those that Linux hands out, which somebody else might have by then."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

FIRST, END = 12_000, 32_000
"""Linux hands out 32768 to 60999, to whoever connects or asks for any port."""
_EACH = (END - FIRST) // 8


def _of_this_process() -> Iterator[int]:
    """One after the other: no worker of a run has another's, and runs at the same time hardly begin at the same one."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw-1")[2:]) + 1  # gw0, gw1, …; 0 where there are none
    first, number = FIRST + worker % 8 * _EACH, os.getpid() * 37
    while True:
        yield first + number % _EACH
        number += 1


_PORTS = _of_this_process()


def free_port(ip: str = "") -> int:
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((ip, port))
            return port
    raise AssertionError("there is always another")


def free_ports(count: int) -> list[int]:
    return [free_port() for _ in range(count)]
