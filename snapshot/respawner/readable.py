"""Sizes and ages for people."""

from __future__ import annotations

from datetime import datetime, timezone


def age_seconds(created: str) -> float:
    return max(0.0, (datetime.now(timezone.utc) - datetime.fromisoformat(created)).total_seconds())


def readable_size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def readable_memory(size_bytes: float) -> str:
    """Of GPUs and what lies in them, in binary units as their makers and CUDA's errors say it: "79.2 GiB"."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.3g} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"


def readable_age(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} old"
    return f"{seconds:.0f} s old"
