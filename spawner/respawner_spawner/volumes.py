"""A user's volumes belong to the container's user, whatever the image has at the mount point.

Docker gives a fresh volume the owner of the image's folder there, and root where there is none. A tar entry
for the folder itself, extracted into the container before it starts, sets the owner without running
anything: no root process, no shell in the image.
"""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterable
from pathlib import PurePosixPath

from .engine import Engine


def folder_entry(path: str, uid: int, gid: int, mode: int = 0o755) -> bytes:
    """A tar archive with one entry: the folder `path`, owned by uid and gid."""
    entry = tarfile.TarInfo(PurePosixPath(path).name)
    entry.type = tarfile.DIRTYPE
    entry.mode, entry.uid, entry.gid, entry.mtime = mode, uid, gid, int(time.time())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(entry)
    return buffer.getvalue()


async def own_mount_points(
    engine: Engine, container_id: str, paths: Iterable[str], uid: int, gid: int
) -> None:
    """Make uid and gid own the volumes mounted at `paths` in a container that has not been started."""
    for path in paths:
        parent = str(PurePosixPath(path).parent)
        archive = folder_entry(path, uid, gid, mode=0o700)
        await engine.call("put_archive", container_id, parent, archive)
