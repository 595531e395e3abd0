"""What an image is made of, as one hash: the same recipe is never built twice."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

SUITE = "bookworm"
"""The Debian release below the user image."""

PYTHON_FULL = "3.11.2"
"""The Python of `SUITE`: wheels are chosen for it, whatever Python the hub runs on."""

IMAGE_LABEL = "org.respawner.image"
"""The name that we built an image under. An image that an admin built on ours inherits all labels, and is
known by its other name."""

RECIPE_LABEL = "org.respawner.recipe"
ENVIRONMENT_LABEL = "org.respawner.environment"
BASE_LABEL = "org.respawner.base"

LAYERS = ("torch", "scientific", "jupyter")
"""Layers of wheels, bottom first: `images/notebook/requirements/<layer>.txt`."""

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
    python_full: str = PYTHON_FULL
    suite: str = SUITE

    @property
    def python(self) -> str:
        """For example `3.11`."""
        return ".".join(self.python_full.split(".")[:2])

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def packages(self) -> list[str]:
        return parse_lines(self.files["base/packages.txt"])

    def requirements(self, layer: str) -> list[str]:
        lines = parse_lines(self.files[f"notebook/requirements/{layer}.txt"])
        # the single-user server refuses a hub of another minor version
        return [*lines, f"jupyterhub=={self.jupyterhub}"] if layer == "jupyter" else lines


def read_recipe(images: Path, torch: str, base: str | None) -> Recipe:
    """The recipe as the folder `images/` has it now. `torch` may be `auto`."""
    names = [
        "base/packages.txt",
        "notebook/Dockerfile",
        "notebook/overrides.json",
        *(f"notebook/requirements/{layer}.txt" for layer in LAYERS),
    ]
    return Recipe(
        files={name: (images / name).read_text(encoding="utf-8") for name in names},
        torch=choose_torch(torch),
        base=base or None,
        jupyterhub=version("jupyterhub"),
    )


def choose_torch(torch: str, gpu_driver: Path = GPU_DRIVER) -> str:
    """`auto` means the CUDA build where NVIDIA's driver is loaded, else the CPU build."""
    if torch != "auto":
        return torch
    return "cuda" if gpu_driver.exists() else "cpu"


def parse_lines(text: str) -> list[str]:
    """The entries of a list file: one a line, `#` starts a comment."""
    entries = (line.split("#")[0].strip() for line in text.splitlines())
    return [entry for entry in entries if entry]
