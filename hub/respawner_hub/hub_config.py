"""From our settings to JupyterHub's: one function a concern."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

from . import gateway, secrets
from .auth import external
from .auth.local import LocalAccountsAuthenticator
from .engines import engines_of
from .gpus.agents import agents_of
from .gpus.form import options_from_form, spawn_form
from .gpus.rounds import policy_of, run_round
from .gpus.scopes import CLI_SCOPES, CLI_SERVICE, SCHEDULER_SCOPES, SCHEDULER_SERVICE, SCOPES
from .images import ensure_bundle, offered
from .settings import SETTINGS_ENV, Settings

METRICS_SERVICE = "respawner-metrics"
TEMPLATES = Path(__file__).parent / "templates"


def configure(c: Any, settings: Settings) -> None:
    """Fill traitlets' configuration object. Asks the engine for the session network's gateway address."""
    _hub(c, settings)
    _proxy(c, settings)
    _authentication(c, settings)
    _spawner(c, settings)
    _gpus(c, settings)


def _hub(c: Any, settings: Settings) -> None:
    hub = settings.hub
    address = gateway.remembered(settings)
    c.JupyterHub.bind_url = f"http://{hub.bind}:{hub.port}{hub.base_url}"
    # Sessions and proxy reach the hub's API on the gateway of the sessions' own network.
    c.JupyterHub.hub_bind_url = f"http://{address}:{hub.hub_api_port}"
    c.JupyterHub.hub_connect_url = f"http://{address}:{hub.hub_api_port}"
    c.JupyterHub.db_url = settings.hub_database_url
    c.JupyterHub.cookie_secret_file = str(secrets.cookie_secret_file(settings.state_dir))
    c.JupyterHub.template_paths = [str(TEMPLATES)]
    c.JupyterHub.log_level = hub.log_level
    # A hub that stops leaves proxy and sessions alone: a restart interrupts nobody.
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.cleanup_proxy = False


def _proxy(c: Any, settings: Settings) -> None:
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{settings.hub.proxy_api_port}"
    c.ConfigurableHTTPProxy.auth_token = secrets.proxy_token(settings.state_dir)


def _authentication(c: Any, settings: Settings) -> None:
    auth = settings.auth
    if auth.method == "local":
        c.JupyterHub.authenticator_class = LocalAccountsAuthenticator
        c.LocalAccountsAuthenticator.database_url = settings.own_database_url
        c.LocalAccountsAuthenticator.min_password_length = auth.min_password_length
        c.LocalAccountsAuthenticator.code_days = auth.code_days
        return
    getattr(external, f"configure_{auth.method}")(c, getattr(auth, auth.method))
    c.Authenticator.admin_users = set(auth.admins)
    c.Authenticator.allowed_users = set(auth.allowed_users)
    c.Authenticator.allow_all = auth.allow_all


def _spawner(c: Any, settings: Settings) -> None:
    session = settings.session
    c.JupyterHub.spawner_class = "respawner"
    spawner = c.GPUDockerSpawner
    spawner.deployment = settings.hub.name
    spawner.engine_host = settings.engine.host
    spawner.database_url = settings.own_database_url
    spawner.network_name = settings.network
    spawner.image = settings.image.name
    # On the class that has it: whoever sets it in jupyterhub_config.d on either class is heard.
    c.DockerSpawner.allowed_images = functools.partial(
        offered.choices, settings.state_dir, settings.image.name
    )
    spawner.bundle = str(ensure_bundle(settings.state_dir))
    spawner.cpu_limit = session.cpu_limit or None
    spawner.mem_limit = session.mem_limit_bytes(_machine_bytes())
    spawner.pids_limit = session.pids_limit
    spawner.shm_size = session.shm_size
    spawner.gpus = session.gpus
    spawner.max_gpus = session.max_gpus
    spawner.cap_add = session.cap_add
    spawner.environment = session.environment
    spawner.start_timeout = session.start_timeout_seconds
    spawner.http_timeout = session.http_timeout_seconds
    spawner.stop_grace_seconds = session.stop_grace_seconds
    spawner.options_form, spawner.options_from_form = spawn_form, options_from_form
    spawner.schedule = functools.partial(run_round, policy=policy_of(settings.gpus))
    spawner.poll_interval = 10
    if cluster := settings.cluster:
        spawner.hosts = {host: cluster.engine(host) for host in cluster.hosts}
        spawner.engine_tls_dir = str(cluster.tls_dir)
        # Folders and not volumes: a volume is one host's.
        spawner.home_volume = f"{cluster.shared_dir}/{{username}}/home"
        spawner.snapshot_volume = f"{cluster.shared_dir}/{{username}}/snapshots"
    spawner.default_url = "/lab"


def _gpus(c: Any, settings: Settings) -> None:
    c.RespawnerHub.deployment = settings.hub.name
    c.RespawnerHub.ledger_url = settings.own_database_url
    c.RespawnerHub.engines = functools.partial(engines_of, settings)
    c.RespawnerHub.gpus = settings.gpus
    c.RespawnerHub.agents = agents_of(settings)
    c.RespawnerHub.max_gpus = settings.session.max_gpus
    c.RespawnerHub.default_gpus = settings.session.gpus


def add_services(c: Any, settings: Settings, settings_file: Path | None) -> None:
    """The scheduler, and what the command line and Prometheus may. After the escape hatch, which often sets the same lists
    anew."""
    c.JupyterHub.custom_scopes.update(SCOPES)
    for name, granted in (
        (SCHEDULER_SERVICE, SCHEDULER_SCOPES),
        (CLI_SERVICE, CLI_SCOPES),
        (METRICS_SERVICE, ["read:metrics"]),
    ):
        c.JupyterHub.load_roles.append({"name": name, "scopes": granted, "services": [name]})
    environment = _own_environment()
    if settings_file:
        environment[SETTINGS_ENV] = str(settings_file)
    scheduler = {
        "name": SCHEDULER_SERVICE,
        "command": [sys.executable, "-m", "respawner_hub.gpus.service"],
        "environment": environment,
        "cwd": str(settings.folder.absolute()),
        "display": False,
    }
    cli = {"name": CLI_SERVICE, "api_token": secrets.gpu_token(settings.state_dir), "display": False}
    token = secrets.metrics_token(settings.state_dir)
    metrics = {"name": METRICS_SERVICE, "api_token": token, "display": False}
    c.JupyterHub.services.extend([scheduler, cli, metrics])


def _own_environment() -> dict[str, str]:
    """The hub's own: JupyterHub starts services with hardly any of it."""
    private = ("JUPYTERHUB_", "CONFIGPROXY_")
    return {name: value for name, value in os.environ.items() if not name.startswith(private)}


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
