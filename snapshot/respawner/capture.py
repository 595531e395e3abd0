"""From the live namespace to a published snapshot, in one straight line.

Runs on the kernel's main thread between two cells, so that nothing of the notebook runs meanwhile (threads
that the user started may; what they change during the pickle is the user's own race).
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from .manifest import Manifest, Name, Payload
from .pickled import Pickled, pickle_namespace
from .pickling.pickler import Entry, type_name
from .pickling.regions import SMALL_BYTES, Union
from .processstate import Baseline
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


def capture(
    shell: Any, writer: TimelineWriter, moment: Moment, baseline: Baseline, excluded: Collection[str]
) -> Manifest:
    """Publish the state of the namespace. When it raises, the timeline is as before.

    Raises `CaptureError` where the namespace cannot be pickled, `OSError` where the disk does not take it.
    """
    pickled = pickle_namespace(shell, moment.next_count, baseline, excluded)
    try:
        manifest = _write(writer, pickled, moment)
        writer.publish(manifest)
    except BaseException:
        writer.roll_back()
        raise
    return manifest


def _write(writer: TimelineWriter, pickled: Pickled, moment: Moment) -> Manifest:
    """Store every stream; returns the manifest that names them, not published yet."""
    pickler = pickled.pickler
    unions, union_of = pickler.regions.merge()
    payloads, places = _write_payloads(writer, unions)
    regions = writer.add_stream([pickler.regions.rows(unions, union_of, places)], compress=True)
    skeleton_bytes = sum(len(piece) for piece in pickled.pieces)
    skeleton = writer.add_stream(pickled.pieces, compress=skeleton_bytes < _COMPRESS_BELOW)
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
        skipped=pickled.skipped(),
        notes=list(pickler.notes),
        labels=moment.labels,
    )


def _write_payloads(
    writer: TimelineWriter, unions: list[Union]
) -> tuple[list[Payload], list[tuple[int, int]]]:
    """Store the memory; returns the payloads and, for each union, its payload's id and its offset there."""
    payloads: list[Payload] = []
    places: list[tuple[int, int]] = []
    small = bytearray()
    for union in unions:
        if union.length < SMALL_BYTES:
            places.append((0, len(small)))
            small += union.memory()
        else:
            stream = writer.add_stream([union.memory()])
            payloads.append(Payload(len(payloads) + 1, union.first.kind, union.first.about, stream))
            places.append((payloads[-1].id, 0))
    if small:
        payloads.append(Payload(0, "small", "all memory below 64 KiB", writer.add_stream([small])))
    return payloads, places


def _name(item: Entry, bytes_by_name: dict[str, int]) -> Name:
    cls = type(item.value)
    try:
        own = sys.getsizeof(item.value)
    except Exception:  # a user's __sizeof__
        own = 0
    return Name(item.name, type_name(cls), max(own, bytes_by_name.get(item.name, 0)))


def _versions() -> dict[str, str]:
    """Versions of what the skeleton is made with; only of what is imported already."""
    versions = {"respawner": __version__, "python": platform.python_version()}
    for name in ("numpy", "torch", "pandas", "cloudpickle"):
        if version := getattr(sys.modules.get(name), "__version__", None):
            versions[name] = str(version)
    return versions
