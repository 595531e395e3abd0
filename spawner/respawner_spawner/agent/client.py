"""How the hub asks an agent: every failure is a cause in words, and the last good answer keeps its age."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tornado.httpclient import HTTPClientError, HTTPRequest, HTTPResponse
from tornado.simple_httpclient import HTTPTimeoutError, SimpleAsyncHTTPClient

from ..leases.model import Device
from . import wire

TIMEOUT_SECONDS = 5
SILENT_SECONDS = 15
"""One lost answer is no silence."""


@dataclass(frozen=True)
class Seen:
    """What the hub knows of a host. Times are of the hub's clock; those in `answer` of the host's."""

    url: str
    asked_at: float = 0
    answered_at: float = 0
    """When the last good answer came; 0: never."""
    answer: wire.Answer | None = None
    """The last good one."""
    cause: str = ""
    """Why the last question was not answered; "" when it was."""
    silent_after_seconds: float = SILENT_SECONDS

    @property
    def host(self) -> str:
        """The name that the agent gave, its address while it never did."""
        return self.answer.host if self.answer else self.url

    def age_seconds(self, now: float) -> float:
        """Of the last good answer; infinite when there never was one."""
        return now - self.answered_at if self.answer else float("inf")

    def is_silent(self, now: float) -> bool:
        return bool(self.cause) and self.age_seconds(now) > self.silent_after_seconds

    def describe(self, now: float) -> str:
        """For people: "" while all is well, otherwise what is wrong and since when."""
        if not self.cause:
            return ""
        if not self.answer:
            return f"the agent of {self.host} has not answered yet: {self.cause}"
        return f"the agent of {self.host} has been silent for {_words(self.age_seconds(now))}: {self.cause}"

    def devices(self, now: float) -> tuple[Device, ...]:
        """Of the last good answer; of a silent host they take no new lease."""
        if not self.answer:
            return ()
        devices = self.answer.report.devices(self.answer.host)
        if not self.is_silent(now):
            return devices
        why = self.describe(now)
        return tuple(
            replace(device, cordon="; ".join(filter(None, (why, device.cordon)))) for device in devices
        )


class AgentClient:
    """One agent, asked from asyncio.

    :param url: for example "http://127.0.0.1:8082".
    :param ca_file: certificate to trust for https, where the system's authorities do not know it.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        silent_after_seconds: float = SILENT_SECONDS,
        ca_file: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.url = url.rstrip("/")
        self._token, self._timeout_seconds, self._ca_file = token, timeout_seconds, ca_file
        self._clock = clock
        self.seen = Seen(self.url, silent_after_seconds=silent_after_seconds)
        """The last state, also between two questions."""

    async def ask(self) -> Seen:
        """Ask once. Never raises; returns within the timeout."""
        asked_at = self._clock()
        try:
            answer = wire.decode((await self._fetch("/v1/inventory")).body)
        except (HTTPClientError, OSError, ValueError) as error:
            self.seen = replace(self.seen, asked_at=asked_at, cause=self._explain(error))
        else:
            self.seen = replace(
                self.seen, asked_at=asked_at, answered_at=self._clock(), answer=answer, cause=""
            )
        return self.seen

    async def clear(self, uuid: str) -> bool:
        """Tell that an admin calls the device well. False: nothing was wrong with it.

        :raises AgentUnreachable: with the cause.
        """
        try:
            response = await self._fetch("/v1/health/clear", json.dumps({"uuid": uuid}))
            return bool(json.loads(response.body)["cleared"])
        except (HTTPClientError, OSError, ValueError) as error:
            raise AgentUnreachable(self._explain(error)) from error

    async def _fetch(self, path: str, body: str | None = None) -> HTTPResponse:
        request = HTTPRequest(
            self.url + path,
            method="GET" if body is None else "POST",
            body=body,
            headers={"Authorization": f"Bearer {self._token}"},
            connect_timeout=self._timeout_seconds,
            request_timeout=self._timeout_seconds,
            follow_redirects=False,
            ca_certs=str(self._ca_file) if self._ca_file else None,
        )
        client = SimpleAsyncHTTPClient(force_instance=True)
        try:
            return await client.fetch(request)
        finally:
            client.close()

    def _explain(self, error: Exception) -> str:
        match error:
            case HTTPTimeoutError():
                return f"{self.url} did not answer within {self._timeout_seconds:g} s"
            case HTTPClientError(code=401 | 403):
                return f"{self.url} refuses this hub's token: both need the same one"
            case HTTPClientError(code=404):
                return f"{self.url} answers, but {error.message}: not an agent, or one of another version"
            case HTTPClientError():
                return f"{self.url} answers {error.code} {error.message}"
            case ConnectionRefusedError():
                return f"nothing listens at {self.url}: is the agent running?"
            case socket.gaierror():
                return f"{self.url}: no such host name"
            case ssl.SSLCertVerificationError():
                return f"{self.url}: its certificate is not trusted ({error.verify_message})"
            case wire.NotAnAgent():
                return f"{self.url}: {error}"
        return f"{self.url}: {error or type(error).__name__}"


class AgentUnreachable(Exception):
    """The agent could not be told something; the message says why."""


def _words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
