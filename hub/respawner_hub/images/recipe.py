"""What an image is made of, as one hash: the same recipe is never built twice."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version as installed_version
from pathlib import Path

from .versions import Version, read_versions, slug, version_of


@dataclass(frozen=True)
class Debian:
    """A release of Debian, the Python in it, and its glibc: wheels are chosen for them, whatever the host has."""

    suite: str
    python_full: str
    glibc_minor: int


DEBIANS = {"3.11": Debian("bookworm", "3.11.2", 36), "3.13": Debian("trixie", "3.13.5", 41)}

IMAGE_LABEL = "org.respawner.image"
"""The name that we built an image under. An image that an admin built on ours inherits all labels, and is
known by its other name."""

RECIPE_LABEL = "org.respawner.recipe"
ENVIRONMENT_LABEL = "org.respawner.environment"
BASE_LABEL = "org.respawner.base"

GPU_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the image contains."""

    files: dict[str, str]
    """Content by path below `images/`."""
    torch: str
    """`cpu`, `cuda` or a version."""
    base: str | None
    jupyterhub: str
    version: Version
    debian: Debian

    @property
    def python(self) -> str:
        """For example `3.11`."""
        return self.version.python

    @property
    def digest(self) -> str:
        whole = asdict(self) | {"version": self.version.model_dump()}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def packages(self) -> list[str]:
        return parse_lines(self.files["base/packages.txt"])

    def requirements(self, layer: str) -> list[str]:
        if layer == "torch":
            return [f"torch=={self.version.torch}"]
        lines = parse_lines(self.files[f"notebook/requirements/{layer}.txt"])
        # the single-user server refuses a hub of another minor version
        return [*lines, f"jupyterhub=={self.jupyterhub}"] if layer == "jupyter" else lines

    def sources(self, layer: str) -> list[str]:
        """What the layer needs as source, with hashes."""
        return parse_lines(self.files.get(f"notebook/requirements/{layer}.source.txt", ""))

    def lock(self, layer: str) -> str | None:
        """The layer's lock file: wheels with hashes."""
        return next(
            (
                text
                for name, text in self.files.items()
                if name.startswith("locks/") and name.endswith(f"/{layer}.txt")
            ),
            None,
        )


def read_recipe(images: Path, torch: str, base: str | None, name: str | None = None) -> Recipe:
    """The recipe of the image `name` (default: the first one) as the folder `images/` has it now.

    `torch` is `auto` for what the table says, else `cpu`, `cuda` or a version.

    :raises VersionsError: see `versions`.
    """
    name = name or next(iter(read_versions(images)))
    version = version_of(images, name)
    needed = [
        "base/packages.txt",
        "notebook/Dockerfile",
        "notebook/overrides.json",
        "notebook/session-environment.sh",
        *(f"notebook/requirements/{layer}.txt" for layer in version.layers if layer != "torch"),
    ]
    optional = [f"notebook/requirements/{layer}.source.txt" for layer in version.layers]
    optional += [lock_name(name, layer) for layer in version.layers]
    files = needed + [path for path in optional if (images / path).exists()]
    return Recipe(
        files={path: (images / path).read_text(encoding="utf-8") for path in files},
        torch=choose_torch(version.build if torch == "auto" else torch),
        base=base or None,
        jupyterhub=installed_version("jupyterhub"),
        version=version,
        debian=DEBIANS[version.python],
    )


def without_locks(recipe: Recipe) -> Recipe:
    """The same recipe, whose wheels are resolved anew."""
    return replace(
        recipe, files={path: text for path, text in recipe.files.items() if not path.startswith("locks/")}
    )


def lock_name(image: str, layer: str) -> str:
    """Path of a lock file below `images/`."""
    return f"locks/{slug(image)}/{layer}.txt"


def choose_torch(torch: str, gpu_driver: Path = GPU_DRIVER) -> str:
    """`auto` means the CUDA build where NVIDIA's driver is loaded, else the CPU build."""
    if torch != "auto":
        return torch
    return "cuda" if gpu_driver.exists() else "cpu"


def parse_lines(text: str) -> list[str]:
    """The entries of a list file: one a line, `#` starts a comment."""
    entries = (line.split("#")[0].strip() for line in text.splitlines())
    return [entry for entry in entries if entry]
