"""Wheels for the image, resolved on the host with the host's own pip settings (indexes, proxy, CA).

So the build itself needs no network. One folder a layer, and each holds only what the layers below it
do not; the layers are resolved bottom up, the lower ones as constraints for the next, so that a change
of Jupyter's requirements leaves the folder of torch, and with it the image's largest layer, untouched.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
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
from .recipe import Recipe

FOLDERS = ("nvidia", "torch", "scientific", "jupyter", "tools", "devel")
"""Folders of wheels, a layer of the image each, bottom first. torch's CUDA libraries have one of their own: releases
of torch that want the same ones share it."""

SOURCE_DATE_EPOCH = "315532800"
"""1980, the first year that a wheel can name: the same source gives the same bytes."""

CUDA_BUILD_NOTE = (
    "no index that pip knows has the CPU build {cpu}: taking {plain}, the CUDA build of about 3 GB. "
    "To get the CPU build, give pip PyTorch's CPU index (see PyTorch's installation page): "
    "pip config set global.extra-index-url URL"
)


@dataclass(frozen=True)
class Wheelhouse:
    """`folder/<layer>/*.whl`, complete for the recipe that it was made for; a folder that it does not use is empty."""

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

    A layer with a lock that fits its requirements gets exactly the wheels of the lock. `before_cuda` is called before
    several GB of CUDA wheels are downloaded, and may raise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    resolved = False
    below: list[Path] = []
    for layer, key in layer_keys(recipe).items():
        if not _is_complete(folder, layer, key):
            _fill_layer(recipe, folder, layer, key, below, log_file, log, before_cuda)
            resolved = True
        below += [folder / name for name in _folders_of(layer)]
    for unused in (folder / name for name in FOLDERS):
        if unused not in below:
            shutil.rmtree(unused, ignore_errors=True)
            unused.mkdir()
    return Wheelhouse(folder, resolved)


def layer_keys(recipe: Recipe) -> dict[str, str]:
    """For each layer a hash of what decides its wheels: everything that it and the layers below ask for."""
    keys = {}
    key = (
        f"{recipe.debian.python_full} {recipe.debian.glibc_minor} {platform.machine()} {recipe.version.pins}"
    )
    for layer in recipe.version.layers:
        asked = [
            recipe.torch if layer == "torch" else "",
            *recipe.requirements(layer),
            *recipe.sources(layer),
        ]
        keys[layer] = key = hashlib.sha256(json.dumps([key, asked]).encode()).hexdigest()
    return keys


def write_locks(recipe: Recipe, wheels: Wheelhouse, folder: Path, image: str) -> list[Path]:
    """Write down which wheels each layer has, with hashes, as `folder/<layer>.txt`; they are what is built from now on."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for layer, key in layer_keys(recipe).items():
        built_here = {_normalized(line.split("==")[0]) for line in recipe.sources(layer)}
        lines = [
            f"# Wheels of {image}, layer {layer}; `respawner-hub image build {image} --lock` writes this file.",
            f"# key: {key}",
        ]
        for wheel in (wheel for name in _folders_of(layer) for wheel in wheels.wheels(name)):
            if _normalized(wheel.name.split("-")[0]) not in built_here:
                # === : "==" would also take a build with a local version, +cpu
                name, version = wheel.name.split("-")[:2]
                lines.append(f"{name}==={version} --hash=sha256:{file_hash(wheel)}")
        file = folder / f"{layer}.txt"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        written.append(file)
    return written


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    temporary, sources = folder / f".{layer}.tmp", folder / f".{layer}.sources"
    targets = [folder / name for name in _folders_of(layer)]
    _record(folder, layer).unlink(missing_ok=True)
    for leftover in (*targets, temporary, sources):
        shutil.rmtree(leftover, ignore_errors=True)
    if recipe.sources(layer):
        _build_sources(recipe, layer, sources, log_file)
    given = [*below, *([sources] if sources.exists() else [])]
    if lock := _fitting_lock(recipe, layer, key, log):
        if layer == "torch" and recipe.torch != "cpu":
            before_cuda()
        _download_locked(recipe, lock, temporary, sources, log_file)
    elif layer == "torch":
        _download_torch(recipe, recipe.requirements(layer), temporary, log_file, log, before_cuda)
    else:
        _download(recipe, recipe.requirements(layer), temporary, given, log_file)
    shutil.rmtree(sources, ignore_errors=True)
    known = {wheel.name for lower in below for wheel in lower.glob("*.whl")}
    for target in targets[:-1]:
        target.mkdir()
    for wheel in list(temporary.iterdir()):
        if wheel.name in known:
            wheel.unlink()
        elif layer == "torch" and wheel.name.startswith(("nvidia_", "cuda_")):
            wheel.rename(folder / "nvidia" / wheel.name)
    temporary.rename(targets[-1])
    record = {"key": key, "wheels": _sizes(folder, layer)}
    _record(folder, layer).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _folders_of(layer: str) -> tuple[str, ...]:
    return ("nvidia", "torch") if layer == "torch" else (layer,)


