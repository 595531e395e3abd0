"""One settings file, `respawner.toml`, typed and checked before anything starts.

What has no setting here goes into `jupyterhub_config.d/*.py`, which JupyterHub reads last. The example
file is made from the descriptions below (`respawner-hub settings`), so a setting cannot be undocumented.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import tomllib
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from respawner_spawner.sizes import size_bytes

from .auth.external import LdapOptions, OidcOptions, PamOptions

SETTINGS_ENV = "RESPAWNER_SETTINGS"
FILE_NAME = "respawner.toml"


class SettingsError(Exception):
    """The settings cannot be used. The message names the file, the key, the value and what is expected."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True, allow_inf_nan=False)


class HubSettings(Section):
    name: str = Field(
        "respawner",
        description="Name of this deployment. Containers, volumes and the network are named after it, so two deployments can share an engine.",
        pattern=r"^[a-z][a-z0-9-]{1,30}$",
    )
    bind: str = Field(
        "127.0.0.1",
        description="Address on which people reach the hub. The default answers on this machine only; 0.0.0.0 opens it to the network, over HTTPS (see [tls]).",
    )
    port: int = Field(8000, ge=1, le=65535, description="Port on which people reach the hub.")
    base_url: str = Field("/", description="Path under which the hub lives, for example /jupyter/.")
    state_dir: Path = Field(
        Path("var"),
        description="Folder for database, secrets, logs and builds; relative to this file. Users' volumes are Docker's and not in it.",
    )
    database_url: str = Field(
        "",
        description="SQLAlchemy URL of the database. Empty: SQLite in state_dir.",
    )
    config_dir: Path = Field(
        Path("jupyterhub_config.d"),
        description="Folder of *.py files read after everything else, in order of name: JupyterHub's own configuration, the escape hatch. Relative to this file.",
    )
    hub_api_port: int = Field(
        8081,
        ge=1,
        le=65535,
        description="Port of the hub's own API, on the session network's gateway address: sessions and proxy use it.",
    )
    proxy_api_port: int = Field(
        8001, ge=1, le=65535, description="Port on loopback on which the hub talks to the proxy."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="How much the hub logs."
    )

    @field_validator("bind")
    @classmethod
    def _is_address(cls, value: str) -> str:
        try:
            ipaddress.ip_address(value)
        except ValueError as error:
            raise ValueError("must be an IP address, for example 127.0.0.1 or 0.0.0.0") from error
        return value

    @field_validator("base_url")
    @classmethod
    def _has_slashes(cls, value: str) -> str:
        return "/" + value.strip("/") + "/" if value.strip("/") else "/"

    @property
    def is_open(self) -> bool:
        """Whether others than this machine's users can reach the hub."""
        return not ipaddress.ip_address(self.bind).is_loopback


