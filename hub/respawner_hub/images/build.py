"""`ensure_image`: the user image on an engine, built when its recipe is new and otherwise left alone."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..steps import Say
from .base import Base, ensure_base
from .checkout import project_root
from .docker_cli import BUILDKIT, DockerCli, ImageInfo, find_docker_cli
from .errors import BuildError, DiskTooSmallError
from .process import CommandError, run_logged
from .recipe import IMAGE_LABEL, RECIPE_LABEL, Recipe, read_recipe, without_locks
from .versions import read_versions, slug
from .wheelhouse import Wheelhouse, ensure_wheels, write_locks

GB = 10**9
ROOM_FOR_CPU_BYTES = 6 * GB
ROOM_FOR_CUDA_BYTES = 20 * GB  # 3 GB of wheels here, again in the build's cache, 6 GB unpacked, and slack

PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True)
class ImageResult:
    image_id: str
    built: bool
    seconds: float
    size_bytes: int


def ensure_image(
    *,
    engine_host: str,
    image: str,
    state_dir: Path,
    torch: str = "auto",
    base: str | None = None,
    lock: bool = False,
    log: Say,
) -> ImageResult:
    """Make sure that the engine has `image`, built from the recipe in `images/`.

    It is built from its row of `images/versions.toml`, under another name from the first one. With `lock` the wheels are
    resolved anew and written down in `images/locks/`.

    An image whose label holds the same recipe is left alone, and so is one that was not built here under
    this name: an admin's own. `torch` is `auto`, `cpu`, `cuda` or a version; `base` an image to build on instead of Debian's.
    `log` gets one line a step; the whole output goes to `<state_dir>/log/image-build.log`.

    Raises a subclass of `ImageError`. A build that was interrupted leaves the earlier image in place, and
    the next call goes on from the engine's build cache and the finished folders of wheels.
    """
    started = time.monotonic()
    docker = find_docker_cli(engine_host)
    docker.check_reachable()
    recipe = recipe_of(image, torch, base)
    present = docker.inspect(image)
    if present and not lock and _is_current(present, recipe, image, log):
        return _result(present, started, built=False)

    log_file = state_dir / "log" / "image-build.log"
    work = work_folder(state_dir, image)
    for folder in (log_file.parent, work):
        folder.mkdir(parents=True, exist_ok=True)
    log(f"image: building {image} with the {recipe.torch} build of torch; all output: {log_file}")
    with _only_one_builder(work):
        present = docker.inspect(image)
        if (
            present and not lock and _is_current(present, recipe, image, log)
        ):  # another one has built it meanwhile
            return _result(present, started, built=False)
        log_file.write_text("", encoding="utf-8")
        _check_room(docker, work, ROOM_FOR_CPU_BYTES)
        with _step(log, "base"):
            made_base = ensure_base(docker, recipe, work, log_file, log)
        with _step(log, "wheels"):
            if lock:
                shutil.rmtree(work / "wheels", ignore_errors=True)
                recipe = without_locks(recipe)
            wheels = ensure_wheels(
                recipe, work / "wheels", log_file, log, lambda: _check_room(docker, work, ROOM_FOR_CUDA_BYTES)
            )
            if lock:
                for file in write_locks(
                    recipe, wheels, project_root() / "images" / "locks" / slug(image), image
                ):
                    log(f"wheels: {file} written")
                recipe = recipe_of(image, torch, base)
        _write_context(recipe, work)
        with _step(log, "build"):
            _build(docker, recipe, made_base, wheels, work, image, log_file, log)
    result = docker.inspect(image)
    assert result is not None, f"{image} is not on the engine after its build"
    if present and present.image_id != result.image_id:
        docker.remove_unused(present.image_id)
    log(f"image: {image} is ready, {result.size_bytes / GB:.2f} GB, {time.monotonic() - started:.0f} s")
    return _result(result, started, built=True)


def recipe_of(image: str, torch: str = "auto", base: str | None = None) -> Recipe:
    """The recipe that `ensure_image` builds `image` by: its own row's, or the first one's."""
    sources = project_root() / "images"
    rows = read_versions(sources)
    return read_recipe(sources, torch, base, image if image in rows else next(iter(rows)))


def is_ours(image: str) -> bool:
    """Whether `image` may be built here: it is in the table, or another tag of the table's first image.

    Under any other name nothing is ever built: a typo would get our image as its content.
    """
    rows = read_versions(project_root() / "images")
    return image in rows or image.partition(":")[0] == next(iter(rows)).partition(":")[0]


def work_folder(state_dir: Path, image: str) -> Path:
    """Where an image's wheels, build context and bill of materials are kept."""
    return state_dir / "image" / slug(image)


