"""One notebook's folder in the store: its manifests, its markers, its pins.

Readers believe only manifests: what no manifest names does not exist. Reading needs no lock; everything
that writes is done by the process that holds the timeline's lock (see `lock`).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import DamagedError, NewerFormatError, NoSnapshotError, StoreError
from ..manifest import Manifest
from .files import make_folder, remove, write_atomically
from .layout import check_format, slug_of
from .lock import move_lock

FORMAT = "respawner-timeline"
VERSION = 1
_UUID_BYTES = 16


@dataclass(frozen=True)
class Damage:
    """A manifest that cannot be believed, and why."""

    sequence: int
    path: Path
    reason: str


class Timeline:
    """A timeline that exists on disk. ``Timeline.find`` and ``Timeline.create`` make these."""

    def __init__(self, folder: Path) -> None:
        """Raises `NewerFormatError` or `StoreError` where the folder is not one we may use."""
        self._folder = folder
        self._held: int | None = None
        self._read_last: tuple[tuple[int, int, int], Manifest] | None = None
        self.facts_cache: dict[int, Any] = {}
        """Kept by `store.facts`."""
        self.slug = folder.name
        data = _describe(folder)
        self._name: str = data["name"]
        self.uuid = bytes.fromhex(data["uuid"])
        self.kernel: str | None = data.get("kernel")
        self.was: list[str] = list(data.get("was", []))
        """Names that its notebook had before (see `moves`)."""

    @property
    def name(self) -> str:
        """The notebook's path; that of a followed timeline changes when Jupyter Server renames the notebook."""
        self.folder  # noqa: B018 - takes notice of a rename
        return self._name

    @property
    def folder(self) -> Path:
        """Where the folder is now: one that is followed may have been renamed by Jupyter Server."""
        if self._held is not None and not self._is_held(self._folder):
            with contextlib.suppress(OSError):
                now = Path(os.readlink(f"/proc/self/fd/{self._held}"))  # noqa: PTH115
                if self._is_held(now):
                    move_lock(self._folder / "lock", now / "lock")
                    self._folder, self.slug = now, now.name
                    self._read_name()
        return self._folder

    def _read_name(self) -> None:
        """The description was written anew before the folder was renamed (see `moves.move`)."""
        with contextlib.suppress(StoreError):
            data = _describe(self._folder)
            self._name, self.was = data["name"], list(data.get("was", []))

    def _is_held(self, folder: Path) -> bool:
        """Whether it is the very folder that is held: another may have its name by now."""
        try:
            return self._held is not None and os.path.samestat(folder.stat(), os.fstat(self._held))
        except OSError:
            return False

    def follow(self) -> None:
        """Hold the folder open, so that `folder` finds it after a rename."""
        if self._held is None:
            self._held = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    @classmethod
    def find(cls, store: Path, slug: str) -> Timeline | None:
        """The timeline in that folder, or None."""
        folder = store / "timelines" / slug
        return cls(folder) if (folder / "timeline.json").exists() else None

    @classmethod
    def create(cls, store: Path, name: str, slug: str | None = None) -> Timeline:
        """Make the timeline's folder, or return the one that is there."""
        slug = slug or slug_of(name)
        if existing := cls.find(store, slug):
            return existing
        folder = store / "timelines" / slug
        for part in ("packs", "manifests", "pins"):
            make_folder(folder / part)
        _write_description(folder, name, secrets.token_bytes(16), None)
        return cls(folder)

    @classmethod
    def all_in(cls, store: Path) -> list[Timeline]:
        """Every timeline of a store that can be used, by folder name; `broken_in` has the rest."""
        found = []
        for path in sorted((store / "timelines").glob("*/timeline.json")):
            with contextlib.suppress(StoreError):
                found.append(cls(path.parent))
        return found

    @classmethod
    def broken_in(cls, store: Path) -> dict[str, str]:
        """Folders of timelines that cannot be used, with the reason."""
        reasons = {}
        for path in sorted((store / "timelines").glob("*/timeline.json")):
            try:
                cls(path.parent)
            except StoreError as error:
                reasons[path.parent.name] = str(error)
        return reasons

    @property
    def packs(self) -> Path:
        return self.folder / "packs"

    @property
    def lock_path(self) -> Path:
        return self.folder / "lock"

    def belongs_to(self, kernel: str | None) -> None:
        """Remember the Jupyter id of the kernel that writes here: it survives restarts of the kernel."""
        if kernel != self.kernel:
            self.kernel = kernel
            _write_description(self.folder, self.name, self.uuid, kernel, self.was)

    def mend_folder(self) -> None:
        """Make whatever is missing of the folder: somebody may have deleted it under a running kernel."""
        for part in ("packs", "manifests", "pins"):
            make_folder(self.folder / part)
        if not (self.folder / "timeline.json").exists():
            _write_description(self.folder, self.name, self.uuid, self.kernel, self.was)
        if self._held is not None and not self._is_held(self._folder):
            os.close(self._held)
            self._held = None
            self.follow()

    # Snapshots ----------------------------------------------------------------------------------------

    def sequences(self) -> list[int]:
        """Numbers of all manifests, newest first."""
        found = (path.stem for path in (self.folder / "manifests").glob("*.json"))
        return sorted((int(stem) for stem in found if stem.isdigit()), reverse=True)

    def manifest_path(self, sequence: int) -> Path:
        return self.folder / "manifests" / f"{sequence:010d}.json"

    def read(self, sequence: int) -> Manifest:
        """Raises `DamagedError`. The one that was read last is kept: a start asks for the newest several times."""
        path = self.manifest_path(sequence)
        try:
            status = path.stat()
            stamp = sequence, status.st_mtime_ns, status.st_size
            if self._read_last is not None and self._read_last[0] == stamp:
                return self._read_last[1]
            content = path.read_bytes()
        except OSError as error:
            raise DamagedError(f"{path} cannot be read: {error}") from error
        manifest = Manifest.from_bytes(content, str(path))
        self._read_last = stamp, manifest
        return manifest

    def snapshots(self) -> Iterator[Manifest | Damage]:
        """Every snapshot, newest first. A newer format is not damage: it raises `NewerFormatError`."""
        for sequence in self.sequences():
            try:
                yield self.read(sequence)
            except DamagedError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    continue  # retention deleted it since it was listed
                yield Damage(sequence, self.manifest_path(sequence), str(error))

    def latest(self) -> Manifest | None:
        """The newest manifest that can be believed."""
        return next((found for found in self.snapshots() if isinstance(found, Manifest)), None)

    def target(self) -> Manifest | None:
        """What a start restores: the newest state that `is_target`."""
        return next(
            (found for found in self.snapshots() if isinstance(found, Manifest) and is_target(found)), None
        )

    def find_snapshot(self, id_or_label: str | None) -> Manifest:
        """By id (a beginning is enough) or label, the newest that fits; None means the latest."""
        for found in self.snapshots():
            if isinstance(found, Damage):
                continue
            if id_or_label == "interrupted" and found.state == "interrupted":
                return found
            if id_or_label is None or id_or_label in found.labels or found.id.startswith(id_or_label):
                return found
        wanted = "no snapshot" if id_or_label is None else f"no snapshot {id_or_label!r}"
        raise NoSnapshotError(f"{self.name} has {wanted}; `%snapshots` lists what there is")

    def publish(self, manifest: Manifest) -> None:
        """Make the snapshot exist. Its chunks must be durable already. When it raises, it does not exist.

        Should even the removal fail, the manifest stays: `TimelineWriter.roll_back` then leaves its chunks.
        """
        content = manifest.to_bytes()
        while True:
            path = self.manifest_path(manifest.sequence)
            try:
                write_atomically(path, content)
                return
            except BaseException as error:
                now = self.manifest_path(manifest.sequence)
                was_renamed = now != path  # with its notebook
                if was_renamed and isinstance(error, FileNotFoundError):
                    for left in now.parent.glob(f".{now.name}.*.tmp"):
                        remove(left)
                    continue
                with contextlib.suppress(OSError):
                    remove(now)
                raise

    # Markers: small JSON files that outlive the kernel ---------------------------------------------------

    def set_marker(self, name: str, content: dict[str, Any], *, durable: bool = True) -> None:
        write_atomically(self.folder / f"{name}.marker", json.dumps(content).encode(), durable=durable)

    def marker(self, name: str) -> dict[str, Any] | None:
        """The marker's content, None where it is not set, empty where it cannot be read."""
        try:
            data = json.loads((self.folder / f"{name}.marker").read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def clear_marker(self, name: str) -> None:
        remove(self.folder / f"{name}.marker")

    # Pins: snapshots that retention leaves alone ---------------------------------------------------------

    def pin(self, snapshot_id: str, reason: str) -> None:
        write_atomically(self.folder / "pins" / snapshot_id, reason.encode())

    def pins(self) -> dict[str, str]:
        """Ids of pinned snapshots, oldest pin first, with the reason."""
        paths = sorted((self.folder / "pins").glob("[!.]*"), key=lambda path: path.stat().st_mtime_ns)
        return {path.name: path.read_text(errors="replace") for path in paths}

    def unpin(self, snapshot_id: str) -> None:
        remove(self.folder / "pins" / snapshot_id)


def is_target(manifest: Manifest) -> bool:
    """Whether a start may restore it by itself: the state after a cell, or at a safe point inside one.

    Before a kernel is shut down it is interrupted, so an interrupted cell says nothing about what the user takes for
    done, and the interrupt may have torn what it was changing. The same goes for a failed cell, if there were safe
    points in it: the last of them is whole. The other state stays restorable by its id.
    """
    if manifest.state == "error":
        return not manifest.cell.get("safepoints")
    return manifest.state != "interrupted"


def new_id() -> str:
    """A snapshot's id: its time in UTC and some chance, so that ids sort by age."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S") + "-" + secrets.token_hex(3)


def _describe(folder: Path) -> dict[str, Any]:
    """What ``timeline.json`` says. Where that is damaged the newest manifest says whose the folder is: a torn
    description must not cost the states. It is written anew by the next kernel (`Timeline.belongs_to`)."""
    path = folder / "timeline.json"
    try:
        data = check_format(path, FORMAT, VERSION)
        named = isinstance(data["name"], str) and isinstance(data.get("kernel"), str | None)
        if not named or len(bytes.fromhex(data["uuid"])) != _UUID_BYTES:
            raise StoreError(f"{path} names no notebook or no uuid")
    except NewerFormatError:
        raise
    except (StoreError, ValueError, KeyError, TypeError) as error:
        for manifest in sorted((folder / "manifests").glob("*.json"), reverse=True):
            with contextlib.suppress(DamagedError, OSError):
                name = Manifest.from_bytes(manifest.read_bytes(), str(manifest)).timeline
                return {"name": name, "uuid": secrets.token_hex(_UUID_BYTES), "kernel": None}
        raise StoreError(f"{path} is damaged, and no manifest beside it is whole: {error}") from error
    return data


def _write_description(
    folder: Path, name: str, uuid: bytes, kernel: str | None, was: list[str] | None = None
) -> None:
    data: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "uuid": uuid.hex(),
        "kernel": kernel,
    }
    if was:
        data["was"] = was
    write_atomically(folder / "timeline.json", json.dumps(data).encode())
