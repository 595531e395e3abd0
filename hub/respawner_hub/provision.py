"""`provision_local`: what `make up` needs on this machine, put there by `ansible/local.yml`.

A second `make up` does not start Ansible at all: where every program answers, there is nothing to do.
Not for other hosts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .images import project_root
from .steps import Say

KEEP_RUNS = 10

SEARCH_PATH = os.pathsep.join(
    [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
        os.environ.get("PATH", ""),
    ]
)
"""An ordinary user's PATH lacks the sbin folders, where dockerd and debootstrap may lie."""

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
    changed = _run_playbook(project_root() / "ansible", state_dir / "ansible", log, check=check)
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


def _run_playbook(project: Path, private: Path, log: Say, *, check: bool) -> list[str]:
    """Run `local.yml` by ansible-runner and return the tasks that changed something."""
    import ansible_runner  # here: it is slow to import, and seldom needed

    private.mkdir(parents=True, exist_ok=True)
    changed: list[str] = []
    failures: list[str] = []

    def on_event(event: dict[str, Any]) -> bool:
        data = event.get("event_data", {})
        if event["event"] == "runner_on_ok" and data.get("res", {}).get("changed"):
            changed.append(_task(data))
            log(f"provision: {_task(data)}: {'would change' if check else 'changed'}")
        elif event["event"] in ("runner_on_failed", "runner_on_unreachable") and not data.get(
            "ignore_errors"
        ):
            failures.append(f"{_task(data)}: {_message(data.get('res', {}))}")
        return True  # keep the event in the artifacts

    runner = ansible_runner.run(
        private_data_dir=str(private),
        project_dir=str(project),
        inventory=str(project / "inventory" / "local.yml"),
        playbook="local.yml",
        cmdline="--check" if check else "",
        ident=datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%f"),
        rotate_artifacts=KEEP_RUNS,
        envvars={
            "ANSIBLE_CONFIG": str(project / "ansible.cfg"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{SEARCH_PATH}",
        },
        event_handler=on_event,
        quiet=True,
        suppress_env_files=True,
    )
    if runner.rc != 0:
        said = "\n".join(failures) or runner.stdout.read().strip()[-2000:]
        raise ProvisionError(
            f"{said}\nEverything that Ansible said: {runner.config.artifact_dir}/stdout. "
            f"Try again with: respawner-hub provision"
        )
    return changed


def _task(data: dict[str, Any]) -> str:
    return " : ".join(part for part in (data.get("role"), data.get("task")) if part)


def _message(result: dict[str, Any]) -> str:
    """What a failed task said: its message, and what the command behind it wrote."""
    parts = [str(result.get(key, "")).strip() for key in ("msg", "stderr")]
    parts += [_message(item) for item in result.get("results", []) if item.get("failed")]
    return "\n".join(dict.fromkeys(filter(None, parts)))
