"""`respawner-hub gpu`: who has which GPU, who waits, and everything that an admin changes about it.

It asks the hub's API with a token that `up` keeps in the secrets. While the hub is down, what only reads comes from
the ledger itself, and a line on standard error says so; changes need the hub, which starts and stops sessions.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from respawner_spawner.leases.accounting import By
from respawner_spawner.leases.ledger import Ledger

from .. import gateway
from ..gpus import views, words
from ..settings import Settings
from .gpu_tables import TABLES, print_table
from .hub_api import GpuError, Hub, HubDown

VIEWS = ("list", "leases", "queue", "limits", "reservations")


def add_parser(subparsers: Any) -> None:
    """Add `gpu` with its actions to the subparsers of the main parser."""
    parser = subparsers.add_parser("gpu", help="who has which GPU, who waits; change it")
    actions = parser.add_subparsers(dest="gpu_action", metavar="ACTION", required=True)
    for name, text in (
        ("list", "every GPU with its holder"),
        ("leases", "sessions that have GPUs"),
        ("queue", "sessions that wait, and why"),
        ("limits", "what users and groups may hold"),
        ("reservations", "what is kept for groups"),
    ):
        view = actions.add_parser(name, help=text)
        view.add_argument("--json", action="store_true", help="as one JSON array; times are unix seconds")
    _add_history(actions)
    _add_sessions(actions)
    _add_devices(actions)
    _add_rules(actions)


def _add_history(actions: Any) -> None:
    history = actions.add_parser("history", help="GPU-hours, held and really used, and waiting times")
    history.add_argument("--since", type=_day, metavar="DAY", help="default: 30 days ago")
    history.add_argument("--until", type=_day, metavar="DAY", help="not included; default: now")
    history.add_argument(
        "--by", default="day,user", help=f"of {', '.join(By)}; several with commas (default: %(default)s)"
    )
    form = history.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as one JSON object, with waiting times")
    form.add_argument("--csv", action="store_true", help="the hours as CSV")


def _add_sessions(actions: Any) -> None:
    for name, text in (
        ("assign", "queue a session for a user before everybody else, and start it"),
        ("move", "suspend a running session and resume it with other GPUs, or with none (--gpus 0)"),
    ):
        parser = actions.add_parser(name, help=text)
        _add_who(parser)
        parser.add_argument("--gpus", type=int, metavar="N", help="whole GPUs, or MIG devices with --mig")
        parser.add_argument("--device", action="append", metavar="UUID", help="only these; may be repeated")
        parser.add_argument("--model", help="part of the product's name")
        parser.add_argument("--memory", metavar="SIZE", help="at least so much each, for example 40G")
        parser.add_argument("--mig", metavar="PROFILE", help='a MIG device of this profile, or "any"')
        parser.add_argument("--share", metavar="SIZE", help="memory of a shared GPU")
        parser.add_argument("--host")
        if name == "assign":
            parser.add_argument(
                "--non-preemptible",
                dest="preemptible",
                action="store_const",
                const=False,
                help="never suspended because others wait, whoever the user is",
            )
    _add_who(actions.add_parser("release", help="stop a session, or cancel its request"))
    give_up = actions.add_parser(
        "give-up", help="end the lease of a session whose host does not answer; its user can start again"
    )
    _add_who(give_up)
    give_up.add_argument("--reason")
    give_up.add_argument("--yes", action="store_true", help="do not ask whether that is meant")


def _add_who(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("user", metavar="USER")
    parser.add_argument("--server", default="", help="name of a named server")


def _add_devices(actions: Any) -> None:
    for name, text in (
        ("cordon", "no new leases on a GPU or host"),
        ("drain", "cordon, and suspend the sessions there; they resume elsewhere"),
    ):
        parser = actions.add_parser(name, help=text)
        parser.add_argument("target", metavar="GPU|HOST")
        parser.add_argument("--reason")
    uncordon = actions.add_parser("uncordon", help="take leases again")
    uncordon.add_argument("target", metavar="GPU|HOST")
    uncordon.add_argument("--reason", help="only the cordon or drain with this reason; others stay")
    forget = actions.add_parser("forget", help="a host that has left the cluster: its devices and cordons go")
    forget.add_argument("host", metavar="HOST")
    share = actions.add_parser(
        "share", help="let sessions share a GPU's memory (advisory: programs keep to it)"
    )
    share.add_argument("device", metavar="GPU")
    share.add_argument("memory", metavar="SIZE", help="for all shares together, for example 40G; 0 ends it")


def _add_rules(actions: Any) -> None:
    reserve = actions.add_parser("reserve", help="keep GPUs for a group")
    reserve.add_argument("group", metavar="GROUP")
    reserve.add_argument("count", metavar="N", type=int)
    reserve.add_argument("--from", dest="start", required=True, metavar="TIME", help="as 2026-12-01T09:00")
    reserve.add_argument("--until", dest="end", required=True, metavar="TIME")
    reserve.add_argument("--model")
    reserve.add_argument("--note")
    actions.add_parser("unreserve", help="cancel a reservation").add_argument("id", metavar="ID", type=int)
    limit = actions.add_parser("limit", help="the most that a user or group may hold")
    limit.add_argument("subject", metavar="user:NAME|group:NAME|everyone")
    limit.add_argument("--most", type=_gpus, metavar="GPUS", help="default: no limit")
    limit.add_argument("--guarantee", type=_gpus, metavar="GPUS", help="gets back so many when it asks")
    limit.add_argument("--priority", type=int, help="of its requests; larger goes first")
    actions.add_parser("unlimit", help="take a limit away").add_argument("subject")


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do what the parsed arguments say.

    :return: 0, or 1 with a sentence on standard error.
    """
    try:
        if args.gpu_action in VIEWS:
            _view(args, settings)
        elif args.gpu_action == "history":
            _history(args, settings)
        elif args.gpu_action == "give-up" and not _is_meant(args):
            print("Nothing has changed.")
        else:
            print(Hub(settings).post(args.gpu_action, _body(args))["message"])
    except (GpuError, gateway.NetworkError) as error:
        print(f"respawner-hub gpu {args.gpu_action}: {error}", file=sys.stderr)
        return 1
    return 0


