"""`respawner-hub doctor`: proves the deployment and its GPUs by using them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from .. import doctor
from ..settings import Settings
from .checks import print_check

WIDTH = 18


def add_parser(subparsers: Any) -> None:
    """Add `doctor` to the subparsers of the main parser."""
    parser = subparsers.add_parser(
        "doctor",
        help="prove what only this machine can prove: driver, toolkit, CUDA in a session, engine, hub, agents",
        description="Tries every part of the deployment, makes a container like a session's on every host, and one with each GPU "
        "that is free. What cannot be tried here is told with its reason and is not counted as well. Exit code 1 where something "
        "failed. Takes a minute or two a host.",
    )
    parser.add_argument(
        "--gpu",
        action="append",
        default=[],
        metavar="UUID",
        help="try this device and no other; it fails where it is not free; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="as one JSON array")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Examine and tell. 0; 1 where something failed."""
    checks = doctor.examine(
        settings,
        args.gpu,
        on_check=(lambda check: None) if args.json else (lambda check: print_check(check, WIDTH)),
    )
    count = {
        state: [check for check in checks if check.state == state]
        for state in ("ok", "failed", "absent", "skipped")
    }
    if args.json:
        print(json.dumps([dataclasses.asdict(check) for check in checks], indent=2))
    else:
        print(
            f"{len(count['ok'])} ok, {len(count['failed'])} failed, {len(count['absent'])} absent, "
            f"{len(count['skipped'])} not checked"
        )
    if count["failed"]:
        print(f"Failed: {', '.join(check.name for check in count['failed'])}", file=sys.stderr)
    return 1 if count["failed"] else 0
