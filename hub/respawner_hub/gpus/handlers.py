"""JupyterHub's own handlers for starting a server, which ask the ledger first.

Who can have a lease now goes on as always; everybody else is queued. Nothing waits in `Spawner.start`. What
starts servers in another way is refused there, by the spawner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from jupyterhub.apihandlers.users import UserServerAPIHandler
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.handlers.pages import SpawnHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.spawner import Spawner
from jupyterhub.user import User
from jupyterhub.utils import url_escape_path, url_path_join
from respawner_spawner.leases.asks import BadAsk
from respawner_spawner.leases.records import Standing
from tornado import web

from .admin import by_whom
from .desk import Desk, Session
from .hub_client import ONLY_GRANTED, SUSPEND, WITHOUT_GPU
from .scopes import ADMIN_SCOPES
from .views import Readings, request_json

T = TypeVar("T")


class Queued(Exception):
    """The session's server does not start now: its request waits."""

    def __init__(self, standing: Standing) -> None:
        super().__init__(standing.request.holder)
        self.standing = standing


class GpuHandler(BaseHandler):
    """What all handlers of GPUs have in common."""

    @property
    def desk(self) -> Desk:
        return self.settings["gpu_desk"]

    async def in_thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run what waits for a database, without holding up the hub."""
        return await asyncio.to_thread(function, *args, **kwargs)

    @property
    def is_admin(self) -> bool:
        """Whether the caller decides about GPUs."""
        return any(self.has_scope(scope) for scope in ADMIN_SCOPES)

    def require_admin(self) -> None:
        """
        :raises web.HTTPError:
        """
        if not self.current_user:
            raise web.HTTPError(403, "Missing or invalid credentials.")
        if not self.is_admin:
            raise web.HTTPError(403, f"This needs one of the scopes {', '.join(ADMIN_SCOPES)}.")

    @property
    def without_gpu(self) -> bool:
        """Whether the start asks for no GPU; the spawner asks, too."""
        return self.get_query_argument(WITHOUT_GPU, "") == "1"

    async def readings(self) -> Readings:
        """What the agents measured last."""
        return await self.settings["gpu_agents"].readings()

    def holder(self, user_name: str, server_name: str) -> str:
        return f"{self.settings['deployment']}/{user_name}/{server_name}"

    def queue_url(self, user: User, server_name: str) -> str:
        """The page of a session that waits; it keeps `next`, where the user wanted to go."""
        url = url_path_join(self.hub.base_url, "gpus/queue", user.escaped_name, url_escape_path(server_name))
        return self.append_query_parameters(url, exclude=["_xsrf", "display_name"])

    def request_url(self, user_name: str, server_name: str) -> str:
        """The API's place of a session's request."""
        parts = ("api/respawner/requests", url_escape_path(user_name), url_escape_path(server_name))
        return url_path_join(self.hub.base_url, *parts)

    async def ask(
        self, user: User, server_name: str, display_name: str, options: dict[str, Any] | None
    ) -> None:
        """Return when the server can start now.

        :raises Queued: and the options are remembered for the start, as JupyterHub remembers them.
        :raises web.HTTPError: the choice cannot be granted; the message says why.
        """
        spawner = user.get_or_create_spawner(server_name, display_name)
        only_granted = self.get_query_argument(ONLY_GRANTED, "") == "1"
        session = Session(self.holder(user.name, server_name), user.name, [g.name for g in user.groups])
        remembered = spawner.orm_spawner.user_options
        try:
            standing = await self.in_thread(
                self.desk.ask,
                session,
                options,
                remembered,
                only_granted=only_granted,
                without_gpu=self.without_gpu,
            )
        except BadAsk as error:
            raise refused(error) from error
        if standing:
            self.remember(spawner, remembered if options is None else options)
            if spawner._spawn_future and spawner._spawn_future.done():
                spawner._spawn_future = None  # an earlier failure is not this request's
            raise Queued(standing)

    def remember(self, spawner: Spawner, options: dict[str, Any] | None) -> None:
        """Keep the choice for the start, which comes without one."""
        spawner.user_options = spawner.orm_spawner.user_options = options or {}
        self.db.commit()


class SpawnPage(GpuHandler, SpawnHandler):
    """/hub/spawn: its form leads to the server, or to the page of the queue."""

    @needs_scope("servers")
    async def _get(self, user_name: str, server_name: str, display_name: str) -> None:
        user = self.find_user(user_name)
        if user and await self.in_thread(self.desk.waits, self.holder(user_name, server_name)):
            self.redirect(self.queue_url(user, server_name))
            return
        await super()._get(user_name=user_name, server_name=server_name, display_name=display_name)

    async def _wrap_spawn_single_user(
        self,
        user: User,
        server_name: str,
        display_name: str,
        spawner: Spawner,
        pending_url: str,
        options: dict[str, Any] | None = None,
    ) -> None:
        try:
            await self.ask(user, server_name, display_name, options)
        except Queued:
            self.redirect(self.queue_url(user, server_name))
            return
        if spawner.active:  # somebody else, or the scheduler, started it while we asked
            self.redirect(pending_url)
            return
        await super()._wrap_spawn_single_user(user, server_name, display_name, spawner, pending_url, options)


class ServerApi(GpuHandler, UserServerAPIHandler):
    """`POST /hub/api/users/NAME/server`: 201 and 202 as in JupyterHub, or 202 with the request that waits."""

    async def post(self, user_name: str, server_name: str = "") -> None:
        try:
            await super().post(user_name, server_name)
        except Queued as queued:
            self.set_status(202)
            self.set_header("Content-Type", "application/json")
            self.set_header("Location", self.request_url(user_name, server_name))
            self.write(request_json(queued.standing))

    async def delete(self, user_name: str, server_name: str = "") -> None:
        """Who says stop gets a stop, also in the middle of a suspend: only the scheduler's own is a part of it."""
        if self.get_query_argument(SUSPEND, "") != "1":
            await self._stop_is_wanted(user_name, server_name)
        await super().delete(user_name, server_name)

    async def stop_single_user(self, user: User, server_name: str = "") -> Any:
        """The scheduler may have begun it while JupyterHub asked whether the server still runs."""
        spawner = user.spawners[server_name]
        if spawner.pending == "stop":
            return spawner._stop_future
        spawner.only_if_durable = self.get_query_argument(SUSPEND, "") == "1"
        return await super().stop_single_user(user, server_name)

    @needs_scope("delete:servers")
    async def _stop_is_wanted(self, user_name: str, server_name: str) -> None:
        user = self.find_user(user_name)
        if user and server_name in user.spawners and user.spawners[server_name].active:
            holder = self.holder(user.name, server_name)
            user.spawners[server_name].only_if_durable = False
            await self.in_thread(self.desk.ledger.stop_wanted, holder, by_whom(self))

    async def spawn_single_user(
        self, user: User, server_name: str = "", display_name: str = "", options: dict[str, Any] | None = None
    ) -> None:
        await self.ask(user, server_name, display_name, options)
        if not user.spawners[server_name].active:  # else somebody started it while we asked
            await super().spawn_single_user(user, server_name, display_name, options)


def refused(error: Exception, status: int = 400) -> web.HTTPError:
    """An answer that form, page and API all show."""
    answer = web.HTTPError(status, str(error).replace("%", "%%"))
    answer.jupyterhub_message = str(error)  # type: ignore[attr-defined]  # what JupyterHub shows to people
    return answer


HANDLERS = [
    ("/spawn", SpawnPage),
    ("/spawn/([^/]+)", SpawnPage),
    ("/spawn/([^/]+)/([^/]+)", SpawnPage),
    ("/api/users/([^/]+)/server", ServerApi),
    ("/api/users/([^/]+)/servers/([^/]*)", ServerApi),
]
