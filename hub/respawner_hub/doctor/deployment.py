"""Looks at the parts of a deployment, each by using it: folders, database, engines, network, programs, shared storage."""

from __future__ import annotations

import ctypes
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import docker.errors
import requests
import sqlalchemy
import sqlalchemy.exc
from respawner_spawner.agent.client import Seen
from respawner_spawner.engine import Engine, EngineUnreachable
from respawner_spawner.leases.database import schema_of
from respawner_spawner.leases.ledger import Ledger
from sqlalchemy.engine import make_url

from .. import __version__, gateway, preflight, up
from ..secrets import proxy_token
from ..settings import Settings
from .containers import ContainerError, answer
from .verdict import Absent, Failed, NotChecked

GB = 10**9
SKEW_SECONDS = 5.0
"""Leases and queue are counted in one clock, certificates and logins in several; a few seconds hurt nobody."""
STA_UNSYNC = 0x40

_REACH = "import sys, urllib.request as r; print(r.build_opener(r.ProxyHandler({})).open(sys.argv[1], timeout=30).read().decode())"
_READ = "import sys; print(open(sys.argv[1]).read())"


def disk(settings: Settings) -> str:
    """Folders of the hub and of an engine on this machine: written to, and room in them."""
    if problems := list(preflight.folder_problems(settings.state_dir)):
        raise Failed("; ".join(problems))
    free = shutil.disk_usage(settings.state_dir).free
    return f"{settings.state_dir} can be written, {free / GB:.0f} GB free"


def database(settings: Settings) -> str:
    """The ledger read, and the hub's database asked; both are one with PostgreSQL. Neither is made or upgraded by the look."""
    try:
        with _connected(settings.hub_database_url) as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
        with _connected(settings.own_database_url) as connection:
            found, ours = schema_of(connection)
        if found != ours:
            raise Failed(
                f"the ledger in {_shown(settings.own_database_url)} has the schema {found or 'of nobody'}, and this version has {ours}",
                "`respawner-hub up` upgrades an older one; a later one is of a later version of Respawner: start that.",
            )
        devices = len(Ledger(settings.own_database_url).devices())
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise Failed(
            f"the database does not answer: {str(error).splitlines()[0]}",
            "Correct [hub] database_url, or start the server.",
        ) from error
    return f"answers; the ledger knows {devices} GPUs"


@contextmanager
def _connected(url: str) -> Iterator[sqlalchemy.Connection]:
    """:raises Failed: an SQLite file is not there, which a connection would make."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise Failed(
            f"{parsed.database} is not there",
            "`respawner-hub up` makes a new one; if there was one, bring it back from the backup first (docs/admin.md).",
        )
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _shown(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)


def engine(engine: Engine) -> str:
    """Version and room of an engine; room only where its folder is on this machine."""
    try:
        info = engine.client.info()
    except (EngineUnreachable, requests.RequestException, docker.errors.DockerException) as error:
        raise Failed(
            f"the engine at {engine.host} does not answer: {error}",
            "`systemctl start docker` there, or `respawner-hub up`, which starts one.",
        ) from error
    folder = Path(info["DockerRootDir"])
    room = ""
    if engine.host.startswith("unix://") and folder.is_dir():
        free = shutil.disk_usage(folder).free
        if free < preflight.MIN_FREE_BYTES:
            raise Failed(
                f"{folder} has {free / GB:.1f} GB free: images and volumes have no room",
                "`docker system df` shows what takes it.",
            )
        room = f", {free / GB:.0f} GB free in {folder}"
    return f"Docker {info['ServerVersion']} at {engine.host}, {info['Driver']}, cgroup v{info['CgroupVersion']}{room}"


def clock(engines: Mapping[str, Engine]) -> str:
    """The engines' clocks beside this one, and whether this one follows anybody (adjtimex(2))."""
    if not engines:
        raise NotChecked("no engine answers whose clock could be compared")
    skews = {}
    for host, engine in engines.items():
        before = time.time()
        told = datetime.fromisoformat(engine.client.info()["SystemTime"]).timestamp()
        skews[host] = told - (before + time.time()) / 2
    if wrong := {host: skew for host, skew in skews.items() if abs(skew) > SKEW_SECONDS}:
        said = ", ".join(
            f"{host} is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}" for host, skew in wrong.items()
        )
        raise Failed(f"clocks differ: {said}", "Let all follow one time server: `timedatectl set-ntp true`.")
    worst = max((abs(skew) for skew in skews.values()), default=0)
    if not _follows_a_server():
        raise Absent(
            f"this machine's clock follows no time server (within {worst:.1f} s of the engines' clocks)",
            "`timedatectl set-ntp true`; logins by OIDC and certificates need the right time.",
        )
    return f"follows a time server, within {worst:.1f} s of the engines' clocks"