class TlsSettings(Section):
    certificate: Path | None = Field(
        None,
        description="PEM file of the certificate (with its chain). Empty on an opened hub: a self-signed one is made in state_dir, and browsers warn.",
    )
    key: Path | None = Field(None, description="PEM file of the certificate's private key.")
    names: list[str] = Field(
        [],
        description="Host names and addresses for the self-signed certificate; this machine's own when empty.",
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> TlsSettings:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: set both or none")
        return self


class AuthSettings(Section):
    method: Literal["local", "oidc", "ldap", "pam"] = Field(
        "local",
        description="Who checks passwords: local (accounts of this hub, made by an admin), oidc, ldap or pam.",
    )
    admins: list[str] = Field(
        ["admin"],
        description="Users who administer the hub. With local accounts the first one is made by `make up`.",
    )
    allowed_users: list[str] = Field(
        [],
        description="With oidc, ldap and pam: who may log in. Admins always may; with local accounts everybody who has one.",
    )
    allow_all: bool = Field(
        False,
        description="With oidc, ldap and pam: everybody whom the identity provider knows may log in.",
    )
    min_password_length: int = Field(
        12, ge=8, le=128, description="Shortest password that a local account accepts."
    )
    code_days: int = Field(
        7,
        ge=1,
        le=90,
        description="Days for which the one-time code of a new or reset local account is valid.",
    )
    oidc: OidcOptions | None = Field(None, description="Options of method oidc.")
    ldap: LdapOptions | None = Field(None, description="Options of method ldap.")
    pam: PamOptions = Field(PamOptions(), description="Options of method pam.")

    @model_validator(mode="after")
    def _method_has_options(self) -> AuthSettings:
        if self.method in ("oidc", "ldap") and getattr(self, self.method) is None:
            raise ValueError(f"method = {self.method!r} needs a section [auth.{self.method}]")
        if self.method == "local" and not self.admins:
            raise ValueError("local accounts need at least one admin in admins")
        return self


class EngineSettings(Section):
    host: str = Field(
        "unix:///var/run/docker.sock",
        description="Docker Engine that runs the sessions.",
        pattern=r"^(unix:///|tcp://|ssh://)\S+$",
    )
    start: bool = Field(
        True,
        description="Start dockerd where the engine does not answer on a local socket and no init system looks after it.",
    )
    data_dir: Path | None = Field(
        None,
        description="Where a dockerd started by us keeps images and volumes. Empty: Docker's default.",
    )
    network: str = Field(
        "",
        description="Docker network of the sessions. Empty: the deployment's name. Made if it does not exist; sessions cannot reach each other on it.",
    )
    subnet: str = Field(
        "",
        description="Address range of that network when it is made, for example 10.89.0.0/24. Empty: Docker chooses.",
    )

    @field_validator("subnet")
    @classmethod
    def _is_network(cls, value: str) -> str:
        if value:
            ipaddress.ip_network(value)
        return value

    @property
    def socket(self) -> Path | None:
        """Path of the engine's socket, None for a remote engine."""
        url = urlsplit(self.host)
        return Path(url.path) if url.scheme == "unix" else None


class ImageSettings(Section):
    name: str = Field(
        "respawner/notebook:0.1.0",
        description="Image of the sessions. Any image with jupyterhub-singleuser and ipykernel works.",
    )
    build: bool = Field(
        True,
        description="Build the image where images/versions.toml has it and it is missing or older than its recipe. Images of other names, and images without our recipe label, are never built over.",
    )
    torch: str = Field(
        "auto",
        description="PyTorch in the image: auto (as images/versions.toml says; for respawner/notebook the CPU build where there is no GPU), cpu, cuda, or a version such as 2.13.0.",
    )
    base: str = Field(
        "",
        description="Base image to pull. Empty: Debian's, or where no registry answers one made with debootstrap.",
    )


class SessionSettings(Section):
    cpu_limit: float = Field(
        0, ge=0, description="CPUs that one session may use, for example 4 or 0.5. 0: no limit."
    )
    mem_limit: str = Field(
        "80%",
        description="Memory that one session may use: a size such as 16G, or a share of the machine's memory such as 80%. Empty: no limit.",
    )
    pids_limit: int = Field(4096, ge=64, description="Processes and threads that one session may have.")
    shm_size: str = Field(
        "2G", description="Size of /dev/shm, which PyTorch's data loaders share. Counts as memory in use."
    )
    gpus: int = Field(0, ge=0, description="GPUs that a session gets when its user chooses nothing.")
    max_gpus: int = Field(1, ge=0, description="The most GPUs that a user may choose for one session.")
    cap_add: list[str] = Field(
        [], description="Linux capabilities that sessions keep. All others are dropped; the default is none."
    )
    environment: dict[str, str] = Field({}, description="Environment variables of every session.")
    start_timeout_seconds: int = Field(
        300, ge=10, description="Longest that creating and starting a container may take."
    )
    http_timeout_seconds: int = Field(
        180, ge=10, description="Longest that the server in a started container may take to answer."
    )
    stop_grace_seconds: int = Field(
        120,
        ge=10,
        description="Time that a stopped session has to make its variables durable before it is killed.",
    )

    @field_validator("mem_limit")
    @classmethod
    def _is_size_or_share(cls, value: str) -> str:
        if value.endswith("%"):
            if not value[:-1].isdigit() or not 1 <= int(value[:-1]) <= 100:
                raise ValueError("a share of the machine's memory is 1% to 100%")
        elif value:
            size_bytes(value)
        return value

    @field_validator("shm_size")
    @classmethod
    def _is_size(cls, value: str) -> str:
        size_bytes(value)
        return value

    @model_validator(mode="after")
    def _default_within_maximum(self) -> SessionSettings:
        if self.gpus > self.max_gpus:
            raise ValueError(f"gpus = {self.gpus} is more than max_gpus = {self.max_gpus}")
        return self

    def mem_limit_bytes(self, machine_bytes: int) -> int | None:
        """The limit on a machine with so much memory, None without a limit."""
        if not self.mem_limit:
            return None
        if self.mem_limit.endswith("%"):
            return machine_bytes * int(self.mem_limit[:-1]) // 100
        return size_bytes(self.mem_limit)


class GpuSettings(Section):
    idle_minutes: float = Field(
        120,
        ge=0,
        description="After so long without GPU use and without kernel activity a session is warned and then suspended: its variables are saved, its GPU goes to the next. 0: never.",
    )
    idle_utilisation_percent: int = Field(
        3, ge=0, le=100, description="A GPU that is used less than this counts as not used."
    )
    warn_minutes: float = Field(
        15,
        ge=0,
        description="Time between the warning and the suspension, for idle sessions and preempted ones.",
    )
    snoozes: int = Field(
        2, ge=0, description="How often the user of an idle session may put the suspension off."
    )
    snooze_minutes: float = Field(60, gt=0, description="For how long each time.")
    interrupt_cells: bool = Field(
        False,
        description="Suspend also while a cell runs, or where the hub cannot tell. What the cell has done since its last snapshot is lost.",
    )
    preempt: bool = Field(
        False,
        description="Suspend running sessions so that those who wait get their turn; who had most GPU time gives way first.",
    )
    min_run_minutes: float = Field(30, ge=0, description="No session is preempted earlier.")
    slice_minutes: float = Field(
        120,
        gt=0,
        description="How much more GPU time than the one who waits a session must have had before it is preempted.",
    )
    suspend_cost_seconds: float = Field(
        120,
        ge=0,
        le=3600,
        description="What a suspend and the resume after it cost together, with your images and states: GPUs are held and not used for so long. Estimates count with it.",
    )
    non_preemptible: list[str] = Field(
        [],
        description="Who may start sessions that are never suspended for somebody who waits: user:NAME, group:NAME or everyone. Empty: nobody; an admin can assign one to anybody. Others wait until such a session is stopped, or idles.",
    )
    patience_minutes: float = Field(
        240,
        ge=0,
        le=60 * 24 * 30,
        description="After so long GPUs are kept free for a request for several GPUs that does not fit, so that small ones do not take each of them for ever.",
    )
    pass_minutes: float = Field(
        2880,
        ge=0,
        le=60 * 24 * 60,
        description="After so long such a request stands in front of its priority, and others pass it only while it is far from being served; after twice as long nobody does. At least patience_minutes.",
    )
    booking_lead_minutes: float = Field(
        120,
        ge=0,
        le=60 * 24 * 30,
        description="How long before a reservation its GPUs go only to sessions that can be ended by then.",
    )
    slot_held_minutes: float = Field(
        10,
        gt=0,
        description="How long granted GPUs wait for a session that does not start. Then the next gets them.",
    )
    most_per_user: float = Field(
        0,
        ge=0,
        description="The most GPUs that one user may hold, over all sessions. 0: no limit. Single users and groups: `respawner-hub gpu limit`.",
    )
    can_snooze_preemption: bool = Field(
        False, description="Whether a snooze also puts off a preemption for somebody who waits."
    )

    @field_validator("non_preemptible")
    @classmethod
    def _are_subjects(cls, value: list[str]) -> list[str]:
        for subject in value:
            if not re.fullmatch(r"(user|group):\S.*|everyone", subject):
                raise ValueError(f"{subject!r} is not user:NAME, group:NAME or everyone")
        return value

    @model_validator(mode="after")
    def _passes_after_patience(self) -> GpuSettings:
        if self.pass_minutes < self.patience_minutes:
            raise ValueError(
                f"pass_minutes = {self.pass_minutes:g} is less than patience_minutes = {self.patience_minutes:g}"
            )
        return self


class AgentSettings(Section):
    port: int = Field(
        8082,
        ge=1,
        le=65535,
        description="Port on loopback on which this machine's agent tells of its GPUs, to the hub and as Prometheus metrics.",
    )
    interval_seconds: float = Field(
        2,
        ge=0.5,
        le=60,
        description="Seconds between two readings of memory, utilisation, temperature and power.",
    )
    processes_seconds: float = Field(
        10,
        ge=1,
        le=300,
        description="Seconds between two lists of devices and of the processes on them, which cost the driver more.",
    )
    canary_seconds: float = Field(
        60,
        ge=5,
        le=3600,
        description="Seconds between two looks whether running sessions can still use the GPUs that they were given.",
    )


class ClusterSettings(Section):
    """Written by the playbook (`ansible/roles/hub`)."""

    hosts: dict[str, str] = Field(
        description="Hosts that run sessions: the name that the host's agent gives, and the address of its engine and agent. The playbook fills it from the inventory's group gpu_hosts.",
        min_length=1,
    )
    hub_address: str = Field(
        description="The hub's address on the sessions' network, which is an overlay of the Swarm: sessions reach the hub there."
    )
    shared_dir: Path = Field(
        Path("/srv/respawner"),
        description="Folder that every host sees. Users' homes and snapshots lie in it, so that a session can go on on another host.",
    )
    tls_dir: Path = Field(
        Path("/etc/respawner/tls"),
        description="Folder with ca.crt, client.crt and client.key, with which hub, engines and agents know each other.",
    )
    engine_port: int = Field(2376, ge=1, le=65535, description="Port of the engines, with TLS.")
    agent_port: int = Field(8082, ge=1, le=65535, description="Port of the agents, with TLS.")

    def engine(self, host: str) -> str:
        """Address of a host's engine."""
        return f"tcp://{self.hosts[host]}:{self.engine_port}"

    def agent(self, host: str) -> str:
        """Address of a host's agent."""
        return f"https://{self.hosts[host]}:{self.agent_port}"


class Settings(Section):
    hub: HubSettings = Field(
        HubSettings(), description="The hub: where it listens and where it keeps things."
    )
    tls: TlsSettings = Field(TlsSettings(), description="HTTPS. Only used when [hub] bind opens the hub.")
    auth: AuthSettings = Field(AuthSettings(), description="Who may log in.")
    engine: EngineSettings = Field(EngineSettings(), description="The Docker Engine.")
    image: ImageSettings = Field(ImageSettings(), description="What sessions run.")
    session: SessionSettings = Field(SessionSettings(), description="What one session gets.")
    gpus: GpuSettings = Field(
        GpuSettings(), description="GPUs: the queue, and when idle ones are taken back."
    )
    agent: AgentSettings = Field(AgentSettings(), description="The agent that watches this machine's GPUs.")
    cluster: ClusterSettings | None = Field(
        None,
        description="Several hosts. See docs/cluster.md; without this section there is this machine alone.",
    )
    folder: Path = Field(Path(), exclude=True, description="Folder of the file: relative paths start here.")

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        ports = {
            "hub.port": self.hub.port,
            "hub.hub_api_port": self.hub.hub_api_port,
            "hub.proxy_api_port": self.hub.proxy_api_port,
            "agent.port": self.agent.port,
        }
        if len(set(ports.values())) < len(ports):
            raise ValueError(f"ports must differ: {ports}")
        return self

    @property
    def state_dir(self) -> Path:
        return self.folder / self.hub.state_dir

    @property
    def network(self) -> str:
        return self.engine.network or self.hub.name

    @property
    def hub_database_url(self) -> str:
        return self.hub.database_url or f"sqlite:///{self.state_dir / 'jupyterhub.sqlite'}"

    @property
    def own_database_url(self) -> str:
        """Database of accounts and leases.

        With PostgreSQL the hub's own. SQLite locks the whole file for a writer, and the hub writes to its
        file from the same thread, so ours is a file beside it.
        """
        return self.hub.database_url or f"sqlite:///{self.state_dir / 'respawner.sqlite'}"

    @property
    def url(self) -> str:
        """Where people reach the hub from this machine."""
        host = "127.0.0.1" if self.hub.bind in ("0.0.0.0", "::") else self.hub.bind  # noqa: S104
        if ":" in host:
            host = f"[{host}]"
        return f"{'https' if self.hub.is_open else 'http'}://{host}:{self.hub.port}{self.hub.base_url}"


def find_file(explicit: str | None = None) -> Path | None:
    """The settings file: named on the command line, by RESPAWNER_SETTINGS, in the current folder or the checkout."""
    named = explicit or os.environ.get(SETTINGS_ENV)
    if named:
        path = Path(named).absolute()
        if not path.is_file():
            raise SettingsError(f"{path}: no such settings file. Start from respawner.example.toml.")
        return path
    places = (Path.cwd() / FILE_NAME, _home() / FILE_NAME)
    return next((path for path in places if path.is_file()), None)


def _home() -> Path:
    """The checkout that this package is installed from, so that commands mean the same deployment in any folder."""
    checkout = Path(__file__).parents[2]
    return checkout if (checkout / "Makefile").is_file() else Path.cwd()


def load(file: Path | None) -> Settings:
    """Read and check the settings.

    :param file: None stands for the defaults, relative to the checkout.
    :raises SettingsError: with every wrong key at once, one a line.
    """
    if file is None:
        return Settings(folder=_home())
    text = file.read_text()
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: not valid TOML: {error}") from error
    if "folder" in data:
        raise SettingsError(f"{file}: folder: not a setting")
    try:
        return Settings.model_validate({**data, "folder": file.parent})
    except ValidationError as error:
        lines = [_explain(file, text, detail) for detail in error.errors()]
        raise SettingsError("\n".join(lines)) from error


def _explain(file: Path, text: str, detail: Any) -> str:
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location) or "(whole file)"
    line = _line_of(text, location)
    where = f"{file}:{line}" if line else str(file)
    if detail["type"] == "extra_forbidden":
        return f"{where}: {key}: no such setting (value {detail['input']!r}). Known: {_known(location[:-1])}"
    message = detail["msg"].removeprefix("Value error, ")
    if isinstance(detail["input"], dict | BaseModel):
        return f"{where}: {key}: {message}"
    if detail["type"] in _RANGES:
        message = f"choose {_range(location)}"
    return f"{where}: {key} = {detail['input']!r}: {message}"


