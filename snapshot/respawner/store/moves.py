"""Timelines that follow their notebooks: rename, copy, delete into ``<store>/trash`` and back.

A folder may be renamed while its kernel writes: the kernel holds it open and asks where it is (`Timeline.folder`).
Names are those of ``JPY_SESSION_NAME``: absolute paths.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import time
from pathlib import Path

from ..errors import StoreError
from ..manifest import Manifest
from .files import fsync_folder, make_folder, write_atomically
from .layout import slug_of
from .lock import TimelineLock
from .pack import pack_path
from .timeline import Timeline

TRASH_SECONDS = 7 * 86400.0
_WORKSHOP = ".copy-"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""What file systems without hard links answer."""


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

    None where there is nothing to copy, or where ``new`` has a timeline. When it raises, ``new`` has none.
    """
    if Timeline.find(store, slug_of(new)):
        return None
    for last_try in (False, True):
        found = _newest(store, old)
        if found is None:
            return None
        try:
            return _made_copy(store, *found, new)
        except FileNotFoundError:  # its kernel has tidied the packs meanwhile
            if last_try:
                raise
    return None


def _made_copy(store: Path, source: Timeline, state: Manifest, new: str) -> Timeline | None:
    """Made elsewhere and put in its place whole: a kernel of ``new`` may start meanwhile, and its states go first."""
    workshop = store / f"{_WORKSHOP}{secrets.token_hex(4)}"
    try:
        made = Timeline.create(workshop, new)
        _link_packs(source, state, made)
        made.publish(state)
        target = store / "timelines" / made.slug
        try:
            made.folder.rename(target)
        except OSError:
            if Timeline.find(store, made.slug):
                return None
            raise
        fsync_folder(target.parent)
        return Timeline(target)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _newest(store: Path, name: str) -> tuple[Timeline, Manifest] | None:
    """Of a notebook's timeline and its forks, the one with the newest state that a start would restore."""
    timelines = [timeline for timeline in _of(store, name) if timeline.name == name]
    found = [(timeline, state) for timeline in timelines if (state := timeline.target())]
    return max(found, key=lambda pair: pair[1].created, default=None)


def _link_packs(source: Timeline, state: Manifest, target: Timeline) -> None:
    for number in {e.pack for _, stream in state.streams() for e in stream.extents} - {0}:
        pack, linked = (pack_path(timeline.packs, number) for timeline in (source, target))
        try:
            os.link(pack, linked)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(pack, linked)
            _make_durable(linked)
    fsync_folder(target.packs)


def _make_durable(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete(store: Path, name: str) -> int:
    """Put the timelines of a notebook, or of all below a folder, into the trash; returns how many."""
    purge(store)
    found = _of(store, name)
    for timeline in found:
        _into_trash(store, timeline.folder)
    return len(found)


def undelete(store: Path, name: str) -> list[Timeline]:
    """Bring back what was deleted last under that name: a notebook's timeline with its forks, those of all notebooks
    of a folder, or the one of that folder in the trash. Raises `FileExistsError` before anything is moved."""
    wanted: dict[Path, Path] = {}
    for folder in sorted((store / "trash").glob("*"), key=lambda path: path.name, reverse=True):
        with contextlib.suppress(StoreError):
            found = Timeline(folder)
            if folder.name == name or _is_at(found, name):
                target = store / "timelines" / (slug_of(found.name) + _fork(found))
                wanted.setdefault(target, folder)
    if not wanted:
        raise StoreError(f"{store / 'trash'} has no timeline of {name!r}")
    for target, folder in wanted.items():
        if target.exists():
            raise FileExistsError(
                f"{Timeline(folder).name} has a timeline again ({target}); "
                "`python -m respawner move` that one to another name first"
            )
    for target, folder in wanted.items():
        folder.rename(target)
    fsync_folder(store / "timelines")
    return [Timeline(target) for target in wanted]


def purge(store: Path) -> None:
    """Delete what has been in the trash for seven days, unless a kernel still writes to it; copies never finished."""
    for workshop in store.glob(f"{_WORKSHOP}*"):
        if time.time() - workshop.stat().st_mtime > TRASH_SECONDS:
            shutil.rmtree(workshop, ignore_errors=True)
    for folder in (store / "trash").glob("*"):
        stamp = folder.name.partition("-")[0]
        if stamp.isdigit() and time.time() - int(stamp) > TRASH_SECONDS:
            lock = TimelineLock.acquire(folder / "lock")
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()


def _of(store: Path, name: str) -> list[Timeline]:
    return [timeline for timeline in Timeline.all_in(store) if _is_at(timeline, name)]


def _is_at(timeline: Timeline, name: str) -> bool:
    """Whether it is that notebook's, or of a notebook below that folder."""
    return timeline.name == name or timeline.name.startswith(name.rstrip("/") + "/")


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
