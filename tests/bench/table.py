"""How results are printed: progress and tables on stderr, one JSON object as the last line of stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median


class BenchError(Exception):
    """What the person who runs a benchmark can change."""


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table. Floats get three significant digits, None a dash."""
    lines = [list(head), ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def middle(values: Sequence[float], digits: int = 4) -> float | None:
    """The median, rounded; None of nothing."""
    return round(median(values), digits) if values else None


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Of neighbours in time: what disturbs one measurement of a turn disturbs the other as well."""
    return [a / b for a, b in zip(above, below, strict=True)]


def positive_setting(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdigit() or int(text) < 1:
        raise BenchError(f"{name}={text!r}: must be a whole number from 1, for example {default}.")
    return int(text)


def scratch_parent() -> Path:
    """A place on the checkout's own disk: `/tmp` may be memory."""
    folder = Path(__file__).parents[1] / "artifacts"
    folder.mkdir(exist_ok=True)
    return folder
