"""What is in an image: the size of each layer, and its bill of materials (SBOM) as CycloneDX 1.5 JSON.

https://cyclonedx.org/docs/1.5/json/ : packages of Debian and Python with their versions and licences, wheels with the
hashes that pip has checked. Not for what users install into their homes.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .docker_cli import DockerCli
from .errors import BuildError
from .wheelhouse import FOLDERS, file_hash

SBOM_NAME = "sbom.cdx.json"


@dataclass(frozen=True)
class Layer:
    size_bytes: int
    made_by: str


def layers(docker: DockerCli, image: str) -> list[Layer]:
    """Those with content, bottom first."""
    done = subprocess.run(
        docker.command("history", "--no-trunc", "--human=false", "--format", "{{json .}}", image),
        capture_output=True,
        text=True,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        Layer(int(entry["Size"]), shown_as(entry["CreatedBy"], entry.get("Comment", "")))
        for entry in reversed(found)
        if int(entry["Size"])
    ]


def shown_as(instruction: str, comment: str = "") -> str:
    """A line of `docker history` for people: the folder of wheels, or the instruction's first words."""
    if wheels := re.search(r"/wheels/(\w+)/", instruction):
        return {"nvidia": "CUDA libraries", "torch": "PyTorch"}.get(wheels[1], wheels[1])
    if "packages.txt" in instruction:
        return "Debian packages"
    words = re.sub(
        r"^(RUN )?/bin/sh -c (#\(nop\)\s*)?|--mount=\S+\s*|\s*# buildkit$", "", instruction
    ).split()
    return " ".join(words)[:60] or comment[:60] or "base"


def write_sbom(docker: DockerCli, image: str, work: Path) -> tuple[Path, dict[str, int]]:
    """Write the bill of materials of `image` into `work`; its path, and how many packages of each kind it lists."""
    info = docker.inspect(image)
    if info is None:
        raise BuildError(f"{image} is not on the engine, so its contents cannot be listed.")
    debian = _inside(docker, image, "dpkg-query", "-W", "-f=${Package}\t${Version}\t${Architecture}\n")
    python = json.loads(_inside(docker, image, "python3", "-m", "pip", "inspect"))
    known = (wheel for folder in FOLDERS for wheel in (work / "wheels" / folder).glob("*.whl"))
    listed = cyclonedx(image, info.image_id, debian.splitlines(), python["installed"], wheel_hashes(known))
    file = work / SBOM_NAME
    file.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    kinds = [part["purl"].partition("/")[0].removeprefix("pkg:") for part in listed["components"]]
    return file, {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def wheel_hashes(wheels: Iterable[Path]) -> dict[tuple[str, str], str]:
    """SHA-256 by name and version."""
    return {_key(*wheel.name.split("-")[:2]): file_hash(wheel) for wheel in wheels}


def cyclonedx(
    image: str,
    image_id: str,
    debian: Iterable[str],
    python: Iterable[Mapping[str, Any]],
    hashes: Mapping[tuple[str, str], str],
) -> dict[str, Any]:
    """Pure: the document, out of `dpkg-query`'s lines, `pip inspect`'s entries and the wheels' hashes."""
    parts = []
    for line in debian:
        name, version, architecture = line.split("\t")
        purl = f"pkg:deb/debian/{name}@{version}?arch={architecture}"
        parts.append({"type": "library", "name": name, "version": version, "purl": purl})
    for entry in python:
        metadata = entry["metadata"]
        name, version = metadata["name"], metadata["version"]
        part: dict[str, Any] = {"type": "library", "name": name, "version": version}
        part["purl"] = f"pkg:pypi/{_key(name, version)[0]}@{version}"
        if licence := metadata.get("license_expression"):
            part["licenses"] = [{"expression": licence}]
        elif (licence := metadata.get("license")) and len(licence) < 80:
            part["licenses"] = [{"license": {"name": licence}}]
        if found := hashes.get(_key(name, version)):
            part["hashes"] = [{"alg": "SHA-256", "content": found}]
        parts.append(part)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": {"type": "container", "name": image, "version": image_id},
        },
        "components": sorted(parts, key=lambda part: part["purl"]),
    }


def _key(name: str, version: str) -> tuple[str, str]:
    return re.sub(r"[-_.]+", "-", name).lower(), version


def _inside(docker: DockerCli, image: str, *command: str) -> str:
    """Output of a command in the image, without its entrypoint and without network."""
    program, *arguments = command
    done = subprocess.run(
        docker.command("run", "--rm", "--network=none", "--entrypoint", program, image, *arguments),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(f"{program} does not run in {image}: {done.stderr.strip()}")
    return done.stdout
