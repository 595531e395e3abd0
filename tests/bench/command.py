"""What every benchmark beside the peers does around its measurements, from the settings to the last line."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import state
from .kernel import CellFailed, KernelDied
from .table import BenchError, positive_setting, progress, scratch_parent

Measure = Callable[[Path, int, int], tuple[str, dict[str, Any]]]
"""Gets a scratch folder, the turns and the state's megabytes; returns a table for people and the JSON object."""


def run_as_command(name: str, measure: Measure, full_megabytes: int = state.FULL_MB) -> int:
    """Print the table on stderr and the object as the last line of stdout; returns the exit status."""
    try:
        repetitions = positive_setting("REPETITIONS", 5)
        megabytes = positive_setting("STATE_MB", full_megabytes)
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=scratch_parent()) as folder:
            shown, result = measure(Path(folder), repetitions, megabytes)
    except (BenchError, CellFailed, KernelDied) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    progress(shown)
    print(json.dumps(result))
    return 0
