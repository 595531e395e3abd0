"""A smaller user image: stub_session's Python with the real `jupyterhub-singleuser` and real kernels of this virtual
environment. 0.3 GB where the user image has 2.3, for tests that carry it to several hosts.

A stand-in as an image only. What saves and restores variables is the hub's kernel bundle, which every image gets.
"""

from __future__ import annotations

import hashlib
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import IO

import docker
from packaging.requirements import Requirement

from . import stub_session

PACKAGES = ("jupyterhub", "jupyter_server", "ipykernel")
FOLDER = "opt/packages"


def build(client: docker.APIClient) -> str:
    """Make the image on this engine, unless it is there; returns its name, which tells the packages' versions apart."""
    stub_session.build(client)
    parts = distributions(PACKAGES)
    versions = " ".join(f"{part.name}-{part.version}" for part in parts)
    repository, tag = "respawner-tests/kernel-session", hashlib.sha256(versions.encode()).hexdigest()[:12]
    if client.images(f"{repository}:{tag}"):
        return f"{repository}:{tag}"
    container = client.create_container(stub_session.IMAGE)
    try:
        with tempfile.TemporaryFile() as archive:
            write_archive(archive, parts)
            archive.seek(0)
            client.put_archive(container, "/", archive)
        changes = [
            f"ENV PYTHONPATH=/{FOLDER} LANG=C.UTF-8 SHELL=/bin/sh",
            'CMD ["python3", "-m", "jupyterhub.singleuser"]',
        ]
        client.commit(container, repository, tag, changes=changes)
    finally:
        client.remove_container(container)
    return f"{repository}:{tag}"


def distributions(names: Iterable[str]) -> list[Distribution]:
    """The packages and all that they need, as they are installed here."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        key = name.lower().replace("_", "-")
        if key in found:
            continue
        try:
            found[key] = distribution(name)
        except PackageNotFoundError as error:
            raise RuntimeError(f"{name} is not in this virtual environment: make .venv anew") from error
        needed = map(Requirement, found[key].requires or [])
        waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [found[key] for key in sorted(found)]


def write_archive(file: IO[bytes], parts: Iterable[Distribution]) -> None:
    """Their files, and the libraries of the system that these are linked with."""
    prefix = Path(sys.prefix).resolve()
    with tarfile.open(fileobj=file, mode="w") as archive:
        modules = []
        for part in parts:
            packages = Path(str(part.locate_file(""))).resolve()
            for name in part.files or []:
                path = Path(str(name.locate())).resolve()
                if path.is_relative_to(packages):
                    archive.add(path, f"{FOLDER}/{path.relative_to(packages)}")
                    modules += [path] if path.suffix == ".so" else []
                elif path.is_relative_to(prefix / "share"):
                    archive.add(path, f"usr/local/{path.relative_to(prefix)}")
        for place, path in stub_session.shared_libraries(modules).items():
            archive.add(path, place)
