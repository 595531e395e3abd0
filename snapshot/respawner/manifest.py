"""The JSON that makes a snapshot exist: see FORMAT.md for what every field means.

Standard library only and never unpickles: the hub reads manifests with this module. Reading checks the
version first (`NewerFormatError`), then the checksum and the shape (`DamagedError`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from .errors import DamagedError, NewerFormatError

FORMAT = "respawner-manifest"
VERSION = 2
"""The newest that is read. A manifest is written with the lowest version that can hold it."""
CHUNK_BYTES = 256 * 1024
DIGEST_BYTES = 16

SAFEPOINT = "safepoint"
"""The kind of a snapshot inside a running cell."""

RAW = "raw"
ZERO = "zero"
RUNS = (RAW, ZERO)
"""Encodings whose extents hold many chunks."""
_IN_VERSION_1 = (RAW, "zlib")


@dataclass(frozen=True)
class Extent:
    """A run of chunks that lie one after the other in a pack, or of chunks of zeros that lie nowhere.

    Every chunk of a raw or zero extent but the last is `CHUNK_BYTES` long; a compressed extent is one chunk.
    """

    pack: int
    offset: int
    length: int
    stored: int
    encoding: str

    def chunks(self) -> Iterator[tuple[int, int, int]]:
        """Yield ``(offset in the pack, stored bytes, bytes)`` for each chunk."""
        if self.encoding not in RUNS:
            yield self.offset, self.stored, self.length
            return
        for start in range(0, self.length, CHUNK_BYTES):
            size = min(CHUNK_BYTES, self.length - start)
            yield (0, 0, size) if self.encoding == ZERO else (self.offset + start, size, size)

    def join(self, extents: list[Extent]) -> None:
        """Put this one chunk behind ``extents``: the last grows where it goes on there, zeros after zeros or
        next in the same pack."""
        if extents and self.encoding in RUNS:
            last = extents[-1]
            alike = (last.pack, last.encoding) == (self.pack, self.encoding)
            follows = self.encoding == ZERO or last.offset + last.length == self.offset
            if alike and follows and last.length % CHUNK_BYTES == 0:
                length, stored = last.length + self.length, last.stored + self.stored
                extents[-1] = Extent(last.pack, last.offset, length, stored, last.encoding)
                return
        extents.append(self)

    @property
    def chunk_count(self) -> int:
        return -(-self.length // CHUNK_BYTES) if self.encoding in RUNS else 1

    @classmethod
    def from_json(cls, row: list[Any]) -> Extent:
        """Raises `ValueError` for what no writer makes, before anybody allocates or loops by its numbers."""
        pack, offset, length, stored, encoding = row
        numbers = (pack, offset, length, stored)
        if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
            raise ValueError(f"extent {row!r} has numbers that are none")
        if type(encoding) is not str or length == 0:
            raise ValueError(f"extent {row!r} is empty or its encoding is no text")
        if encoding == ZERO:
            possible = pack == offset == stored == 0
        elif encoding == RAW:
            possible = stored == length and pack > 0
        else:
            possible = length <= CHUNK_BYTES and 0 < stored <= 2 * CHUNK_BYTES and pack > 0
        if not possible:
            raise ValueError(f"extent {row!r} is impossible")
        return cls(pack, offset, length, stored, encoding)


@dataclass(frozen=True)
class Stream:
    """A sequence of bytes, as the chunks that hold it: their digests, and where they lie."""

    length: int
    digests: bytes
    extents: tuple[Extent, ...]

    def chunks(self) -> Iterator[tuple[bytes, Extent, int, int, int]]:
        """Yield ``(digest, extent, offset in the pack, stored bytes, bytes)`` for each chunk in order."""
        position = 0
        for extent in self.extents:
            for offset, stored, length in extent.chunks():
                yield self.digests[position : position + DIGEST_BYTES], extent, offset, stored, length
                position += DIGEST_BYTES

    def to_json(self) -> dict[str, Any]:
        return {
            "bytes": self.length,
            "digests": base64.b64encode(self.digests).decode("ascii"),
            "extents": [[e.pack, e.offset, e.length, e.stored, e.encoding] for e in self.extents],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Stream:
        stream = cls(
            length=int(data["bytes"]),
            digests=base64.b64decode(data["digests"], validate=True),
            extents=tuple(Extent.from_json(row) for row in data["extents"]),
        )
        chunk_count = sum(extent.chunk_count for extent in stream.extents)
        if len(stream.digests) != chunk_count * DIGEST_BYTES:
            raise ValueError(f"{len(stream.digests)} bytes of digests for {chunk_count} chunks")
        if sum(extent.length for extent in stream.extents) != stream.length:
            raise ValueError(f"extents do not add up to {stream.length} bytes")
        return stream


@dataclass(frozen=True)
class Payload:
    """Memory that was stored beside the pickle: a tensor's storage or an array's buffer."""

    id: int
    kind: str
    about: str
    stream: Stream


@dataclass(frozen=True)
class Name:
    """One variable. ``bytes`` counts what was reached through this name first, so names add up."""

    name: str
    type: str
    bytes: int


@dataclass(frozen=True)
class Skipped:
    """An object that the snapshot has only a placeholder of."""

    path: str
    type: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """One snapshot, without its bytes."""

    id: str
    sequence: int
    timeline: str
    created: str
    parent: str | None
    kind: str
    state: str
    cell: dict[str, Any]
    versions: dict[str, str]
    hash: str
    live: list[str]
    skeleton: Stream
    regions: Stream
    payloads: list[Payload]
    names: list[Name]
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    devices: dict[str, str | None] = field(default_factory=dict)
    """Accelerators that tensors belong on, as ``cuda:0``, with the hardware's UUID where it has one."""
    added_bytes: int | None = None
    """What was written to packs for it; None where it was not counted."""

    def streams(self) -> Iterator[tuple[str, Stream]]:
        """Yield every stream with a name for messages."""
        yield "skeleton", self.skeleton
        yield "regions", self.regions
        for payload in self.payloads:
            yield f"payload {payload.id}", payload.stream

    @property
    def size_bytes(self) -> int:
        """What the state takes in memory and on disk, chunks shared with other snapshots included."""
        return sum(stream.length for _, stream in self.streams())

    @property
    def version(self) -> int:
        """The lowest format version whose readers can read this snapshot."""
        old = all(e.encoding in _IN_VERSION_1 for _, stream in self.streams() for e in stream.extents)
        return 1 if old else 2

    def to_bytes(self) -> bytes:
        """The file's content, checksum included."""
        data: dict[str, Any] = {"format": FORMAT, "version": self.version, "chunk_bytes": CHUNK_BYTES}
        data |= {
            key: getattr(self, key)
            for key in ("id", "sequence", "timeline", "created", "parent", "kind", "state", "cell")
        }
        data |= {key: getattr(self, key) for key in ("versions", "hash", "live", "notes", "labels")}
        data["skeleton"] = self.skeleton.to_json()
        data["regions"] = self.regions.to_json()
        data["payloads"] = [
            {"id": p.id, "kind": p.kind, "about": p.about, "stream": p.stream.to_json()}
            for p in self.payloads
        ]
        data["names"] = [asdict(name) for name in self.names]
        data["skipped"] = [asdict(skipped) for skipped in self.skipped]
        if self.devices:
            data["devices"] = self.devices
        if self.added_bytes is not None:
            data["added_bytes"] = self.added_bytes
        data["checksum"] = _checksum(data)
        return _canonical(data)

    @classmethod
    def from_bytes(cls, content: bytes, place: str) -> Manifest:
        """Read a manifest. ``place`` names the file in messages."""
        try:
            data = json.loads(content)
            if data["format"] != FORMAT:
                raise ValueError(f"format is {data['format']!r}, not {FORMAT!r}")
            version = int(data["version"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedError(f"{place} is not a manifest: {error!r}") from error
        if version > VERSION:
            raise NewerFormatError(
                f"{place} has format version {version}; this Respawner reads up to {VERSION}. "
                "Upgrade respawner, or choose another store with RESPAWNER_STORE."
            )
        checksum = data.pop("checksum", None)
        if checksum != _checksum(data):
            raise DamagedError(f"{place}: checksum {checksum!r} does not match its content")
        try:
            return cls._from_json(data)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, binascii.Error) as error:
            raise DamagedError(f"{place} is malformed: {error!r}") from error

    @classmethod
    def _from_json(cls, data: dict[str, Any]) -> Manifest:
        if data["chunk_bytes"] != CHUNK_BYTES:
            raise ValueError(f"chunk_bytes is {data['chunk_bytes']!r}, not {CHUNK_BYTES}")
        for key in ("id", "timeline", "created", "kind", "state", "hash"):
            if not isinstance(data[key], str):
                raise ValueError(f"{key} is {data[key]!r}, not a text")
        datetime.fromisoformat(data["created"])
        for key, wanted in (("cell", dict), ("versions", dict), ("labels", list), ("notes", list)):
            if not isinstance(data[key], wanted):
                raise ValueError(f"{key} is {data[key]!r}")
        for key in ("labels", "notes", "live"):
            if not all(isinstance(item, str) for item in data[key]):
                raise ValueError(f"{key} has what is no text: {data[key]!r}")
        devices = data.get("devices", {})
        if not isinstance(devices, dict) or not all(
            re.fullmatch(r"[a-z0-9_]+:[0-9]{1,4}", name) and isinstance(uuid, str | None)
            for name, uuid in devices.items()
        ):
            raise ValueError(f"devices is {devices!r}")
        added = data.get("added_bytes")
        if added is not None and (type(added) is not int or added < 0):
            raise ValueError(f"added_bytes is {added!r}, not a number of bytes")
        return cls(
            id=data["id"],
            sequence=int(data["sequence"]),
            timeline=data["timeline"],
            created=data["created"],
            parent=data["parent"],
            kind=data["kind"],
            state=data["state"],
            cell=data["cell"],
            versions=data["versions"],
            hash=data["hash"],
            live=list(data["live"]),
            skeleton=Stream.from_json(data["skeleton"]),
            regions=Stream.from_json(data["regions"]),
            payloads=[
                Payload(p["id"], p["kind"], p["about"], Stream.from_json(p["stream"]))
                for p in data["payloads"]
            ],
            names=[Name(n["name"], n["type"], int(n["bytes"])) for n in data["names"]],
            skipped=[Skipped(s["path"], s["type"], s["reason"]) for s in data["skipped"]],
            notes=list(data["notes"]),
            labels=list(data["labels"]),
            devices=devices,
            added_bytes=added,
        )


def rewritten(content: bytes, change: Callable[[Stream], Stream]) -> bytes:
    """A manifest's bytes with other streams; keys that this version does not know stay."""
    data = json.loads(content)
    for owner in (data, *data["payloads"]):
        for key in ("skeleton", "regions", "stream"):
            if key in owner:
                owner[key] = change(Stream.from_json(owner[key])).to_json()
    del data["checksum"]
    return _canonical({**data, "checksum": _checksum(data)})


def _canonical(data: dict[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _checksum(data: dict[str, Any]) -> str:
    return hashlib.blake2b(_canonical(data), digest_size=16).hexdigest()
