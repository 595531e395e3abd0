"""`respawner-hub image test`: whether an image is fit for sessions, proven in a container made like a session's.

The checks are `images/test/inside.py`, which runs in there; this module makes the container, reads what the checks
say, and takes everything away again.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import docker.errors
import requests
from respawner import contract
from respawner_spawner import container_spec
from respawner_spawner.engine import Engine, EngineUnreachable
from respawner_spawner.image_facts import ImageFacts, image_facts
from respawner_spawner.volumes import fill_volumes

from .bundle import ensure_bundle
from .checkout import project_root
from .errors import ImageTestError
from .versions import Version, read_versions

SCRIPT = "/respawner-image-test.py"
SECONDS = 900


@dataclass(frozen=True)
class Check:
    """What one check found."""

    name: str
    state: Literal["ok", "failed", "absent", "skipped"]
    says: str
    next: str = ""
    seconds: float = 0.0


def prove_fit(
    engine: Engine,
    image: str,
    state_dir: Path,
    gpus: Sequence[str] = (),
    on_check: Callable[[Check], None] = lambda check: None,
    only: Sequence[str] = (),
) -> list[Check]:
    """Run every check in a fresh container of `image`, with the devices `gpus` (UUIDs); it is fit when none has failed.

    `on_check` sees each one when it is done. `only`: the names of those to run, all where it is empty.

    :raises ImageTestError: the engine does not have the image, refuses the container, or does not answer.
    """
    checks: list[Check] = []
    with asked(engine):
        try:
            facts = asyncio.run(image_facts(engine, image))
        except docker.errors.ImageNotFound as error:
            raise ImageTestError(
                f"{image} is not on the engine at {engine.host}: build it (`respawner-hub image build`) or pull it (`docker pull`)."
            ) from error
        row = read_versions(project_root() / "images").get(image)
        with _container(
            engine, facts, ensure_bundle(state_dir).resolve(), gpus, _wanted(row, gpus, only)
        ) as container:
            log = ""
            for line in _lines(engine, container):
                try:
                    check = Check(**json.loads(line))
                except (ValueError, TypeError):
                    log = line or log
                    continue
                checks.append(check)
                on_check(check)
            ended = engine.client.inspect_container(container)["State"]
    if broken := _unfinished(checks, ended, log):
        checks.append(broken)
        on_check(broken)
    return checks


@contextmanager
def asked(engine: Engine) -> Iterator[None]:
    """:raises ImageTestError: the engine has not answered what was asked in here, or with an error that nobody expects."""
    try:
        yield
    except (EngineUnreachable, requests.RequestException, docker.errors.DockerException) as error:
        raise ImageTestError(
            f"The engine at {engine.host} does not answer as it should: {error}. `respawner-hub doctor` says what is wrong."
        ) from error


def ensure_present(engine: Engine, image: str) -> bool:
    """Pull `image` where the engine does not have it; whether it was pulled.

    :raises ImageTestError: no registry gives it, or the engine does not answer.
    """
    with asked(engine):
        client = engine.client
        try:
            client.inspect_image(image)
            return False
        except docker.errors.ImageNotFound:
            pass
        try:
            client.pull(image)
            client.inspect_image(image)
            return True
        except docker.errors.APIError as error:
            raise ImageTestError(
                f"{image} is not on the engine at {engine.host} and cannot be pulled: {error.explanation or error}. Correct "
                "the name, or bring it there by hand (docker save, docker load)."
            ) from error


def _wanted(row: Version | None, gpus: Sequence[str], only: Sequence[str]) -> dict[str, Any]:
    """What the checks compare with."""
    return {
        "hub": version("jupyterhub"),
        "state_dir": contract.STATE_DIR,
        "bundle": contract.BUNDLE_DIR,
        "gpus": list(gpus),
        "only": list(only),
        "torch": row.torch if row else "",
        "cuda": row.cuda if row else "",
        "ssh": bool(row and "tools" in row.layers),
        "devel": bool(row and "devel" in row.layers),
    }


@contextmanager
def _container(
    engine: Engine, facts: ImageFacts, bundle: Path, gpus: Sequence[str], wanted: dict[str, Any]
) -> Iterator[str]:
    """A running container like a session's, without network, on volumes of its own; all of it is removed at the end."""
    name = f"respawner-image-test-{secrets.token_hex(4)}"
    session = container_spec.Session(
        deployment=name,
        holder="",
        user="image-test",
        server="",
        image=facts,
        home_volume=f"{name}-home",
        snapshot_volume=f"{name}-snapshots",
        bundle=bundle,
        gpus=gpus,
    )
    client = engine.client
    host = container_spec.host_config(session) | {
        "binds": container_spec.binds(session),
        "network_mode": "none",
    }
    arguments = container_spec.create_arguments(session, ["python3", SCRIPT, json.dumps(wanted)])
    arguments["labels"] = {
        "org.respawner.image-test": name
    }  # none of a session's: nobody may take it for one
    script = (project_root() / "images" / "test" / "inside.py").read_bytes()
    container = ""
    try:
        container = client.create_container(
            name=name, host_config=client.create_host_config(**host), **arguments
        )["Id"]
        folders = (facts.home, contract.STATE_DIR)
        asyncio.run(fill_volumes(engine, container, folders, {SCRIPT: script}, facts.uid, facts.gid))
        client.start(container)
        yield container
    except docker.errors.APIError as error:
        raise ImageTestError(
            f"No container of {facts.name} could be started: {error.explanation or error}. If python3 is not found, the image "
            "has none on its PATH: no kernel can run in it."
        ) from error
    finally:
        with suppress(docker.errors.NotFound):
            client.remove_container(container or name, force=True)
        for volume in (session.home_volume, session.snapshot_volume):
            with suppress(docker.errors.NotFound):
                client.remove_volume(volume, force=True)


def _lines(engine: Engine, container: str) -> Iterator[str]:
    """What the container prints, line by line, until it ends or has run for `SECONDS`."""
    deadline, seen = time.monotonic() + SECONDS, 0
    running = True
    while running and time.monotonic() < deadline:
        time.sleep(0.5)
        running = engine.client.inspect_container(container)["State"]["Running"]
        lines = engine.client.logs(container).decode(errors="replace").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n") or not running]
        yield from (line.strip() for line in whole[seen:])
        seen = len(whole)


def _unfinished(checks: Sequence[Check], state: dict[str, Any], last_line: str) -> Check | None:
    """The failure of a container that ended before its last check."""
    if state["ExitCode"] == 0 and checks and not state["Running"]:
        return None
    killed = "out of memory" if state.get("OOMKilled") else f"status {state['ExitCode']}"
    if state["Running"]:
        killed = f"not within {SECONDS} s"
    after = f"after the check {checks[-1].name!r}" if checks else "before the first check"
    return Check(
        "container",
        "failed",
        f"the container ended {after} ({killed}): {last_line or 'it says nothing'}",
        "Its python3 must be 3.10 or newer, and an ENTRYPOINT must run the command that it is given.",
    )
