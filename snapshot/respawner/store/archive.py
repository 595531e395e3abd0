"""A timeline as one tar file, to move or to keep it. Contents are as in the store, manifests first."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

from ..errors import StoreError
from .layout import slug_of
from .timeline import Timeline

_MEMBER = re.compile(r"timeline\.json|manifests/\d{10}\.json|packs/\d{8}\.pack|pins/[\w-]+")


def export_timeline(timeline: Timeline, target: Path) -> None:
    """Write all of the timeline's snapshots. Raises `FileExistsError` rather than overwrite ``target``."""
    members = [
        path
        for pattern in ("timeline.json", "manifests/*.json", "pins/*", "packs/*.pack")
        for path in sorted(timeline.folder.glob(pattern))
        if not path.name.startswith(".")
    ]
    with tarfile.open(target, "x") as archive:
        for path in members:
            archive.add(path, arcname=path.relative_to(timeline.folder).as_posix(), recursive=False)


def import_timeline(store: Path, source: Path, name: str | None) -> Timeline:
    """Make a timeline of an exported one, for the notebook ``name``; refuses to touch an existing one."""
    with tarfile.open(source) as archive:
        data = _description(archive, source)
        data["name"], data["kernel"] = name or data["name"], None
        folder = store / "timelines" / slug_of(data["name"])
        if folder.exists():
            raise StoreError(
                f"{data['name']} has a timeline already ({folder}); import it under another --name"
            )
        incoming = folder.with_name(f".{folder.name}.incoming")
        try:
            for part in ("packs", "manifests", "pins"):
                (incoming / part).mkdir(parents=True, mode=0o700)
            _extract(archive, source, incoming)
            (incoming / "timeline.json").write_text(json.dumps(data))
            Timeline(incoming).latest()  # a newer format is refused before it is in place
            incoming.rename(folder)
        except BaseException:
            shutil.rmtree(incoming, ignore_errors=True)
            raise
    return Timeline(folder)


def _description(archive: tarfile.TarFile, source: Path) -> dict[str, Any]:
    try:
        file = archive.extractfile("timeline.json")
        data = json.load(file) if file else None
    except (KeyError, ValueError) as error:
        raise StoreError(f"{source} is not an exported timeline: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise StoreError(f"{source} is not an exported timeline: its timeline.json names no notebook")
    return data


def _extract(archive: tarfile.TarFile, source: Path, folder: Path) -> None:
    for member in archive:
        if not member.isfile() or not _MEMBER.fullmatch(member.name):
            raise StoreError(
                f"{source} has {member.name!r}, which no exported timeline has; nothing was imported"
            )
        content = archive.extractfile(member)
        if content is not None:
            with open(folder / member.name, "xb") as file:
                shutil.copyfileobj(content, file)
