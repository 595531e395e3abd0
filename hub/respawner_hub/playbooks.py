"""`run_playbook`: one playbook by ansible-runner, told while it runs and summed up at its end.

Which playbook, and on which machines, is decided elsewhere (`provision`, `cluster`).
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class HostCounts:
    """Tasks of one host."""

    ok: int
    changed: int
    failed: int
    unreachable: bool


@dataclass(frozen=True)
class Outcome:
    """What a run did. Tasks are named `role : task`."""

    status: int
    """ansible-playbook's exit code; 0 is good."""
    hosts: Mapping[str, HostCounts]
    changed: Sequence[tuple[str, str]]
    """(host, task), in the order in which they happened."""
    failures: Sequence[tuple[str, str, str]]
    """(host, task, what it said)."""
    role_seconds: Mapping[str, float]
    seconds: float
    folder: Path
    """Of ansible-runner's artifacts: `stdout`, and an event a file."""
    said: str = ""
    """The end of what Ansible printed, where it failed before any task."""

    def changed_by(self, role: str) -> int:
        """Tasks of the role that changed something, over all hosts."""
        return sum(task.startswith(f"{role} : ") for _, task in self.changed)


@dataclass
class _Watcher:
    """Collects the events of one run."""

    say: Say
    check: bool
    name_hosts: bool
    changed: list[tuple[str, str]] = field(default_factory=list)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    role_seconds: dict[str, float] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)
    _role: str = ""
    _since: float = field(default_factory=time.monotonic)

    def __call__(self, event: dict[str, Any]) -> bool:
        data = event.get("event_data", {})
        kind = event["event"]
        if kind == "playbook_on_task_start":
            self._enter(data.get("role") or "")
        elif kind == "playbook_on_stats":
            self._enter("")
            self.stats = data
        elif kind == "runner_on_ok" and data.get("res", {}).get("changed"):
            self._changed(data)
        elif kind in ("runner_on_failed", "runner_on_unreachable") and not data.get("ignore_errors"):
            self._failed(data)
        return True  # keep the event in the artifacts

    def _enter(self, role: str) -> None:
        now = time.monotonic()
        if self._role:
            self.role_seconds[self._role] = self.role_seconds.get(self._role, 0.0) + now - self._since
        if role and role != self._role and self.name_hosts:
            self.say(f"▸ {role}")
        self._role, self._since = role, now

    def _changed(self, data: dict[str, Any]) -> None:
        host, task = data.get("host", ""), task_name(data)
        self.changed.append((host, task))
        word = "would change" if self.check else "changed"
        self.say(f"    {host}: {data.get('task')}: {word}" if self.name_hosts else f"{task}: {word}")

    def _failed(self, data: dict[str, Any]) -> None:
        host, task, said = data.get("host", ""), task_name(data), message(data.get("res", {}))
        self.failures.append((host, task, said))
        if self.name_hosts:
            self.say(f"    {host}: {data.get('task')}: FAILED: {said}")


def run_playbook(
    project: Path,
    playbook: str,
    inventory: Path,
    private: Path,
    say: Say,
    *,
    check: bool = False,
    arguments: Sequence[str] = (),
    become_password: str = "",
    name_hosts: bool = False,
    keep_runs: int = KEEP_RUNS,
) -> Outcome:
    """Run it to its end. The last `keep_runs` runs stay readable in `<private>/artifacts`.

    :param arguments: more of ansible-playbook's, such as --limit=HOST.
    :param name_hosts: whether what is said names roles and hosts; without, one machine alone is meant.
    """
    import ansible_runner  # here: it is slow to import, and seldom needed

    started = time.monotonic()
    ask = ["--ask-become-pass"] if become_password else []
    private.mkdir(parents=True, exist_ok=True, mode=0o700)
    watcher = _Watcher(say, check, name_hosts)
    runner = ansible_runner.run(
        private_data_dir=str(private),
        project_dir=str(project),
        inventory=str(inventory),
        playbook=playbook,
        cmdline=shlex.join([*(["--check"] if check else []), *ask, *arguments]),
        passwords={r"^BECOME password.*:\s*$": become_password} if become_password else None,
        ident=datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f"),
        rotate_artifacts=keep_runs,
        envvars={
            "ANSIBLE_CONFIG": str(project / "ansible.cfg"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{SEARCH_PATH}",
        },
        event_handler=watcher,
        quiet=True,
        suppress_env_files=True,
    )
    # ansible-runner writes the whole environment there, and with it every secret that came by it.
    (Path(runner.config.artifact_dir) / "command").unlink(missing_ok=True)
    said = "" if runner.rc == 0 or watcher.failures else runner.stdout.read().strip()[-2000:]
    return Outcome(
        status=runner.rc,
        hosts=_counts(watcher.stats),
        changed=tuple(watcher.changed),
        failures=tuple(watcher.failures),
        role_seconds=watcher.role_seconds,
        seconds=time.monotonic() - started,
        folder=Path(runner.config.artifact_dir),
        said=said,
    )


def task_name(data: Mapping[str, Any]) -> str:
    return " : ".join(part for part in (data.get("role"), data.get("task")) if part)


def message(result: Mapping[str, Any]) -> str:
    """What a failed task said: its message, and what the command behind it wrote."""
    parts = [str(result.get(key, "")).strip() for key in ("msg", "stderr")]
    parts += [message(item) for item in result.get("results", []) if item.get("failed")]
    return "\n".join(dict.fromkeys(filter(None, parts)))


def _counts(stats: Mapping[str, Any]) -> dict[str, HostCounts]:
    names = sorted({name for key in ("ok", "changed", "failures", "dark") for name in stats.get(key, {})})
    return {
        name: HostCounts(
            ok=stats["ok"].get(name, 0),
            changed=stats["changed"].get(name, 0),
            failed=stats["failures"].get(name, 0),
            unreachable=bool(stats["dark"].get(name, 0)),
        )
        for name in names
    }