def _follows_a_server() -> bool:
    buffer = ctypes.create_string_buffer(512)  # struct timex with modes = 0 only asks; 64 bit: status at 40
    ctypes.CDLL(None).adjtimex(buffer)
    return not int.from_bytes(buffer.raw[40:44], "little") & STA_UNSYNC


def swarm(settings: Settings, engines: Mapping[str, Engine]) -> str:
    """Every host is a node of one Swarm, and none is out of it.

    Only a manager tells its Swarm's id; who the managers are, every node tells (`RemoteManagers` of the engine's `/info`).
    """
    if settings.cluster is None:
        raise NotChecked("one machine, which needs no Swarm")
    nodes = {host: engine.client.info()["Swarm"] for host, engine in engines.items()}
    if out := [
        f"{host} ({node['LocalNodeState']})"
        for host, node in nodes.items()
        if node["LocalNodeState"] != "active"
    ]:
        raise Failed(
            f"not in the Swarm: {', '.join(out)}",
            "`respawner-hub provision --limit HOST` lets it join again.",
        )
    swarms: list[tuple[set[str], list[str]]] = []
    """Managers' ids, and the hosts that know one of them."""
    for host, node in nodes.items():
        managers = {manager["NodeID"] for manager in node.get("RemoteManagers") or ()}
        if same := next((one for one in swarms if one[0] & managers), None):
            same[0].update(managers)
            same[1].append(host)
        else:
            swarms.append((managers, [host]))
    if len(swarms) > 1:
        raise Failed(
            f"the hosts are in {len(swarms)} Swarms: {' | '.join(', '.join(hosts) for _, hosts in swarms)}",
            "`docker swarm leave` on those that are in the wrong one, then `respawner-hub provision --limit HOST`.",
        )
    if silent := [host for host in settings.cluster.hosts if host not in nodes]:
        raise NotChecked(
            f"the engines of {', '.join(silent)} do not answer; {len(nodes)} of {len(settings.cluster.hosts)} hosts are active nodes"
        )
    return f"{len(nodes)} of {len(settings.cluster.hosts)} hosts are active nodes of one Swarm"


def proxy(settings: Settings) -> str:
    """The proxy's own API, with the token that the hub uses."""
    url = f"http://127.0.0.1:{settings.hub.proxy_api_port}/api/routes"
    session = requests.Session()
    session.trust_env = False
    try:
        answered = session.get(
            url, headers={"Authorization": f"token {proxy_token(settings.state_dir)}"}, timeout=30
        )
        answered.raise_for_status()
        routes = answered.json()
    except (requests.RequestException, ValueError) as error:
        nobody = isinstance(error, requests.ConnectionError)
        raise Failed(
            f"nothing answers at {url}"
            if nobody
            else f"the proxy does not answer as the hub asks it: {error}",
            f"`respawner-hub up`; its log is {settings.state_dir / 'log' / 'proxy.log'}.",
        ) from error
    return f"answers, {len(routes)} routes"


def hub(settings: Settings) -> str:
    """The hub's health page, the way that people take: through the proxy."""
    try:
        up.ask_hub(settings, 30)
    except OSError as error:
        raise Failed(
            f"{settings.url} does not answer: {error}",
            f"`respawner-hub up`; its log is {settings.state_dir / 'log' / 'hub.log'}.",
        ) from error
    return f"{settings.url} answers"


