"""Respawner: a notebook's variables survive its kernel.

Importing this package changes nothing and loads nothing else; the injected startup file or
``%load_ext respawner`` switches it on (see `respawner.startup`). Every function raises
`respawner.errors.NotActiveError` where it is off, except `status`, which says why.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .engine import Engine

__all__ = [
    "__version__",
    "clean_next_start",
    "exclude",
    "flush",
    "forget",
    "include",
    "load_ipython_extension",
    "report",
    "restore",
    "resume",
    "save",
    "snapshots",
    "start_over",
    "status",
    "stopped",
    "unload_ipython_extension",
]


def save(label: str | None = None) -> str:
    """Save the state now and return the snapshot's id. A labelled snapshot is kept until `forget`."""
    return _engine().save(label).id


def restore(id_or_label: str | None = None, *, salvage: bool = False) -> dict[str, Any]:
    """Replace all variables by a snapshot's (default: the last). The state before is saved first.

    With ``salvage`` a damaged snapshot is taken as well, with placeholders for what is damaged.

    Large arrays and tensors lie in memory that is mapped from the snapshot: read when they are first
    touched, and theirs alone. Only resizing them in place (``tensor.resize_``, ``array.resize``) does not
    work there; ``x = x.clone()`` or ``x = x.copy()`` makes one that can be resized.

    Returns the report, with what could not be restored and why.
    """
    return _engine().restore(id_or_label, salvage=salvage)


def forget(id_or_label: str) -> str:
    """Delete a snapshot of this notebook for good, also a labelled or pinned one, and return its id.

    Raises `NoSnapshotError`, and `StoreError` for the one that the next start would go on from.
    """
    return _engine().forget(id_or_label).id


def flush(timeout: float | None = None) -> bool:
    """Wait until the state at the end of the last cell is durable; False where it could not be saved.

    Saving goes on beside the kernel's work; ``timeout`` is in seconds, None waits as long as it takes.
    """
    return _engine().flush(timeout)


def status() -> dict[str, Any]:
    """Whether Respawner is on (else why not), where it saves, the last snapshot, the last error.

    A plain dict for code, one block where it is shown.
    """
    from .overview import Status
    from .startup import active_engine, why_off

    engine = active_engine()
    return Status(engine.status() if engine else {"active": False, "why": why_off(), "error": None})


def report() -> dict[str, Any]:
    """What the last restore brought back, what it could not, and why."""
    return _engine().report


def snapshots() -> list[dict[str, Any]]:
    """This notebook's snapshots, newest first, each a plain dict; damaged ones have a ``damaged`` reason."""
    from .listing import describe

    timeline = _engine().timeline
    pins = timeline.pins()
    return [describe(found, pins) for found in timeline.snapshots()]


def exclude(*names: str) -> None:
    """Leave these variables out of snapshots from now on, also after restarts. `include` undoes it."""
    _engine().recorder.excluded.update(_checked(names))


def include(*names: str) -> None:
    """Save these variables again that `exclude` has left out."""
    _engine().recorder.excluded.difference_update(_checked(names))


def clean_next_start() -> None:
    """Restore nothing when this notebook's kernel starts next. Snapshots are kept."""
    _engine().clean_next_start()


def resume(
    iterable: Iterable[Any], name: str | None = None, counted: bool = False, start: int = 0
) -> Iterable[Any]:
    """A loop that goes on where it was when the kernel died: ``for batch in respawner.resume(loader):``

    Between its iterations the state of the running cell is saved from time to time. When that state has been restored
    and the cell is run again, what stands before the loop runs again; where the loop begins, all variables and random
    generators are as they were at the last such moment, those of the functions around it too, and the next item is
    the one that came next then. Wrap every loop around it as well. ``counted`` gives ``(number, item)`` from ``start``
    on as `enumerate` does, which itself would count from 0 again.

    ``name`` finds the loop again in a cell that has been changed. Where Respawner is off, in threads and in child
    processes it is the iterable itself. Raises `ResumeError` where it cannot go on exactly.
    """
    from .startup import active_engine

    engine = active_engine()
    if engine is None or not engine.mine():
        return enumerate(iterable, start) if counted else iterable
    return engine.safepoints.loops.resumable(iterable, name, start if counted else None)


def stopped() -> dict[str, Any] | None:
    """Where a cell was when the kernel died in it: its safe point, and the variables of the functions that ran.

    None where there was none, or when the cell has gone on or was run again to its end.
    """
    found = _engine().stopped()
    if found is None:
        return None
    return {"cell": found.number, "source": found.source, **found.facts(), "functions": dict(found.functions)}


def start_over() -> None:
    """Let loops begin anew that would go on where they stopped; the variables stay as they are."""
    _engine().going_on.start_over()


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext respawner``: switch on, or say why not."""
    from .startup import activate, why_off

    engine = activate(shell)
    if engine is None:
        print(f"Respawner stays off: {why_off()}")  # noqa: T201
    else:
        engine.start_late()


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext respawner``: later cells are not saved any more."""
    from .startup import deactivate

    deactivate()


def _checked(names: tuple[str, ...]) -> tuple[str, ...]:
    """Raises `TypeError` for what is no name: the variable itself is easily given instead of its name."""
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            what = repr(name) if isinstance(name, str) else f"an object of type {type(name).__name__}"
            raise TypeError(f"{what} is no variable's name; write it in quotes: respawner.exclude('name')")
    return names


def _engine() -> Engine:
    from .errors import NotActiveError
    from .startup import active_engine, why_off

    engine = active_engine()
    if engine is None:
        raise NotActiveError(f"Respawner is off: {why_off()}")
    return engine
