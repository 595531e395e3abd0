"""Admins' actions, for the page and the API: those on the ledger, and those that concern users' servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyterhub.user import User
from respawner_spawner.agent.client import AgentUnreachable
from respawner_spawner.leases.asks import KEYS, BadAsk
from respawner_spawner.leases.model import Ask, Kind
from tornado import web

from . import actions
from .actions import BadAction
from .desk import Session
from .hop import hop

if TYPE_CHECKING:
    from .handlers import GpuHandler


class AdminActions:
    """What one request of an admin does. For the hub's event loop.

    :param handler: of a request whose scope has been checked.
    """

    def __init__(self, handler: GpuHandler) -> None:
        self._handler, self._desk = handler, handler.desk
        self.by = by_whom(handler)

    async def carry_out(self, action: actions.Action) -> str:
        """One sentence of what was done.

        :raises BadAction:
        """
        match action:
            case actions.Move():
                user = self._user(action.user)
                said = await hop(self._handler, user, action.server, action.options, self.by)
            case actions.Assign():
                said = await self._assign(action)
            case actions.GiveUp():
                said = await self._give_up(action)
            case actions.Release():
                said = await self._release(action)
            case actions.Uncordon():
                said = await self._uncordon(action)
            case _:
                said = await self._handler.in_thread(self._desk.carry_out, action, self.by)
        self._handler.log.info("%s: %s: %s", self.by, actions.name_of(type(action)), said)
        return said

    async def _release(self, action: actions.Release) -> str:
        """A request that waits is cancelled; a running session is stopped, with its variables made durable."""
        holder, name = self._handler.holder(action.user, action.server), _name(action)
        if await self._handler.in_thread(self._desk.cancel, holder, self.by):
            return f"{name}: its request is cancelled."
        user = self._user(action.user)
        spawner = user.spawners.get(action.server)
        if spawner is None or not spawner.active:
            if await self._handler.in_thread(self._desk.standing, holder):
                raise BadAction(
                    f"{name} has a lease, but the hub does not know its server. Start it, which goes on with its "
                    "container if that runs, and release it then."
                )
            raise BadAction(f"{name} has no server that runs, and no request that waits.")
        if spawner.pending:
            raise BadAction(f"{name} is pending {spawner.pending}: try again when that is over.")
        await self._handler.in_thread(self._desk.ledger.note, "release", holder, self.by)
        await self._handler.in_thread(self._desk.ledger.stop_wanted, holder, self.by)
        await self._handler.stop_single_user(user, action.server)
        return f"{name} is {'stopping' if spawner.active else 'stopped'}; its GPUs go to the next."

    async def _give_up(self, action: actions.GiveUp) -> str:
        """Its spawner learns from the ledger that it is over (`GPUDockerSpawner.poll`), so that its user can start again."""
        holder, name = self._handler.holder(action.user, action.server), _name(action)
        await self._handler.in_thread(self._desk.give_up, holder, action.reason, self.by)
        user = self._handler.find_user(action.user)
        spawner = user.spawners.get(action.server) if user else None
        if spawner and spawner.active and not spawner.pending:
            await self._handler.stop_single_user(user, action.server)
        return (
            f"{name} is given up and can start again. Its GPUs are given on when its host is back and what still "
            "runs there has been stopped."
        )

    async def _uncordon(self, action: actions.Uncordon) -> str:
        """Its agent forgets what was wrong with it too, else the scheduler would cordon it again."""
        said = await self._handler.in_thread(self._desk.carry_out, action, self.by)
        if action.reason:
            return said
        try:
            await self._handler.settings["gpu_agents"].clear(action.target)
        except AgentUnreachable as error:
            return f"{said} Its agent could not be told: {error}."
        return said

    async def _assign(self, action: actions.Assign) -> str:
        user = self._user(action.user)
        if action.server:
            await self._check_name(user, action.server)
        spawner = user.get_or_create_spawner(action.server, action.server)
        if spawner.active:
            raise BadAction(f"{_name(action)} runs already: move it instead.")
        session = Session(
            self._handler.holder(user.name, action.server), user.name, [g.name for g in user.groups]
        )
        if self._ask(action).kind is Kind.NONE:
            raise BadAction("Assign at least one GPU: say gpus, gpu_uuids, mig or share.")
        try:
            standing = await self._handler.in_thread(self._desk.ask, session, action.options, by=self.by)
        except BadAsk as error:
            raise BadAction(str(error)) from error
        kept = spawner.orm_spawner.user_options or {}
        others = {key: value for key, value in kept.items() if key not in KEYS}
        self._handler.remember(spawner, others | action.options)
        if standing and standing.wait:
            return f"{_name(action)} waits: {standing.wait.reason}"
        return f"{_name(action)} has its GPUs; its server starts."

    async def _check_name(self, user: User, server: str) -> None:
        """JupyterHub's rules for named servers: otherwise we would make one that can never start."""
        try:
            await self._handler._check_named_server_request(user, server, server)
        except web.HTTPError as error:
            raise BadAction(f"server = {server!r}: {error.log_message}") from error

    def _ask(self, action: actions.Assign) -> Ask:
        try:
            return self._desk.ask_of(action.options)
        except BadAsk as error:
            raise BadAction(str(error)) from error

    def _user(self, name: str) -> User:
        user = self._handler.find_user(name)
        if user is None:
            raise BadAction(f"user = {name!r}: the hub knows no such user.")
        return user


def by_whom(handler: GpuHandler) -> str:
    """Who asks, as the audit log calls them."""
    who = handler.current_user
    return f"{'user' if isinstance(who, User) else 'service'}:{who.name}"


def _name(action: actions.Release | actions.Assign) -> str:
    return f"{action.user}/{action.server}" if action.server else action.user
