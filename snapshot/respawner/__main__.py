"""``python -m respawner list|show|verify|prune|forget|export|import``: works on a store without a kernel.

Never unpickles: whoever looks after a store need not trust what is in it. Exits 0, or 1 with a message.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .errors import RespawnerError
from .listing import describe, one_line
from .manifest import Manifest
from .readable import readable_size
from .store.archive import export_timeline, import_timeline
from .store.compaction import compact
from .store.layout import default_store, open_store
from .store.lock import TimelineLock, holder_of
from .store.moves import move, undelete
from .store.reader import SnapshotReader
from .store.retention import KEEP_LATEST, delete, delete_unnamed_packs, packs_bytes, prune
from .store.timeline import Damage, Timeline

Result = TypeVar("Result")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        store = open_store(options.store or default_store(), create=options.command == "import")
        return options.run(store, options)
    except (RespawnerError, OSError) as error:
        print(f"respawner {options.command}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m respawner", description=__doc__)
    parser.add_argument("--store", type=Path, help="the store's folder (default: RESPAWNER_STORE)")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(run: Any, name: str, about: str, *, one_timeline: bool) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(run=run)
        sub.add_argument(
            "timeline", nargs=None if one_timeline else "?", help="notebook's path or folder's name"
        )
        return sub

    command(_list, "list", "list timelines and their snapshots", one_timeline=False).add_argument(
        "--json", action="store_true", help="one JSON object a line"
    )
    show = command(_show, "show", "show one snapshot's variables", one_timeline=True)
    show.add_argument("snapshot", nargs="?", help="id or label (default: the latest)")
    command(_verify, "verify", "read everything and check it", one_timeline=False)
    command(_prune, "prune", "delete old snapshots", one_timeline=False).add_argument(
        "--keep",
        type=int,
        default=KEEP_LATEST,
        metavar="N",
        help="how many of the latest stay, besides one an hour, one a day, and labelled ones (default: %(default)s)",
    )
    command(
        _forget, "forget", "delete one snapshot, also a labelled or pinned one", one_timeline=True
    ).add_argument("snapshot", help="id or label")
    command(_export, "export", "write a timeline to a tar file", one_timeline=True).add_argument(
        "file", type=Path
    )
    imports = commands.add_parser("import", help="read a timeline from a tar file")
    imports.set_defaults(run=_import)
    imports.add_argument("file", type=Path)
    imports.add_argument("--name", help="the notebook that it shall belong to (default: as exported)")
    moves = commands.add_parser("move", help="a notebook or folder was renamed outside Jupyter")
    moves.set_defaults(run=_move)
    moves.add_argument("old")
    moves.add_argument("new")
    command(
        _undelete, "undelete", "bring back what belonged to a deleted notebook or folder", one_timeline=True
    )
    return parser


def _list(store: Path, options: argparse.Namespace) -> int:
    for timeline in _timelines(store, options.timeline):
        if not options.json:
            print(f"{timeline.name}  ({timeline.slug})")
        pins = timeline.pins()
        for found in timeline.snapshots():
            if options.json:
                print(json.dumps({"timeline": timeline.name, "slug": timeline.slug, **describe(found, pins)}))
            else:
                print(f"  {one_line(found, pins)}")
    return 0


def _show(store: Path, options: argparse.Namespace) -> int:
    [timeline] = _timelines(store, options.timeline)
    manifest = timeline.find_snapshot(options.snapshot)
    print(one_line(manifest))
    for key, value in {"timeline": timeline.name, "parent": manifest.parent, **manifest.versions}.items():
        print(f"  {key}: {value}")
    for name in sorted(manifest.names, key=lambda name: -name.bytes):
        print(f"  {readable_size(name.bytes):>9}  {name.name}  {name.type}")
    for skipped in manifest.skipped:
        print(f"  placeholder  {skipped.path}  {skipped.type}: {skipped.reason}")
    for note in manifest.notes:
        print(f"  note  {note}")
    return 0


def _verify(store: Path, options: argparse.Namespace) -> int:
    damaged = 0
    for timeline in _timelines(store, options.timeline):
        for found in timeline.snapshots():
            reason = found.reason if isinstance(found, Damage) else _why_damaged(timeline, found)
            damaged += reason is not None
            print(f"{timeline.name}  {found.sequence}  {'ok' if reason is None else 'DAMAGED: ' + reason}")
    if options.timeline is None:
        for slug, reason in Timeline.broken_in(store).items():
            damaged += 1
            print(f"{slug}  DAMAGED: {reason}")
    return 1 if damaged else 0


def _why_damaged(timeline: Timeline, manifest: Manifest) -> str | None:
    with SnapshotReader(timeline, manifest) as reader:
        if not reader.verified:
            return f"cannot be checked: {manifest.hash} is not installed here (pip install xxhash)"
        try:
            reader.verify()
        except RespawnerError as error:
            return str(error)
    return None


def _prune(store: Path, options: argparse.Namespace) -> int:
    if options.keep < 1:
        raise RespawnerError(
            f"--keep {options.keep}: at least the latest snapshot stays; delete the folder otherwise"
        )
    failed = 0
    for timeline in _timelines(store, options.timeline):
        try:
            deleted, freed = _freed_by(timeline, lambda timeline: prune(timeline, options.keep))
        except _InUseError as error:
            print(error, file=sys.stderr)
            failed = 1
        else:
            print(f"{timeline.name}: {len(deleted)} snapshots deleted, {freed} freed")
    return failed


def _forget(store: Path, options: argparse.Namespace) -> int:
    [timeline] = _timelines(store, options.timeline)
    deleted, freed = _freed_by(timeline, lambda timeline: delete(timeline, options.snapshot))
    print(f"{timeline.name}: {deleted.id} deleted, {freed} freed")
    return 0


class _InUseError(RespawnerError):
    """A living kernel writes to the timeline."""


def _freed_by(timeline: Timeline, step: Callable[[Timeline], Result]) -> tuple[Result, str]:
    """Run a step that deletes snapshots, under the timeline's lock, then free what only they needed."""
    lock = TimelineLock.acquire(timeline.lock_path)
    if lock is None:
        holder = holder_of(timeline.lock_path)
        raise _InUseError(f"{timeline.name}: left alone, process {holder.get('pid')} writes to it")
    before = packs_bytes(timeline)
    try:
        result = step(timeline)
        delete_unnamed_packs(timeline)
        compact(timeline, keep=0)
    finally:
        lock.release()
    return result, readable_size(max(0, before - packs_bytes(timeline)))


