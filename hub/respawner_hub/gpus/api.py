"""The JSON API, /hub/api/respawner/…

    GET    devices | leases | queue | limits | reservations | cordons | agents | history | audit
    GET    requests, requests/USER[/SERVER]     one's own, with position, reason and estimate
    DELETE requests/USER[/SERVER]               give it up
    POST   snooze/USER[/SERVER]                 put a suspension off
    POST   hop/USER[/SERVER]                    go on with other devices (`user_options` as the body)
    POST   release | give-up | assign | move | cordon | uncordon | drain | forget | share | reserve | unreserve | limit | unlimit

Users see `devices` without names, and their own requests; everything else needs one of `scopes.ADMIN_SCOPES`.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.scopes import needs_scope
from tornado import web

from . import actions, views
from .actions import BadAction
from .admin import AdminActions, by_whom
from .handlers import refused
from .hop import hop
from .pages import GpuPage


class GpuApi(GpuPage, APIHandler):
    def check_xsrf_cookie(self) -> None:
        APIHandler.check_xsrf_cookie(self)

    def answer(self, value: Any, status: int = 200) -> None:
        self.set_status(status)
        self.finish(json.dumps(value))

    def number(self, name: str, preset: float | None = None) -> float | None:
        """A number in the address.

        :raises web.HTTPError: it is none.
        """
        text = self.get_argument(name, "")
        try:
            found = float(text) if text else preset
        except ValueError as error:
            raise refused(BadAction(f"{name} = {text!r}: a number is expected.")) from error
        if found is not None and not math.isfinite(found):
            raise refused(BadAction(f"{name} = {text!r}: a finite number is expected."))
        return found


class DevicesApi(GpuApi):
    async def get(self) -> None:
        user = self.current_user
        if not user:
            raise web.HTTPError(403, "Missing or invalid credentials.")
        viewer = None if self.is_admin else user.name
        readings = await self.readings() if self.is_admin else {}
        self.answer(await self.in_thread(views.devices, self.desk.ledger, readings, viewer))


class ViewApi(GpuApi):
    """Lists for admins."""

    async def get(self, name: str) -> None:
        self.require_admin()
        self.answer(await self.in_thread(views.view, self.desk.ledger, name, {}))


class HistoryApi(GpuApi):
    """GPU-hours and waiting times: `?since=UNIX&until=UNIX&by=day,user&format=json|csv`."""

    async def get(self) -> None:
        self.require_admin()
        now = self.desk.ledger.clock()
        since, until = self.number("since", now - 30 * 86_400), self.number("until", now)
        kind, by = self.get_argument("format", "json"), self.get_argument("by", "day,user")
        try:
            text = await self.in_thread(views.history, self.desk.ledger, since, until, by, kind)
        except ValueError as error:
            raise refused(error) from error
        self.set_header("Content-Type", "text/csv" if kind == "csv" else "application/json")
        self.finish(text)


class AuditApi(GpuApi):
    """Who changed what, the newest first: `?subject=…&since=UNIX&most=100`."""

    async def get(self) -> None:
        self.require_admin()
        which = {
            "subject": self.get_argument("subject", None),
            "since": self.number("since"),
            "most": max(1, int(self.number("most", 100) or 100)),
        }
        self.answer(await self.in_thread(views.audit, self.desk.ledger, **which))


class ActionApi(GpuApi):
    async def post(self, name: str) -> None:
        self.require_admin()
        body = self.get_json_body() or {}
        if not isinstance(body, dict):
            raise web.HTTPError(400, "The body must be a JSON object.")
        try:
            said = await AdminActions(self).carry_out(actions.parse(name, body))
        except BadAction as error:
            raise refused(error) from error
        self.answer({"message": said})


class RequestsApi(GpuApi):
    """All open requests that the caller may see."""

    async def get(self) -> None:
        if not self.current_user:
            raise web.HTTPError(403, "Missing or invalid credentials.")
        standings = await self.in_thread(self.desk.ledger.standings, granted_only=False)
        if self.is_admin:
            self.answer([views.request_for_admins(standing) for standing in standings])
            return
        mine = [s for s in standings if s.request.user == self.current_user.name]
        self.answer([views.request_json(standing) for standing in mine])


class RequestApi(GpuApi):
    @needs_scope("read:servers")
    async def get(self, user_name: str, server_name: str = "") -> None:
        """The request, and `next_url` where its user goes when it waits no longer."""
        user = self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404, f"No such user: {user_name}")
        standing = await self.in_thread(self.desk.standing, self.holder(user_name, server_name))
        shown: dict[str, Any] = views.request_json(standing) if standing else {"state": None}
        shown["next_url"] = self.next_url(user, server_name, standing)
        if standing:
            shown["shown"] = views.wait_words(standing, time.time())
        self.answer(shown)

    @needs_scope("delete:servers")
    async def delete(self, user_name: str, server_name: str = "") -> None:
        holder = self.holder(user_name, server_name)
        if not await self.in_thread(self.desk.cancel, holder, by_whom(self)):
            raise web.HTTPError(404, f"{holder} has no request that waits.")
        self.set_status(204)


class SnoozeApi(GpuApi):
    @needs_scope("servers")
    async def post(self, user_name: str, server_name: str = "") -> None:
        try:
            standing = await self.in_thread(
                self.desk.snooze, self.holder(user_name, server_name), by_whom(self)
            )
        except BadAction as error:
            raise refused(error, 409) from error
        self.answer(views.request_json(standing))


class HopApi(GpuApi):
    @needs_scope("servers")
    async def post(self, user_name: str, server_name: str = "") -> None:
        user, options = self.find_user(user_name), self.get_json_body() or {}
        if user is None or not isinstance(options, dict):
            raise web.HTTPError(404 if user is None else 400, "A user and a JSON object are expected.")
        try:
            self.answer({"message": await hop(self, user, server_name, options, by_whom(self))})
        except BadAction as error:
            raise refused(error, 409) from error


HANDLERS = [
    ("/api/respawner/devices", DevicesApi),
    ("/api/respawner/audit", AuditApi),
    ("/api/respawner/history", HistoryApi),
    (f"/api/respawner/({'|'.join(views.VIEWS)})", ViewApi),
    (f"/api/respawner/({'|'.join(actions.ACTIONS)})", ActionApi),
    ("/api/respawner/requests", RequestsApi),
    ("/api/respawner/hop/([^/]+)/?", HopApi),
    ("/api/respawner/hop/([^/]+)/([^/]+)", HopApi),
    ("/api/respawner/snooze/([^/]+)/?", SnoozeApi),
    ("/api/respawner/snooze/([^/]+)/([^/]+)", SnoozeApi),
    ("/api/respawner/requests/([^/]+)/?", RequestApi),
    ("/api/respawner/requests/([^/]+)/([^/]+)", RequestApi),
]
