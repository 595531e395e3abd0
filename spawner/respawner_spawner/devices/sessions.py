"""Which containers hold devices, as the engine of this host says, and whether they still can use them (`canary`)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors
import requests.exceptions

from .. import container_spec
from . import canary
from .values import Access

log = logging.getLogger(__name__)

CALL_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class _Session:
    holder: str
    uuids: tuple[str, ...]


class Sessions:
    """A thread that asks the engine; everything else answers from memory.

    :param host: the engine's address, "" for none.
    :param tell: called after every look of the canary, in this thread.
    """

    def __init__(
        self,
        host: str,
        *,
        interval_seconds: float = 10,
        canary_seconds: float = 60,
        tell: Callable[[Sequence[Access]], None] = lambda access: None,
    ) -> None:
        self.host = host
        self._interval, self._canary_seconds, self._tell = interval_seconds, canary_seconds, tell
        self._client: Any = None
        self._sessions: dict[str, _Session] = {}
        self._looked_at = 0.0
        self.access: tuple[Access, ...] = ()
        self.cause = "" if host else "no engine to ask whose a process is"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sessions", daemon=True)

    def start(self) -> None:
        if self.host:
            self._thread.start()

    def stop(self, timeout_seconds: float = 5) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def holder_of(self, ids: Sequence[str]) -> tuple[str, str]:
        """(container, holder) of a process by the ids in its cgroup: the one that this engine knows, else the outermost."""
        for each in ids:
            if session := self._sessions.get(each):
                return each, session.holder
        return (ids[0] if ids else "", "")

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._round()
            self._stopping.wait(self._interval)

    def _round(self) -> None:
        try:
            self._sessions = self._ask()
            self.cause = ""
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
            self.cause = (
                f"the engine at {self.host} does not answer, so nobody knows whose a process is: {error}"
            )
            return
        if time.monotonic() - self._looked_at >= self._canary_seconds or not self._looked_at:
            self._looked_at = time.monotonic()
            self.access = tuple(self._look())
            self._tell(self.access)

    def _ask(self) -> dict[str, _Session]:
        if self._client is None:
            self._client = docker.APIClient(self.host, version="auto", timeout=CALL_TIMEOUT_SECONDS)
        containers = self._client.containers(filters={"label": container_spec.HOLDER_LABEL})
        return {
            container["Id"]: _Session(
                container["Labels"][container_spec.HOLDER_LABEL],
                tuple(filter(None, container["Labels"].get(container_spec.GPUS_LABEL, "").split(","))),
            )
            for container in containers
        }

    def _look(self) -> list[Access]:
        return [
            canary.check(self._client, container, session.holder, session.uuids, time.time())
            for container, session in self._sessions.items()
            if session.uuids
        ]
