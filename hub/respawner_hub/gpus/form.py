"""The questions of the spawn page: which image, and which GPUs, with what is free and how long each choice waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from respawner_spawner.leases.asks import describe, field_of, options_from_field
from respawner_spawner.leases.model import Ask, Cluster, Device, Kind, Request, Wait
from respawner_spawner.leases.reasons import ordinal
from respawner_spawner.spawn_form import image_form
from respawner_spawner.spawn_form import options_from_form as plain_options

from . import words
from .desk import Desk, Session
from .rounds import outlook, see

TEMPLATES = Path(__file__).parents[1] / "templates"
SHARE_PARTS = (4, 2)
"""Shares that the page offers: these parts of what is shared of the largest shared GPU."""

_templates = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)


@dataclass(frozen=True)
class Choice:
    """One line of the form."""

    ask: Ask
    free: bool
    """It would start now."""
    possible: bool
    status: str
    """ "free now", or the wait and its reason."""

    @property
    def note(self) -> str:
        """What keeps the session to it."""
        return {
            "advisory": "advisory: programs keep to their part by themselves",
            "hardware": "separated by hardware",
        }.get(self.ask.kind.separation, "")

    @property
    def value(self) -> str:
        return field_of(self.ask)

    @property
    def label(self) -> str:
        return "No GPU" if self.ask.kind is Kind.NONE else describe(self.ask)


async def spawn_form(spawner: Any) -> str:
    """HTML of the form's fields; empty where there is nothing to choose, and the server starts at once.

    :param spawner: JupyterHub's.
    """
    allowed = spawner._get_allowed_images() if hasattr(spawner, "_get_allowed_images") else None
    images = [] if allowed in (None, "*") else list(allowed)
    desk: Desk = spawner.user.settings["gpu_desk"]
    session = Session(spawner.holder, spawner.user.name, [group.name for group in spawner.user.groups])
    return image_form(images, getattr(spawner, "image", "")) + await asyncio.to_thread(
        gpu_form, desk, session
    )


def gpu_form(desk: Desk, session: Session) -> str:
    """HTML of the choices among GPUs. Blocks."""
    now = desk.ledger.clock()
    cluster = see(desk.ledger, desk.policy, now)
    found = choices(cluster, session, desk.max_gpus, now)
    if len(found) < 2:
        return ""
    template = _templates.get_template("gpu-choices.html")
    return template.render(
        choices=found,
        preset=field_of(desk.ask_of({})),
        devices=[(words.device(d), d.cordon or _use(d, cluster)) for d in cluster.devices],
        free=sum(not d.cordon and _use(d, cluster) == "free" for d in cluster.devices),
        non_preemptible=desk.policy.may_be_non_preemptible(session.user, session.groups),
    )


def options_from_form(form: dict[str, list[str]]) -> dict[str, Any]:
    """What `user_options` become: the chosen line, and fields named like options."""
    chosen = options_from_field(form["gpu"][0]) if form.get("gpu") else {}
    return plain_options(form) | chosen


def choices_now(desk: Desk, session: Session) -> list[Choice]:
    """The same for a page. Blocks."""
    now = desk.ledger.clock()
    return choices(see(desk.ledger, desk.policy, now), session, desk.max_gpus, now)


def choices(cluster: Cluster, session: Session, max_gpus: int, now: float) -> list[Choice]:
    """Every sensible choice on this cluster with what the policy would say to it now."""
    asks = [*_whole(cluster.devices, max_gpus), *_mig(cluster.devices), *_shares(cluster.devices)]
    nothing = Choice(Ask(), free=True, possible=True, status="starts now")
    return [nothing, *(_judged(ask, cluster, session, now) for ask in asks)]


def _judged(ask: Ask, cluster: Cluster, session: Session, now: float) -> Choice:
    request = Request(-1, session.holder, session.user, ask, now, tuple(session.groups))
    wait = outlook(cluster, request, now)
    if wait is None:
        return Choice(ask, free=True, possible=True, status="free now")
    if wait.impossible:
        return Choice(ask, free=False, possible=False, status=wait.reason)
    return Choice(ask, free=False, possible=True, status=_wait(wait, now))


def _wait(wait: Wait, now: float) -> str:
    when = f", {words.expected(wait, now)}" if wait.expected else ""
    return f"{ordinal(wait.position)} in the queue{when}: {words.reason(wait)}"


def _whole(devices: Iterable[Device], most: int) -> list[Ask]:
    """Any GPUs, and where there are several models those of each; as many as one host has."""
    whole = [d for d in devices if d.kind is Kind.GPU and not d.shareable_bytes]
    models = sorted({d.model for d in whole})
    return [
        Ask(Kind.GPU, count, model)
        for model in ([""] if len(models) == 1 else ["", *models])
        for count in range(1, min(most, _most_on_a_host(whole, model)) + 1)
    ]


def _most_on_a_host(devices: Sequence[Device], model: str) -> int:
    hosts = [d.host for d in devices if model in ("", d.model)]
    return max((hosts.count(host) for host in hosts), default=0)


def _mig(devices: Iterable[Device]) -> list[Ask]:
    return [Ask(Kind.MIG, profile=profile) for profile in sorted({d.profile for d in devices if d.profile})]


def _shares(devices: Iterable[Device]) -> list[Ask]:
    largest = max((d.shareable_bytes for d in devices), default=0)
    sizes = sorted({(largest // part) >> 30 << 30 for part in SHARE_PARTS} - {0})
    return [Ask(Kind.SHARE, share_bytes=size) for size in sizes]


def _use(device: Device, cluster: Cluster) -> str:
    shares = [lease for lease in cluster.leases if device.uuid in lease.uuids]
    if device.shareable_bytes:
        left = device.shareable_bytes - sum(lease.share_bytes for lease in shares)
        return f"shared, {words.size_text(max(0, left))} free"
    return "in use" if shares else "free"
