"""From the live namespace to a published snapshot, in one straight line.

Runs on the kernel's main thread between two cells, so that nothing of the notebook runs meanwhile (threads
that the user started may; what they change during the pickle is the user's own race).
"""

from __future__ import annotations

import functools
import pickle
import platform
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import import_module
from typing import Any

from .errors import CaptureError
from .live import live_names, live_objects
from .manifest import Manifest, Name, Payload, Skipped, Stream
from .namespace import history_of, user_names
from .pickling.deep_stack import run_deep
from .pickling.pickler import Entry, NamespacePickler, one_line_reason, type_name
from .pickling.placeholder import Placeholder
from .pickling.regions import SMALL_BYTES, Union
from .pickling.segments import SegmentFile
from .pickling.where import path_to
from .processstate import Baseline, random_state, surroundings
from .store.timeline import new_id
from .store.writer import TimelineWriter
from .version import __version__

_COMPRESS_BELOW = 8 << 20
"""Skeletons below this are compressed: it takes at most about 0.1 s, and text shrinks to a quarter."""


@dataclass
class Moment:
    """What is captured when: filled at the end of a cell, used when the capture runs."""

    next_count: int
    kind: str = "cell"
    state: str = "ok"
    cell: dict[str, Any] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    parent: str | None = None


@dataclass
class _Pickled:
    """One consistent state in memory: the pieces of the skeleton, and what the pickler found."""

    pieces: list[Any]
    pickler: NamespacePickler
    live: list[str]
    entries: list[Entry]


def capture(
    shell: Any, writer: TimelineWriter, moment: Moment, baseline: Baseline, excluded: Collection[str]
) -> Manifest:
    """Publish the state of the namespace. When it raises, the timeline is as before.

    Raises `CaptureError` where the namespace cannot be pickled, `OSError` where the disk does not take it.
    """
    pickled = _pickle_namespace(shell, moment, baseline, excluded)
    try:
        manifest = _write(writer, pickled, moment)
        writer.publish(manifest)
    except BaseException:
        writer.roll_back()
        raise
    return manifest


def _pickle_namespace(shell: Any, moment: Moment, baseline: Baseline, excluded: Collection[str]) -> _Pickled:
    names = live_names()
    live = live_objects(shell, names)
    prelude = surroundings(baseline, shell.history_manager.input_hist_parsed)
    prelude["excluded"] = sorted(excluded)
    entries = [Entry(name, shell.user_ns[name]) for name in user_names(shell, excluded)]
    body: dict[str, Any] = {
        "entries": entries,
        "history": Entry("Out", history_of(shell, moment.next_count)),
        "random": random_state(),
    }
    attempt = functools.partial(_attempt, shell, live, prelude, body)
    try:
        pieces, pickler = attempt(deep=False)
    except RecursionError:
        pieces, pickler = _deeply(attempt)
    except Exception:
        _isolate(functools.partial(_attempt, shell, live, deep=True), body)
        pieces, pickler = _deeply(attempt)
    return _Pickled(pieces, pickler, names, entries)


def _deeply(attempt: Callable[..., Any]) -> Any:
    try:
        return run_deep(functools.partial(attempt, deep=True))
    except Exception as error:
        raise CaptureError(f"the namespace cannot be pickled: {error}") from error


def _attempt(shell: Any, live: list[Any], *parts: Any, deep: bool) -> tuple[list[Any], NamespacePickler]:
    """One pass over everything; each part is one pickle, and all share the memo."""
    file = SegmentFile()
    pickler = NamespacePickler(file, live, shell.user_ns)
    pickler.deep = deep
    for part in parts:
        # Not cloudpickle's dump(), which hides the RecursionError that tells us to go deeper.
        pickle.Pickler.dump(pickler, part)
    pickler.count_bytes()
    return file.finish(), pickler


