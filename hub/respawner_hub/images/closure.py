"""Which requirements a set of wheels leaves open, seen from the image's Python.

`pip download --python-version` chooses wheels for another Python, but evaluates `python_version` markers
for the Python that runs it (a known limit of pip): on a host with Python 3.13 it leaves out what a package
needs on 3.11 only. So the wheels' own metadata is asked again here.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename


def open_requirements(requirements: Iterable[str], wheels: Sequence[Path], python_full: str) -> list[str]:
    """Requirements, direct or of a needed wheel, that no wheel serves. `python_full` is for example `3.11.2`."""
    by_name = {parse_wheel_filename(wheel.name)[0]: wheel for wheel in wheels}
    environment = _environment(python_full)
    todo = [Requirement(line) for line in requirements]
    seen: set[tuple[str, str]] = set()
    missing: dict[str, str] = {}
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        wheel = by_name.get(name)
        if wheel is None:
            requirement.marker = None
            missing[name] = str(requirement)
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                todo += _needs(wheel, {**environment, "extra": extra})
    return sorted(missing.values())


def _needs(wheel: Path, environment: dict[str, str]) -> list[Requirement]:
    with ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    needs = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    return [need for need in needs if need.marker is None or need.marker.evaluate(environment)]


def _environment(python_full: str) -> dict[str, str]:
    return {
        "implementation_name": "cpython",
        "implementation_version": python_full,
        "os_name": "posix",
        "platform_machine": platform.machine(),
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": python_full,
        "python_version": ".".join(python_full.split(".")[:2]),
        "sys_platform": "linux",
    }
