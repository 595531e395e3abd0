"""Timelines that follow their notebooks: rename, copy, delete into ``<store>/trash`` and back.

A folder may be renamed while its kernel writes: the kernel holds it open and asks where it is (`Timeline.folder`).
Names are those of ``JPY_SESSION_NAME``: absolute paths.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from pathlib import Path

from ..errors import StoreError
from .files import fsync_folder, make_folder, write_atomically
from .layout import slug_of
from .lock import TimelineLock
from .timeline import Timeline

TRASH_SECONDS = 7 * 86400.0


def move(store: Path, old: str, new: str) -> list[Timeline]:
    """Rename the timelines of ``old``, or of all notebooks below that folder; forks go along.

    A timeline that the new name has already is put into the trash: its notebook was overwritten.
    """
    moved = []
    for timeline in _of(store, old):
        name = new + timeline.name[len(old) :]
        target = store / "timelines" / (slug_of(name) + _fork(timeline))
        if target.exists():
            _into_trash(store, target)
        _describe_anew(timeline, name)
        timeline.folder.rename(target)
        moved.append(Timeline(target))
    fsync_folder(store / "timelines")
    return moved


def copy(store: Path, old: str, new: str) -> Timeline | None:
    """Give ``new`` what a start of ``old`` would restore. Packs are hard-linked: no bytes are copied.

    None where there is nothing to copy, or where ``new`` has a timeline.
    """
    source = Timeline.find(store, slug_of(old))
    state = source.target() if source else None
    if source is None or state is None or Timeline.find(store, slug_of(new)):
        return None
    made = Timeline.create(store, new)
    for number in {e.pack for _, stream in state.streams() for e in stream.extents} - {0}:
        name = f"{number:08d}.pack"
        os.link(source.packs / name, made.packs / name)
    fsync_folder(made.packs)
    made.publish(state)
    return made


def delete(store: Path, name: str) -> int:
    """Put the timelines of a notebook, or of all below a folder, into the trash; returns how many."""
    purge(store)
    found = _of(store, name)
    for timeline in found:
        _into_trash(store, timeline.folder)
    return len(found)


def undelete(store: Path, name: str) -> Timeline:
    """Bring back what was deleted last under that name (or folder's name in the trash)."""
    for folder in sorted((store / "trash").glob("*"), key=lambda path: path.name, reverse=True):
        with contextlib.suppress(StoreError):
            found = Timeline(folder)
            if name not in (found.name, folder.name):
                continue
            target = store / "timelines" / (slug_of(found.name) + _fork(found))
            if target.exists():
                raise FileExistsError(f"{found.name} has a timeline again ({target}); move that one first")
            folder.rename(target)
            return Timeline(target)
    raise StoreError(f"{store / 'trash'} has no timeline {name!r}")


def purge(store: Path) -> None:
    """Delete what has been in the trash for seven days, unless a kernel still writes to it."""
    for folder in (store / "trash").glob("*"):
        stamp = folder.name.partition("-")[0]
        if stamp.isdigit() and time.time() - int(stamp) > TRASH_SECONDS:
            lock = TimelineLock.acquire(folder / "lock")
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()


def _of(store: Path, name: str) -> list[Timeline]:
    below = name.rstrip("/") + "/"
    return [t for t in Timeline.all_in(store) if t.name == name or t.name.startswith(below)]


def _fork(timeline: Timeline) -> str:
    _, mark, number = timeline.slug.rpartition("~")
    return mark + number if mark else ""


def _into_trash(store: Path, folder: Path) -> None:
    make_folder(store / "trash")
    folder.rename(store / "trash" / f"{int(time.time())}-{secrets.token_hex(2)}-{folder.name}")


def _describe_anew(timeline: Timeline, name: str) -> None:
    """A kernel that is restarted by Jupyter Server still comes with the old name, hence ``was``."""
    path = timeline.folder / "timeline.json"
    data = json.loads(path.read_bytes())
    data["was"] = [*timeline.was, timeline.name]
    write_atomically(path, json.dumps({**data, "name": name}).encode())
