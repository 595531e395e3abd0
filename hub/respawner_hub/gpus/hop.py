"""Moving a running session between CPU, share, GPU and other GPU: a suspend, and a resume with another wish."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jupyterhub.user import User
from respawner_spawner.leases.asks import DEVICE_KEYS, KEYS, BadAsk, is_preemptible
from respawner_spawner.leases.model import Ask, Kind, State

from .actions import BadAction
from .desk import Session

if TYPE_CHECKING:
    from .handlers import GpuHandler

MOVED = "moved by "
"""How the reasons of these suspensions begin: the scheduler starts the session again also without a GPU."""


async def hop(handler: GpuHandler, user: User, server: str, options: Mapping[str, Any], by: str) -> str:
    """Ask for the session to go on with what `options` say; one sentence of what comes now.

    One that runs without a lease goes on until its devices are free.

    :raises BadAction:
    """
    desk, name = handler.desk, f"{user.name}/{server}" if server else user.name
    spawner = user.spawners.get(server)
    if spawner is None or not spawner.ready:
        raise BadAction(f"{name} has no server that runs.")
    if not set(options) & set(DEVICE_KEYS):
        raise BadAction(f"Say what {name} moves to: {', '.join(DEVICE_KEYS)}; gpus = 0 is the CPU.")
    try:
        ask = desk.ask_of(options)
        preemptible = is_preemptible(options)
    except BadAsk as error:
        raise BadAction(str(error)) from error
    remembered = _other_choices(spawner.orm_spawner.user_options) | dict(options)
    session = Session(handler.holder(user.name, server), user.name, [group.name for group in user.groups])
    found = await handler.in_thread(desk.standing, session.holder)
    if found and found.state is State.RUNNING:
        if "preemptible" in options and preemptible != found.request.preemptible:
            raise BadAction(
                f"preemptible = {options['preemptible']!r}: say so when {name} is started; it stays."
            )
        said = await _suspend(handler, session, ask, by)
    elif ask.kind is Kind.NONE:
        raise BadAction(f"{name} runs without a GPU already.")
    else:
        said = await _queue(handler, session, options)
    handler.remember(spawner, remembered)
    return f"{name} {said}"


async def _suspend(handler: GpuHandler, session: Session, ask: Ask, by: str) -> str:
    """A session that could never come back is not suspended."""
    desk, back = handler.desk, None if ask.kind is Kind.NONE else ask
    if back:
        try:
            await handler.in_thread(desk.refuse_impossible, session, back)
        except BadAsk as error:
            raise BadAction(str(error)) from error
    reason = MOVED + by.partition(":")[2]
    if not await handler.in_thread(desk.ledger.begin_suspend, session.holder, reason, back, by):
        raise BadAction("This session has just ended.")
    return "is suspended when its variables are saved, and comes back " + (
        "when what it moves to is free." if back else "without a GPU."
    )


async def _queue(handler: GpuHandler, session: Session, options: Mapping[str, Any]) -> str:
    try:
        await handler.in_thread(handler.desk.ask, session, {**options, "cpu_meanwhile": True})
    except BadAsk as error:
        raise BadAction(str(error)) from error
    return "goes on as it is until its GPU is free, and then changes to it."


def _other_choices(before: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the session was started with and does not change with its GPUs: its image, for example."""
    return {key: value for key, value in (before or {}).items() if key not in KEYS or key == "preemptible"}