def agent(seen: Seen) -> str:
    """A host's agent, asked as the hub asks it."""
    if seen.cause or seen.answer is None:
        raise Failed(seen.cause, "`respawner-hub up`; on another host `systemctl restart respawner-agent`.")
    answer = seen.answer
    if answer.version != __version__:
        raise Failed(
            f"the agent of {answer.host} is version {answer.version}, this is {__version__}",
            "`respawner-hub up`, or `respawner-hub provision` for other hosts.",
        )
    if answer.report.stale:
        raise Failed(f"{answer.host}: {answer.report.stale}", "`dmesg | grep -i nvrm` there, then a reboot.")
    return f"the agent of {answer.host} answers, {len(answer.report.inventory.gpus)} GPUs"


def ports(settings: Settings, silent: Collection[str]) -> str:
    """A program that does not answer must not find its port taken by something else."""
    if not silent:
        return "held by this deployment's own programs"
    asked = set(silent)
    if "proxy" in asked:
        asked.discard("hub")  # it is asked through the proxy, and may well listen
    problems = list(preflight.port_problems(settings, asked))
    if "hub" in asked:
        # Not in preflight: before `up` has made the sessions' network, its gateway is no address of this machine.
        try:
            address = gateway.remembered(settings)
            if problem := preflight.port_problem("[hub] hub_api_port", address, settings.hub.hub_api_port):
                problems.append(problem)
        except gateway.NetworkError as error:
            problems.append(str(error))
    if problems:
        raise Failed("; ".join(problems))
    return f"free for {', '.join(one for one in silent if one in asked)}"


def network(settings: Settings, engine: Engine) -> str:
    """A container on the sessions' network reaches the hub's API, as a session must."""
    try:
        address = gateway.remembered(settings)
        # A worker knows an overlay only while a container is on it; the one below is.
        found = None if settings.cluster else engine.client.inspect_network(settings.network)
        here = gateway.gateway_of(settings, found) if found else address
    except docker.errors.NotFound as error:
        raise Failed(f"there is no network {settings.network!r}", "`respawner-hub up` makes it.") from error
    except gateway.NetworkError as error:
        raise Failed(str(error)) from error
    if here != address:
        raise Failed(f"its gateway is {here}, and the hub listens on {address}", "`respawner-hub up`.")
    hub = settings.hub
    url = f"http://{address}:{hub.hub_api_port}{hub.base_url}hub/api/"
    try:
        answer(engine, settings.image.name, [_REACH, url], network_mode=settings.network)
    except ContainerError as error:
        raise Failed(
            f"a container on the network {settings.network!r} does not reach the hub at {url}: {error}",
            "A firewall on this machine must let the sessions' network through to that port; between hosts it needs UDP "
            "4789 and TCP and UDP 7946, and protocol 50 where the overlay is encrypted.",
        ) from error
    return f"a container on it reaches the hub at {url}"


def storage(settings: Settings, engine: Engine) -> str:
    """A file that is written here is read by a container on the host."""
    if settings.cluster is None:
        raise NotChecked("one machine, whose sessions have Docker volumes")
    token = secrets.token_hex(8)
    file = settings.cluster.shared_dir / f".respawner-doctor-{token}"
    try:
        file.write_text(token)
    except OSError as error:
        raise Failed(f"{file.parent} cannot be written: {error}", "`mount | grep nfs` here.") from error
    try:
        folder = str(file.parent)
        said = answer(
            engine,
            settings.image.name,
            [_READ, str(file)],
            network_mode="none",
            binds={folder: {"bind": folder, "mode": "ro"}},
        )
    except ContainerError as error:
        raise Failed(
            f"what is written into {file.parent} here is not seen on the host: {error}",
            "The host's mount is another one or is gone: `respawner-hub provision --limit HOST`.",
        ) from error
    finally:
        file.unlink(missing_ok=True)
    if said != token:
        raise Failed(f"{file} holds {said!r} there and {token!r} here", "`mount | grep nfs` on the host.")
    return f"what is written into {file.parent} here is read there"
