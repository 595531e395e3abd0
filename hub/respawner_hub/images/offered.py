"""Which images users may choose on the spawn page: the sessions' own, and those that `image add` has found fit.

A small JSON file in the state folder, which the hub reads anew for every form and start, so that none needs a restart.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..whole_files import whole_file
from .errors import OfferedError

FILE_NAME = "offered-images.json"
FORMAT = 1


@dataclass(frozen=True)
class Offered:
    """One image that was tested."""

    name: str
    image_ids: Mapping[str, str]
    """Host → what the name stood for when it was tested there."""
    tested_at: float
    """In unix seconds."""


def read_offered(state_dir: Path) -> dict[str, Offered]:
    """By name, oldest first.

    :raises OfferedError: the file cannot be understood.
    """
    file = state_dir / FILE_NAME
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise OfferedError(f"{file} has format {found['format']}, this version knows {FORMAT}.")
        return {row["name"]: Offered(**row) for row in found["images"]}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError) as error:
        raise OfferedError(
            f"{file} cannot be read ({error}): remove it, and add the images again (`respawner-hub image add`)."
        ) from error


def offer(state_dir: Path, name: str, image_ids: Mapping[str, str]) -> None:
    """Let users choose it from now on; again for one that was tested anew."""
    others = {key: row for key, row in read_offered(state_dir).items() if key != name}
    _write(state_dir, {**others, name: Offered(name, dict(image_ids), time.time())})


def withdraw(state_dir: Path, name: str) -> bool:
    """Let nobody choose it any more; sessions go on. False: it was not offered."""
    rows = read_offered(state_dir)
    if rows.pop(name, None) is None:
        return False
    _write(state_dir, rows)
    return True


def choices(state_dir: Path, default: str, spawner: Any = None) -> list[str]:
    """What DockerSpawner's `allowed_images` asks for at every form and start: names, the default first."""
    return list(dict.fromkeys([default, *read_offered(state_dir)]))


def _write(state_dir: Path, rows: Mapping[str, Offered]) -> None:
    state_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, "images": [asdict(row) for row in rows.values()]}, indent=1)
    with whole_file(state_dir / FILE_NAME, 0o644) as file:
        file.write(text.encode())
