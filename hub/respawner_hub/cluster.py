"""`provision_cluster`: the hosts of an inventory become a cluster, by `ansible/site.yml`, and are upgraded by `upgrade.yml`.

Not for this machine alone: that is `provision`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from .backup import examine
from .images import project_root
from .playbooks import Outcome, run_playbook
from .provision import ProvisionError
from .steps import Say


def default_inventory() -> Path:
    """The admin's own; it may not exist."""
    return project_root() / "ansible" / "inventory" / "hosts.yml"


def provision_cluster(
    inventory: Path,
    state_dir: Path,
    say: Say,
    *,
    check: bool = False,
    limit: str = "",
    add: str = "",
    upgrade: bool = False,
    reboot: bool = False,
    restore: Path | None = None,
    become_password: str = "",
) -> Outcome:
    """Run `site.yml`, or `upgrade.yml`, and say what happens; the summary comes last.

    :param limit: hosts and groups as Ansible understands them; the hub is asked for tokens and certificates either way.
    :param add: one host of the inventory: it joins, and the hub learns of it. The others are left alone.
    :param upgrade: newer packages first, on one host after the other while no session is on it.
    :param reboot: whether that may reboot a host, which a newer driver needs; without, the driver is left as it is.
    :param restore: a file of `respawner-hub backup`, with which a new host takes the place of the hub's lost one.
    :param become_password: of sudo on the hosts; written nowhere.
    :raises ProvisionError: a host failed or could not be reached; the others may have been changed.
    :raises BackupError: what `restore` names is no whole backup.
    """
    if not inventory.is_file():
        raise ProvisionError(
            f"{inventory}: no such inventory. Start from ansible/inventory/hosts.example.yml, or name one with --inventory."
        )
    if reboot and not upgrade:
        raise ProvisionError("--reboot goes with --upgrade: nothing else reboots a host.")
    if restore:
        _check_restore(restore, alone=not (check or limit or add or upgrade))
    hosts = hosts_of(inventory)
    if add:
        if add not in hosts:
            raise ProvisionError(
                f"{add} is not in {inventory} (there are {', '.join(hosts) or 'none'}): write its line into gpu_hosts first."
            )
        limit = f"hub:{add}"
    outcome = run_playbook(
        project_root() / "ansible",
        "upgrade.yml" if upgrade else "site.yml",
        inventory,
        state_dir / "ansible",
        say,
        check=check,
        arguments=[
            *([f"--limit={limit}"] if limit else []),
            *(["--extra-vars=upgrade_reboot=true"] if reboot else []),
            *([f"--extra-vars={json.dumps({'respawner_restore': str(restore)})}"] if restore else []),
        ],
        become_password=become_password,
        name_hosts=True,
    )
    for line in summary(outcome, check=check):
        say(line)
    if outcome.status:
        raise ProvisionError(_failure(outcome))
    return outcome


def _check_restore(file: Path, *, alone: bool) -> None:
    if not alone:
        raise ProvisionError(
            "--restore goes with no --check, --limit, --add or --upgrade: all hosts get to know the hub's new host."
        )
    if not file.is_file():
        raise ProvisionError(f"{file}: no such backup. `respawner-hub backup` on the hub has made one.")
    if not any(
        name.endswith("/ca.key") for name in examine(file)
    ):  # role restore unpacks it as root, and looks no more
        raise ProvisionError(
            f"{file} is the backup of a hub without other hosts: the authority of a cluster is not in it."
        )


def hosts_of(inventory: Path) -> list[str]:
    """Names of the inventory's hosts, as Ansible reads it.

    :raises ProvisionError: Ansible cannot.
    """
    program = Path(sys.executable).with_name("ansible-inventory")
    done = subprocess.run(
        [str(program), "-i", str(inventory), "--list"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ProvisionError(f"{inventory} cannot be read: {done.stderr.strip()}")
    groups: dict[str, Any] = json.loads(done.stdout)
    return sorted({host for group in groups.values() for host in group.get("hosts", [])})


def summary(outcome: Outcome, *, check: bool) -> list[str]:
    """A line a host and a line a role, for people."""
    width = max([len(name) for name in (*outcome.hosts, *outcome.role_seconds)], default=0)
    changed = "would change" if check else "changed"
    lines = ["", f"{'host':{width}}     ok  {changed}  failed"]
    for name, counts in outcome.hosts.items():
        failed = "unreachable" if counts.unreachable else str(counts.failed)
        lines.append(f"{name:{width}}  {counts.ok:5}  {counts.changed:{len(changed)}}  {failed:>6}")
    lines += ["", f"{'role':{width}}      s  {changed}"]
    for role, seconds in outcome.role_seconds.items():
        lines.append(f"{role:{width}}  {seconds:5.0f}  {outcome.changed_by(role):{len(changed)}}")
    return [*lines, "", f"{outcome.seconds:.0f} s. Everything that Ansible said: {outcome.folder / 'stdout'}"]


def _failure(outcome: Outcome) -> str:
    said = "\n".join(f"{host}: {task}: {words}" for host, task, words in outcome.failures) or outcome.said
    return f"{said}\nCorrect it and run the same command again: it goes on where it stopped."
