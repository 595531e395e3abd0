"""How the scheduler asks sessions, with a stand-in for a session that answers at its own address only."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from jupyterhub.utils import url_escape_path
from respawner_hub.gpus.hub_client import HubClient
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port


class Kernels(web.RequestHandler):
    state = "idle"

    def get(self) -> None:
        self.finish(json.dumps([{"execution_state": self.state}]))


@pytest.fixture
async def session() -> Iterator:
    """`session(user, server)` → a client of a proxy behind which this session is."""
    servers = []

    def serve(user: str, name: str) -> HubClient:
        base = f"/user/{url_escape_path(user)}/{url_escape_path(name)}".rstrip("/")
        listener, port = bind_unused_port()
        server = HTTPServer(web.Application([(f"{base}/api/kernels", Kernels)]))
        server.add_socket(listener)
        servers.append(server)
        return HubClient("http://127.0.0.1:9", "t", f"http://127.0.0.1:{port}/")

    yield serve
    for server in servers:
        server.stop()


@pytest.mark.parametrize(
    ("user", "name"), [("ada", ""), ("ada@example.org", ""), ("ada~1", "gpu-2"), ("ada b", "")]
)
@pytest.mark.parametrize(("state", "running"), [("idle", False), ("busy", True), ("starting", True)])
async def test_a_cell_is_seen_whatever_the_user_is_called(session, monkeypatch, user, name, state, running):
    monkeypatch.setattr(Kernels, "state", state)
    assert await session(user, name).cell_running(user, name) is running


class Users(web.RequestHandler):
    """Three users, and a hub that gives one at a time."""

    def get(self) -> None:
        self.set_header("Content-Type", "application/json")
        server = {"ready": True, "pending": None, "last_activity": "2026-11-25T10:00:00Z"}
        users = [{"name": name, "servers": {"": server}} for name in ("ada", "bob", "eve")]
        offset = int(self.get_argument("offset"))
        self.finish(json.dumps(users[offset : offset + 1]))


async def test_all_servers_are_found_however_small_the_hubs_pages_are():
    listener, port = bind_unused_port()
    server = HTTPServer(web.Application([("/hub/api/users", Users)]))
    server.add_socket(listener)
    try:
        found = await HubClient(f"http://127.0.0.1:{port}/hub/api", "t", "http://127.0.0.1:9/").servers()
    finally:
        server.stop()
    assert [user for user, _ in found] == ["ada", "bob", "eve"]


async def test_a_session_that_does_not_answer_is_unknown(session):
    assert await session("ada", "").cell_running("bob", "") is None
