"""What an admin can do to GPUs, as checked values: a page's form, the API's JSON and the command line give the same.

Not for how it is done: that is `desk` and, for what concerns running servers, `handlers`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from respawner_spawner.leases.asks import KEYS
from respawner_spawner.sizes import size_bytes


class BadAction(ValueError):
    """The action cannot be done as it was said; the message names value and choice."""


class Action(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        str_strip_whitespace=True,
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
    )


class Release(Action):
    """Stop a session; its lease ends with its container."""

    user: str = Field(min_length=1)
    server: str = ""


class GiveUp(Release):
    """End the lease of a session whose host is lost: its user starts again, and what still runs there is stopped when
    the host is back."""

    reason: str = Field("its host does not answer", min_length=1)


class Assign(Action):
    """Queue a session for a user before everybody else, on devices of the admin's choice."""

    user: str = Field(min_length=1)
    server: str = ""
    options: dict[str, Any] = {}
    """As in `user_options`: gpus, gpu_model, gpu_uuids …"""


class Move(Assign):
    """Suspend a running session and resume it with other devices."""


class Cordon(Action):
    """No new lease on a GPU (UUID) or a host."""

    target: str = Field(min_length=1, max_length=255)
    reason: str = Field("cordoned by an admin", min_length=1)
    """Never empty: a device counts as cordoned where it says why."""


class Uncordon(Action):
    """Take new leases again, whatever the reason of the cordon was; or only take one's own cordon or drain away."""

    target: str = Field(min_length=1, max_length=255)
    reason: str | None = Field(None, min_length=1)
    """As it was given to the cordon or drain; None: all of them."""


class Drain(Cordon):
    """Cordon, then suspend the sessions that are there, again and again until it is uncordoned; they resume elsewhere."""

    reason: str = Field("maintenance", min_length=1)


class Forget(Action):
    """A host that has left the cluster: its devices and cordons go."""

    host: str = Field(min_length=1, max_length=250)


class Share(Action):
    """Let several sessions share a GPU's memory. 0 ends it, when the last share is given back."""

    device: str = Field(min_length=1, max_length=96)
    memory: str
    """Of the GPU's memory, for all shares together, for example 40G."""

    @field_validator("memory")
    @classmethod
    def _is_size(cls, value: str) -> str:
        size_bytes(value)
        return value


class Reserve(Action):
    """Keep GPUs for a group."""

    group: str = Field(min_length=1, max_length=255)
    count: int = Field(ge=1)
    start: datetime
    end: datetime
    model: str = ""
    note: str = ""

    @field_validator("start", "end")
    @classmethod
    def _has_a_zone(cls, value: datetime) -> datetime:
        """A time without a zone is the hub's own, as on a browser's form."""
        return value.astimezone(UTC)

    @model_validator(mode="after")
    def _ends_after_start(self) -> Reserve:
        if self.end <= self.start:
            raise ValueError(f"it ends at {self.end:%Y-%m-%d %H:%M}, not after its start")
        return self


class Unreserve(Action):
    """End a reservation."""

    id: int


class Limit(Action):
    """The most that a user or group may hold, and what it gets back when it asks."""

    subject: str = Field(pattern=r"^(user:.+|group:.+|everyone)$")
    most: float | None = Field(None, ge=0)
    guarantee: float = Field(0, ge=0)
    priority: int | None = None

    @field_validator("most", "priority", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value in ("", "none") else value

    @field_validator("guarantee", mode="before")
    @classmethod
    def _empty_is_nothing(cls, value: Any) -> Any:
        return 0 if value == "" else value

    @model_validator(mode="after")
    def _guarantee_within_most(self) -> Limit:
        if self.most is not None and self.guarantee > self.most:
            raise ValueError(f"guarantee = {self.guarantee:g} is more than most = {self.most:g}")
        return self


class Unlimit(Action):
    """Take a limit away."""

    subject: str = Field(min_length=1)


def name_of(kind: type[Action]) -> str:
    """As API, forms and command line call it: "give-up"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()


_KINDS = (
    Release,
    GiveUp,
    Assign,
    Move,
    Cordon,
    Uncordon,
    Drain,
    Forget,
    Share,
    Reserve,
    Unreserve,
    Limit,
    Unlimit,
)
ACTIONS: dict[str, type[Action]] = {name_of(kind): kind for kind in _KINDS}


def parse(name: str, fields: Mapping[str, Any]) -> Action:
    """An action from JSON.

    :raises BadAction:
    """
    kind = ACTIONS.get(name)
    if kind is None:
        raise BadAction(f"action = {name!r}: must be one of {', '.join(ACTIONS)}")
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise BadAction("; ".join(_explain(detail, kind) for detail in error.errors())) from error


def parse_form(name: str, fields: Mapping[str, str]) -> Action:
    """An action from a page's form, whose options stand beside the other fields."""
    options = {key: value for key, value in fields.items() if key in KEYS and value}
    rest = {key: value for key, value in fields.items() if key not in KEYS}
    return parse(name, {**rest, "options": options} if name in ("assign", "move") else rest)


def _explain(detail: Any, kind: type[Action]) -> str:
    key, message = ".".join(map(str, detail["loc"])), detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        return f"{key} = {detail['input']!r}: no such field. Known: {', '.join(kind.model_fields)}"
    if detail["type"] == "missing":
        return f"{key} is missing"
    return f"{key} = {detail['input']!r}: {message}" if key else message
