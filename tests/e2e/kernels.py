"""Kernels of a user's server, driven over REST and websocket as JupyterLab does."""

from __future__ import annotations

import json
import ssl
import time
import uuid
from dataclasses import dataclass, field
from typing import Protocol

import requests
import websocket

from .deployment import wait_until


class Hub(Protocol):
    """A deployment: its address, and a token that may use its users' servers."""

    @property
    def url(self) -> str: ...

    @property
    def api_token(self) -> str: ...


@dataclass
class Outcome:
    """What one cell printed, showed and returned."""

    status: str = ""
    execution_count: int = 0
    text: str = ""
    html: str = ""
    error: str = ""
    outputs: list[dict] = field(default_factory=list)


class UserServer:
    """A user's running server."""

    def __init__(self, hub: Hub, user: str, *, verify: bool = True) -> None:
        """
        :param verify: False where the hub's certificate is self-signed.
        """
        self.url = f"{hub.url}user/{user}/"
        self.headers = {"Authorization": f"token {hub.api_token}"}
        self.verify = verify

    def request(self, method: str, path: str, **kwargs: object) -> requests.Response:
        answer = requests.request(
            method, self.url + path, headers=self.headers, timeout=300, verify=self.verify, **kwargs
        )
        answer.raise_for_status()
        return answer

    def write(self, path: str, content: str) -> None:
        self.request(
            "PUT", f"api/contents/{path}", json={"type": "file", "format": "text", "content": content}
        )

    def open_notebook(self, path: str) -> NotebookKernel:
        """Start (or find) the kernel of the notebook at `path`, as opening it in JupyterLab does."""
        body = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
        session = self.request("POST", "api/sessions", json=body).json()
        return NotebookKernel(self, session["id"], session["kernel"]["id"])


class NotebookKernel:
    def __init__(self, server: UserServer, session_id: str, kernel_id: str) -> None:
        self.server, self.session_id, self.kernel_id = server, session_id, kernel_id

    def connect(self) -> websocket.WebSocket:
        url = f"{self.server.url}api/kernels/{self.kernel_id}/channels".replace("http", "ws", 1)
        headers = [f"{key}: {value}" for key, value in self.server.headers.items()]
        trust = {} if self.server.verify else {"cert_reqs": ssl.CERT_NONE}
        return websocket.create_connection(url, header=headers, timeout=300, sslopt=trust)

    def run(self, code: str, timeout: float = 300) -> Outcome:
        """Run a cell and wait for its end; a cell's error is in the outcome, not raised."""
        socket = self.connect()
        try:
            return _execute(socket, code, timeout)
        finally:
            socket.close()

    def value(self, expression: str) -> object:
        """A JSON-able expression's value in the kernel."""
        outcome = self.run(f"import json as _json; print('VALUE', _json.dumps({expression}))")
        assert outcome.status == "ok", outcome.error
        return json.loads(outcome.text.partition("VALUE ")[2].splitlines()[0])

    def interrupt(self) -> None:
        self.server.request("POST", f"api/kernels/{self.kernel_id}/interrupt")

    def restart(self) -> None:
        """*Restart Kernel* of the menu."""
        self.server.request("POST", f"api/kernels/{self.kernel_id}/restart")
        self.wait_idle()

    def wait_idle(self, timeout: float = 300) -> None:
        def idle() -> bool:
            return self.server.request("GET", f"api/kernels/{self.kernel_id}").json()["execution_state"] in (
                "idle",
                "starting",
            )

        wait_until(idle, timeout, "the kernel to be idle")

    def pid(self) -> int:
        return int(self.value("__import__('os').getpid()"))


def _execute(socket: websocket.WebSocket, code: str, timeout: float) -> Outcome:
    message_id = uuid.uuid4().hex
    content = {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
    }
    header = {
        "msg_id": message_id,
        "msg_type": "execute_request",
        "username": "t",
        "session": message_id,
        "version": "5.3",
        "date": "",
    }
    request = {
        "header": header,
        "parent_header": {},
        "metadata": {},
        "content": content,
        "channel": "shell",
        "buffers": [],
    }
    socket.send(json.dumps(request))
    outcome, deadline, idle = Outcome(), time.monotonic() + timeout, False
    socket.settimeout(1)  # per frame: the server's pings would keep a longer one from ever ending
    while not (idle and outcome.status):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no end after {timeout:.0f} s of the cell: {code}")
        try:
            raw = socket.recv()
        except websocket.WebSocketTimeoutException:
            continue
        if not isinstance(raw, str):
            continue
        message = json.loads(raw)
        if message["parent_header"].get("msg_id") == message_id:
            idle |= _take(message, outcome)
        elif message["content"].get("execution_state") in ("restarting", "dead"):
            outcome.status = "died"
            return outcome
    return outcome


def _take(message: dict, outcome: Outcome) -> bool:
    """Add one message to the outcome; True when it says that the kernel is idle again."""
    kind, content = message["msg_type"], message["content"]
    if kind == "stream":
        outcome.text += content["text"]
    elif kind in ("display_data", "execute_result"):
        outcome.outputs.append(content["data"])
        outcome.text += content["data"].get("text/plain", "")
        outcome.html += content["data"].get("text/html", "")
    elif kind == "error":
        outcome.error = "\n".join(content["traceback"])
    elif kind == "execute_reply":
        outcome.status, outcome.execution_count = content["status"], content["execution_count"]
    return kind == "status" and content["execution_state"] == "idle"
