"""Where the store is, what its top folder looks like, and how a notebook's name becomes a folder's."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from ..contract import STORE_ENV
from ..errors import NewerFormatError, StoreError
from .files import make_folder, write_atomically

FORMAT = "respawner-store"
VERSION = 1


def default_store() -> Path:
    """The folder that ``RESPAWNER_STORE`` names, else one in the user's data folder."""
    if named := os.environ.get(STORE_ENV):
        return Path(named).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "respawner" / "store"


def open_store(path: Path, *, create: bool) -> Path:
    """Check that ``path`` is a store that this version may use, and make it if ``create`` says so."""
    marker = path / "format.json"
    if not marker.exists():
        if not create:
            raise StoreError(f"{path} is not a snapshot store: it has no format.json")
        make_folder(path / "timelines")
        write_atomically(marker, json.dumps({"format": FORMAT, "version": VERSION}).encode())
    check_format(marker, FORMAT, VERSION)
    return path


def check_format(path: Path, name: str, version: int) -> dict[str, Any]:
    """Read a JSON file that says its own format, and refuse it if it is another or a newer one."""
    try:
        data = json.loads(path.read_bytes())
        found_name, found_version = data["format"], int(data["version"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read as a {name} file: {error!r}") from error
    if found_name != name:
        raise StoreError(f"{path} is of format {found_name!r}, not {name!r}")
    if found_version > version:
        raise NewerFormatError(
            f"{path} has format version {found_version}; this Respawner reads up to {version}. "
            f"Upgrade respawner, or choose another store with {STORE_ENV}."
        )
    return data


def slug_of(name: str) -> str:
    """A folder's name for a timeline: readable, and different for different names."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", Path(name).name).strip("._")[:40] or "notebook"
    return f"{readable}-{hashlib.blake2b(name.encode(), digest_size=5).hexdigest()}"
