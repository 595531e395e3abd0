"""The agent's HTTP: a tornado application over a `Monitor` and `Sessions`, which never wait for NVML or the engine.

| Path | What | Token |
|---|---|---|
| GET /v1/inventory | everything, as JSON (`wire.Answer`) | yes |
| POST /v1/health/clear {"uuid": …} | an admin says that a device is well | yes |
| GET /metrics | Prometheus; names of users are in it, so it takes the token too | yes |
| GET /healthz | 200 while NVML answers or there is none, 503 when it hangs | no |
"""

from __future__ import annotations

import hmac
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tornado.web import Application, HTTPError, RequestHandler

from ..devices import Monitor
from ..devices.sessions import Sessions
from . import metrics, wire


@dataclass
class Agent:
    """What the handlers serve."""

    host: str
    token: str
    monitor: Monitor
    sessions: Sessions
    started_at: float = field(default_factory=time.time)
    boot_id: str = field(default_factory=lambda: _boot_id(Path("/proc")))

    def answer(self) -> wire.Answer:
        report = self.monitor.report().with_access(self.sessions.access, self.sessions.cause)
        return wire.Answer(self.host, self.boot_id, self.started_at, report)


def application(agent: Agent) -> Application:
    handlers: list[Any] = [
        (r"/v1/inventory", _Inventory),
        (r"/v1/health/clear", _Clear),
        (r"/metrics", _Metrics),
        (r"/healthz", _Healthz),
    ]
    return Application([(path, handler, {"agent": agent}) for path, handler in handlers])


class _Handler(RequestHandler):
    """Asks for the token and answers errors as JSON."""

    needs_token = True

    def initialize(self, agent: Agent) -> None:
        self.agent = agent

    def prepare(self) -> None:
        if not self.needs_token:
            return
        scheme, _, given = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() not in ("bearer", "token") or not given:
            self.set_header("WWW-Authenticate", "Bearer")
            raise HTTPError(401, reason="send the agent's token: Authorization: Bearer TOKEN")
        if not hmac.compare_digest(given.strip().encode(), self.agent.token.encode()):
            raise HTTPError(403, reason="wrong token")

    def write_error(self, status_code: int, **_: Any) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"error": self._reason}))


class _Inventory(_Handler):
    def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.write(wire.encode(self.agent.answer()))


class _Clear(_Handler):
    def post(self) -> None:
        try:
            uuid = json.loads(self.request.body)["uuid"]
        except (ValueError, LookupError, TypeError) as error:
            raise HTTPError(400, reason='send {"uuid": "GPU-..."}') from error
        if uuid not in {health.uuid for health in self.agent.monitor.report().health}:
            raise HTTPError(404, reason="no such device on this host")
        self.write({"cleared": self.agent.monitor.clear(uuid)})


class _Metrics(_Handler):
    def get(self) -> None:
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.write(metrics.text(self.agent.answer))


class _Healthz(_Handler):
    needs_token = False

    def get(self) -> None:
        stale = self.agent.monitor.report().stale
        self.set_status(503 if stale else 200)
        self.write({"ok": not stale, "cause": stale})


def _boot_id(proc: Path) -> str:
    return (proc / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
