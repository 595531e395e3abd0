"""Which devices this host has, asked once. For a command line or a form; who asks often has a `Monitor`."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet

import pynvml

from .nvml import Nvml
from .values import Inventory
from .words import explain

TIMEOUT_SECONDS = 10

_running: Future[Inventory] | None = None
_lock = threading.Lock()


def inventory(timeout_seconds: float = TIMEOUT_SECONDS) -> Inventory:
    """Ask NVML. Never raises and never hangs: a broken driver is an empty inventory with its cause.

    A GPU that fails while it is read (lost from the bus) is left out and named in `cause`. A driver that hangs
    keeps one thread of this process, also when many ask.
    """
    global _running
    with _lock:
        if _running is None or _running.done():
            _running = Future()
            threading.Thread(target=_answer, args=(_running,), name="inventory", daemon=True).start()
        question = _running
    try:
        return question.result(timeout_seconds)
    except NotYet:
        return Inventory(
            cause=f"the NVIDIA driver has not answered for {timeout_seconds:g} s: see `dmesg`, reboot the machine"
        )


def _answer(question: Future[Inventory]) -> None:
    try:
        question.set_result(_ask())
    except BaseException as error:
        question.set_exception(error)


def _ask() -> Inventory:
    nvml = Nvml()
    try:
        nvml.open()
    except pynvml.NVMLError as error:
        return Inventory(cause=explain(error))
    try:
        found, causes = nvml.devices()
        return Inventory(tuple(found), "; ".join(causes), nvml.driver_version, nvml.cuda_version)
    except pynvml.NVMLError as error:
        return Inventory(cause=explain(error))
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            nvml.close()
