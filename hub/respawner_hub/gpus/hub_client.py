"""The hub's REST API, as the scheduler uses it. For one event loop."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from jupyterhub.utils import url_escape_path
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse

REQUEST_SECONDS = 30
ONLY_GRANTED, WITHOUT_GPU, SUSPEND = "only_granted", "without_gpu", "suspend"
"""What the scheduler adds to the addresses of starts and stops: start nothing whose request was given up meanwhile; the
session ran without a GPU and goes on so, whatever it asked for once; the stop is a part of a suspend, and nobody wants the
session to end."""


class HubError(Exception):
    """The hub refused or did not answer; `status` is 0 where there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class ServerState:
    """A server as the hub's API knows it."""

    ready: bool
    pending: str
    """"spawn", "stop" or ""."""
    last_activity: float
    """Unix seconds."""


class HubClient:
    """
    :param api_url: for example http://172.17.0.1:8081/hub/api
    :param public_url: of the proxy, which leads to the sessions, for example http://127.0.0.1:8000/
    """

    def __init__(self, api_url: str, token: str, public_url: str) -> None:
        self._api, self._public = api_url.rstrip("/"), public_url.rstrip("/")
        self._headers = {"Authorization": f"token {token}"}

    async def servers(self) -> dict[tuple[str, str], ServerState]:
        """All servers that run, start or stop: (user, server) → state."""
        found: dict[tuple[str, str], ServerState] = {}
        offset = 0
        while users := await self._json("GET", f"/users?state=active&limit=200&offset={offset}"):
            for user in users:
                for name, server in user["servers"].items():
                    found[user["name"], name] = _state_of(server)
            offset += len(users)  # the hub may give fewer than we ask for (`api_page_max_limit`)
        return found

    async def server(self, user: str, name: str) -> ServerState | None:
        """None where it neither runs nor starts nor stops."""
        try:
            model = await self._json("GET", f"/users/{quote(user, safe='')}")
        except HubError as error:
            if error.status == 404:
                return None
            raise
        server = model["servers"].get(name)
        return _state_of(server) if server else None

    async def start(self, user: str, name: str, *, without_gpu: bool = False) -> None:
        """What was granted, with the options that the hub remembers. May return before it runs.

        :param without_gpu: also where no request is open: then it goes on without a GPU.
        """
        more = f"&{WITHOUT_GPU}=1" if without_gpu else ""
        await self._ask("POST", f"{_path(user, name)}?{ONLY_GRANTED}=1{more}", body="")

    async def stop(self, user: str, name: str, *, suspend: bool = False) -> None:
        """May return before it has stopped.

        :param suspend: one that cannot be saved is left alone, and may come back by itself.
        """
        await self._ask("DELETE", _path(user, name) + (f"?{SUSPEND}=1" if suspend else ""))

    async def cell_running(self, user: str, name: str) -> bool | None:
        """Whether a kernel of the session works now; None where nobody can tell."""
        # escaped as JupyterHub does it: a session does not answer at /user/ada%40example.org
        path = f"/user/{url_escape_path(user)}/{url_escape_path(name)}".rstrip("/")
        # without no_track_activity our question would be the session's activity
        url = f"{self._public}{path}/api/kernels?no_track_activity=1"
        try:
            answer = await self._fetch(HTTPRequest(url, headers=self._headers, request_timeout=10))
            return any(kernel["execution_state"] != "idle" for kernel in json.loads(answer.body))
        except (HubError, ValueError, KeyError, TypeError):
            return None

    async def _json(self, method: str, path: str) -> Any:
        return json.loads((await self._ask(method, path)).body)

    async def _ask(self, method: str, path: str, body: str | None = None) -> HTTPResponse:
        request = HTTPRequest(
            self._api + path,
            method=method,
            headers=self._headers,
            body=body,
            request_timeout=REQUEST_SECONDS,
            allow_nonstandard_methods=True,
        )
        return await self._fetch(request)

    async def _fetch(self, request: HTTPRequest) -> HTTPResponse:
        request.validate_cert = False  # the deployment's own proxy, on this machine
        try:
            return await AsyncHTTPClient().fetch(request)
        except HTTPClientError as error:
            raise HubError(f"{request.method} {request.url}: {_message(error)}", error.code) from error
        except OSError as error:
            raise HubError(f"{request.method} {request.url}: {error}") from error


@dataclass(frozen=True)
class HubServer:
    """One session's server, as `respawner_spawner.suspend` wants it.

    :param without_gpu: it runs so, and goes on so if it is started again.
    """

    hub: HubClient
    user: str
    name: str
    without_gpu: bool = False

    async def active(self) -> bool:
        return await self.hub.server(self.user, self.name) is not None

    async def stop(self) -> None:
        await self.hub.stop(self.user, self.name, suspend=True)

    async def start(self) -> None:
        await self.hub.start(self.user, self.name, without_gpu=self.without_gpu)


def _path(user: str, name: str) -> str:
    base = f"/users/{quote(user, safe='')}"
    return f"{base}/servers/{quote(name, safe='')}" if name else f"{base}/server"


def _state_of(server: dict[str, Any]) -> ServerState:
    active = server.get("last_activity") or server.get("started")
    seconds = datetime.fromisoformat(active.replace("Z", "+00:00")).timestamp() if active else 0.0
    return ServerState(bool(server["ready"]), server["pending"] or "", seconds)


def _message(error: HTTPClientError) -> str:
    try:
        return str(json.loads(error.response.body)["message"])  # type: ignore[union-attr]
    except (AttributeError, ValueError, KeyError, TypeError):
        return str(error)
