"""`make up`: from a bare machine to a hub that answers, and again quickly when it does already."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import __version__, agent, gateway, images, local_engine, preflight, provision, proxy, secrets
from .auth.accounts import Accounts
from .settings import Settings
from .steps import step
from .supervision import ProcessError, Supervisor

HUB_START_SECONDS = 180


class BusyError(Exception):
    """Another `up` or `down` of the same deployment is running."""


def up(settings: Settings, settings_file: Path | None) -> None:
    """Bring the deployment up. Every step looks first and changes only what is missing."""
    started = time.monotonic()
    with _alone(settings):
        supervisor = Supervisor(settings.state_dir, settings.folder, settings_file)
        with step("Checking this machine"):
            preflight.check(settings, ours_runs=supervisor.is_running())
        with step("Packages of this machine (Docker, proxy), by Ansible") as say:
            provision.provision_local(settings.state_dir, say)
        with step("Docker engine") as say:
            client = local_engine.ensure_engine(settings, say)
        with step(f"Network of the sessions, {settings.network}") as say:
            made = gateway.ensure_network(settings, client)
            say(f"{'made' if made else 'already there'}, the hub is {gateway.remembered(settings)} on it")
        with step(f"Image of the sessions, {settings.image.name}") as say:
            _ensure_image(settings, say)
        with step("Kernel bundle") as say:
            say(images.ensure_bundle(settings.state_dir).name)
        with step("Secrets and accounts") as say:
            secrets.cookie_secret_file(settings.state_dir)
            secrets.proxy_token(settings.state_dir)
            secrets.agent_token_file(settings.state_dir)
            certificate = proxy.ensure_certificate(settings, say)
            code = _ensure_admin(settings)
        with step("Proxy, agent and hub") as say:
            supervisor.start()
            proxy_state = supervisor.ensure("proxy", proxy.fingerprint(settings, certificate))
            agent_state = supervisor.ensure("agent", agent.fingerprint(settings))
            # A new proxy has no routes; the hub gives it all of them when it starts.
            hub_state = supervisor.ensure("hub", _hub_fingerprint(settings), restart=proxy_state != "running")
            say(f"proxy {proxy_state}, agent {agent_state}, hub {hub_state}")
            _wait_until_answering(settings, supervisor)
    _print_welcome(settings, code, time.monotonic() - started)


def down(settings: Settings, settings_file: Path | None) -> None:
    """Stop hub, agent and proxy. Sessions, volumes, data and the engine stay as they are."""
    with _alone(settings), step("Stopping hub, agent and proxy") as say:
        supervisor = Supervisor(settings.state_dir, settings.folder, settings_file)
        say("stopped" if supervisor.stop() else "they were not running")
        say("sessions go on running: `make up` finds them again")


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    settings.state_dir.chmod(0o700)  # password hashes and logs are nobody else's business
    with open(settings.state_dir / "up.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"Another `up` or `down` works on {settings.state_dir}: wait until it has finished."
            ) from error
        yield


def _ensure_image(settings: Settings, say: images.Say) -> None:
    if not settings.image.build:
        say("not built here ([image] build is false)")
        return
    if not images.is_ours(settings.image.name):
        say(
            "not in images/versions.toml, so it is not built here: the engine has it, or pulls it at the first start"
        )
        return
    result = images.ensure_image(
        engine_host=settings.engine.host,
        image=settings.image.name,
        state_dir=settings.state_dir,
        torch=settings.image.torch,
        base=settings.image.base or None,
        log=say,
    )
    say(f"{'built' if result.built else 'already there'}, {result.size_bytes / 1e9:.2f} GB")


def _ensure_admin(settings: Settings) -> str | None:
    """Make the first admin's account; its one-time code, None when it exists already."""
    if settings.auth.method != "local":
        return None
    name = settings.auth.admins[0]
    store = accounts(settings)
    return None if store.get(name) else store.add(name, admin=True)


def accounts(settings: Settings) -> Accounts:
    """The local accounts of this deployment."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    return Accounts(
        settings.own_database_url,
        min_password_length=settings.auth.min_password_length,
        code_days=settings.auth.code_days,
    )


def _hub_fingerprint(settings: Settings) -> str:
    """Changes when the hub must be restarted to be what settings and code say."""
    digest = hashlib.sha256(settings.model_dump_json().encode())
    import respawner_spawner

    packages = [Path(__file__).parent, Path(respawner_spawner.__file__).parent]
    files = [file for folder in packages for file in sorted(folder.rglob("*.py"))]
    files += sorted((settings.folder / settings.hub.config_dir).glob("*.py"))
    for file in files:
        digest.update(file.read_bytes())
    digest.update(images.ensure_bundle(settings.state_dir).name.encode())
    return f"{__version__} {digest.hexdigest()}"


def ask_hub(settings: Settings, seconds: float = 5) -> None:
    """Ask for the hub's health page through the proxy.

    :raises OSError: it does not come (`urllib.error.URLError` is one).
    """
    context = ssl._create_unverified_context() if settings.hub.is_open else None  # noqa: S323  # our own certificate
    try:
        with urllib.request.urlopen(f"{settings.url}hub/health", timeout=seconds, context=context):  # noqa: S310
            return
    except http.client.HTTPException as error:
        raise OSError(f"what answers at {settings.url} does not speak HTTP: {error!r}") from error


def _wait_until_answering(settings: Settings, supervisor: Supervisor) -> None:
    """Ask for the hub's health page through the proxy until it comes."""
    deadline = time.monotonic() + HUB_START_SECONDS
    first = supervisor.pids()
    while time.monotonic() < deadline:
        try:
            return ask_hub(settings)
        except OSError:
            now = supervisor.pids()
        # The hub comes up without an agent; that one is started again, and its silence is shown.
        ended = [name for name in ("proxy", "hub") if now[name] != first[name]]
        if ended:
            raise supervisor.give_up(ended[0])
        time.sleep(0.2)
    raise ProcessError(
        f"{settings.url} did not answer within {HUB_START_SECONDS} s. {supervisor.log_tail('hub')}"
    )


def _print_welcome(settings: Settings, code: str | None, seconds: float) -> None:
    lines = ["", f"Respawner is up at {settings.url} ({seconds:.0f} s)."]
    if settings.auth.method == "local":
        admin = settings.auth.admins[0]
        lines.append(f"Admin: {admin}")
        if code:
            lines += [
                f"Set the password at {settings.url}hub/set-password with this one-time code: {code}",
                f"(valid {settings.auth.code_days} days, shown once; a new one: `respawner-hub user reset {admin}`)",
            ]
        else:
            lines.append(
                f"Password forgotten or never set: `respawner-hub user reset {admin}` gives a one-time code."
            )
        lines.append("More people: the page Accounts, or `respawner-hub user add NAME`.")
    if not settings.hub.is_open:
        lines.append('Only this machine can reach it. To open it: [hub] bind = "0.0.0.0" in respawner.toml.')
    print("\n".join(lines))  # noqa: T201
