"""A process with an accelerator, the stand-in or CUDA, in which a namespace is saved and restored without a kernel.

`run_in_session` runs statements in a fresh one; ``session`` is a `Session` there, and ``ns`` its namespace.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from tests.snapshot.notebook import PATIENCE_SECONDS, PYTHON

ROOT = Path(__file__).parents[2]
_PRELUDE = """\
import sys
sys.path.insert(0, {root!r})
import torch
from respawner.errors import DeviceError, TornError
from tests.snapshot.device_session import Session
session = Session({store!r})
ns = session.shell.user_ns
"""
_STANDIN = """\
from tests.standins import accelerator
exec(accelerator.startup())
counts = torch.standin.counts
"""


class Session:
    """Saves with one saver, as a kernel does."""

    def __init__(self, store: str) -> None:
        from IPython.core.interactiveshell import InteractiveShell
        from respawner.processstate import Baseline
        from respawner.saving.saver import Saver
        from respawner.store.layout import open_store
        from respawner.store.timeline import Timeline
        from respawner.store.writer import TimelineWriter

        self.timeline = Timeline.create(open_store(Path(store), create=True), "/devices.ipynb")
        self.shell = InteractiveShell.instance()
        self.saver = Saver(lambda: TimelineWriter(self.timeline), lambda job: None)
        self._baseline = Baseline()

    def capture(self, *, restless: bool = False) -> Any:
        from respawner.capture import Moment, capture

        return capture(self.shell, Moment(1, restless=restless), self._baseline, (), self.saver.stored())

    def write(self, job: Any, *, freeze: bool = False, inside: bool = False) -> Any:
        """The manifest; raises what the job ended with. ``freeze``: as before the next cell; ``inside``: as in a cell that goes on."""
        self.saver.submit(job)
        if freeze or inside:
            self.saver.freeze(on_devices=inside)
        assert job.done.wait(PATIENCE_SECONDS)
        if job.error is not None:
            raise job.error
        return job.manifest

    def save(self, *, freeze: bool = False, inside: bool = False, restless: bool = False) -> Any:
        return self.write(self.capture(restless=restless), freeze=freeze, inside=inside)

    def load(self) -> Any:
        from respawner.restoring import Loaded, load_latest

        found = load_latest(self.shell, self.timeline, eager=False)
        assert isinstance(found, Loaded), found
        return found


def run_in_session(folder: Path, code: str, *, device: str = "standin", **environment: str) -> None:
    """Run the statements in a fresh process with that device; an assertion that fails there fails here."""
    prelude = _PRELUDE.format(root=str(ROOT), store=str(folder / "store"))
    if device == "standin":
        prelude += _STANDIN
    done = subprocess.run(
        [PYTHON, "-c", prelude + code],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
