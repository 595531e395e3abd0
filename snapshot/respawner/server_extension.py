"""Jupyter Server extension: gives kernels more than five seconds to end.

Stopping a kernel, jupyter_client interrupts it, asks it to shut down and kills it after
``KernelManager.shutdown_wait_time``. An interrupted cell's state is captured at that moment, and gigabytes
take longer than the default allows. A value that the user or the image has configured is left alone.
"""

from __future__ import annotations

from typing import Any

from jupyter_server.utils import ApiPath, to_os_path
from traitlets.utils.importstring import import_item

from .errors import RespawnerError
from .store import moves
from .store.layout import default_store

WAIT_SECONDS = 60.0
_TRAIT = "shutdown_wait_time"


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "respawner.server_extension"}]


_SCHEMA = "https://events.jupyter.org/jupyter_server/contents_service/v1"


def _load_jupyter_server_extension(server: Any) -> None:
    server.event_logger.add_listener(schema_id=_SCHEMA, listener=_follower(server))
    _give_time_to_end(server)


def _follower(server: Any) -> Any:
    """Keeps timelines with their notebooks (see `store.moves`)."""

    def path_of(path: str) -> str:
        root: str = server.kernel_manager.root_dir
        return to_os_path(ApiPath(path), root)  # as in JPY_SESSION_NAME

    async def follow(logger: Any, schema_id: str, data: dict[str, Any]) -> None:
        action, store = data["action"], default_store()
        if action not in ("rename", "copy", "delete") or not (store / "format.json").exists():
            return
        try:
            if action == "delete":
                moves.delete(store, path_of(data["path"]))
            else:
                change = moves.move if action == "rename" else moves.copy
                change(store, path_of(data["source_path"]), path_of(data["path"]))
        except (RespawnerError, OSError) as error:
            server.log.warning("respawner: %s of %s was not followed: %s", action, data["path"], error)

    return follow


def _give_time_to_end(server: Any) -> None:
    managers = server.kernel_manager
    kernel_class = import_item(managers.kernel_manager_class)
    if any(_TRAIT in managers.config.get(cls.__name__, {}) for cls in kernel_class.__mro__):
        return
    managers.config[kernel_class.__name__][_TRAIT] = WAIT_SECONDS
    server.log.info("respawner: kernels get %s s to save and end", WAIT_SECONDS)
