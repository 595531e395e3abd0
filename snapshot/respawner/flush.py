"""``python3 -m respawner.flush --timeout SECONDS``: wait until every kernel of the session is durable.

For the hub, before it stops a container. Needs nothing but the standard library and permission to read the
kernels' status files. Prints one JSON object and exits as `respawner.contract` says.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from .contract import FLUSH_DURABLE, FLUSH_NOT_DURABLE
from .runtime import FAILED, SAVED, running_kernels, runtime_folders, want_flush

_POLL_SECONDS = 0.1


def wait_until_durable(folders: Path | list[Path], timeout_seconds: float) -> dict[str, object]:
    """Wait for all kernels of these folders; gives up at the timeout, or as soon as waiting cannot help any more."""
    folders = [folders] if isinstance(folders, Path) else folders
    deadline = time.monotonic() + timeout_seconds
    while True:
        for folder in folders:
            want_flush(folder)  # again and again: a state may be put off after we have come
        kernels = [kernel for folder in folders for kernel in running_kernels(folder)]
        states = {kernel["state"] for kernel in kernels}
        durable = states <= {SAVED}
        if durable or states <= {SAVED, FAILED} or time.monotonic() >= deadline:
            return {"durable": durable, "kernels": kernels}
        time.sleep(_POLL_SECONDS)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m respawner.flush", description=__doc__)
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--runtime", type=Path, default=None, help="folder of the status files")
    options = parser.parse_args(arguments)
    result = wait_until_durable(options.runtime or runtime_folders(), options.timeout)
    sys.stdout.write(json.dumps(result) + "\n")
    return FLUSH_DURABLE if result["durable"] else FLUSH_NOT_DURABLE


if __name__ == "__main__":
    sys.exit(main())
