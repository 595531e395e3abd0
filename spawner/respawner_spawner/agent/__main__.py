"""`python -m respawner_spawner.agent`: the process of one GPU host, from its arguments to its end."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import signal
import socket
import ssl
import sys
from pathlib import Path

from tornado.httpserver import HTTPServer

from ..devices import Monitor
from ..devices.monitor import Pace
from ..devices.sessions import Sessions
from .server import Agent, application

MIN_TOKEN_LENGTH = 16
AGAIN = 75
"""Exit code (EX_TEMPFAIL) with which the agent asks to be started again."""


class AgentError(Exception):
    """The agent cannot start; the message says why and what to do."""


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when it was told to stop, 1 when it cannot start, 2 for wrong usage, 75 to be started again."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("tornado.access").setLevel(logging.ERROR)  # the hub asks every few seconds
    try:
        return asyncio.run(_serve(arguments))
    except AgentError as error:
        print(f"respawner agent: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m respawner_spawner.agent",
        description="Serve this host's GPUs, their health and their processes to the hub, and as Prometheus metrics.",
    )
    add = parser.add_argument
    add("--token-file", type=Path, required=True, help="file with the token that clients must send")
    add("--listen", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8082, help="port to listen on (default: %(default)s)")
    add("--certificate", type=Path, help="PEM file of the certificate: HTTPS instead of HTTP")
    add("--key", type=Path, help="PEM file of the certificate's key")
    add(
        "--plain-http",
        action="store_true",
        help="allow HTTP beyond loopback, for a network that encrypts by itself",
    )
    add(
        "--host-name",
        default=socket.gethostname(),
        help="name of this host in the inventory (default: %(default)s)",
    )
    add(
        "--engine",
        default="unix:///var/run/docker.sock",
        help="Docker Engine of this host, for whose a process is; empty for none (default: %(default)s)",
    )
    add("--interval", type=float, default=2, help="seconds between two readings (default: %(default)s)")
    add(
        "--processes",
        type=float,
        default=10,
        help="seconds between two lists of devices and processes (default: %(default)s)",
    )
    add(
        "--canary",
        type=float,
        default=60,
        help="seconds between two looks whether sessions can still use their GPUs (default: %(default)s)",
    )
    return parser


async def _serve(arguments: argparse.Namespace) -> int:
    """Until SIGTERM or SIGINT, or until only a new process can go on. Returns the exit code."""
    monitor, sessions = _watchers(arguments)
    agent = Agent(arguments.host_name, _token(arguments.token_file), monitor, sessions)
    server = HTTPServer(application(agent), ssl_options=_tls(arguments))
    try:
        server.listen(arguments.port, arguments.listen)
    except OSError as error:
        raise AgentError(
            f"cannot listen on {arguments.listen} port {arguments.port} ({error.strerror}): "
            f"see `ss -ltnp 'sport = :{arguments.port}'`, or choose another --port"
        ) from error
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    monitor.start()
    sessions.start()
    scheme = "https" if arguments.certificate else "http"
    logging.info("agent of %s at %s://%s:%d", arguments.host_name, scheme, arguments.listen, arguments.port)
    code = await _until(stopped, monitor)
    server.stop()
    sessions.stop()
    monitor.stop()
    return code


async def _until(stopped: asyncio.Event, monitor: Monitor) -> int:
    while not monitor.needs_new_process:
        try:
            await asyncio.wait_for(stopped.wait(), timeout=1)
        except TimeoutError:
            continue
        return 0
    logging.warning("the driver was upgraded: starting again with its new library")
    return AGAIN


def _watchers(arguments: argparse.Namespace) -> tuple[Monitor, Sessions]:
    pace = Pace(
        readings=arguments.interval,
        lists=arguments.processes,
        stale=max(Pace.stale, 5 * arguments.interval),
    )
    monitor = Monitor(pace, holder_of=lambda ids: sessions.holder_of(ids))
    sessions = Sessions(
        arguments.engine,
        interval_seconds=arguments.processes,
        canary_seconds=arguments.canary,
        tell=monitor.set_access,
    )
    return monitor, sessions


def _token(file: Path) -> str:
    try:
        token = file.read_text().strip()
    except OSError as error:
        raise AgentError(f"cannot read the token in {file} ({error.strerror})") from error
    if len(token) < MIN_TOKEN_LENGTH:
        raise AgentError(
            f"the token in {file} has {len(token)} characters, at least {MIN_TOKEN_LENGTH} are needed: "
            "`openssl rand -hex 32` makes one"
        )
    return token


def _tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """Without a certificate nothing beyond this machine: the token would go over the wire in the clear."""
    if arguments.certificate or arguments.key:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            if not (arguments.certificate and arguments.key):
                raise AgentError("--certificate and --key belong together")
            context.load_cert_chain(arguments.certificate, arguments.key)
        except (OSError, ssl.SSLError) as error:
            raise AgentError(f"cannot use {arguments.certificate} with {arguments.key}: {error}") from error
        return context
    try:
        loopback = ipaddress.ip_address(arguments.listen).is_loopback
    except ValueError as error:
        raise AgentError(f"--listen {arguments.listen}: give an IP address, for example 127.0.0.1") from error
    if not loopback and not arguments.plain_http:
        raise AgentError(
            f"--listen {arguments.listen} without --certificate and --key would send the token in the clear; "
            "--plain-http allows it on a network that encrypts by itself"
        )
    return None


if __name__ == "__main__":
    sys.exit(main())