def environment_name(python: str, torch_version: str) -> str:
    """`py3.11-torch2.13`: images of one name can share what users installed with `pip install --user`."""
    major, minor = torch_version.split("+")[0].split(".")[:2]
    return f"py{python}-torch{major}.{minor}"


def build_step(line: str, titles: dict[str, str]) -> str | None:
    """A line for people out of a line of BuildKit's plain progress, at the end of each step; else None.

    `titles` remembers, between calls, which number is which step.
    """
    if start := re.match(r"#(\d+) \[ *(?:\S+ +)?(\d+/\d+)\] (.*)", line):
        number, position, instruction = start.groups()
        titles[number] = f"{position} {_short(instruction)}"
    elif end := re.match(r"#(\d+) (?:DONE ([\d.]+)s|(CACHED))", line):
        number, seconds, cached = end.groups()
        if title := titles.pop(number, None):
            return f"{title}: {'unchanged' if cached else seconds + ' s'}"
    return None


def _is_current(present: ImageInfo, recipe: Recipe, image: str, log: Say) -> bool:
    if present.labels.get(IMAGE_LABEL) != image:
        log(f"image: {image} is not one of ours, used as it is")
        return True
    if present.labels.get(RECIPE_LABEL) == recipe.digest:
        log(f"image: {image} is up to date")
        return True
    return False


def _build(
    docker: DockerCli,
    recipe: Recipe,
    base: Base,
    wheels: Wheelhouse,
    context: Path,
    image: str,
    log_file: Path,
    log: Say,
) -> None:
    command = docker.command("build", "--progress=plain", "--tag", image)
    arguments = {
        "BASE": base.image,
        "FLAVOR": "devel" if "devel" in recipe.version.layers else "runtime",
        "IMAGE": image,
        "RECIPE": recipe.digest,
        "ENVIRONMENT": environment_name(recipe.python, wheels.torch_version),
    }
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    if base.has_packages:
        command += ["--network", "none"]
    else:
        for name in filter(os.environ.__contains__, PROXY_VARIABLES):
            command += ["--build-arg", name]
    titles: dict[str, str] = {}

    def show(line: str) -> None:
        if text := build_step(line, titles):
            log(f"build: {text}")

    try:
        run_logged([*command, str(context)], log_file, environment=BUILDKIT, on_line=show)
    except CommandError as error:
        raise _explained(error, image, log_file) from error


def _explained(error: CommandError, image: str, log_file: Path) -> BuildError | DiskTooSmallError:
    if "no space left on device" in error.tail.lower():
        return DiskTooSmallError(
            f"The disk filled up while {image} was built:\n{error.tail}\n"
            "Make room on the engine's disk (docker system df shows what takes it) and try again."
        )
    return BuildError(f"Building {image} failed:\n{error.tail}\nAll output: {log_file}")


def _write_context(recipe: Recipe, work: Path) -> None:
    """Lay the recipe's files beside `wheels/`; what else is there does not go to the engine."""
    for name in (
        "base/packages.txt",
        "notebook/Dockerfile",
        "notebook/overrides.json",
        "notebook/session-environment.sh",
    ):
        (work / Path(name).name).write_text(recipe.files[name], encoding="utf-8")
    (work / ".dockerignore").write_text("rootfs\nlock\nwheels/.*\nwheels/*.json\n", encoding="utf-8")


def _check_room(docker: DockerCli, work: Path, needed_bytes: int) -> None:
    for folder in filter(None, (work, docker.data_folder())):
        free_bytes = shutil.disk_usage(folder).free
        if free_bytes < needed_bytes:
            raise DiskTooSmallError(
                f"{folder} has {free_bytes / GB:.1f} GB free and the build needs {needed_bytes / GB:.0f} GB. "
                "Make room there (docker system df shows what the engine takes), or move state_dir or the "
                "engine's data-root to a larger disk."
            )


@contextmanager
def _only_one_builder(work: Path) -> Iterator[None]:
    """Wait for a build that runs already: the two would share folders."""
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _step(log: Say, name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    log(f"{name}: {time.monotonic() - started:.0f} s")


def _short(instruction: str) -> str:
    mounted = re.search(r"source=(\S+?),", instruction)
    words = re.sub(r"--mount=\S+\s*", "", instruction)
    return f"RUN with {mounted.group(1)}" if mounted else words[:60]


def _result(present: ImageInfo, started: float, *, built: bool) -> ImageResult:
    return ImageResult(present.image_id, built, time.monotonic() - started, present.size_bytes)
