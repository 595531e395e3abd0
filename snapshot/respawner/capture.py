"""From the live namespace to a job that makes it durable: pickled, hashed, and not copied.

Runs on the kernel's main thread between two cells, so that nothing of the notebook runs meanwhile (threads
that the user started may; what they change during the pickle is the user's own race).
"""

from __future__ import annotations

import platform
import sys
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .device.hardware import synchronize
from .manifest import CHUNK_BYTES, DIGEST_BYTES, SAFEPOINT, Name
from .pickled import pickle_namespace
from .pickling.pickler import Entry, type_name
from .pickling.regions import SMALL_BYTES, RegionTable, Union
from .processstate import Baseline
from .safepoints.stopped import Stopped
from .saving.hashing import digests_of
from .saving.job import Job, PlannedPayload, PlannedStream, Source
from .saving.saver import Stored
from .store.digest import ALGORITHMS, PREFERRED
from .store.timeline import new_id
from .store.unwritten import known_digests
from .version import __version__

if TYPE_CHECKING:
    from .device.memory import DeviceMemory


@dataclass
class Moment:
    """What is captured when: filled at the end of a cell, used when the capture runs."""

    next_count: int
    kind: str = "cell"
    state: str = "ok"
    cell: dict[str, Any] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    parent: str | None = None
    stopped: Stopped | None = None
    """Where a cell is, or was when the kernel died, that has not gone on."""
    restless: bool = False
    """Memory may change while it is written (it did at the last attempt): take what is read."""


def capture(
    shell: Any,
    moment: Moment,
    baseline: Baseline,
    excluded: Collection[str],
    stored: Stored,
) -> Job:
    """One consistent state, pickled and hashed, as a job for the `Saver`. Copies no large memory.

    ``stored`` says which chunks need not be written. Raises `CaptureError` where the
    namespace cannot be pickled, `DeviceError` where a device has failed.
    """
    synchronize()
    pickled = pickle_namespace(
        shell, moment.next_count, baseline, excluded, moment.stopped, inside_cell=moment.kind == SAFEPOINT
    )
    pickler = pickled.pickler
    unions, union_of = pickler.regions.merge()
    payloads, small, places = _plan_payloads(unions, pickler.regions, stored, moment)
    return Job(
        facts={
            "id": new_id(),
            "created": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "parent": moment.parent,
            "kind": moment.kind,
            "state": moment.state,
            "cell": {**moment.cell, "next_count": moment.next_count},
            "versions": _versions(),
            "live": pickled.live,
            "names": [_name(item, pickler.bytes_by_name) for item in pickled.entries],
            "skipped": pickled.skipped(),
            "notes": list(pickler.notes),
            "labels": moment.labels,
            "devices": pickler.regions.belongs_on,
        },
        skeleton=pickled.pieces,
        regions=pickler.regions.rows(unions, union_of, places),
        small=small,
        payloads=payloads,
        restless=moment.restless,
        owners=pickler.regions.owners,
    )


def _plan_payloads(
    unions: list[Union], regions: RegionTable, stored: Stored, moment: Moment
) -> tuple[list[PlannedPayload], bytearray, list[tuple[int, int]]]:
    """Hash the memory; returns the payloads, the joined small memory, and for each union its payload's id
    and its offset there. Payloads are numbered from 1 in their order; 0 is the small memory."""
    large = [union for union in unions if union.length >= SMALL_BYTES and not union.device]
    small_on_devices = iter(_read_small(unions, regions))
    large_on_devices = iter(_look_at_large(unions, regions))
    ranges = [(union.start, union.length) for union in large]
    digests = iter(_digests(ranges, cell_waits=moment.kind == SAFEPOINT))
    payloads: list[PlannedPayload] = []
    places: list[tuple[int, int]] = []
    small = bytearray()
    planned: set[tuple[bytes, int]] = set()
    for union in unions:
        if union.length < SMALL_BYTES:
            places.append((0, len(small)))
            small += next(small_on_devices) if union.device else union.memory()
        else:
            if union.device:
                stream = _plan_on_device(next(large_on_devices), stored)
            else:
                stream = _plan(union, next(digests), stored, set() if moment.restless else planned)
            payloads.append(PlannedPayload(union.first.kind, union.first.about, stream))
            places.append((len(payloads), 0))
    return payloads, small, places


