"""Watches this host's devices in threads of its own: who asks for the `report` never waits for the driver.

One thread asks NVML in rounds: fast values every round, lists (devices, processes) every few rounds. When the driver
was restarted, a GPU was plugged in or one is lost, it opens NVML anew. A second thread waits for Xids. NVML stays open
meanwhile, so the driver cannot be unloaded (`rmmod`, `nvidia-smi --gpu-reset`) before the monitor stops.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pynvml

from .containers import containers_of
from .health import HealthBook
from .nvml import Nvml
from .values import Access, Gpu, GpuProcess, Inventory, Reading, Report
from .words import explain
from .xids import XidWatcher

log = logging.getLogger(__name__)

HolderOf = Callable[[Sequence[str]], tuple[str, str]]
"""From the ids in a process's cgroup, outermost first, to (container, holder). Must answer from memory."""


@dataclass(frozen=True)
class Pace:
    """How often what is asked, in seconds."""

    readings: float = 2
    lists: float = 10
    """Devices and processes: 4.5 ms a GPU, against 15 µs for the readings."""
    reopen: float = 30
    """Between two tries to open NVML anew while it fails; the first is at once."""
    rescan: float = 300
    """Open NVML anew to look for new GPUs, only where the kernel does not list them in /proc (WSL)."""
    stale: float = 15
    """Older readings are called stale."""


