"""Sizes as people write them."""

from __future__ import annotations

import re

_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:I?B)?|B)?$", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def size_bytes(text: str) -> int:
    """`"2G"`, `"512M"` or `"1048576"` in bytes (binary units, as Docker reads them)."""
    found = _SIZE.match(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a size: write for example 512M or 16G")
    return int(float(found.group(1)) * _UNITS[(found.group(2) or "").upper()])


def size_text(size: int) -> str:
    """Bytes for people, in GiB from 1 GiB on: "10 GiB", "512 MiB"."""
    gib = size / (1 << 30)
    return f"{gib:.3g} GiB" if gib >= 1 else f"{size / (1 << 20):.0f} MiB"
