"""One visit as a browser makes it: log in, start the server, open JupyterLab, run the first cell.

Cookies, XSRF tokens and the OAuth redirects are the browser's; pages are fetched without what they link to.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import requests
import websocket
from jupyter_client.session import Session as MessageFactory
from requests.cookies import get_cookie_header

from ..e2e.deployment import wait_until
from .hubs import USER, BenchError, Hub

REQUEST_SECONDS = 240
STOP_SECONDS = 240
NOTEBOOK = "bench.ipynb"
PHASES = ("login_s", "spawn_s", "page_s", "kernel_s")


class Visit:
    """One browser's cookies at one hub. Its methods belong in the order in which they stand."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.server_url = f"{hub.url}user/{USER}/"
        self._http = requests.Session()
        self._http.trust_env = False  # a proxy of the machine's is not on the way to loopback

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def timed(self) -> dict[str, float]:
        """Seconds of each phase; the next begins where one ends, so that their sum is the whole wait."""
        steps: tuple[Callable[[], None], ...] = (self._log_in, self._spawn, self._open_lab, self._run_cell)
        seconds = {}
        for phase, step in zip(PHASES, steps, strict=True):
            started = time.perf_counter()
            step()
            seconds[phase] = time.perf_counter() - started
        return seconds

    def _log_in(self) -> None:
        page = f"{self.hub.url}hub/login"
        self._request("GET", page)
        form = {"_xsrf": self._xsrf("/hub/"), "username": USER, "password": "bench"}
        answer = self._request("POST", page, data=form, allow_redirects=False)
        if answer.status_code != 302:
            raise BenchError(f"{self.hub.name}: no login, but status {answer.status_code} from {page}")

    def _spawn(self) -> None:
        """Until JupyterHub says that the server is ready. A spawn form is sent off as it comes."""
        page = f"{self.hub.url}hub/spawn"
        answer = self._request("GET", page)
        if 'id="spawn_form"' in answer.text:
            self._request("POST", page, data={"_xsrf": self._xsrf("/hub/")})
        for event in self._progress():
            if event.get("ready"):
                return
            if event.get("failed"):
                raise BenchError(f"{self.hub.name}: {event['message']}")
        raise BenchError(f"{self.hub.name}: JupyterHub's progress stream ended before the server was ready")

    def _progress(self) -> Iterator[dict[str, Any]]:
        with self._request(
            "GET",
            f"{self.hub.url}hub/api/users/{USER}/server/progress",
            params={"_xsrf": self._xsrf("/hub/")},
            headers={"Accept": "text/event-stream"},
            stream=True,
        ) as answer:
            # The default of 512 bytes would hold short events back until more follow.
            for line in answer.iter_lines(chunk_size=1):
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])

    def _open_lab(self) -> None:
        """JupyterLab's page, by way of the server's OAuth login at the hub."""
        answer = self._request("GET", f"{self.server_url}lab")
        if not answer.url.startswith(f"{self.server_url}lab"):
            raise BenchError(f"{self.hub.name}: {self.server_url}lab leads to {answer.url}")

    def _run_cell(self) -> None:
        """Start a notebook's kernel and wait for what its first cell prints, as one sees it: not for the idle kernel."""
        body = {"path": NOTEBOOK, "name": NOTEBOOK, "type": "notebook", "kernel": {"name": "python3"}}
        answer = self._request(
            "POST",
            f"{self.server_url}api/sessions",
            json=body,
            headers={"X-XSRFToken": self._xsrf(f"/user/{USER}/")},
        )
        url = f"{self.server_url}api/kernels/{answer.json()['kernel']['id']}/channels"
        cookies = get_cookie_header(self._http.cookies, requests.Request("GET", url))
        socket = websocket.create_connection(
            url.replace("http", "ws", 1), cookie=cookies, timeout=REQUEST_SECONDS
        )
        try:
            _print_one(socket)
        finally:
            socket.close()

    def stop_server(self) -> None:
        """Stop the server and wait until its container is gone; the volumes stay."""
        url = f"{self.hub.url}hub/api/users/{USER}"
        token = {"_xsrf": self._xsrf("/hub/")}
        self._request("DELETE", f"{url}/server", params=token)
        wait_until(
            lambda: not self._request("GET", url, params=token).json()["servers"],
            STOP_SECONDS,
            f"{self.hub.name}'s server to stop",
        )

    def _request(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        answer = self._http.request(method, url, timeout=REQUEST_SECONDS, **kwargs)
        if not answer.ok:
            raise BenchError(f"{self.hub.name}: {method} {url}: {answer.status_code} {answer.text[:500]}")
        return answer

    def _xsrf(self, path: str) -> str:
        """Hub and server have a cookie of this name each, told apart by their paths."""
        return self._http.cookies.get("_xsrf", path=path) or ""


def _print_one(socket: websocket.WebSocket) -> None:
    content = {"code": "print(1)", "silent": False, "store_history": True, "allow_stdin": False}
    request = MessageFactory().msg("execute_request", content)
    socket.send(json.dumps({**request, "channel": "shell", "buffers": []}, default=str))
    deadline, printed = time.monotonic() + REQUEST_SECONDS, ""
    while "1" not in printed.splitlines():
        if time.monotonic() > deadline:
            raise BenchError(f"print(1) shows nothing after {REQUEST_SECONDS} s, but {printed!r}")
        message = json.loads(socket.recv())
        if message["msg_type"] == "stream" and message["parent_header"].get("msg_id") == request["msg_id"]:
            printed += message["content"]["text"]
