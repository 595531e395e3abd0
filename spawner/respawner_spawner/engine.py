"""One Docker engine: one client, one pool of threads.

Stock DockerSpawner sends every call of every user through a single thread, so one slow pull or one hung
engine stalls everybody. Here each engine has a client and a pool of its own.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import docker
import docker.errors
import docker.tls

T = TypeVar("T")

THREADS = 16
"""Calls to one engine at a time. A stop blocks its thread for the whole grace time."""

CALL_TIMEOUT_SECONDS = 60


class EngineUnreachable(ConnectionError):
    """The engine did not answer, or broke off its answer."""


UNREACHABLE = (ConnectionError, TimeoutError)
"""What a call raises when the engine does not answer; whether a session runs is then unknown. Not what it raises when the
engine answers with an error (`APIError`), which is an `OSError` as well."""

CALL_FAILED = (*UNREACHABLE, docker.errors.APIError)
"""For those to whom it is the same whether the engine does not answer or answers with an error."""


class Engine:
    """A Docker engine's API, callable from asyncio.

    `client` is docker-py's low-level client; its session pools connections and may be used from many threads.
    """

    def __init__(self, host: str, tls: docker.tls.TLSConfig | None = None) -> None:
        self.host = host
        self._tls = tls
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix=f"engine {host}")

    @functools.cached_property
    def client(self) -> docker.APIClient:
        try:
            return docker.APIClient(
                base_url=self.host,
                tls=self._tls or False,
                version="auto",
                timeout=CALL_TIMEOUT_SECONDS,
                num_pools=THREADS + 4,
            )
        except docker.errors.DockerException as error:
            raise EngineUnreachable(f"{self.host}: {error}") from error

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """`client.method(*args, **kwargs)` in a thread of this engine's pool."""
        return await self.run(lambda: getattr(self.client, method)(*args, **kwargs))

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function that talks to this engine in a thread of its pool.

        :raises EngineUnreachable:
        """
        try:
            return await asyncio.wrap_future(self._pool.submit(function))
        except (docker.errors.APIError, EngineUnreachable):
            raise
        except OSError as error:  # of sockets, and everything of requests
            raise EngineUnreachable(f"{self.host}: {type(error).__name__}: {error}") from error


@functools.cache
def engine_at(host: str, tls_dir: str = "") -> Engine:
    """The one `Engine` for this address.

    :param tls_dir: for mutual TLS, a folder with `ca.crt`, `client.crt` and `client.key`.
    """
    if not tls_dir:
        return Engine(host)
    folder = Path(tls_dir)
    pair = (str(folder / "client.crt"), str(folder / "client.key"))
    return Engine(host, docker.tls.TLSConfig(client_cert=pair, ca_cert=str(folder / "ca.crt"), verify=True))
