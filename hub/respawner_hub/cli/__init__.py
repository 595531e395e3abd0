"""`respawner-hub`, the admin's command line: verbs here, what they do in the modules they call."""

from __future__ import annotations

import argparse
import functools
import getpass
import json
import os
import sys
from pathlib import Path
from typing import Any

import docker.errors
from respawner_spawner.leases.ledger import Ledger

from .. import agent, backup, cluster, example, local_engine, preflight, provision, proxy, up
from ..auth.external import ExternalAuthError
from ..gateway import NetworkError
from ..images import ImageError
from ..settings import SETTINGS_ENV, Settings, SettingsError, find_file, load
from ..supervision import PROGRAMS, ProcessError, Supervisor
from ..tls import TlsError
from . import doctor, gpu, image, users

EXPECTED_ERRORS = (
    SettingsError,
    backup.BackupError,
    preflight.PreflightError,
    provision.ProvisionError,
    local_engine.EngineError,
    NetworkError,
    ImageError,
    TlsError,
    ExternalAuthError,
    ProcessError,
    proxy.ProxyMissing,
    up.BusyError,
)
"""What has a message for the admin; anything else is a bug and shows its traceback."""


def main(argv: list[str] | None = None) -> int:
    """Run one command. Exit code 0 done, 1 it could not be done, 2 wrong usage."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "settings":
            print(example.example(), end="")
            return 0
        file = find_file(arguments.settings)
        return _run(arguments, load(file), file)
    except EXPECTED_ERRORS as error:
        print(f"\nrespawner-hub: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nrespawner-hub: interrupted; run the same command again to go on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="respawner-hub", description="Look after a Respawner deployment.")
    parser.add_argument(
        "--settings", metavar="FILE", help=f"settings file (default: ${SETTINGS_ENV}, then ./respawner.toml)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("up", help="bring the hub up, installing and building what is missing")
    down = commands.add_parser("down", help="stop hub, agent and proxy; sessions go on running")
    down.add_argument(
        "--engine",
        action="store_true",
        help="also stop a Docker engine that `up` started, and all sessions with it",
    )
    status = commands.add_parser("status", help="what runs, and who has which GPU")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    doctor.add_parser(commands)
    _add_provision(commands)
    commands.add_parser("settings", help="print an example settings file with every setting explained")
    run = commands.add_parser("run", help="run one process in the foreground, for an init system")
    run.add_argument("program", choices=PROGRAMS)
    users.add_parser(commands)
    gpu.add_parser(commands)
    image.add_parser(commands)
    _add_backup(commands)
    return parser


def _add_backup(commands: Any) -> None:
    make = commands.add_parser(
        "backup",
        help="write what this hub cannot do without into one file: accounts, leases, secrets, a cluster's authority",
        description="Works while the hub runs. Users' files and snapshots are not in it. Keep the file secret, and on another machine.",
    )
    make.add_argument("file", metavar="FILE", help="a tar.gz; - writes it to the standard output")
    back = commands.add_parser(
        "restore",
        help="put a backup in its places; the hub must be stopped",
        description="What is in FILE replaces databases, secrets, certificates and settings of this hub; the rest stays. Sessions run on.",
    )
    back.add_argument("file", metavar="FILE", type=Path, help="of `respawner-hub backup`")
    back.add_argument(
        "--unpacked",
        action="store_true",
        help="the files are in their places by `tar -xzf FILE -C /`: put back PostgreSQL's database alone",
    )


def _add_provision(commands: Any) -> None:
    install = commands.add_parser(
        "provision",
        help="make the hosts of an inventory a cluster, or install what this machine alone lacks, by Ansible",
        description="With an inventory (ansible/inventory/hosts.yml, or --inventory): its hosts become a cluster. "
        "Without: Docker, proxy and debootstrap on this machine.",
    )
    install.add_argument("--check", action="store_true", help="only say what would change")
    install.add_argument("--inventory", type=Path, metavar="FILE", help="the cluster's hosts")
    install.add_argument("--limit", default="", metavar="HOSTS", help="only these hosts or groups")
    install.add_argument(
        "--add", default="", metavar="HOST", help="only this new host, and the hub, which learns of it"
    )
    install.add_argument(
        "--upgrade",
        action="store_true",
        help="newer packages of engine and container toolkit first, host after host, sessions suspended",
    )
    install.add_argument(
        "--reboot",
        action="store_true",
        help="with --upgrade: a newer driver too, and reboot the host for it",
    )
    install.add_argument(
        "--restore",
        type=Path,
        metavar="FILE",
        help="the hub's host is a new one: bring the lost one back from this file of `respawner-hub backup`",
    )
    install.add_argument(
        "--ask-become-pass", action="store_true", help="ask for the password of sudo on the hosts"
    )


def _provision(arguments: argparse.Namespace, settings: Settings) -> None:
    inventory = arguments.inventory or cluster.default_inventory()
    of_cluster = (
        arguments.inventory,
        arguments.limit,
        arguments.add,
        arguments.upgrade,
        arguments.reboot,
        arguments.restore,
    )
    if not (any(of_cluster) or inventory.exists()):
        provision.provision_local(settings.state_dir, print, check=arguments.check, force=True)
        return
    cluster.provision_cluster(
        inventory.absolute(),
        settings.state_dir,
        print,
        check=arguments.check,
        limit=arguments.limit,
        add=arguments.add,
        upgrade=arguments.upgrade,
        reboot=arguments.reboot,
        restore=arguments.restore.absolute() if arguments.restore else None,
        become_password=getpass.getpass("Password of sudo: ") if arguments.ask_become_pass else "",
    )


def _back_up(arguments: argparse.Namespace, settings: Settings, file: Path | None) -> None:
    target = None if arguments.file == "-" else Path(arguments.file)
    if target is None and sys.stdout.isatty():
        raise backup.BackupError("a backup is nothing for a terminal: name a file, or add > FILE.")
    names = backup.back_up(settings, file, target, sys.stdout.buffer)
    print(*names, f"{len(names)} files are in {target or 'it'}.", sep="\n", file=sys.stderr)


def _run(arguments: argparse.Namespace, settings: Settings, file: Path | None) -> int:
    if arguments.command == "up":
        up.up(settings, file)
    elif arguments.command == "down":
        up.down(settings, file)
        if arguments.engine and not local_engine.stop_engine(settings):
            print("No Docker engine of ours is running.")
    elif arguments.command == "status":
        return _status(settings, file, as_json=arguments.json)
    elif arguments.command == "doctor":
        return doctor.run(arguments, settings)
    elif arguments.command == "provision":
        _provision(arguments, settings)
    elif arguments.command == "backup":
        _back_up(arguments, settings, file)
    elif arguments.command == "restore":
        names = backup.restore(settings, arguments.file, unpacked=arguments.unpacked)
        print(*names, f"{len(names)} files are back. Start the hub.", sep="\n")
    elif arguments.command == "run":
        _execute(arguments.program, settings, file)
    elif arguments.command == "gpu":
        return gpu.run(arguments, settings)
    elif arguments.command == "image":
        return image.run(arguments, settings)
    elif arguments.command == "user":
        ledger = functools.partial(Ledger, settings.own_database_url)
        return users.run(arguments, up.accounts(settings), f"{settings.url}hub/", ledger)
    return 0


def _execute(program: str, settings: Settings, file: Path | None) -> None:
    """Become the program; does not return."""
    os.chdir(settings.folder)
    if program == "proxy":
        proxy.execute(settings)
    if program == "agent":
        agent.execute(settings)
    config = Path(__file__).parents[1] / "jupyterhub_config.py"
    if file:
        os.environ[SETTINGS_ENV] = str(file)
    os.execv(sys.executable, [sys.executable, "-m", "respawner_hub.app", "-f", str(config)])


def _status(settings: Settings, file: Path | None, *, as_json: bool) -> int:
    from ..status import collect, describe

    try:
        found = collect(settings, Supervisor(settings.state_dir, settings.folder, file))
    except docker.errors.DockerException as error:
        raise local_engine.EngineError(
            f"The Docker engine at {settings.engine.host} does not answer: {error}"
        ) from error
    print(json.dumps(found, indent=2) if as_json else describe(found))
    return 0 if {found[name] for name in PROGRAMS} == {"RUNNING"} else 1
