"""Is a device fit to be granted? A book of what is wrong with which, from readings and events. Pure: no clock, no NVML.

What is wrong stays in the book until its end is seen: a lost GPU answers again, a counter is back at 0, the heat
has gone. An Xid has no such end, so it stays until the GPU was lost and came back, or an admin says `clear`.
That nothing is wrong in the book of an agent that has just started is no proof; an event "recovered" is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .words import APPLICATION_XIDS, explain_xid

if TYPE_CHECKING:
    from .values import Access, Gpu, Reading

EVENTS_KEPT = 200
THERMAL_SECONDS = 60
"""A GPU that slows down for a moment is well; one that does so for this long has a problem with its cooling."""


@dataclass(frozen=True)
class HealthEvent:
    """Something that happened to a device."""

    at: float
    uuid: str
    kind: str
    """"lost", "unreadable", "ecc", "thermal", "xid", "blocked", or "recovered": the end of all that was wrong with it."""
    words: str
    code: int = 0
    """The Xid."""
    cordons: bool = True
    """Whether it is a reason to grant the device to nobody; an application's own Xid is not."""


@dataclass(frozen=True)
class Health:
    """What is wrong with a device now; a MIG device has its GPU's faults too."""

    uuid: str
    ok: bool = True
    words: tuple[str, ...] = ()
    since: float | None = None


@dataclass
class HealthBook:
    """Not for several threads at once."""

    events: deque[HealthEvent] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))
    xid_counts: dict[str, dict[int, int]] = field(default_factory=dict)
    known: dict[str, Gpu] = field(default_factory=dict)
    """Everything that was here since the book was opened, lost GPUs included."""
    _wrong: dict[str, dict[str, tuple[str, float]]] = field(default_factory=dict)
    """UUID → kind → (words, since)."""
    _hot_since: dict[str, float] = field(default_factory=dict)
    _accepted_errors: dict[str, int] = field(default_factory=dict)
    _last_errors: dict[str, int] = field(default_factory=dict)

    def found(self, gpus: Iterable[Gpu], cause: str, now: float) -> None:
        """NVML listed these. A GPU that was here before and is not among them is lost, with its MIG devices."""
        here = {gpu.uuid: gpu for gpu in gpus}
        for uuid, gpu in list(self.known.items()):
            if uuid in here:
                continue
            if gpu.parent in here:
                self._forget(uuid)  # the GPU was divided anew
            elif "lost" not in self._wrong.get(uuid, {}):
                self.wrong(uuid, "lost", f"not there any more ({cause or 'NVML does not list it'})", now)
        self.known |= here

    def read(self, reading: Reading, now: float) -> None:
        """Judge one reading."""
        uuid = reading.uuid
        if reading.error:
            self.wrong(uuid, "lost" if reading.lost else "unreadable", reading.error, now)
            return
        came_back = "lost" in self._wrong.get(uuid, {})
        self.right(uuid, ("lost", "unreadable", "xid") if came_back else ("unreadable",), now)
        self._judge_errors(uuid, reading.ecc_uncorrected, now)
        self._judge_heat(uuid, reading, now)

    def _judge_errors(self, uuid: str, count: int | None, now: float) -> None:
        if count is None:
            return
        self._last_errors[uuid] = count
        accepted = self._accepted_errors[uuid] = min(self._accepted_errors.get(uuid, 0), count)
        if count > accepted:
            words = f"{count} memory error(s) that could not be corrected since the driver was loaded: reset the GPU"
            self.wrong(uuid, "ecc", words, now)
        else:
            self.right(uuid, ("ecc",), now)

    def _judge_heat(self, uuid: str, reading: Reading, now: float) -> None:
        if not reading.thermal_slowdown:
            self._hot_since.pop(uuid, None)
            self.right(uuid, ("thermal",), now)
        elif now - self._hot_since.setdefault(uuid, now) >= THERMAL_SECONDS:
            heat = f" at {reading.temperature_celsius} °C" if reading.temperature_celsius is not None else ""
            self.wrong(uuid, "thermal", f"too hot{heat}, so it runs slowly: check its cooling", now)

    def xid(self, uuid: str, code: int, now: float) -> None:
        """An Xid event. With uuid "" nobody knows which GPU it was, so all are suspected."""
        for each in [uuid] if uuid else [gpu.uuid for gpu in self.known.values() if not gpu.parent]:
            counts = self.xid_counts.setdefault(each, {})
            counts[code] = counts.get(code, 0) + 1
            words = explain_xid(code) if uuid else f"{explain_xid(code)} (of an unknown GPU)"
            cordons = code not in APPLICATION_XIDS
            self.events.append(HealthEvent(now, each, "xid", words, code, cordons))
            if cordons:
                self._wrong.setdefault(each, {})["xid"] = (words, now)

    def access(self, seen: Iterable[Access], now: float) -> None:
        """The canary looked at all running sessions. One that it could not judge leaves everything as it was."""
        verdicts: dict[str, dict[str, str]] = {}
        for access in seen:
            for uuid in access.uuids:
                verdicts.setdefault(uuid, {})[access.verdict] = f"{access.holder}: {access.words}"
        for uuid in self.known:
            said = verdicts.get(uuid, {})
            if "blocked" in said:
                self.wrong(uuid, "blocked", said["blocked"], now)
            elif "unknown" not in said:
                self.right(uuid, ["blocked"], now)

    def wrong(self, uuid: str, kind: str, words: str, now: float) -> None:
        """Something is wrong; an event when it was not before."""
        conditions = self._wrong.setdefault(uuid, {})
        if kind not in conditions:
            self.events.append(HealthEvent(now, uuid, kind, words))
        conditions[kind] = (words, conditions.get(kind, (words, now))[1])

    def right(self, uuid: str, kinds: Iterable[str], now: float) -> None:
        """These have ended; an event when nothing is wrong any more."""
        conditions = self._wrong.get(uuid, {})
        ended = [conditions.pop(kind)[0] for kind in kinds if kind in conditions]
        if ended and not conditions:
            self._wrong.pop(uuid, None)
            self.events.append(
                HealthEvent(now, uuid, "recovered", f"ended: {'; '.join(ended)}", cordons=False)
            )

    def clear(self, uuid: str, now: float) -> bool:
        """An admin says that it is well. What goes on comes back with the next reading. False: nothing was wrong.

        Memory errors counted so far are accepted; new ones are not.
        """
        self._accepted_errors[uuid] = self._last_errors.get(uuid, 0)
        self._hot_since.pop(uuid, None)
        if not self._wrong.get(uuid):
            return False
        self.right(uuid, list(self._wrong[uuid]), now)
        return True

    def health(self) -> tuple[Health, ...]:
        """Of every known device."""
        return tuple(self._health_of(gpu) for gpu in self.known.values())

    def _health_of(self, gpu: Gpu) -> Health:
        wrong = self._wrong.get(gpu.uuid, {}) | _prefixed(self._wrong.get(gpu.parent, {}))
        words = tuple(words for words, _ in wrong.values())
        return Health(gpu.uuid, not wrong, words, min((since for _, since in wrong.values()), default=None))

    def _forget(self, uuid: str) -> None:
        for book in (self.known, self._wrong, self._hot_since, self._accepted_errors, self._last_errors):
            book.pop(uuid, None)


def _prefixed(wrong: Mapping[str, tuple[str, float]]) -> dict[str, tuple[str, float]]:
    return {f"parent {kind}": (f"its GPU: {words}", since) for kind, (words, since) in wrong.items()}
