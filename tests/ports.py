"""Ports for what tests start a moment later: below those that the kernel hands out, which somebody else might have by then."""

from __future__ import annotations

import contextlib
import secrets
import socket

FIRST, END = 12_000, 32_000
"""Linux hands out 32768 to 60999, to whoever connects or asks for any port: kernels alone ask for five each."""


def free_ports(count: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < count:
        port = FIRST + secrets.randbelow(END - FIRST)  # not `random`, which tests seed
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            ports.add(port)
    return list(ports)


def free_port() -> int:
    return free_ports(1)[0]