def _digests(ranges: list[tuple[int, int]], *, cell_waits: bool) -> list[bytes]:
    """For each range the digests of its chunks. What was mapped and never written to is not read for that."""
    known = [known_digests(address, length, PREFERRED) for address, length in ranges]
    unknown = [
        (address + index * CHUNK_BYTES, min(CHUNK_BYTES, length - index * CHUNK_BYTES))
        for (address, length), digests in zip(ranges, known, strict=True)
        if any(digests)
        for index, digest in enumerate(digests)
        if digest is None
    ]
    whole = [place for place, digests in zip(ranges, known, strict=True) if not any(digests)]
    found = iter(digests_of(whole + unknown, ALGORITHMS[PREFERRED], cell_waits=cell_waits))
    of_whole = [next(found) for _ in whole]
    wholes = iter(of_whole)
    return [
        b"".join(digest or next(found) for digest in digests) if any(digests) else next(wholes)
        for digests in known
    ]


def _plan(union: Union, digests: bytes, stored: Stored, planned: set[tuple[bytes, int]]) -> PlannedStream:
    """What of a union must be written; ``planned`` are the chunks that this job writes already."""
    if whole := stored.stream(digests, union.length):
        return PlannedStream(union.length, digests, {}, whole)
    sources: dict[int, Source] = {}
    for index, start in enumerate(range(0, union.length, CHUNK_BYTES)):
        digest = digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        length = min(CHUNK_BYTES, union.length - start)
        if (digest, length) not in planned and not stored.has(digest, length):
            planned.add((digest, length))
            sources[index] = Source(union.start + start, length)
    return PlannedStream(union.length, digests, sources)


def _plan_on_device(memory: DeviceMemory, stored: Stored) -> PlannedStream:
    """The same for a device's memory: what the device says has changed must be read, and is hashed then."""
    digests = bytearray(DIGEST_BYTES * -(-memory.length // CHUNK_BYTES))
    sources: dict[int, Source] = {}
    for index, (place, made_there) in enumerate(memory.chunks()):
        digest = None if made_there is None else stored.known.digest_of(place, made_there)
        if digest is not None and stored.has(digest, place.length):
            digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = digest
        else:
            sources[index] = Source(place.address, place.length, memory)
    whole = None if sources else stored.stream(bytes(digests), memory.length)
    return PlannedStream(memory.length, bytes(digests), sources, whole, memory)


def _look_at_large(unions: list[Union], regions: RegionTable) -> list[DeviceMemory]:
    """Devices' large unions, in their order, with their devices' digests."""
    large = [union for union in unions if union.device and union.length >= SMALL_BYTES]
    if not large:
        return []
    from .device.memory import DeviceMemory, look  # needs torch, which is there where a device's memory is

    memories = [DeviceMemory.of(regions.covering(union)) for union in large]
    look(memories)
    return memories


def _read_small(unions: list[Union], regions: RegionTable) -> list[bytes]:
    """The bytes of devices' small unions, in their order: in one go a device, not one after the other."""
    small = [union for union in unions if union.device and union.length < SMALL_BYTES]
    if not small:
        return []
    from .device.memory import DeviceMemory

    found: dict[int, bytes] = {}
    by_device: dict[str, list[tuple[int, DeviceMemory]]] = defaultdict(list)
    for number, union in enumerate(small):
        by_device[union.device].append((number, DeviceMemory.of(regions.covering(union))))
    for memories in by_device.values():
        pieces = [memory.piece(memory.address, memory.length) for _, memory in memories]
        for (number, _), data in zip(memories, memories[0][1].lane.read_small(pieces), strict=True):
            found[number] = data
    return [found[number] for number in range(len(small))]


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
