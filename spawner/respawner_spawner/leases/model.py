"""What the scheduling policy sees and says: plain values, without clock, database or engine.

Times are unix seconds, memory is bytes, a GPU is known by its UUID. All values are frozen, so that a state can
be kept, compared and replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What a request asks for."""

    NONE = "none"
    """CPU only: no lease, no queue."""
    GPU = "gpu"
    """Whole GPUs."""
    MIG = "mig"
    """MIG devices."""
    SHARE = "share"
    """Memory of a GPU that an admin marked as shared."""

    @property
    def separation(self) -> str:
        """What keeps a session to its part of a GPU. "advisory": its programs are asked to, and nothing stops those that do
        not; that holds for shares also where the driver could limit memory by cgroup (`nvmlDeviceSetMemoryLimits_v1`,
        r615 and later), because nobody sets such limits yet."""
        return {Kind.GPU: "exclusive", Kind.MIG: "hardware", Kind.SHARE: "advisory"}.get(self, "")


class State(StrEnum):
    """Where a request stands."""

    QUEUED = "queued"
    GRANTED = "granted"
    """It has its devices; its server is not up yet."""
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU or a MIG device. A GPU in MIG mode is no device: its MIG devices are."""

    uuid: str
    host: str
    model: str
    """NVML's name of the product, for example "NVIDIA H100 80GB HBM3"; a MIG device has its GPU's."""
    memory_bytes: int
    kind: Kind = Kind.GPU
    parent: str = ""
    """UUID of a MIG device's GPU."""
    profile: str = ""
    """Of a MIG device, for example "1g.10gb"."""
    shareable_bytes: int = 0
    """Memory that shares may take of it, all together; 0: granted whole only. Set by an admin."""
    cordon: str = ""
    """Why it takes no new lease (cordoned, draining host, unhealthy, silent agent, unknown holder); "" if it does."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What one session wants. A session is one container, so all of it is on one host."""

    kind: Kind = Kind.NONE
    count: int = 1
    """GPUs or MIG devices; a share is always one."""
    model: str = ""
    """Part of the product's name, any case; "" is any."""
    min_memory_bytes: int = 0
    """Of each device."""
    profile: str = ""
    """Of MIG devices; "" is any that is large enough."""
    share_bytes: int = 0
    """Memory of a share."""
    host: str = ""
    """Only there."""
    uuids: tuple[str, ...] = ()
    """Only these devices (an admin's assignment, a hop)."""
    one_host: bool = True
    """False only where a simulation plays jobs that spanned hosts."""


@dataclass(frozen=True, slots=True)
class Request:
    """A session that waits for a lease."""

    id: int
    holder: str
    """"deployment/user/server"."""
    user: str
    ask: Ask
    submitted: float
    groups: tuple[str, ...] = ()
    """JupyterHub groups of the user."""
    priority: int = 0
    preemptible: bool = True
    """Whether the session may be suspended for others, as its owner and the admin allow."""
    attained_seconds: float = 0
    """GPU-seconds that this session has had in earlier leases."""
    resumes: bool = False
    """A suspended session that comes back."""
    cpu_meanwhile: bool = False
    """Its server already runs without a GPU and hops when this is granted."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One session's hold on devices."""

    id: int
    """The request's."""
    fence: int
    """Grows with every grant of the ledger; who has an older one may neither write nor hold."""
    holder: str
    user: str
    ask: Ask
    uuids: tuple[str, ...]
    since: float
    groups: tuple[str, ...] = ()
    priority: int = 0
    preemptible: bool = True
    attained_seconds: float = 0
    """GPU-seconds of earlier leases of this session, without the present one."""
    share_bytes: int = 0
    state: State = State.RUNNING
    cell_running: bool = False
    suspending: bool = False
    """On its way out already: its devices come free without another decision."""
    warned: bool = False
    """Its user was told that it makes room for somebody who waits."""
    ends: float | None = None
    """When it is known to end (a booking's end), None where nobody knows."""

    def attained_at(self, now: float) -> float:
        """GPU-seconds of this session until `now`, earlier leases included."""
        return self.attained_seconds + max(0.0, now - self.since) * len(self.uuids)


@dataclass(frozen=True, slots=True)
class Limit:
    """What a user or a group may hold, counted in GPUs (a MIG device or share counts its part of the memory)."""

    subject: str
    """"user:NAME", "group:NAME", "everyone" (each user without one of their own)."""
    most: float | None = None
    """Never more than this; None: as much as is free."""
    guarantee: float = 0
    """Gets this back from borrowers when it asks."""
    priority: int | None = None
    """Of its requests, where set; larger goes first."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """GPUs kept for a group from `start` until `end`."""

    id: int
    group: str
    count: int
    start: float
    end: float
    model: str = ""
    note: str = ""


LEAST_TURN_IN_COSTS = 5
"""A turn is at least so many times as long as what its suspend and resume cost, whatever the admin sets: sessions that
suspend each other in turns then lose at most a sixth of the time."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What an admin sets for the whole deployment."""

    preempt: bool = False
    """Whether running sessions may be suspended so that others get their turn; idle ones are reclaimed by other rules."""
    min_run_seconds: float = 1800
    """No lease is preempted earlier; see also `least_run_seconds`."""
    slice_seconds: float = 7200
    """How much more GPU time than the one who waits a session must have had before its turn ends."""
    suspend_cost_seconds: float = 120
    """What a suspend and a resume cost, as measured; GPUs are held and not used for so long."""
    slot_held_seconds: float = 600
    """How long granted devices wait for a server that does not start."""
    interrupt_cells: bool = False
    """Whether a session may be suspended while a cell runs."""
    patience_seconds: float = 4 * 3600
    """From then on GPUs are kept free for a request that does not fit; only who holds less than it would may pass."""
    pass_seconds: float = 48 * 3600
    """From then on it stands in front of its priority, and who passes must not delay it; after twice as long, nobody."""
    booking_lead_seconds: float = 2 * 3600
    """How long before a booking its GPUs go only to sessions that can be ended by then."""

    @property
    def least_run_seconds(self) -> float:
        """No lease is preempted earlier."""
        return max(self.min_run_seconds, LEAST_TURN_IN_COSTS * self.suspend_cost_seconds)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Everything that the policy looks at."""

    devices: tuple[Device, ...] = ()
    leases: tuple[Lease, ...] = ()
    queue: tuple[Request, ...] = ()
    limits: tuple[Limit, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True, slots=True)
class Grant:
    request_id: int
    uuids: tuple[str, ...]
    reason: str = ""
    share_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Suspension:
    """A lease that should be suspended so that a request can be granted."""

    lease_id: int
    for_request: int
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a request is not granted now, in words that its user understands."""

    request_id: int
    position: int
    """1 is next."""
    reason: str
    expected: float | None = None
    """When it is likely to be granted; None where nobody can tell."""
    impossible: bool = False
    """No set of the devices there are could ever fulfil it (asked for more than any host has, over a limit)."""


@dataclass(frozen=True, slots=True)
class Decision:
    grants: tuple[Grant, ...] = ()
    suspensions: tuple[Suspension, ...] = ()
    waits: Mapping[int, Wait] = field(default_factory=dict)
    """Of every request that stays in the queue, by its id."""
