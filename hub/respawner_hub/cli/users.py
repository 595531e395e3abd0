"""`respawner-hub user`: local accounts from the command line, also while the hub is down.

It writes to the accounts' database and talks to nobody. A running hub notices within a minute that an account
was reset or removed, and logs its user out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from respawner_spawner.leases.ledger import Ledger

from ..auth.accounts import Account, AccountError, Accounts, State, normalised_name


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `user` with its four actions to the subparsers of the main parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "user",
        help="local accounts",
        description="Local accounts: who may log in with a password of this hub.",
    )
    actions = parser.add_subparsers(dest="user_action", metavar="ACTION", required=True)

    add = actions.add_parser("add", help="make an account and print its one-time code")
    add.add_argument("name", metavar="NAME")
    add.add_argument("--admin", action="store_true", help="the user administers the hub")

    reset = actions.add_parser("reset", help="print a new one-time code; the old password stops working")
    reset.add_argument("name", metavar="NAME")

    remove = actions.add_parser("remove", help="remove an account; files and volumes stay")
    remove.add_argument("name", metavar="NAME")

    listing = actions.add_parser("list", help="list the accounts")
    listing.add_argument("--json", action="store_true", help="as one JSON array; times are ISO 8601, UTC")
    return parser


def run(args: argparse.Namespace, accounts: Accounts, hub_url: str, ledger: Callable[[], Ledger]) -> int:
    """Do what the parsed arguments say.

    :param hub_url: where people reach the hub's pages, for example `https://gpu.example.org:8000/hub/`.
    :param ledger: opens that of the same database.
    :return: the exit code: 0, or 1 with a sentence on standard error.
    """
    try:
        if args.user_action == "remove":
            return _remove(args, accounts, ledger())
        return _ACTIONS[args.user_action](args, accounts, hub_url)
    except AccountError as error:
        print(error, file=sys.stderr)
        return 1


def _add(args: argparse.Namespace, accounts: Accounts, hub_url: str) -> int:
    code = accounts.add(args.name, admin=args.admin)
    _print_code(args.name, code, accounts, hub_url)
    return 0


def _reset(args: argparse.Namespace, accounts: Accounts, hub_url: str) -> int:
    _print_code(args.name, accounts.reset(args.name), accounts, hub_url)
    return 0


def _remove(args: argparse.Namespace, accounts: Accounts, ledger: Ledger) -> int:
    name = normalised_name(args.name)
    accounts.remove(name)
    ledger.withdraw(name, "respawner-hub", "its account was removed")
    print(
        f"{name} has no account any more, and waits for no GPU. Files and volumes stay, and a running session goes on: "
        "stop it and delete the user on the hub's Admin page."
    )
    return 0


def _list(args: argparse.Namespace, accounts: Accounts, hub_url: str) -> int:
    everybody = accounts.list()
    if args.json:
        print(json.dumps([_as_json(account) for account in everybody], indent=2))
        return 0
    if not everybody:
        print("No accounts. Make the first with: respawner-hub user add NAME --admin")
        return 0
    rows = [("NAME", "ADMIN", "STATE", "LAST LOGIN"), *(_row(account) for account in everybody)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


_ACTIONS = {"add": _add, "reset": _reset, "list": _list}


def _print_code(name: str, code: str, accounts: Accounts, hub_url: str) -> None:
    account = accounts.get(name)
    assert account is not None
    page = f"{hub_url.rstrip('/') or '/hub'}/set-password"
    print(f"One-time code for {account.name}: {code}")
    print(f"It is shown only now, works once, and is valid until {_text(account.code_expires_at)} UTC.")
    print(f"{account.name} sets a password with it at {page}")


def _row(account: Account) -> tuple[str, str, str, str]:
    state = account.state.value
    if account.state is State.WAITING:
        state += f", until {_text(account.code_expires_at)}"
    return account.name, "yes" if account.admin else "", state, _text(account.last_login_at) or "never"


def _as_json(account: Account) -> dict[str, Any]:
    return {
        "name": account.name,
        "admin": account.admin,
        "state": account.state.name.lower(),
        "code_expires_at": _iso(account.code_expires_at),
        "created_at": _iso(account.created_at),
        "password_set_at": _iso(account.password_set_at),
        "last_login_at": _iso(account.last_login_at),
    }


def _iso(unix_seconds: float | None) -> str | None:
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="seconds") if unix_seconds else None


def _text(unix_seconds: int | None) -> str:
    return f"{datetime.fromtimestamp(unix_seconds, UTC):%Y-%m-%d %H:%M}" if unix_seconds else ""
