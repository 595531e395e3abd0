"""``%snapshot``, ``%snapshots``, ``%restore``, ``%forget``, ``%restart_clean`` and ``%%resumable``."""

from __future__ import annotations

import difflib
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.display import display

from .engine import Engine
from .errors import NoSnapshotError, StoreError
from .listing import table
from .manifest import Manifest
from .readable import readable_size
from .reports import show
from .restart import restart_kernel


@magics_class
class RespawnerMagics(Magics):
    def __init__(self, shell: Any, engine: Engine) -> None:
        super().__init__(shell)
        self._engine = engine

    @line_magic
    def snapshot(self, line: str) -> None:
        """``%snapshot [label]``: save the state now. A labelled snapshot is kept until `%forget`."""
        manifest = self._engine.save(line.strip() or None)
        print(f"Snapshot {manifest.id} ({readable_size(manifest.size_bytes)})")  # noqa: T201

    @line_magic
    def snapshots(self, line: str) -> None:
        """``%snapshots``: list this notebook's snapshots as a table, newest first."""
        timeline = self._engine.timeline
        display(table(list(timeline.snapshots()), timeline.pins()), raw=True)

    @line_magic
    def restore(self, line: str) -> None:
        """``%restore [--salvage] [id|label]``: replace all variables by a snapshot's (the last one by default).

        ``--salvage`` takes a damaged snapshot too: what of it is damaged becomes a placeholder.
        """
        words = line.split()
        salvage = "--salvage" in words
        wanted = " ".join(word for word in words if word != "--salvage")
        try:
            report = self._engine.restore(wanted or None, salvage=salvage)
        except NoSnapshotError:
            raise UsageError(self._no_such(wanted)) from None  # IPython shows it as one line; the cell fails
        show(report)

    @line_magic
    def forget(self, line: str) -> None:
        """``%forget id|label``: delete that snapshot for good, also where a label or a pin keeps it."""
        wanted = line.strip()
        if not wanted:
            raise UsageError(
                "which snapshot? `%forget id` or `%forget label`; `%snapshots` lists what there is"
            )
        try:
            manifest = self._engine.forget(wanted)
        except NoSnapshotError:
            raise UsageError(self._no_such(wanted)) from None
        except StoreError as error:
            raise UsageError(str(error)) from None
        print(f"Snapshot {manifest.id} is deleted.")  # noqa: T201

    @line_magic
    def restart_clean(self, line: str) -> None:
        """``%restart_clean``: restart the kernel without restoring. Snapshots are kept for ``%restore``."""
        self._engine.clean_next_start()
        print("Restarting with an empty namespace; the next start says how to bring this state back.")  # noqa: T201
        restart_kernel(self.shell)

    @cell_magic
    def resumable(self, line: str, cell: str) -> None:
        """``%%resumable``: the cell's training loops go on where they were when the kernel died.

        As if each were written `for … in respawner.resume(…)`: the cell's outermost ``for`` loops and those in whose
        bodies an optimizer steps, in functions that the cell defines too. The cell must be the same when it is run again.
        """
        # A cell that begins with it never comes here: see `safepoints.resumable`.
        raise UsageError("%%resumable must be the first line of the cell; nothing was run")

    def _no_such(self, wanted: str) -> str:
        """One line, with what may have been meant."""
        if not wanted:
            return "this notebook has no snapshot yet; nothing was changed"
        whole = [found for found in self._engine.timeline.snapshots() if isinstance(found, Manifest)]
        labels = dict.fromkeys(label for found in whole for label in found.labels)
        near = difflib.get_close_matches(wanted, [*labels, *(found.id for found in whole)])
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        return (
            f"there is no snapshot {wanted!r}; {meant}`%snapshots` lists what there is; nothing was changed"
        )
