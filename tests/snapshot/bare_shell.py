"""Capture and restore without a kernel: ``bare_shell.py save|load STORE``, a JSON object of cells on stdin.

Each cell is run under a name, and what it raised is printed as JSON by name. `save` runs the cells and then
captures, `load` restores into a fresh process and then runs the cells.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from respawner.capture import Moment, capture
from respawner.manifest import Manifest
from respawner.processstate import Baseline
from respawner.restoring import Loaded, load_latest, put
from respawner.saving.saver import Saver
from respawner.store.layout import open_store
from respawner.store.timeline import Timeline
from respawner.store.writer import TimelineWriter

NAME = "/bare.ipynb"


def main() -> None:
    action, store = sys.argv[1], open_store(Path(sys.argv[2]), create=True)
    cells: dict[str, str] = json.load(sys.stdin)
    timeline = Timeline.create(store, NAME)
    shell = InteractiveShell.instance()
    if action == "save":
        baseline = Baseline()
        outcome = run_cells(shell, cells)
        manifest = save_once(shell, timeline, baseline)
        lost = [vars(skipped) for skipped in manifest.skipped]
        notes = manifest.notes
    else:
        loaded = load_latest(shell, timeline)
        assert isinstance(loaded, Loaded), loaded
        put(shell, loaded, replace=False, with_history=True)
        outcome = run_cells(shell, cells)
        lost = [vars(placeholder) for placeholder in loaded.lost]
        notes = loaded.notes
    json.dump({"outcome": outcome, "lost": lost, "notes": notes}, sys.__stdout__)


def save_once(shell: Any, timeline: Timeline, baseline: Baseline) -> Manifest:
    saver = Saver(lambda: TimelineWriter(timeline), lambda job: None)
    job = capture(shell, Moment(shell.execution_count), baseline, (), saver.stored())
    saver.submit(job)
    job.done.wait()
    if job.error is not None:
        raise job.error
    assert job.manifest is not None
    return job.manifest


def run_cells(shell: Any, cells: dict[str, str]) -> dict[str, str | None]:
    """Run in the namespace itself: a cell that fails is reported and does not stop the others."""
    outcome: dict[str, str | None] = {}
    for name, code in cells.items():
        try:
            exec(compile(code, f"<{name}>", "exec", dont_inherit=True), shell.user_ns)
            outcome[name] = None
        except Exception:
            outcome[name] = traceback.format_exc()
    return outcome


if __name__ == "__main__":
    main()
