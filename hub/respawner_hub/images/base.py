"""The image below the user image: pulled where a registry answers, else made here with debootstrap."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..steps import Say
from .docker_cli import DockerCli
from .errors import BuildError, NoBaseError
from .process import CommandError, root_prefix, run_logged
from .recipe import BASE_LABEL, Recipe

PULL_TIMEOUT_SECONDS = 600

KEEP_NO_STATE_OF_THE_HOST = (
    "etc/resolv.conf",
    "etc/hostname",
    "etc/ssh/ssh_host_*",  # every image would have the same
    "var/lib/apt/lists/*",
    "var/cache/apt/*",
    "var/log/*.log",
    "var/log/apt",
)


@dataclass(frozen=True)
class Base:
    image: str
    has_packages: bool
    """Whether every package of the list is in it, so that the build needs no network."""


def ensure_base(docker: DockerCli, recipe: Recipe, work: Path, log_file: Path, log: Say) -> Base:
    """The admin's base, one made here earlier, Debian's from a registry, or one made now: the first there is."""
    if recipe.base:
        return _given_base(docker, recipe.base)
    made_here = f"respawner/base:{recipe.debian.suite}-{_package_hash(recipe)}"
    if docker.inspect(made_here):
        return Base(made_here, has_packages=True)
    from_registry = f"debian:{recipe.debian.suite}-slim"
    if docker.inspect(from_registry):
        return Base(from_registry, has_packages=False)
    no_pull = docker.pull(from_registry, PULL_TIMEOUT_SECONDS)
    if no_pull is None:
        return Base(from_registry, has_packages=False)
    log(f"base: {from_registry} cannot be pulled, making one with debootstrap (about a minute)")
    _make_with_debootstrap(docker, recipe, made_here, work, log_file, no_pull)
    return Base(made_here, has_packages=True)


def debian_mirrors(targets: str) -> tuple[str | None, str | None]:
    """Mirror and security mirror that this host's own apt uses, out of `apt-get indextargets` lines."""
    mirror = security = None
    for line in targets.splitlines():
        uri, origin, label = line.split("|")
        if origin == "Debian" and label == "Debian-Security":
            security = uri
        elif origin == "Debian":
            mirror = uri
    return mirror, security


def _given_base(docker: DockerCli, image: str) -> Base:
    if not docker.inspect(image):
        no_pull = docker.pull(image, PULL_TIMEOUT_SECONDS)
        if no_pull is not None:
            raise NoBaseError(
                f"The base image {image} (respawner.toml, image.base) is not on the engine and cannot be "
                f"pulled: {no_pull}\nCorrect the name, or leave image.base empty for Debian's."
            )
    return Base(image, has_packages=False)


def _make_with_debootstrap(
    docker: DockerCli, recipe: Recipe, image: str, work: Path, log_file: Path, no_pull: str
) -> None:
    if not shutil.which("debootstrap", path="/usr/sbin:/sbin:/usr/bin:/usr/local/sbin"):
        raise NoBaseError(
            f"No base image: debian:{recipe.debian.suite}-slim cannot be pulled ({no_pull}), and there is no "
            "debootstrap to make one. Install it (apt-get install debootstrap, or `respawner-hub "
            "provision`), or load an image by hand (docker load) and name it in image.base."
        )
    sudo = root_prefix("Making a base image with debootstrap")
    tree = work / "rootfs"
    _remove_tree(sudo, tree)  # an interrupted earlier one
    mirror, security = debian_mirrors(_apt_targets())
    try:
        _bootstrap(sudo, recipe, tree, mirror, security, log_file)
        _import(sudo, docker, tree, image, recipe)
    except CommandError as error:
        raise NoBaseError(
            f"debootstrap could not make the base image of Debian {recipe.debian.suite}:\n{error.tail}\n"
            f"Check the network and this machine's apt sources; all output: {log_file}"
        ) from error
    finally:
        _remove_tree(sudo, tree)


def _bootstrap(
    sudo: list[str], recipe: Recipe, tree: Path, mirror: str | None, security: str | None, log_file: Path
) -> None:
    """Fill `tree`.

    Each step has mounts and processes of its own, which end with it: debootstrap mounts /proc and /sys in
    the tree, and however it or we are killed, nothing may go on writing there, nor a mount be left in which
    removing the tree would do harm.
    """
    die_with_us = ["setpriv", "--pdeathsig", "KILL"]
    own_mounts = [*sudo, *die_with_us, "unshare", "--mount", "--pid", "--fork", "--kill-child"]
    include = "--include=" + ",".join(recipe.packages)
    source = [mirror] if mirror else []  # else debootstrap's own default
    run_logged(
        [*own_mounts, "debootstrap", "--variant=minbase", include, recipe.debian.suite, str(tree), *source],
        log_file,
    )
    if security:
        line = f"deb {security} {recipe.debian.suite}-security main"
        update = (
            f"echo '{line}' > /etc/apt/sources.list.d/security.list && apt-get update && "
            "DEBIAN_FRONTEND=noninteractive apt-get --yes upgrade"
        )
        run_logged([*own_mounts, "chroot", str(tree), "sh", "-c", update], log_file)
    for pattern in KEEP_NO_STATE_OF_THE_HOST:
        run_logged([*sudo, "sh", "-c", f'rm -rf "$1"/{pattern}', "sh", str(tree)], log_file)


def _import(sudo: list[str], docker: DockerCli, tree: Path, image: str, recipe: Recipe) -> None:
    label = f"LABEL {BASE_LABEL}={_package_hash(recipe)}"
    command = docker.command("import", "--change", label, "-", image)
    with subprocess.Popen(
        [*sudo, "tar", "--numeric-owner", "-C", str(tree), "-c", "."], stdout=subprocess.PIPE
    ) as tar:
        done = subprocess.run(command, stdin=tar.stdout, capture_output=True, text=True, check=False)
    if tar.returncode != 0 or done.returncode != 0:
        raise BuildError(f"The base image could not be given to the engine: {done.stderr.strip()}")


def _apt_targets() -> str:
    """One line an apt source: URI|origin|label. Empty where there is no apt."""
    command = [
        "apt-get",
        "indextargets",
        "--format",
        "$(REPO_URI)|$(ORIGIN)|$(LABEL)",
        "Created-By: Packages",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""


def _remove_tree(sudo: list[str], tree: Path) -> None:
    subprocess.run([*sudo, "rm", "-rf", "--one-file-system", str(tree)], check=True)


def _package_hash(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps([recipe.debian.suite, recipe.packages]).encode()).hexdigest()[:12]
