"""From a snapshot on disk to the live namespace.

`load` makes every object and changes nothing of the namespace; only when all of it is there does `put` go
over it. So a damaged snapshot costs time, not state. A snapshot is believed as a whole or not at all:
`load_latest` falls back to the one before. Large memory is mapped and checked in the background
(`Loaded.verification`); where that finds damage, whoever put the state there falls back later.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from .errors import DamagedError, StoreError
from .interrupts import interrupts_later
from .live import live_objects
from .manifest import Manifest
from .namespace import put_history, put_variables
from .origins import tell_origins
from .pickling.early_names import names_meanwhile
from .pickling.late_hashes import hashes_wait
from .pickling.limits import memory_is_left
from .pickling.memory import Memory
from .pickling.placeholder import Placeholder, losses_counted
from .pickling.remarks import collecting
from .pickling.unpickler import GUARDED_CALLS, FastUnpickler, PatientUnpickler, seed_pickle
from .pickling.watch import Watch
from .portability import notes_on_versions
from .processstate import put_random_state, put_surroundings
from .progress import step
from .quiet import warnings_are_no_errors
from .safepoints.stopped import Stopped
from .settings import put_settings
from .store.reader import SnapshotReader
from .store.timeline import Damage, Timeline, is_target
from .verification import Verification

MAP_FROM_BYTES = 64 << 20
"""Smaller states are read and verified at once, in some hundredths of a second: damage shows before anything runs."""


@dataclass
class Loaded:
    """A state in memory that is not in the namespace yet."""

    manifest: Manifest
    variables: dict[str, Any]
    history: dict[str, Any]
    random: dict[str, Any]
    settings: dict[str, dict[str, Any]]
    excluded: list[str]
    lost: list[Placeholder]
    """What this restore did not bring back, whether it was lost when it was saved or now."""
    not_made: list[Placeholder]
    """Those of them that the snapshot has, and that could not be made of it now."""
    lost_before: list[Placeholder]
    """Placeholders that were in the namespace already when the snapshot was taken."""
    alive: list[str]
    """Variables that hold this process's own objects, as they are now: these could not be saved."""
    notes: list[str]
    verification: Verification
    stopped: Stopped | None = None
    """Where a cell was that has not gone on."""
    damaged: list[Damage] = field(default_factory=list)
    seconds: float = 0.0


def load_latest(
    shell: Any, timeline: Timeline, before: int | None = None, *, eager: bool = True
) -> Loaded | list[Damage]:
    """The newest state that is whole, or the damages found where there is none.

    ``before`` leaves out snapshots from that sequence number on. ``eager`` is as for `load`.
    """
    damaged: list[Damage] = []
    for found in timeline.snapshots():
        if before is not None and found.sequence >= before:
            continue
        if isinstance(found, Damage):
            damaged.append(found)
            continue
        if not is_target(found):
            continue
        try:
            loaded = load(shell, timeline, found, eager=eager)
        except DamagedError as error:
            damaged.append(Damage(found.sequence, timeline.manifest_path(found.sequence), str(error)))
            continue
        loaded.damaged = damaged
        return loaded
    return damaged


def load(
    shell: Any, timeline: Timeline, manifest: Manifest, *, eager: bool = True, salvage: bool = False
) -> Loaded:
    """Make the objects of one snapshot. Raises `DamagedError` where its bytes are not right.

    With ``eager=False`` large memory is mapped and is not among those bytes: `Loaded.verification`, which has
    begun when this returns, finds out whether it is right. With ``salvage`` everything is read, and damaged
    arrays and tensors become placeholders, listed in `Loaded.lost`; a damaged skeleton is not salvaged.

    Sets the process's surroundings (``sys.path``, environment, working folder) on the way, because modules
    are looked up while objects are made.
    """
    started = time.perf_counter()
    eager = eager or manifest.size_bytes < MAP_FROM_BYTES
    reader = SnapshotReader(timeline, manifest)
    watch = Watch(GUARDED_CALLS, around=_unpickle.__code__, restoring=True)
    try:
        with interrupts_later(), warnings_are_no_errors(), watch:
            loaded = _make_objects(shell, reader, eager, salvage)
    except BaseException:
        reader.close()
        raise
    if not reader.verified:
        loaded.notes.append(f"not verified: its hash {manifest.hash} is not installed here")
    loaded.notes += notes_on_versions(manifest.versions)
    tell_origins(loaded.lost, loaded.variables, loaded.history["Out"], loaded.history["In"])
    loaded.seconds = time.perf_counter() - started
    loaded.verification.start()
    return loaded


def _make_objects(shell: Any, reader: SnapshotReader, eager: bool, salvage: bool) -> Loaded:
    _tell_step("reading and checking", reader)
    if not salvage:
        try:
            return _unpickle(FastUnpickler, shell, reader, Memory(reader, eager=eager))
        except StoreError:
            raise
        except BaseException as error:
            # An object's own code failed: once more, slowly, and without that object. The memory is made
            # again as well, because the first try may have changed it.
            if isinstance(error, MemoryError) and not memory_is_left():
                raise
        _tell_step("once more, object by object", reader)
    return _unpickle(PatientUnpickler, shell, reader, Memory(reader, eager=eager, salvage=salvage))


def _tell_step(text: str, reader: SnapshotReader) -> None:
    before = reader.bytes_done
    step(text, lambda: reader.bytes_done - before, reader.manifest.size_bytes)


def put(shell: Any, loaded: Loaded, *, replace: bool, with_history: bool) -> list[str]:
    """Make the namespace that of the snapshot; returns names of the fresh kernel that gave way."""
    step("setting variables and options")
    overwritten = put_variables(shell, loaded.variables, replace=replace)
    if with_history:
        put_history(shell, loaded.history)
    loaded.notes += put_settings(shell, loaded.settings)
    loaded.notes += put_random_state(loaded.random)
    return overwritten


def _unpickle(unpickler_class: Any, shell: Any, reader: SnapshotReader, memory: Memory) -> Loaded:
    manifest = reader.manifest
    live = live_objects(shell, manifest.live)
    with memory.in_use(), reader.open(manifest.skeleton, seed_pickle(len(live))) as file:
        unpickler = unpickler_class(file, live)
        try:
            with losses_counted() as losses:
                prelude = unpickler.load()
                notes = put_surroundings(prelude)
                with (
                    collecting() as remarks,
                    names_meanwhile(shell.user_ns) as unpickler.names,
                    hashes_wait(),
                ):
                    body = unpickler.load()
            notes += remarks
        finally:
            unpickler.finish()
    variables = dict(body["entries"])
    return Loaded(
        manifest=manifest,
        variables={name.name: variables[name.name] for name in manifest.names},  # as they were first assigned
        history=body["history"][1],
        random=body["random"],
        settings=body["settings"][1] if "settings" in body else {},
        excluded=prelude["excluded"],
        lost=losses.now + unpickler.failures,
        not_made=list(unpickler.failures),
        lost_before=losses.before,
        alive=sorted({path for path, _ in losses.alive}),
        notes=notes + losses.notes + memory.moves(),
        verification=Verification(reader, memory.mapped),
        stopped=Stopped.from_pickle(body["stopped"]) if body.get("stopped") else None,
    )
