"""A thread that waits for NVML's Xid events, which come within moments of a GPU's fault."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pynvml

from .words import explain

WAIT_MILLISECONDS = 500
"""How long one wait takes, and so how long `stop` may take."""

Tell = Callable[[str, int, int | None], None]
"""UUID of the GPU ("" when nobody knows), Xid, number of the GPU instance (None: the whole GPU)."""


class XidWatcher(threading.Thread):
    """Tells of every Xid, in this thread. Runs between one `nvmlInit` and the `nvmlShutdown` after it.

    :param handles: NVML's handles of whole GPUs; MIG devices have no events of their own.
    """

    def __init__(self, handles: Mapping[str, Any], tell: Tell) -> None:
        super().__init__(name="xid events", daemon=True)
        self._handles, self._tell = dict(handles), tell
        self._stopping = threading.Event()
        self.causes: tuple[str, ...] = ()
        """Which GPUs cannot tell, and why."""
        self._events = self._register()

    def stop(self) -> bool:
        """False when NVML does not return: then it must not be shut down under this thread."""
        self._stopping.set()
        self.join(4 * WAIT_MILLISECONDS / 1000)
        return not self.is_alive()

    def run(self) -> None:
        if self._events is None:
            return
        while not self._stopping.is_set():
            self._wait(self._events)
        pynvml.nvmlEventSetFree(self._events)

    def _register(self) -> Any:
        """In the caller's thread, so that nothing is missed once this object exists."""
        wanted = pynvml.nvmlEventTypeXidCriticalError
        try:
            events = pynvml.nvmlEventSetCreate()
        except pynvml.NVMLError as error:
            self.causes = (f"no Xid events: {explain(error)}",)
            return None
        for uuid, handle in self._handles.items():
            try:
                if not pynvml.nvmlDeviceGetSupportedEventTypes(handle) & wanted:
                    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
                pynvml.nvmlDeviceRegisterEvents(handle, wanted, events)
            except pynvml.NVMLError as error:
                self.causes += (f"{uuid} tells of no Xids: {explain(error)}",)
        return events

    def _wait(self, events: Any) -> None:
        try:
            event = pynvml.nvmlEventSetWait_v2(events, WAIT_MILLISECONDS)
        except pynvml.NVMLError_Timeout:
            return
        except pynvml.NVMLError:
            # A lost GPU or a restarted driver: the readings tell it, and then there is a new watcher.
            self._stopping.wait(WAIT_MILLISECONDS / 1000)
            return
        if event.eventType == pynvml.nvmlEventTypeXidCriticalError:
            whole = event.gpuInstanceId == 0xFFFFFFFF
            self._tell(self._uuid(event.device), int(event.eventData), None if whole else event.gpuInstanceId)

    def _uuid(self, handle: Any) -> str:
        """By the handle's value: NVML does not give the name of a GPU that it has just lost."""
        address = _address(handle)
        known = (uuid for uuid, each in self._handles.items() if _address(each) == address)
        try:
            return next(known, "") or pynvml.nvmlDeviceGetUUID(handle)
        except pynvml.NVMLError:
            return ""


def _address(handle: Any) -> int:
    """Handles are pointers of ctypes, which compare by identity."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
