"""One Docker engine for all tests that need one, with the user image on it.

The engine named by DOCKER_HOST or the machine's own is used where it answers, so that a developer builds the
image once (RESPAWNER_TEST_IMAGE names one to be used as it is). Where none runs, as in CI, the product's own functions install and start one in a temporary folder,
and it is stopped at the end. A missing piece fails the tests: only missing hardware skips them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import docker
import hypothesis
import pytest
from respawner_hub import images, local_engine, provision
from respawner_hub.settings import Settings

ARTIFACTS = Path(__file__).parent / "artifacts"
DEFAULT_HOST = "unix:///var/run/docker.sock"

# An example takes as long as a busy machine lets it.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """Decide on the engine's address before test modules are imported: some read DOCKER_HOST."""
    config.respawner_engine = None
    host = os.environ.get("DOCKER_HOST", DEFAULT_HOST)
    if not _answers(host):
        folder = Path(tempfile.mkdtemp(prefix="rst-engine-"))  # short: it holds Unix sockets
        config.respawner_engine = folder
        host = f"unix://{folder / 'docker.sock'}"
    os.environ["DOCKER_HOST"] = host


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for the engine needs it: it has to run when they do."""
    for item in items:
        if "docker" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.docker)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the engine and build the image if a selected test needs them."""
    if session.config.option.collectonly:
        return
    if any(item.get_closest_marker("docker") for item in session.items):
        report = session.config.get_terminal_writer().line
        try:
            _prepare(_settings(session.config), report)
        except (provision.ProvisionError, local_engine.EngineError, images.ImageError) as error:
            pytest.exit(f"no engine or image for the tests: {error}", returncode=3)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the engine if it is ours; its log stays in the artifacts."""
    folder = getattr(config, "respawner_engine", None)
    if folder is None:
        return
    local_engine.stop_engine(_settings(config))
    log = folder / "state" / "log"
    if log.exists():
        shutil.copytree(log, ARTIFACTS / "logs" / "engine", dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _settings(config: pytest.Config) -> Settings:
    folder = config.respawner_engine
    values: dict[str, object] = {"engine": {"host": os.environ["DOCKER_HOST"]}}
    if image := os.environ.get("RESPAWNER_TEST_IMAGE"):
        values["image"] = {"name": image, "build": False}
    if folder:
        values["engine"]["data_dir"] = folder / "docker"
    state = folder / "state" if folder else ARTIFACTS / "state"
    return Settings.model_validate({**values, "hub": {"state_dir": state}})


def _prepare(settings: Settings, report) -> None:
    report("")
    provision.provision_local(settings.state_dir, report)
    local_engine.ensure_engine(settings, report)
    if not settings.image.build:
        return
    images.ensure_image(
        engine_host=settings.engine.host,
        image=settings.image.name,
        state_dir=settings.state_dir,
        torch=settings.image.torch,
        base=None,
        log=report,
    )


def _answers(host: str) -> bool:
    try:
        return bool(docker.APIClient(base_url=host, version="auto").ping())
    except (docker.errors.DockerException, OSError):
        return False
