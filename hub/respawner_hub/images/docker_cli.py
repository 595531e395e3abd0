"""A Docker client that can build with BuildKit, and the few questions asked of the engine.

The client and not docker-py: BuildKit speaks a protocol of its own that docker-py has not got.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import EngineUnreachableError, NoBuilderError

BUILDKIT = {"DOCKER_BUILDKIT": "1", "BUILDX_BUILDER": "default"}
"""BuildKit of the engine itself: another builder of the admin's would keep the image to itself."""


@dataclass(frozen=True)
class ImageInfo:
    image_id: str
    size_bytes: int
    labels: Mapping[str, str]


@dataclass(frozen=True)
class DockerCli:
    """One client program and the engine it talks to."""

    program: str
    engine_host: str

    def command(self, *arguments: str) -> list[str]:
        return [self.program, "--host", self.engine_host, *arguments]

    def inspect(self, image: str) -> ImageInfo | None:
        """What the engine has under this name, or None."""
        done = self._ask("image", "inspect", "--format", "{{json .}}", image)
        if done.returncode != 0:
            return None
        fields = json.loads(done.stdout)
        return ImageInfo(fields["Id"], fields["Size"], fields["Config"].get("Labels") or {})

    def pull(self, image: str, timeout_seconds: float) -> str | None:
        """Pull `image`; None when it came, else why not."""
        try:
            done = self._ask("pull", "--quiet", image, timeout_seconds=timeout_seconds)
        except subprocess.TimeoutExpired:
            return f"nothing came within {timeout_seconds:.0f} s"
        return None if done.returncode == 0 else done.stderr.strip()

    def remove_unused(self, image_id: str) -> None:
        """Remove an image that lost its name, unless a container or another name still holds it."""
        self._ask("image", "rm", image_id)

    def data_folder(self) -> Path | None:
        """Where the engine keeps its images, if that is a folder of this machine."""
        folder = self._ask("info", "--format", "{{.DockerRootDir}}").stdout.strip()
        is_here = self.engine_host.startswith("unix://") and folder and Path(folder).is_dir()
        return Path(folder) if is_here else None

    def check_reachable(self) -> None:
        try:
            done = self._ask("version", "--format", "{{.Server.Version}}")
            reason = "" if done.returncode == 0 else done.stderr.strip() or f"status {done.returncode}"
        except subprocess.TimeoutExpired as error:
            reason = f"nothing came within {error.timeout:.0f} s"
        if reason:
            raise EngineUnreachableError(
                f"No Docker engine answers at {self.engine_host}: {reason}\n"
                "Start it (systemctl start docker, or `make up`, which starts one), or correct the "
                "engine's address in respawner.toml."
            )

    def _ask(self, *arguments: str, timeout_seconds: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=timeout_seconds, check=False
        )


def find_docker_cli(engine_host: str) -> DockerCli:
    """The first client on PATH that has BuildKit: a newer one without its buildx plugin builds nothing."""
    tried = []
    for program in _clients_on_path():
        probe = subprocess.run(
            [program, "build", "--help"],
            env={**os.environ, **BUILDKIT},
            capture_output=True,
            text=True,
            check=False,
        )
        if probe.returncode == 0:
            return DockerCli(program, engine_host)
        tried.append(f"{program}: {(probe.stderr.strip() or 'it says nothing').splitlines()[0]}")
    found = "\n".join(tried) or "there is no docker on PATH"
    raise NoBuilderError(
        f"No Docker client here can build images with BuildKit:\n{found}\n"
        "Install one with apt-get install docker-cli (or docker-buildx beside the client you have)."
    )


def _clients_on_path() -> list[str]:
    folders = [*os.get_exec_path(), "/usr/bin"]  # /usr/bin: a service's PATH may be short
    candidates = [str(Path(folder) / "docker") for folder in folders]
    return [program for program in dict.fromkeys(candidates) if os.access(program, os.X_OK)]
