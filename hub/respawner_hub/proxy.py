"""configurable-http-proxy, run apart from the hub so that a hub restart interrupts nobody."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from . import gateway, secrets, tls
from .settings import Settings
from .steps import Say


class ProxyMissing(Exception):
    """configurable-http-proxy is not installed."""


@dataclass(frozen=True)
class Certificate:
    certificate: Path
    key: Path


def ensure_certificate(settings: Settings, say: Say) -> Certificate | None:
    """The certificate of an opened hub, made where none is configured; None on loopback."""
    if not settings.hub.is_open:
        return None
    if settings.tls.certificate and settings.tls.key:
        chosen = Certificate(settings.folder / settings.tls.certificate, settings.folder / settings.tls.key)
        tls.check_certificate(chosen.certificate, chosen.key)
        return chosen
    names = settings.tls.names or [socket.gethostname(), socket.getfqdn(), "localhost", "127.0.0.1"]
    certificate, key, made = tls.ensure_self_signed(settings.state_dir / "tls", list(dict.fromkeys(names)))
    say(
        f"{'made' if made else 'using'} a self-signed certificate: browsers will warn. Set [tls] certificate and key for a real one."
    )
    return Certificate(certificate, key)


def fingerprint(settings: Settings, certificate: Certificate | None) -> str:
    """Changes when the proxy must be restarted. A restart cuts open connections, so nothing else is in it."""
    digest = hashlib.sha256(" ".join(_arguments(settings, certificate)).encode())
    if certificate:
        digest.update(certificate.certificate.read_bytes())
    return digest.hexdigest()


def execute(settings: Settings) -> None:
    """Become the proxy; does not return."""
    program = shutil.which("configurable-http-proxy")
    if program is None:
        raise ProxyMissing("configurable-http-proxy is not installed: `respawner-hub provision` installs it.")
    certificate = ensure_certificate(settings, lambda _: None)
    environment = {**os.environ, "CONFIGPROXY_AUTH_TOKEN": secrets.proxy_token(settings.state_dir)}
    os.execve(program, [program, *_arguments(settings, certificate)], environment)


def _arguments(settings: Settings, certificate: Certificate | None) -> list[str]:
    hub = settings.hub
    target = f"http://{gateway.remembered(settings)}:{hub.hub_api_port}"
    arguments = ["--ip", hub.bind, "--port", str(hub.port)]
    arguments += ["--api-ip", "127.0.0.1", "--api-port", str(hub.proxy_api_port)]
    arguments += ["--default-target", target, "--error-target", f"{target}{hub.base_url}hub/error"]
    if certificate:
        arguments += ["--ssl-cert", str(certificate.certificate), "--ssl-key", str(certificate.key)]
    return arguments
