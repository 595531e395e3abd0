"""Small files that must never be seen half-written.

Every change of the disk goes through functions of `os`, so that tests can put a layer under it that fails, or that
forgets what was not fsynced.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace ``path`` by ``content``: temp file in the same folder, length check, fsync, rename, fsync.

    When it raises before the rename, ``path`` is what it was. Where only the last step fails (the folder's
    fsync), the new content is there, and may or may not outlive a power cut. With ``durable=False`` nothing is
    fsynced: enough for files that only have to outlive the process, not the machine.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        _write_new(temporary, content, durable)
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise
    if durable:
        fsync_folder(path.parent)


def _write_new(path: Path, content: bytes, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        if os.fstat(descriptor).st_size != len(content):
            raise OSError(f"{path} is shorter than the {len(content)} bytes written")
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Unlink, where it exists. Not durable: what comes back after a power cut is removed again."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each durably in its parent."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)  # noqa: PTH102
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make renames and new files in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