_RANGES = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")


def _range(location: list[str]) -> str:
    """What a number may be: "1 to 65535", "more than 0"."""
    limits = {
        name: getattr(constraint, name)
        for constraint in _section_of(location[:-1]).model_fields[location[-1]].metadata
        for name in ("gt", "ge", "lt", "le")
        if hasattr(constraint, name)
    }
    if {"ge", "le"} <= limits.keys():
        return f"{limits['ge']} to {limits['le']}"
    said = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    return " and ".join(f"{said[name]} {limit}" for name, limit in limits.items()) or "a finite number"


def _known(location: list[str]) -> str:
    return ", ".join(name for name in _section_of(location).model_fields if name != "folder")


def _section_of(location: list[str]) -> type[BaseModel]:
    model: Any = Settings
    for part in location:
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return model


def _line_of(text: str, location: list[str]) -> int | None:
    """Line of `[a.b] c = …` in the file; of the section's header when the key is not written there."""
    found, section = None, ""
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if header := re.match(r"^\[+\s*([^\]]+?)\s*\]+", stripped):
            section = header.group(1)
            if section == ".".join(location[: section.count(".") + 1]):
                found = number
        elif key := re.match(r"""^["']?([A-Za-z0-9_.-]+)["']?\s*=""", stripped):
            path = f"{section}.{key.group(1)}" if section else key.group(1)
            if path == ".".join(location) or ".".join(location).startswith(path + "."):
                return number
    return found
