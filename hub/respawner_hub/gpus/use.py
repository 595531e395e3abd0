"""What devices and sessions compute, as the agents measured it last. Shares are 0 to 1 of the time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from respawner_spawner.devices.values import Report


@dataclass(frozen=True)
class Utilisation:
    of_device: Mapping[str, float] = field(default_factory=dict)
    """UUID → for how much of the time it computes; a device that cannot tell (MIG, a silent agent) is missing."""
    of_sessions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """UUID → holder → the same for its processes; a device that cannot tell whose work it does is missing."""

    def tells(self, uuid: str) -> bool:
        """Whether it is known whose work the device does."""
        return uuid in self.of_sessions or not self.of_device.get(uuid, 1.0)

    def by(self, holder: str, uuid: str) -> float:
        """What a session computes on a device that `tells`."""
        return self.of_sessions.get(uuid, {}).get(holder, 0.0)


def utilisation_of(reports: Iterable[Report]) -> Utilisation:
    reports = list(reports)
    return Utilisation(
        {
            reading.uuid: reading.utilization_percent / 100
            for report in reports
            for reading in report.readings
            if reading.utilization_percent is not None
        },
        {
            reading.uuid: sessions
            for report in reports
            for reading in report.readings
            if (sessions := _sessions_on(report, reading.uuid)) is not None
        },
    )


def _sessions_on(report: Report, uuid: str) -> dict[str, float] | None:
    """None where nobody can tell: the driver does not say what each process computes, or a process is nobody's whom the
    engine knows (an MPS server computes for its clients)."""
    if not report.processes_at:
        return None
    found: dict[str, float] = {}
    for process in report.processes:
        if process.uuid != uuid:
            continue
        if not process.holder or process.utilization_percent is None:
            return None
        share = process.utilization_percent / 100
        found[process.holder] = min(1.0, found.get(process.holder, 0.0) + share)
    return found
