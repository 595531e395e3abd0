"""Why a session ended: exit code and last lines of the log, in words and in HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jupyterhub.spawner import SpawnException

from .engine import Engine

LOG_LINES = 30


class SessionStartError(SpawnException):
    """A session could not be started; the message is for its user and says what to do next."""

    def __init__(self, message: str, *, reason: str, log_tail: str = "") -> None:
        page = html.escape(message)
        if log_tail:
            page += f"<pre class='text-start'>{html.escape(log_tail)}</pre>"
        super().__init__(f"{message}\n{log_tail}" if log_tail else message, reason=reason, message_html=page)


@dataclass(frozen=True)
class Ending:
    """How a container ended."""

    exit_code: int
    out_of_memory: bool
    error: str
    finished_at: str
    log_tail: str = ""

    @classmethod
    def of(cls, state: Mapping[str, Any], log_tail: str = "") -> Ending:
        """From the `State` of Docker's container inspection."""
        return cls(
            exit_code=state.get("ExitCode", -1),
            out_of_memory=bool(state.get("OOMKilled")),
            error=state.get("Error", ""),
            finished_at=state.get("FinishedAt", ""),
            log_tail=log_tail,
        )

    def describe(self) -> str:
        """One sentence; what `poll` reports and the hub logs."""
        if self.out_of_memory:
            return f"the container ran out of memory and was killed (exit code {self.exit_code})"
        if self.exit_code == 137:
            return "the container was killed (exit code 137)"
        if self.error:
            return f"the container failed: {self.error} (exit code {self.exit_code})"
        return f"the container exited with code {self.exit_code}"


async def read_ending(engine: Engine, container: Mapping[str, Any]) -> Ending:
    """With the last lines of its log. `container`: Docker's inspection of it."""
    log = await engine.call("logs", container["Id"], stdout=True, stderr=True, tail=LOG_LINES)
    return Ending.of(container["State"], log.decode(errors="replace").strip())


def next_step(ending: Ending) -> str:
    """What the user or admin would do about it."""
    if ending.out_of_memory:
        return "Ask your admin for a higher memory limit ([session] mem_limit), or use less."
    if ending.exit_code in (126, 127):
        return "The image needs jupyterhub-singleuser on its PATH: `pip install jupyterhub jupyterlab` in it."
    return "Its last output stands below; your files and snapshots are safe."