def _record(folder: Path, layer: str) -> Path:
    return folder / f"{layer}.json"


def _sizes(folder: Path, layer: str) -> dict[str, int]:
    wheels = [wheel for name in _folders_of(layer) for wheel in (folder / name).glob("*.whl")]
    return {wheel.name: wheel.stat().st_size for wheel in sorted(wheels)}


def _fitting_lock(recipe: Recipe, layer: str, key: str, log: Say) -> str | None:
    lock = recipe.lock(layer)
    if lock is None or f"# key: {key}\n" in lock:
        return lock
    log(
        f"wheels: the lock of layer {layer} is for other requirements, so it is resolved anew; "
        "`respawner-hub image build NAME --lock` writes a new one"
    )
    return None


def _download_locked(recipe: Recipe, lock: str, target: Path, sources: Path, log_file: Path) -> None:
    """Exactly the lock's wheels: pip refuses one whose hash is another."""
    target.mkdir()
    file = target.with_suffix(".lock")
    file.write_text(lock, encoding="utf-8")
    command = [*_pip(), "download", "--only-binary", ":all:", "--no-deps", "--require-hashes"]
    try:
        run_logged([*command, "--dest", str(target), *_tags(recipe), "--requirement", str(file)], log_file)
    except CommandError as error:
        raise WheelsError(
            f"pip could not download the wheels of the lock:\n{error.tail}\nCheck pip's settings on this machine (pip "
            "config list) and the network. A hash that differs is another file than the one that was locked: find out why, "
            f"or take what there is now (`respawner-hub image build NAME --lock`); all output: {log_file}"
        ) from error
    finally:
        file.unlink(missing_ok=True)
    for wheel in sources.glob("*.whl") if sources.exists() else ():
        wheel.rename(target / wheel.name)


def _build_sources(recipe: Recipe, layer: str, target: Path, log_file: Path) -> None:
    """Wheels of what has none, built by the host's pip from sources with hashes; pure Python only."""
    target.mkdir()
    file = target / "requirements.txt"
    file.write_text("\n".join(recipe.sources(layer)) + "\n", encoding="utf-8")
    command = [
        *_pip(),
        "wheel",
        "--no-deps",
        "--no-binary",
        ":all:",
        "--require-hashes",
        "--wheel-dir",
        str(target),
    ]
    environment = {"SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH}
    try:
        run_logged([*command, "--requirement", str(file)], log_file, environment=environment)
    except CommandError as error:
        raise WheelsError(
            f"pip could not build {', '.join(recipe.sources(layer))} from source:\n{error.tail}\nall output: {log_file}"
        ) from error
    for wheel in target.glob("*.whl"):
        if not wheel.name.endswith("-none-any.whl"):
            raise WheelsError(
                f"{wheel.name} is compiled for this machine and would not fit the image: take it out of "
                f"images/notebook/requirements/{layer}.source.txt"
            )


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
        still_open = open_requirements(requirements, sorted(target.glob("*.whl")), recipe.debian.python_full)
        if not still_open:
            return
        if set(still_open) <= set(asked):
            raise WheelsError(f"pip downloaded no wheel for {', '.join(still_open)}; all output: {log_file}")
        asked += still_open


def _pip_download(
    recipe: Recipe, requirements: list[str], target: Path, below: list[Path], log_file: Path
) -> None:
    target.mkdir(exist_ok=True)
    command = [*_pip(), "download", "--only-binary", ":all:", "--dest", str(target), *_tags(recipe)]
    constraints = target.with_suffix(".constraints")
    pins = [_pin(wheel) for lower in below for wheel in sorted(lower.glob("*.whl"))]
    constraints.write_text("\n".join([*pins, *recipe.version.pins]) + "\n", encoding="utf-8")
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


def _tags(recipe: Recipe) -> list[str]:
    """Choose wheels for the image's Python and glibc.

    Not needed where this Python is the image's on the same Debian, and harmless there.
    """
    machine = platform.machine()
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(recipe.debian.glibc_minor, 4, -1)]
    platforms += [
        f"manylinux2014_{machine}",
        f"manylinux2010_{machine}",
        f"manylinux1_{machine}",
        f"linux_{machine}",
    ]
    arguments = ["--python-version", recipe.python, "--implementation", "cp"]
    for tag in platforms:
        arguments += ["--platform", tag]
    return arguments


def _pin(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return f"{name}=={version}"


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _is_complete(folder: Path, layer: str, key: str) -> bool:
    try:
        record = json.loads(_record(folder, layer).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return record["key"] == key and record["wheels"] == _sizes(folder, layer)
