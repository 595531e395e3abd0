"""Jupyter Server extension: timelines follow their notebooks, and kernels get more than five seconds to end.

What Jupyter renames, copies or deletes is told by its contents events; `store.moves` does the work. Kernels in what was
renamed are restarted where it is now.

Stopping a kernel, jupyter_client interrupts it, asks it to shut down and kills it after
``KernelManager.shutdown_wait_time``. An interrupted cell's state is captured at that moment, and gigabytes
take longer than the default allows. A value that the user or the image has configured is left alone.
"""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_server.utils import ApiPath, to_os_path
from traitlets.utils.importstring import import_item

from .contract import SESSION_NAME_ENV
from .errors import RespawnerError
from .store import moves
from .store.layout import default_store

WAIT_SECONDS = 60.0
_SCHEMA = "https://events.jupyter.org/jupyter_server/contents_service/v1"
_CHANGES: dict[str, Any] = {"rename": moves.move, "copy": moves.copy, "delete": moves.delete}
_TRAIT = "shutdown_wait_time"


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "respawner.server_extension"}]


def _load_jupyter_server_extension(server: Any) -> None:
    server.event_logger.add_listener(schema_id=_SCHEMA, listener=_follower(server))
    _give_time_to_end(server)


def _follower(server: Any) -> Any:
    """A listener that does what `store.moves` says, in a thread (the disk may be slow) and in order."""
    one_by_one = asyncio.Lock()

    def path_of(path: str) -> str:
        root: str = server.kernel_manager.root_dir
        return to_os_path(ApiPath(path), root)  # as in JPY_SESSION_NAME

    async def follow(logger: Any, schema_id: str, data: dict[str, Any]) -> None:
        action, store = data["action"], default_store()
        if action not in _CHANGES:
            return
        paths = [path_of(data[key]) for key in ("source_path", "path") if data.get(key)]
        if action == "rename":
            try:
                _restart_where_they_are_now(server.kernel_manager, *paths)
            except (
                Exception
            ) as error:  # other kernel managers, other insides; the states go along all the same
                server.log.warning(
                    "respawner: kernels of %s restart where they were: %s", data["path"], error
                )
        if not (store / "format.json").exists():
            return
        try:
            async with one_by_one:
                await asyncio.to_thread(_CHANGES[action], store, *paths)
        except (RespawnerError, OSError) as error:
            server.log.warning("respawner: %s of %s was not followed: %s", action, data["path"], error)

    return follow


def _restart_where_they_are_now(managers: Any, old: str, new: str) -> None:
    """Jupyter restarts a kernel in the folder and with the name that it was started with. Where the folder has been
    renamed meanwhile that fails, and a killed kernel would stay dead."""

    def renamed(path: Any) -> Any:
        below = isinstance(path, str) and (path == old or path.startswith(old.rstrip("/") + "/"))
        return new + path[len(old) :] if below else path

    for kernel_id in managers.list_kernel_ids():
        arguments = getattr(managers.get_kernel(kernel_id), "_launch_args", None) or {}
        if "cwd" in arguments:
            arguments["cwd"] = renamed(arguments["cwd"])
        if SESSION_NAME_ENV in (environment := arguments.get("env") or {}):
            environment[SESSION_NAME_ENV] = renamed(environment[SESSION_NAME_ENV])


def _give_time_to_end(server: Any) -> None:
    managers = server.kernel_manager
    kernel_class = import_item(managers.kernel_manager_class)
    if any(_TRAIT in managers.config.get(cls.__name__, {}) for cls in kernel_class.__mro__):
        return
    managers.config[kernel_class.__name__][_TRAIT] = WAIT_SECONDS
    server.log.info("respawner: kernels get %s s to save and end", WAIT_SECONDS)
