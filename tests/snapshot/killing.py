"""Kills a process that restores, saves and tidies up, at random moments: ``killing.py STORE KILLS SEED``.

Each life is a forked child on the same timeline: it restores what the one before has left, checks it, and saves state
after state (the next one is made while the last is still being written, as the next cell does), with retention and
compaction in between. It tells every step through a pipe. After each SIGKILL the store must hold a whole state, that
of the last publish that was told or one that came after it. Prints one JSON object with counts.

The pickling, hashing, saving, store and restoring are the product's; what is left out is the Jupyter kernel.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from IPython.core.interactiveshell import InteractiveShell
from respawner import restoring
from respawner.capture import Moment, capture
from respawner.contract import KEEP_DAILY_ENV, KEEP_HOURLY_ENV, KEEP_LATEST_ENV
from respawner.manifest import Manifest
from respawner.processstate import Baseline
from respawner.restoring import Loaded, load_latest, put
from respawner.saving.job import Job
from respawner.saving.saver import Saver
from respawner.store import compaction, writer
from respawner.store.layout import open_store
from respawner.store.lock import TimelineLock
from respawner.store.reader import SnapshotReader
from respawner.store.timeline import Timeline
from respawner.store.writer import TimelineWriter
from traitlets.config import Config

NAME = "/killed.ipynb"
STILL = np.arange(400_000)


def state(count: int) -> dict[str, Any]:
    """What the namespace holds after that many cells: something old, something all new, an alias, text."""
    new = np.full(150_000, count)
    return {"count": count, "still": STILL, "new": new, "alias": new, "half": new[::2], "text": "t" * count}


def is_right(found: dict[str, Any]) -> bool:
    count, new = found["count"], found["new"]
    return (
        bool((found["still"] == STILL).all() and (new == count).all())
        and found["alias"] is new
        and np.shares_memory(found["half"], new)
        and found["text"] == "t" * count
    )


class Life:
    """One child's. ``tell`` is the writing end of the pipe."""

    def __init__(self, store: Path, tell: int, mapped: bool) -> None:
        self._store = store
        self._tell_to = tell
        restoring.MAP_FROM_BYTES = 1 if mapped else 1 << 40

    def tell(self, phase: str, count: int = 0) -> None:
        os.write(self._tell_to, f"{phase} {count}\n".encode())

    def run(self, shell: Any) -> None:
        self.tell("restoring")
        timeline = Timeline.create(open_store(self._store, create=True), NAME)
        lock = TimelineLock.acquire(timeline.lock_path)
        assert lock is not None, "the lock of the killed process is still held"
        loaded = load_latest(shell, timeline, eager=False)
        count = 0
        saver = Saver(lambda: TimelineWriter(timeline), self._ended)
        if isinstance(loaded, Loaded):
            assert not loaded.damaged, loaded.damaged
            put(shell, loaded, replace=True, with_history=False)
            assert is_right(shell.user_ns), "the restored state is not one that was saved"
            saver.hold(loaded.verification.is_good)
            count = shell.user_ns["count"]
        else:
            assert loaded == [], loaded
        baseline = Baseline()
        while True:
            self.tell("saving", count)
            count += 1
            saver.freeze()
            shell.user_ns.update(state(count))
            moment = Moment(count, "cell", "ok", {"execution_count": count})
            saver.submit(capture(shell, moment, baseline, (), saver.stored()))
            if count % 4 == 0:
                saver.wait()
                self.tell("tidying", count)
                saver.tidy()

    def _ended(self, job: Job) -> None:
        if job.error is not None:
            self.tell(f"FAILED:{job.error!r}".replace(" ", "_"))
        else:
            self.tell("published", job.facts["cell"]["execution_count"])


LONGEST_LIFE = 14  # in steps told; before the seventh, a child has tidied up once, and so published
LONGEST_WAIT = 240  # seconds; a child that hangs ends by itself, and is told


def kill_one(store: Path, shell: Any, chance: random.Random) -> tuple[str, int]:
    """Let a child live for some steps and a moment; returns its last phase and the last count it told as published.

    Steps, not seconds: on a loaded machine, lives of half a second would all end before their first state.
    """
    reading, writing = os.pipe()
    mapped = chance.random() < 0.5
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(LONGEST_WAIT)
        life = Life(store, writing, mapped)
        try:
            life.run(shell)
        except BaseException:
            life.tell("FAILED:" + traceback.format_exc().replace(" ", "_").replace("\n", "|"))
        os._exit(1)
    os.close(writing)
    with open(reading) as pipe:
        lines = [pipe.readline() for _ in range(chance.randrange(LONGEST_LIFE))]
        time.sleep(chance.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        lines += pipe
    told = [(phase, int(count)) for phase, count in (line.split() for line in lines if line)]
    assert not [phase for phase, _ in told if phase.startswith("FAILED")], told
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, f"hung after {told}"
    phases = [phase for phase, _ in told if phase != "published"]
    return phases[-1] if phases else "starting", max(
        (n for phase, n in told if phase == "published"), default=0
    )


def check(store: Path, least: int) -> int:
    """Every manifest is whole, the newest state is, and it is not older than ``least``; returns its count."""
    timelines = Timeline.all_in(store) if store.exists() else []
    newest = timelines[0].latest() if timelines else None
    if newest is None:
        assert least == 0, f"state {least} was published and is gone"
        return 0
    assert all(isinstance(found, Manifest) for found in timelines[0].snapshots())
    with SnapshotReader(timelines[0], newest) as reader:
        reader.verify()
    count = int(newest.cell["execution_count"])
    assert count >= least, f"state {least} was published, and the newest is {count}"
    return count


def main() -> None:
    store, kills, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    writer.PACK_BYTES, writer.SMALL_PACK_BYTES = 8 << 20, 2 << 20
    compaction.compact.__defaults__ = (0,)
    os.environ |= {KEEP_LATEST_ENV: "3", KEEP_HOURLY_ENV: "0", KEEP_DAILY_ENV: "0"}
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    moments: Counter[str] = Counter()
    reached = 0
    for _ in range(kills):
        phase, published = kill_one(store, shell, chance)
        moments[phase] += 1
        reached = check(store, max(published, reached))
    print(json.dumps({"kills": kills, "states": reached, "killed_while": dict(sorted(moments.items()))}))


if __name__ == "__main__":
    main()
