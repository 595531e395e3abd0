"""Jupyter Server extension: gives kernels more than five seconds to end.

Stopping a kernel, jupyter_client interrupts it, asks it to shut down and kills it after
``KernelManager.shutdown_wait_time``. An interrupted cell's state is captured at that moment, and gigabytes
take longer than the default allows. A value that the user or the image has configured is left alone.
"""

from __future__ import annotations

from typing import Any

from traitlets.utils.importstring import import_item

WAIT_SECONDS = 60.0
_TRAIT = "shutdown_wait_time"


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "respawner.server_extension"}]


def _load_jupyter_server_extension(server: Any) -> None:
    managers = server.kernel_manager
    kernel_class = import_item(managers.kernel_manager_class)
    if any(_TRAIT in managers.config.get(cls.__name__, {}) for cls in kernel_class.__mro__):
        return
    managers.config[kernel_class.__name__][_TRAIT] = WAIT_SECONDS
    server.log.info("respawner: kernels get %s s to save and end", WAIT_SECONDS)
