"""Pages: a session that waits, a user's sessions with GPUs, and the admin's table.

JupyterHub checks the XSRF token of every form before a handler's method runs.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from jupyterhub.handlers.pages import HomeHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.user import User
from jupyterhub.utils import url_escape_path, url_path_join
from respawner_spawner.leases.asks import field_of, options_from_field
from respawner_spawner.leases.model import State
from respawner_spawner.leases.records import Standing
from tornado import web

from ..forms import FormPage
from . import actions, idle, views, words
from .actions import BadAction
from .admin import AdminActions
from .desk import Session
from .form import choices_now
from .handlers import GpuHandler
from .hop import hop


class GpuPage(FormPage, GpuHandler):
    async def show(self, template: str, **namespace: Any) -> None:
        now = time.time()
        self.finish(await self.render_template(template, words=words, now=now, **namespace))

    def next_url(self, user: User, server_name: str, standing: Standing | None) -> str | None:
        """Where somebody goes who waits no longer; None while waiting."""
        spawner = user.spawners.get(server_name)
        if spawner and (spawner.active or spawner._failed):
            parts = ("spawn-pending", user.escaped_name, url_escape_path(server_name))
            return url_path_join(self.hub.base_url, *parts)
        if standing and standing.state in (State.QUEUED, State.GRANTED):
            return None
        return url_path_join(self.hub.base_url, "home")


class WaitPage(GpuPage):
    """/hub/gpus/queue/USER/SERVER, where a session that waits is shown why, and leads to its server."""

    @web.authenticated
    @needs_scope("servers")
    async def get(self, user_name: str, server_name: str = "") -> None:
        user = self._user(user_name)
        standing = await self.in_thread(self.desk.standing, self.holder(user.name, server_name))
        if url := self.next_url(user, server_name, standing):
            self.redirect(self.append_query_parameters(url))
            return
        assert standing is not None
        await self.show(
            "gpu-wait.html",
            owner="You" if user == self.current_user else user.name,
            server=server_name,
            ask=views.describe(standing.request.ask),
            shown=views.wait_words(standing, time.time()),
            page_url=self.queue_url(user, server_name),
            request_url=self.request_url(user.name, server_name),
        )

    @web.authenticated
    @needs_scope("servers")
    async def post(self, user_name: str, server_name: str = "") -> None:
        user = self._user(user_name)
        await self.in_thread(
            self.desk.cancel, self.holder(user.name, server_name), f"user:{self.current_user.name}"
        )
        if self.get_body_argument("action", "cancel") == "change":
            parts = ("spawn", user.escaped_name, url_escape_path(server_name))
            self.redirect(url_path_join(self.hub.base_url, *parts).rstrip("/"))
        else:
            self.redirect(url_path_join(self.hub.base_url, "home"))

    def _user(self, name: str) -> User:
        user = self.find_user(name)
        if user is None:
            raise web.HTTPError(404, f"No such user: {name}")
        return user


class MyGpusPage(GpuPage):
    """/hub/gpus/queue: the sessions of the user that wait for GPUs or have some."""

    @web.authenticated
    async def get(self) -> None:
        await self._show()

    @web.authenticated
    async def post(self) -> None:
        """Put the suspension of one of them off, or move it."""
        server, user = self.get_body_argument("server", ""), self.current_user
        by = f"user:{user.name}"
        try:
            if self.get_body_argument("action", "snooze") == "move":
                options = options_from_field(self.get_body_argument("gpu", ""))
                await hop(self, user, server, options, by)
            else:
                await self.in_thread(self.desk.snooze, self.holder(user.name, server), by)
        except BadAction as error:
            self.set_status(400)
            await self._show(error=str(error))
        else:
            self.redirect(url_path_join(self.hub.base_url, "gpus/queue"))

    async def _show(self, error: str = "") -> None:
        user = self.current_user
        sessions = await self.in_thread(own_sessions, self.desk, user.name, time.time())
        me = Session(self.holder(user.name, ""), user.name, [group.name for group in user.groups])
        offered = await self.in_thread(choices_now, self.desk, me)
        running = [name for name, spawner in user.spawners.items() if spawner.ready]
        known = [session["server"] for session in sessions]
        without = [name for name in running if name not in known]
        await self.show("gpu-mine.html", sessions=sessions, without=without, choices=offered, error=error)


class HomePage(GpuHandler, HomeHandler):
    """/hub/home, with what its user should know of sessions that wait or were warned."""

    async def render_template(self, name: str, sync: bool = False, **namespace: Any) -> Any:
        if name == "home.html":
            user = namespace["user"].name
            namespace["gpu_sessions"] = await self.in_thread(own_sessions, self.desk, user, time.time())
        rendered = super().render_template(name, sync=sync, **namespace)
        return rendered if sync else await rendered


class AdminPage(GpuPage):
    """/hub/gpus: every device with its holder, and the queue. A form's `action` says what to do."""

    @web.authenticated
    async def get(self) -> None:
        self.require_admin()
        await self._show()

    @web.authenticated
    async def post(self) -> None:
        self.require_admin()
        fields = {key: self.get_body_argument(key) for key in self.request.body_arguments}
        fields.pop("_xsrf", None)
        try:
            action = actions.parse_form(fields.pop("action", ""), fields)
            notice = await AdminActions(self).carry_out(action)
        except BadAction as error:
            self.set_status(400)
            await self._show(error=str(error))
        else:
            await self._show(notice=notice)

    async def _show(self, **namespace: Any) -> None:
        board = await self.in_thread(views.board, self.desk.ledger, await self.readings())
        said = {"reading_words": views.reading_words, "suspend_words": views.suspend_words}
        await self.show("gpus.html", board=board, **said, **namespace)


def own_sessions(desk: Any, user: str, now: float) -> list[dict[str, Any]]:
    """A user's sessions that wait for GPUs or have some, in words. Blocks."""
    ill = views.illnesses(desk.ledger)
    mine = [s for s in desk.ledger.standings(granted_only=False) if s.request.user == user]
    return [
        views.request_json(standing)
        | {
            "shown": views.wait_words(standing, now),
            "ill": [ill[uuid] for uuid in (standing.lease.uuids if standing.lease else ()) if uuid in ill],
            "anywhere": field_of(dataclasses.replace(standing.request.ask, uuids=(), host="")),
            "can_snooze": not idle.why_no_snooze(standing, desk.idle_rules),
        }
        for standing in mine
    ]


HANDLERS = [
    ("/home", HomePage),
    ("/gpus", AdminPage),
    ("/gpus/queue", MyGpusPage),
    ("/gpus/queue/([^/]+)/?", WaitPage),
    ("/gpus/queue/([^/]+)/([^/]+)", WaitPage),
]
