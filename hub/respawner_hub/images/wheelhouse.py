"""Wheels for the image, resolved on the host with the host's own pip settings (indexes, proxy, CA).

So the build itself needs no network. One folder a layer, and each holds only what the layers below it
do not; the layers are resolved bottom up, the lower ones as constraints for the next, so that a change
of Jupyter's requirements leaves the folder of torch, and with it the image's largest layer, untouched.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..steps import Say
from .closure import open_requirements
from .errors import WheelsError
from .process import CommandError, run_logged
from .recipe import LAYERS, Recipe

GLIBC_MINOR = 36
"""glibc 2.36 is Debian bookworm's: newer manylinux wheels would not load."""

CUDA_BUILD_NOTE = (
    "no index that pip knows has the CPU build {cpu}: taking {plain}, the CUDA build of about 3 GB. "
    "To get the CPU build, give pip PyTorch's CPU index (see PyTorch's installation page): "
    "pip config set global.extra-index-url URL"
)


@dataclass(frozen=True)
class Wheelhouse:
    """`folder/<layer>/*.whl`, complete for the recipe that it was made for."""

    folder: Path
    resolved: bool
    """Whether pip was asked; False when every layer was there already."""

    def wheels(self, layer: str) -> list[Path]:
        return sorted((self.folder / layer).glob("*.whl"))

    @property
    def torch_version(self) -> str:
        """For example `2.13.0+cpu`."""
        return next(
            wheel.name.split("-")[1] for wheel in self.wheels("torch") if wheel.name.startswith("torch-")
        )


def ensure_wheels(
    recipe: Recipe, folder: Path, log_file: Path, log: Say, before_cuda: Callable[[], None]
) -> Wheelhouse:
    """Every layer's wheels below `folder`; a layer whose requirements did not change is left as it is.

    `before_cuda` is called before several GB of CUDA wheels are downloaded, and may raise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key, resolved = f"{recipe.python} {platform.machine()}", False
    below: list[Path] = []
    for layer in LAYERS:
        requirements = recipe.requirements(layer)
        if layer == "torch":
            requirements = [recipe.torch, *requirements]
        key = hashlib.sha256(json.dumps([key, requirements]).encode()).hexdigest()
        if not _is_complete(folder, layer, key):
            _fill_layer(recipe, folder, layer, key, below, log_file, log, before_cuda)
            resolved = True
        below.append(folder / layer)
    return Wheelhouse(folder, resolved)


def torch_requirement(choice: str, pinned: str) -> tuple[str, str | None]:
    """What to ask pip for, and what to ask for instead where that is not to be had.

    `choice` is `cpu`, `cuda` or a version, `pinned` the line `torch==X` of the requirements.
    """
    plain = pinned.split("==")[1]
    if choice == "cpu":
        return f"torch=={plain}+cpu", f"torch==={plain}"
    if choice == "cuda":
        return f"torch==={plain}", None  # === : "==" would also take a build with a local version, +cpu
    return f"torch=={choice}", None


def _fill_layer(
    recipe: Recipe,
    folder: Path,
    layer: str,
    key: str,
    below: list[Path],
    log_file: Path,
    log: Say,
    before_cuda: Callable[[], None],
) -> None:
    """Download one layer into a temporary folder and rename it last, so that an interrupted one is no layer."""
    target, temporary, record = folder / layer, folder / f".{layer}.tmp", folder / f"{layer}.json"
    record.unlink(missing_ok=True)
    for leftover in (target, temporary):
        shutil.rmtree(leftover, ignore_errors=True)
    requirements = recipe.requirements(layer)
    if layer == "torch":
        _download_torch(recipe, requirements, temporary, log_file, log, before_cuda)
    else:
        _download(recipe, requirements, temporary, below, log_file)
    known = {wheel.name for lower in below for wheel in lower.glob("*.whl")}
    for wheel in temporary.iterdir():
        if wheel.name in known:
            wheel.unlink()
    temporary.rename(target)
    sizes = {wheel.name: wheel.stat().st_size for wheel in sorted(target.glob("*.whl"))}
    record.write_text(json.dumps({"key": key, "wheels": sizes}, indent=1), encoding="utf-8")


def _download_torch(
    recipe: Recipe,
    requirements: list[str],
    target: Path,
    log_file: Path,
    log: Say,
    before_cuda: Callable[[], None],
) -> None:
    pinned = next(line for line in requirements if line.startswith("torch=="))
    others = [line for line in requirements if line != pinned]
    wanted, instead = torch_requirement(recipe.torch, pinned)
    if recipe.torch != "cpu":
        before_cuda()
    try:
        _download(recipe, [wanted, *others], target, [], log_file)
    except WheelsError as error:
        if instead is None or "No matching distribution found for torch" not in str(error):
            raise
        log("wheels: " + CUDA_BUILD_NOTE.format(cpu=wanted, plain=instead))
        before_cuda()
        _download(recipe, [instead, *others], target, [], log_file)


def _download(
    recipe: Recipe, requirements: list[str], target: Path, below: list[Path], log_file: Path
) -> None:
    """Fill `target` with the closure of `requirements`, wheels of `below` included."""
    asked = list(requirements)
    while True:
        _pip_download(recipe, asked, target, below, log_file)
        still_open = open_requirements(requirements, sorted(target.glob("*.whl")), recipe.python_full)
        if not still_open:
            return
        if set(still_open) <= set(asked):
            raise WheelsError(f"pip downloaded no wheel for {', '.join(still_open)}; all output: {log_file}")
        asked += still_open


def _pip_download(
    recipe: Recipe, requirements: list[str], target: Path, below: list[Path], log_file: Path
) -> None:
    target.mkdir(exist_ok=True)
    command = [*_pip(), "download", "--only-binary", ":all:", "--dest", str(target), *_tags(recipe.python)]
    constraints = target.with_suffix(".constraints")
    pins = [_pin(wheel) for lower in below for wheel in sorted(lower.glob("*.whl"))]
    constraints.write_text("\n".join(pins) + "\n", encoding="utf-8")
    for lower in below:
        command += ["--find-links", str(lower)]
    try:
        run_logged([*command, "--constraint", str(constraints), *requirements], log_file)
    except CommandError as error:
        raise WheelsError(
            f"pip could not download the image's packages ({', '.join(requirements)}):\n{error.tail}\n"
            f"Check pip's settings on this machine (pip config list) and the network; all output: {log_file}"
        ) from error
    finally:
        constraints.unlink(missing_ok=True)


def _pip() -> list[str]:
    """This Python's pip, or any: the wheels are chosen by tags and not by the Python that runs pip."""
    if find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if program := shutil.which("pip3") or shutil.which("pip"):
        return [program]
    raise WheelsError("There is no pip on this machine: apt-get install python3-pip")


def _tags(python: str) -> list[str]:
    """Choose wheels for the image's Python and glibc.

    Not needed where this Python is the image's on the same Debian, and harmless there.
    """
    machine = platform.machine()
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC_MINOR, 4, -1)]
    platforms += [
        f"manylinux2014_{machine}",
        f"manylinux2010_{machine}",
        f"manylinux1_{machine}",
        f"linux_{machine}",
    ]
    arguments = ["--python-version", python, "--implementation", "cp"]
    for tag in platforms:
        arguments += ["--platform", tag]
    return arguments


def _pin(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return f"{name}=={version}"


def _is_complete(folder: Path, layer: str, key: str) -> bool:
    try:
        record = json.loads((folder / f"{layer}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    present = {wheel.name: wheel.stat().st_size for wheel in (folder / layer).glob("*.whl")}
    return record["key"] == key and record["wheels"] == present