def _isolate(attempt: Callable[[Any], Any], body: dict[str, Any]) -> None:
    """Something fails that `NamespacePickler` could not foresee: find the values, and give those up."""

    def tried(path: str, value: Any) -> Any:
        try:
            run_deep(functools.partial(attempt, Entry(path, value)))
        except Exception as error:
            return Placeholder(path, type_name(type(value)), one_line_reason(error))
        return value

    for item in body["entries"]:
        item.value = tried(item.name, item.value)
    outputs = body["history"].value["Out"]
    for number, value in outputs.items():
        outputs[number] = tried(f"Out[{number}]", value)


def _write(writer: TimelineWriter, pickled: _Pickled, moment: Moment) -> Manifest:
    pickler = pickled.pickler
    unions, union_of = pickler.regions.merge()
    payloads, places = _write_payloads(writer, unions)
    regions = writer.add_stream([pickler.regions.rows(unions, union_of, places)], compress=True)
    skeleton_bytes = sum(len(piece) for piece in pickled.pieces)
    skeleton = writer.add_stream(pickled.pieces, compress=skeleton_bytes < _COMPRESS_BELOW)
    skipped = _skipped(pickled)
    return Manifest(
        id=new_id(),
        sequence=writer.next_sequence,
        timeline=writer.timeline.name,
        created=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        parent=moment.parent,
        kind=moment.kind,
        state=moment.state,
        cell={**moment.cell, "next_count": moment.next_count},
        versions=_versions(),
        hash=writer.hash,
        live=pickled.live,
        skeleton=skeleton,
        regions=regions,
        payloads=payloads,
        names=[_name(item, pickler.bytes_by_name) for item in pickled.entries],
        skipped=skipped,
        notes=list(pickler.notes),
        labels=moment.labels,
    )


def _write_payloads(
    writer: TimelineWriter, unions: list[Union]
) -> tuple[list[Payload], list[tuple[int, int]]]:
    """Store the memory; returns the payloads and, for each union, its payload's id and its offset there."""
    payloads: list[Payload] = []
    places: list[tuple[int, int]] = []
    small: list[bytes] = []
    small_length = 0
    for union in unions:
        if union.length < SMALL_BYTES:
            places.append((0, small_length))
            small.append(bytes(union.memory()))
            small_length += union.length
        else:
            stream = writer.add_stream([union.memory()])
            payloads.append(Payload(len(payloads) + 1, union.first.kind, union.first.about, stream))
            places.append((payloads[-1].id, 0))
    if small:
        payloads.insert(0, Payload(0, "small", f"{len(small)} small ones", _small_stream(writer, small)))
    return payloads, places


def _small_stream(writer: TimelineWriter, small: list[bytes]) -> Stream:
    return writer.add_stream([b"".join(small)])


def _name(item: Entry, bytes_by_name: dict[str, int]) -> Name:
    cls = type(item.value)
    try:
        own = sys.getsizeof(item.value)
    except Exception:  # a user's __sizeof__
        own = 0
    return Name(item.name, type_name(cls), max(own, bytes_by_name.get(item.name, 0)))


def _skipped(pickled: _Pickled) -> list[Skipped]:
    """One entry for each lost object, with the way to it from its variable."""
    by_name = {item.name: item.value for item in pickled.entries}
    found = []
    for failure in pickled.pickler.failures:
        path = path_to(failure.obj, by_name.get(failure.name), failure.name)
        found.append(Skipped(path, type_name(type(failure.obj)), failure.reason))
    for item in pickled.entries:
        if isinstance(item.value, Placeholder):
            known = item.value.__dict__
            found.append(Skipped(item.name, known["respawner_type"], known["respawner_reason"]))
    return found


def _versions() -> dict[str, str]:
    versions = {"respawner": __version__, "python": platform.python_version()}
    for module in ("numpy", "torch", "pandas", "cloudpickle"):
        if module in sys.modules and (version := getattr(import_module(module), "__version__", None)):
            versions[module] = str(version)
    return versions
