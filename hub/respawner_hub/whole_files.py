"""`whole_file`: a file that is never seen half-written, of any length.

Not for the snapshots' store, which has a writer of its own for small files (`respawner.store.files`), nor for folders.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def whole_file(
    path: Path, mode: int, *, replace: bool = True, keep_owner: bool = False, stale: Iterable[Path] = ()
) -> Iterator[IO[bytes]]:
    """What the block writes becomes the file at `path` when the block ends well; until then nothing changes there.

    - A reader finds what was there before, or all of the new content. Of several writers the last one wins.
    - When the block or a step after it raises, or the process is killed, `path` is as it was. After a kill or a power cut
      a hidden file `.NAME.….new` may stay beside it. Where only the last step fails, the folder's fsync, the new
      content is there and this raises. Once it has returned, the new content outlives a power cut.
    - `mode` is exact, whatever the umask; before the content is complete nobody but the writer can read it.
    - A link at `path` is replaced itself: resolve it first to keep it.

    :param replace: False to leave a file that is there, and raise `FileExistsError`: the first writer wins.
    :param keep_owner: for root: owner and group are those of the file that is replaced, or else of its folder. Without it, or for
        others, they are the writing process's.
    :param stale: files that go with the one that is replaced; removed when the new content is on the disk, before it is at `path`.
    :raises OSError:
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if keep_owner and os.geteuid() == 0:
                owner = (path if path.exists() else path.parent).stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        for rest in stale:
            rest.unlink(missing_ok=True)
        if replace:
            temporary.replace(path)
        else:
            path.hardlink_to(temporary)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    _fsync_folder(path.parent)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