class Monitor:
    """`start`, then `report` from any thread, then `stop`.

    :param holder_of: names the session of a process.
    :param proc: where the kernel shows processes and, in driver/nvidia, what its driver sees.
    """

    def __init__(
        self,
        pace: Pace | None = None,
        *,
        holder_of: HolderOf = lambda ids: (ids[0] if ids else "", ""),
        proc: Path = Path("/proc"),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pace, self._holder_of, self._proc, self._clock = pace or Pace(), holder_of, proc, clock
        self._book, self._book_lock = HealthBook(), threading.Lock()
        self._report = Report(0)
        self._nvml: Nvml | None = None
        self._watcher: XidWatcher | None = None
        self._found: list[Gpu] = []
        self._kernel_sees: object = None
        # Moments of the monotonic clock; 0: never, and for the next try at once.
        self._opened_at = self._listed_at = self._next_try = 0.0
        self._answered_at = time.monotonic()
        self._failed = ""
        """Why NVML is not open."""
        self._first_version = ""
        self.needs_new_process = False
        """The driver was upgraded under this process, which has its old library loaded and cannot load another."""
        self._failures: list[str] = []
        """What NVML could not list."""
        self._doing = "starting"
        self._stopping, self._first = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="NVML", daemon=True)

    def start(self) -> None:
        self._answered_at = time.monotonic()
        self._thread.start()

    def stop(self, timeout_seconds: float = 5) -> None:
        """Ends the threads, as far as the driver lets them."""
        self._stopping.set()
        self._thread.join(timeout_seconds)

    def wait_for_first(self, timeout_seconds: float) -> bool:
        """Wait for the first whole round; False when the time was too short."""
        return self._first.wait(timeout_seconds)

    def report(self) -> Report:
        """What is known now. At once, also while NVML hangs: then `stale` says so and the readings are the last ones."""
        now = self._clock()
        last = self._report
        age = time.monotonic() - self._answered_at
        stale = f"NVML has not answered for {age:.0f} s ({self._doing})" if age > self._pace.stale else ""
        with self._book_lock:
            health, events = self._book.health(), tuple(self._book.events)
            xid_counts = {uuid: dict(counts) for uuid, counts in self._book.xid_counts.items()}
        causes = (*last.causes, stale) if stale else last.causes
        return replace(
            last, at=now, health=health, events=events, xid_counts=xid_counts, causes=causes, stale=stale
        )

    def clear(self, uuid: str) -> bool:
        """An admin says that the device is well again; False when nothing was wrong with it."""
        with self._book_lock:
            return self._book.clear(uuid, self._clock())

    def set_access(self, access: Sequence[Access]) -> None:
        """What the canary saw of all running sessions."""
        with self._book_lock:
            self._book.access(access, self._clock())

    # The thread that asks NVML ------------------------------------------------------------------------

    def _run(self) -> None:
        self._first_version = self._version()
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                self._round(self._clock())
            except Exception:
                log.exception("a round of questions to NVML failed")  # the next one may not
            self._stopping.wait(max(0.05, self._pace.readings - (time.monotonic() - started)))
        self._close()

    def _round(self, now: float) -> None:
        if self._should_open():
            self._open(now)
        elif self._nvml and time.monotonic() - self._listed_at >= self._pace.lists:
            self._list(now)
        readings = self._read_all(now)
        if self._nvml and self._nvml.dead and self._should_open():
            # Before anything is called broken: a restarted driver answers again once it is opened anew.
            self._open(now)
            readings = self._read_all(now)
        if self._nvml and not self._nvml.dead:
            self._next_try = 0  # the next failure may be mended at once
        with self._book_lock:
            for reading in readings:
                self._book.read(reading, now)
        self._publish(readings, now)

    def _should_open(self) -> bool:
        """First, when the kernel sees other GPUs or another driver, and some time after a failure."""
        if not self._opened_at:
            return True
        now, sees = time.monotonic(), self._what_the_kernel_sees()
        if sees is not None:
            if sees != self._kernel_sees:
                return True
        elif now - self._opened_at >= self._pace.rescan:
            return True
        failed = self._nvml is None or self._nvml.dead or bool(self._failed)
        return failed and now >= self._next_try

    def _what_the_kernel_sees(self) -> object:
        """Version and PCI addresses of the driver's GPUs, None where it does not say."""
        try:
            return self._version(), sorted(gpu.name for gpu in (self._proc / "driver/nvidia/gpus").iterdir())
        except OSError:
            return None

    def _version(self) -> str:
        try:
            return (self._proc / "driver/nvidia/version").read_text()
        except OSError:
            return ""

    def _open(self, now: float) -> None:
        self._doing = "opening NVML"
        self._opened_at = time.monotonic()
        self._next_try = self._opened_at + self._pace.reopen
        self._kernel_sees = self._what_the_kernel_sees()
        if not self._close():
            self._failed = "a thread that waits for Xids hangs in NVML: restart the agent"
            return
        nvml = Nvml()
        try:
            nvml.open()
        except pynvml.NVMLError as error:
            self._failed = explain(error)
            other = self._version() != self._first_version
            self.needs_new_process = other and error.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
            self._lose_everything(now)
            return
        self._nvml, self._failed = nvml, ""
        if not self._list(now):
            self._lose_everything(now)

    def _close(self) -> bool:
        """False when NVML must stay as it is because a thread is still in it."""
        if self._watcher and not self._watcher.stop():
            return False
        self._watcher = None
        if self._nvml:
            nvml, self._nvml = self._nvml, None
            try:
                nvml.close()
            except pynvml.NVMLError as error:
                log.warning("nvmlShutdown: %s", explain(error))
        return True

    def _list(self, now: float) -> bool:
        """Look for devices and processes. False when NVML fails: then the devices are those of before."""
        assert self._nvml is not None
        self._doing = "listing the devices"
        self._listed_at = time.monotonic()
        try:
            self._found, self._failures = self._nvml.devices()
        except pynvml.NVMLError as error:
            self._failures = [explain(error)]
            return False
        with self._book_lock:
            self._book.found(self._found, "; ".join(self._failures), now)
        if self._watcher is None or not self._watcher.is_alive():
            self._watch(self._nvml.handles)
        processes = tuple(process for gpu in self._found for process in self._processes(self._nvml, gpu))
        self._report = replace(self._report, processes=processes, processes_at=now)
        return True

    def _watch(self, handles: dict[str, Any]) -> None:
        whole = {gpu.uuid for gpu in self._found if not gpu.parent}
        self._watcher = XidWatcher({u: h for u, h in handles.items() if u in whole}, self._xid)
        self._watcher.start()

    def _xid(self, uuid: str, code: int, instance: int | None) -> None:
        """Called in the watcher's thread."""
        parts = [
            g.uuid
            for g in self._found
            if instance is not None and g.parent == uuid and g.gpu_instance == instance
        ]
        with self._book_lock:
            for each in parts or [uuid]:
                self._book.xid(each, code, self._clock())

    def _read_all(self, now: float) -> tuple[Reading, ...]:
        readings = []
        for gpu in self._found if self._nvml else ():
            self._doing = f"reading {gpu.uuid}"
            readings.append(self._nvml.reading(gpu, now))  # type: ignore[union-attr]
        return tuple(readings)

    def _processes(self, nvml: Nvml, gpu: Gpu) -> list[GpuProcess]:
        if gpu.mig_mode:
            return []
        self._doing = f"listing the processes of {gpu.uuid}"
        named = []
        for process in nvml.processes(gpu, self._report.processes_at):
            container, holder = self._holder_of(containers_of(process.pid, self._proc))
            named.append(replace(process, container=container, holder=holder))
        return named

    def _lose_everything(self, now: float) -> None:
        self._found = []
        with self._book_lock:
            self._book.found([], self._failed or "; ".join(self._failures), now)

    def _publish(self, readings: tuple[Reading, ...], now: float) -> None:
        self._doing = "between two rounds"
        self._answered_at = time.monotonic()
        here = {gpu.uuid for gpu in self._found}
        with self._book_lock:
            gone = [gpu for uuid, gpu in self._book.known.items() if uuid not in here]
        causes = [self._failed] if self._failed else list(self._failures)
        causes += self._watcher.causes if self._watcher else ()
        self._report = replace(
            self._report,
            read_at=now,
            inventory=Inventory(
                (*self._found, *gone),
                "; ".join(causes),
                self._nvml.driver_version if self._nvml else "",
                self._nvml.cuda_version if self._nvml else "",
            ),
            readings=readings,
            processes=self._report.processes if self._nvml else (),
            causes=tuple(causes),
        )
        self._first.set()
