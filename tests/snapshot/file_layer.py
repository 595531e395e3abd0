"""Layers between the store and the disk: one that fails on order, and one that knows what a power cut would leave.

Both stand in for the module `os` in the store's modules that change the disk, and pass everything on.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from respawner.store import files, pack

CHANGES = ("write", "pwrite", "ftruncate", "fsync", "fdatasync", "replace", "unlink", "mkdir", "open")


class Layer:
    """Stands in for `os`; `before` sees every change of the disk and may raise."""

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CHANGES:
            return real

        def call(*arguments: Any, **keywords: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **keywords)
            return self.change(name, real, arguments, keywords)

        return call

    def change(self, name: str, real: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        raise NotImplementedError


@contextmanager
def under_the_store(layer: Layer) -> Iterator[None]:
    with mock.patch.object(files, "os", layer), mock.patch.object(pack, "os", layer):
        yield


class Failing(Layer):
    """Fails at the ``fail_at``-th change (counted from 0), and at every one after it until `mend`, or just once.

    ``error`` is an errno, ``"short"`` for a write that takes only a part, or ``"kill"`` for a process that ends
    there: nothing after it is done either, not even tidying up.
    """

    def __init__(self, fail_at: int, error: int | str, *, lasting: bool = False) -> None:
        self.fail_at, self.error, self.lasting = fail_at, error, lasting
        self.count = 0
        self.failed = False

    def change(self, name: str, real: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        number, self.count = self.count, self.count + 1
        if number < self.fail_at or (number > self.fail_at and not self.lasting and self.error != "kill"):
            return real(*arguments, **keywords)
        self.failed = True
        if self.error == "kill":
            raise Killed(name)
        if self.error == "short":
            if name in ("write", "pwrite") and len(arguments[1]) > 512:
                return real(arguments[0], memoryview(arguments[1])[:512], *arguments[2:])
            return real(*arguments, **keywords)
        assert isinstance(self.error, int)
        if self.error in (errno.ENOSPC, errno.EDQUOT) and name in ("unlink", "ftruncate"):
            return real(*arguments, **keywords)  # making room works on a full disk
        raise OSError(self.error, f"{os.strerror(self.error)} (injected at {name} number {number})")


class Killed(BaseException):
    """The process would have ended here."""


@dataclass
class _File:
    """A file's content: what is surely on disk, and what has been done since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(offset, bytes written there) or (length, None) for a truncation."""

    def after(self, survives: random.Random | None) -> bytes:
        """The content after a power cut: of what was not synced nothing survives, or what chance says, by page."""
        content = bytearray(self.durable)
        for offset, data in self.pending:
            if survives is None:
                break
            if data is None:
                if survives.random() < 0.5:
                    content[offset:] = bytes(max(0, offset - len(content)))
                continue
            for start in range(0, len(data), 4096):
                piece = data[start : start + 4096]
                if survives.random() < 0.5:
                    at = offset + start
                    content.extend(bytes(max(0, at + len(piece) - len(content))))
                    content[at : at + len(piece)] = piece
        return bytes(content)

    def sync(self) -> None:
        for offset, data in self.pending:
            if data is None:
                self.durable[offset:] = bytes(max(0, offset - len(self.durable)))
            else:
                self.durable.extend(bytes(max(0, offset + len(data) - len(self.durable))))
                self.durable[offset : offset + len(data)] = data
        self.pending.clear()


class PowerLoss(Layer):
    """Records every change below ``root`` as a disk sees it that keeps only what was fsynced.

    A folder's entries (new names, renames, removals) are durable with the folder's own fsync, a file's bytes with the
    file's. `states_after` gives what may be found after a cut at this moment.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries: dict[str, _File | None] = {"": None}
        """What is surely there, by path relative to the root: a file, or None for a folder."""
        self.pending: list[tuple[str, str, _File | None]] = []
        """Changes of entries that no fsync of their folder has made durable: (action, path, what)."""
        self.now: dict[str, _File | None] = {"": None}
        self.open_files: dict[int, tuple[str, _File | None, int]] = {}
        self.watch: Any = None
        """Called after each change."""

    def change(self, name: str, real: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        result = real(*arguments, **keywords)
        self._note(name, arguments, result)
        if self.watch is not None:
            self.watch()
        return result

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        if name != "open":
            return found

        def open_and_note(*arguments: Any, **keywords: Any) -> Any:
            descriptor = found(*arguments, **keywords)
            path = self._relative(arguments[0])
            self.open_files[descriptor] = path, self.now.get(path), 0
            return descriptor

        return open_and_note

    def _relative(self, path: Any) -> str:
        relative = Path(path).relative_to(self.root).as_posix()
        return "" if relative == "." else relative

    def _note(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        if name == "open":
            path = self._relative(arguments[0])
            if path not in self.now:
                self._entry("make", path, _File())
        elif name == "mkdir":
            self._entry("make", self._relative(arguments[0]), None)
        elif name == "unlink":
            self._entry("remove", self._relative(arguments[0]), None)
        elif name == "replace":
            source, target = map(self._relative, arguments)
            self._entry("rename " + source, target, self.now[source])
        elif name in ("write", "pwrite"):
            path, file, position = self.open_files[arguments[0]]
            assert file is not None
            offset = arguments[2] if name == "pwrite" else position
            file.pending.append((offset, bytes(memoryview(arguments[1])[:result])))
            self.open_files[arguments[0]] = path, file, position + result
        elif name == "ftruncate":
            _, file, _ = self.open_files[arguments[0]]
            assert file is not None
            file.pending.append((arguments[1], None))
        elif name in ("fsync", "fdatasync"):
            path, file, _ = self.open_files[arguments[0]]
            if file is not None:
                file.sync()
            else:
                self._sync_folder(path)

    def _entry(self, action: str, path: str, what: _File | None) -> None:
        _apply(self.now, action, path, what)
        self.pending.append((action, path, what))

    def _sync_folder(self, folder: str) -> None:
        left = []
        for action, path, what in self.pending:
            if (path.rpartition("/")[0]) == folder:
                _apply(self.entries, action, path, what)
            else:
                left.append((action, path, what))
        self.pending = left

    def states_after(self, folder: Path, seed: int | None) -> None:
        """Put into ``folder`` what a cut now could leave: only what was synced, or with ``seed`` a part of the rest."""
        chance = random.Random(seed) if seed is not None else None
        entries = dict(self.entries)
        for action, path, what in self.pending:
            if chance is not None and chance.random() < 0.5:
                _apply(entries, action, path, what)
        for path in sorted(entries, key=lambda path: path.count("/")):
            file, target = entries[path], folder / path
            if not target.parent.is_dir() and path:
                continue  # its folder was lost
            if file is None:
                target.mkdir(exist_ok=True)
            else:
                target.write_bytes(file.after(chance))


def _apply(entries: dict[str, _File | None], action: str, path: str, what: _File | None) -> None:
    if action == "remove":
        entries.pop(path, None)
        return
    if action.startswith("rename "):
        entries.pop(action.removeprefix("rename "), None)
    entries[path] = what
