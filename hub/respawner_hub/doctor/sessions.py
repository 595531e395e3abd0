"""Tries what a session would be: on every host a container made like one, and one with each GPU that is free."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy.exc
from respawner_spawner.agent.wire import Answer
from respawner_spawner.engine import Engine
from respawner_spawner.leases.ledger import Ledger

from ..images import fitness
from ..images.errors import ImageTestError
from ..images.fitness import Check
from ..settings import Settings
from .verdict import Failed, NotChecked, Note, verdict

OF_A_GPU = ("devices", "gpu")
"""Checks of images/test/inside.py that need one."""


@dataclass(frozen=True)
class Device:
    """A GPU or MIG device that can be granted."""

    host: str
    processes: Sequence[int] = ()
    """Pids of those that have memory on it."""


def devices_of(answers: Sequence[Answer]) -> dict[str, Device]:
    """What can be granted by UUID, as the agents say."""
    return {
        gpu.uuid: Device(
            answer.host, tuple(one.pid for one in answer.report.processes if one.uuid == gpu.uuid)
        )
        for answer in answers
        for gpu in answer.report.inventory.gpus
    }


def holders_of(ledger: Ledger | None) -> dict[str, str] | None:
    """UUID → the session that holds it; None where the ledger cannot be asked."""
    if ledger is None:
        return None
    try:
        return {uuid: lease.holder for lease in ledger.leases() for uuid in lease.uuids}
    except sqlalchemy.exc.SQLAlchemyError:
        return None


def try_sessions(
    settings: Settings, engines: Mapping[str, Engine], named: Callable[[str, str], str], note: Note
) -> None:
    """All checks of `image test` on every host, without a GPU: a container that sees one all the same fails.

    :param named: a check's name out of what it checks and the host.
    """
    for host, engine in engines.items():

        def tell(check: Check, host: str = host) -> None:
            if check.name in OF_A_GPU and check.state == "skipped":
                return  # as it should be: none was given, and none is seen
            name = named(f"session {check.name}", host)
            note(dataclasses.replace(check, name=name, says=_honest(check)))

        tried = verdict(named("session", host), _prove, engine, settings, tell)
        if tried.state != "ok":
            note(tried)


def try_gpus(
    settings: Settings,
    engines: Mapping[str, Engine],
    now: Callable[[], tuple[Mapping[str, Device], Mapping[str, str] | None]],
    wanted: Sequence[str],
    note: Note,
) -> None:
    """With each GPU a session's container that sees this one and computes on it.

    :param now: devices by UUID, and UUID → who has it (None: nobody can tell), asked anew before each GPU: trying one takes
        a minute, in which a session may get the next.
    :param wanted: UUIDs; empty means every one that is free.
    """
    uuids = list(wanted or now()[0])
    if not uuids:
        note(verdict("gpu", _no_gpu))
    for uuid in uuids:
        devices, holders = now()
        free = verdict(f"gpu {uuid}", _free, uuid, devices, holders, engines, asked_for=bool(wanted))
        if free.state != "ok":
            note(free)
            continue

        def tell(check: Check, uuid: str = uuid) -> None:
            note(dataclasses.replace(check, name=f"{check.name} {uuid}", says=_honest(check)))

        engine = engines[_host(devices[uuid], engines)]
        tried = verdict(f"devices {uuid}", _prove, engine, settings, tell, [uuid], OF_A_GPU)
        if tried.state != "ok":
            note(tried)


def _prove(
    engine: Engine, settings: Settings, tell: Note, gpus: Sequence[str] = (), only: Sequence[str] = ()
) -> str:
    """`tell` hears of every check.

    :raises Failed: none, or not all, could be made.
    """
    try:
        fitness.prove_fit(engine, settings.image.name, settings.state_dir, gpus, tell, only)
    except ImageTestError as error:
        raise Failed(str(error)) from error
    return "done"


def _no_gpu() -> str:
    raise NotChecked(
        "nobody tells of a GPU: devices in containers, CUDA and memory are not proven by this run"
    )


def _free(
    uuid: str,
    devices: Mapping[str, Device],
    holders: Mapping[str, str] | None,
    engines: Mapping[str, Engine],
    *,
    asked_for: bool,
) -> str:
    """:raises NotChecked: it may not be tried now; `Failed` where it was asked for by name."""
    why = ""
    if uuid not in devices and not asked_for:
        raise NotChecked("no agent tells of it any more")
    if uuid not in devices:
        raise Failed(
            f"no host has it; there are {', '.join(devices) or 'none'}", "`nvidia-smi -L` on the host."
        )
    if holders is None:
        why = "the database does not answer, so nobody knows who holds it"
    elif uuid in holders:
        why = f"{holders[uuid]} holds it"
    elif devices[uuid].processes:
        why = f"processes compute on it: {', '.join(map(str, devices[uuid].processes))}"
    elif _host(devices[uuid], engines) not in engines:
        why = f"the engine of {devices[uuid].host} does not answer"
    if why and asked_for:
        raise Failed(why, "Try again when it is free; `respawner-hub gpu list`.")
    if why:
        raise NotChecked(why)
    return "free"


def _host(device: Device, engines: Mapping[str, Engine]) -> str:
    """Its host's name among the engines: on one machine an agent may have been given another name."""
    return device.host if device.host in engines or len(engines) != 1 else next(iter(engines))


def _honest(check: Check) -> str:
    return f"not checked: {check.says}" if check.state == "skipped" else check.says