def _is_meant(args: argparse.Namespace) -> bool:
    """Ask the person at the terminal.

    :raises GpuError: nobody is there to ask.
    """
    if args.yes:
        return True
    if not sys.stdin.isatty():
        raise GpuError("this asks before it does it. In a script say --yes.")
    who = f"{args.user}/{args.server}" if args.server else args.user
    print(
        f"The lease of {who} ends now, and {args.user} can start again from the last saved state. What still runs on "
        "the lost host saves nothing any more once that has happened, and is stopped when the host is back."
    )
    return input(f"Give {who} up? [y/N] ").strip().lower() in ("y", "yes")


def _body(args: argparse.Namespace) -> dict[str, Any]:
    """The action's JSON: what was said on the command line, and nothing else."""
    said = {
        key: value
        for key, value in vars(args).items()
        if key not in ("command", "settings", "gpu_action", "yes")
    }
    if args.gpu_action in ("assign", "move"):
        names = {"model": "gpu_model", "memory": "gpu_memory", "host": "gpu_host", "device": "gpu_uuids"}
        keys = ("gpus", "mig", "share", "preemptible", *names)
        options = {names.get(key, key): said.pop(key, None) for key in keys}
        if options["gpus"] is None and options["gpu_uuids"]:
            options["gpus"] = len(options["gpu_uuids"])
        said["options"] = {key: value for key, value in options.items() if value is not None}
    return {key: value for key, value in said.items() if value is not None}


def _view(args: argparse.Namespace, settings: Settings) -> None:
    name = "devices" if args.gpu_action == "list" else args.gpu_action
    found = _read(settings, lambda hub: hub.get(name).json(), lambda ledger: views.view(ledger, name, {}))
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print_table(*TABLES[args.gpu_action](found, time.time()))


def _history(args: argparse.Namespace, settings: Settings) -> None:
    now = time.time()
    since = args.since if args.since is not None else now // 86_400 * 86_400 - 30 * 86_400
    until = args.until if args.until is not None else now
    kind = "csv" if args.csv else "json"
    query = {"since": since, "until": until, "by": args.by, "format": kind}
    text = _read(
        settings,
        lambda hub: hub.get("history", **query).text,
        lambda ledger: views.history(ledger, since, until, args.by, kind),
    )
    if args.csv or args.json:
        print(text, end="" if args.csv else "\n")
        return
    found = json.loads(text)
    keys = [key for key in ("day", "user", "group", "gpu") if any(row[key] for row in found["hours"])]
    rows = [[*(row[k] for k in keys), *(f"{row[k]:.2f}" for k in _HOURS)] for row in found["hours"]]
    print_table([*(key.upper() for key in keys), "HELD H", "USED H", "SEEN H"], rows, "Nobody held a GPU.")
    for row in found["waits"]:
        if not row["group"]:
            print(
                f"Waited: half under {words.duration(row['p50_seconds'])}, 95 % under {words.duration(row['p95_seconds'])}"
            )


_HOURS = ("held_hours", "used_hours", "sampled_hours")


def _read(settings: Settings, ask: Callable[[Hub], Any], look: Callable[[Ledger], Any]) -> Any:
    try:
        return ask(Hub(settings))
    except (HubDown, gateway.NetworkError):
        print("The hub does not answer: this is what its ledger says.", file=sys.stderr)
    try:
        return look(Ledger(settings.own_database_url))
    except ValueError as error:
        raise GpuError(str(error)) from error


def _gpus(text: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(float(text)):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of GPUs: write for example 2 or 0.5")


def _day(text: str) -> float:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day: write for example 2026-11-25") from error
