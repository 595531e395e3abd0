"""`provision_local`: what `make up` needs on this machine, put there by `ansible/local.yml`.

A second `make up` does not start Ansible at all: where every program answers, there is nothing to do.
Not for other hosts: those are `cluster`'s.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .images import project_root
from .playbooks import KEEP_RUNS, SEARCH_PATH, run_playbook
from .steps import Say

NEEDED = ("dockerd", "docker", "configurable-http-proxy", "debootstrap")


class ProvisionError(Exception):
    """The machine is not ready. The message names the task that failed, what it said, and the next step."""


class NeedsRootError(ProvisionError):
    """Something must be installed, and neither are we root nor does sudo let us be."""


@dataclass(frozen=True)
class ProvisionResult:
    """What a run did: names of tasks as `role : task`."""

    changed: tuple[str, ...]
    seconds: float
    ran: bool
    """Whether Ansible ran; False where everything was there already."""


def provision_local(
    state_dir: Path, log: Say, *, check: bool = False, force: bool = False
) -> ProvisionResult:
    """Make sure that this machine has an engine, a proxy and the tools for a base image.

    `check` only says what would change. `force` runs the playbook even where everything is there. The
    last `KEEP_RUNS` runs stay readable in `<state_dir>/ansible/artifacts`. Raises `ProvisionError`.
    """
    started = time.monotonic()
    if not (check or force):
        missing = missing_programs()
        if not missing:
            log("provision: already there: " + ", ".join(NEEDED))
            return ProvisionResult((), time.monotonic() - started, ran=False)
        log(f"provision: {', '.join(missing)} missing, running ansible/local.yml")
    _check_root(check=check)
    changed = _run(project_root() / "ansible", state_dir / "ansible", log, check=check)
    if not check and (missing := missing_programs()):
        raise ProvisionError(
            f"ansible/local.yml ended well, and still {', '.join(missing)} cannot be run. "
            f"Try by hand what this says: {missing[0]} --version"
        )
    seconds = time.monotonic() - started
    log(f"provision: {len(changed)} {'would change' if check else 'changed'}, {seconds:.0f} s")
    return ProvisionResult(tuple(changed), seconds, ran=True)


def missing_programs(search_path: str = SEARCH_PATH) -> list[str]:
    """Those of `NEEDED` that are not there or do not answer."""
    return [name for name in NEEDED if not _answers(name, search_path)]


def _answers(name: str, search_path: str) -> bool:
    program = shutil.which(name, path=search_path)
    if program is None:
        return False
    try:
        done = subprocess.run([program, "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _check_root(*, check: bool) -> None:
    if os.geteuid() == 0:
        return
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return
    command = "respawner-hub provision" + (" --check" if check else "")
    raise NeedsRootError(
        "Installing packages needs root, and sudo is not there or asks for a password. Run once: "
        f"sudo {Path(sys.executable).parent}/{command}"
    )


def _run(project: Path, private: Path, log: Say, *, check: bool) -> list[str]:
    """Run `local.yml` and return the tasks that changed something."""
    outcome = run_playbook(
        project,
        "local.yml",
        project / "inventory" / "local.yml",
        private,
        lambda line: log(f"provision: {line}"),
        check=check,
        keep_runs=KEEP_RUNS,
    )
    if outcome.status:
        said = "\n".join(f"{task}: {words}" for _, task, words in outcome.failures) or outcome.said
        raise ProvisionError(
            f"{said}\nEverything that Ansible said: {outcome.folder}/stdout. "
            f"Try again with: respawner-hub provision"
        )
    return [task for _, task in outcome.changed]
