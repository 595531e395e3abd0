"""Restarts the kernel from within, so that whoever started it starts it again.

Jupyter restarts a kernel that ends without having been asked to (the "autorestarter" of Jupyter Server and
of jupyter_client). So the kernel ends the way ipykernel ends on a shutdown request that says restart: the
reply to the running cell goes out, exit handlers run, frontends are told.
"""

from __future__ import annotations

import asyncio
from typing import Any


def restart_kernel(shell: Any) -> None:
    """End this kernel after the running cell."""
    kernel = shell.kernel
    shell.exit_now = True
    stop = getattr(kernel, "io_loop", None)
    if stop is None:
        raise RuntimeError("this shell has no event loop to stop; restart the kernel in the menu")
    loop = asyncio.get_running_loop()
    # Twice around the loop: the first callback after the cell is the capture of its state.
    loop.call_soon(lambda: loop.call_soon(stop.stop))
