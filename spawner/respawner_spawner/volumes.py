"""A user's volumes belong to the container's user, whatever the image has at the mount point.

Docker gives a fresh volume the owner of the image's folder there, and root where there is none. A tar entry
for the folder itself, extracted into the container before it starts, sets the owner without running
anything: no root process, no shell in the image. Small files of ours go the same way.
"""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterable, Mapping

from .engine import Engine


def entries(folders: Iterable[str], files: Mapping[str, bytes], uid: int, gid: int) -> bytes:
    """A tar archive, to be extracted at `/`: folders that are the user's alone, and files that the user may read."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in folders:
            archive.addfile(_entry(path, tarfile.DIRTYPE, 0o700, uid, gid))
        for path, content in files.items():
            entry = _entry(path, tarfile.REGTYPE, 0o444, 0, 0)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _entry(path: str, kind: bytes, mode: int, uid: int, gid: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path.strip("/"))
    entry.type, entry.mode, entry.uid, entry.gid, entry.mtime = kind, mode, uid, gid, int(time.time())
    return entry


async def fill_volumes(
    engine: Engine, container_id: str, folders: Iterable[str], files: Mapping[str, bytes], uid: int, gid: int
) -> None:
    """Make uid and gid own the volumes mounted at `folders` in a container that has not been started, and put files there.

    One archive for all of them: each takes the engine about 90 ms, which a person waits for.
    """
    await engine.call("put_archive", container_id, "/", entries(folders, files, uid, gid))
