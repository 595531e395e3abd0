"""One life of a kernel that writes to its state: ``rewriting.py STORE first|next``, JSON cases on stdin.

``first`` makes the state and captures it, then writes and captures again, with one saver as a session has.
``next`` restores by mapping, writes and captures. What each case's value is after that is printed as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from respawner import restoring
from respawner.capture import Moment, capture
from respawner.processstate import Baseline
from respawner.restoring import Loaded, load_latest, put
from respawner.saving.saver import Saver
from respawner.store.layout import open_store
from respawner.store.timeline import Timeline
from respawner.store.writer import TimelineWriter


def main() -> None:
    store, life = open_store(Path(sys.argv[1]), create=True), sys.argv[2]
    cases: list[dict[str, str]] = json.load(sys.stdin)
    timeline = Timeline.create(store, "/rewriting.ipynb")
    shell = InteractiveShell.instance()
    saver = Saver(lambda: TimelineWriter(timeline), lambda job: None)
    restored: dict[str, str] = {}
    if life == "first":
        for case in cases:
            exec(case["before"], shell.user_ns)
        save(shell, saver)
    else:
        restoring.MAP_FROM_BYTES = 0
        loaded = load_latest(shell, timeline, eager=False)
        assert isinstance(loaded, Loaded), loaded
        put(shell, loaded, replace=False, with_history=True)
        restored = values(shell, cases)
        loaded.verification.wait()
    before = values(shell, cases)
    for case in cases:
        exec(case["write"], shell.user_ns)
    save(shell, saver)
    json.dump({"restored": restored, "before": before, "after": values(shell, cases)}, sys.__stdout__)


def save(shell: Any, saver: Saver) -> None:
    job = capture(shell, Moment(shell.execution_count), Baseline(), (), saver.stored())
    saver.submit(job)
    job.done.wait()
    if job.error is not None:
        raise job.error


def values(shell: Any, cases: list[dict[str, str]]) -> dict[str, str]:
    return {case["name"]: repr(eval(case["value"], shell.user_ns)) for case in cases}


if __name__ == "__main__":
    main()