def _export(store: Path, options: argparse.Namespace) -> int:
    [timeline] = _timelines(store, options.timeline)
    export_timeline(timeline, options.file)
    print(f"{timeline.name} -> {options.file}")
    return 0


def _import(store: Path, options: argparse.Namespace) -> int:
    timeline = import_timeline(store, options.file, options.name)
    print(f"{options.file} -> {timeline.name}  ({timeline.slug})")
    return 0


def _move(store: Path, options: argparse.Namespace) -> int:
    moved = move(store, options.old, options.new)
    for timeline in moved:
        print(f"-> {timeline.name}  ({timeline.slug})")
    return 0 if moved else 1


def _undelete(store: Path, options: argparse.Namespace) -> int:
    for timeline in undelete(store, options.timeline):
        print(f"-> {timeline.name}  ({timeline.slug})")
    return 0


def _timelines(store: Path, wanted: str | None) -> list[Timeline]:
    """All timelines, or the one of that name or folder."""
    found = Timeline.all_in(store)
    if wanted is None:
        return found
    for timeline in found:
        if wanted in (timeline.name, timeline.slug):
            return [timeline]
    raise RespawnerError(
        f"{store} has no timeline {wanted!r}; `python -m respawner list` shows what there is"
    )


if __name__ == "__main__":
    sys.exit(main())
