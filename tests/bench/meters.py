"""What a process and a disk are asked from outside. Linux only."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

RAW_BLOCK_BYTES = 16 << 20


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, ended ones too, in nanosecond resolution.

    The kernel numbers the CPU clock of a process as glibc's clock_getcpuclockid(3) does.
    """
    return time.clock_gettime((~pid << 3) | 2)


def reset_peak(pid: int) -> None:
    """Let the peak of resident memory begin anew: see clear_refs in proc(5)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    """The most resident memory since `reset_peak`."""
    return _status_bytes(pid, "VmHWM")


def resident_bytes(pid: int) -> int:
    return _status_bytes(pid, "VmRSS")


def _status_bytes(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def bytes_written(pid: int) -> int:
    """What the process has sent towards disks, as the kernel counts it."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise KeyError("write_bytes")


def pack_sizes(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in store.glob("timelines/*/packs/*.pack")}


def growth(before: dict[Path, int], after: dict[Path, int]) -> int:
    """Bytes that packs have grown by. Packs that garbage collection took away do not count against it."""
    return sum(max(0, size - before.get(path, 0)) for path, size in after.items())


def disk_usage(folder: Path) -> int:
    """As du: what the disk gives for everything in the folder."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def raw_direct_write_seconds(folder: Path, size_bytes: int) -> float:
    """Write that many random bytes to a new file past the page cache, and wait until the disk has them."""
    block = mmap.mmap(-1, RAW_BLOCK_BYTES)
    block.write(os.urandom(RAW_BLOCK_BYTES))
    left = -(-size_bytes // 4096) * 4096
    path = folder / "raw-write"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_DIRECT)
    try:
        with memoryview(block) as view:
            started = time.perf_counter()
            while left:
                left -= os.write(descriptor, view[: min(left, RAW_BLOCK_BYTES)])
            os.fdatasync(descriptor)
            return time.perf_counter() - started
    finally:
        os.close(descriptor)
        path.unlink()


def drop_from_cache(folder: Path) -> None:
    """Make the next read of every file there come from the disk. Pages that a process maps stay."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
