"""A session's lease at the start of its container: granted and claimed, or the reason why it has none.

Nothing waits here. What cannot be granted at once stays in the queue, and the scheduler starts the server when its
turn comes; callers that go through the queue first find their lease granted. Every function blocks: for a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .failure import SessionStartError
from .leases.asks import BadAsk, ask_from, wants_cpu_meanwhile
from .leases.ledger import Ledger
from .leases.model import Ask, Kind, Lease, State
from .leases.policy import decide
from .leases.records import EndReason, NoLease, OpenRequest, Standing

Schedule = Callable[[Ledger], object]


@dataclass(frozen=True)
class Claimant:
    """Whose session it is, and what it may have."""

    holder: str
    user: str
    groups: Sequence[str] = ()
    default_gpus: int = 0
    max_gpus: int = 1


def schedule(ledger: Ledger) -> None:
    """Grant what can be granted now, by the policy's default rules."""
    now = ledger.clock()
    ledger.apply(decide(ledger.cluster(ledger.devices(now), now), now), now)


def granted(
    ledger: Ledger,
    who: Claimant,
    options: Mapping[str, Any],
    schedule: Schedule = schedule,
    began: float | None = None,
    *,
    without_gpu: bool = False,
) -> Lease | None:
    """The lease with which the session's container shall start; None for one without GPUs. It is not claimed yet: a start
    that fails before it is leaves it to the next one, for as long as grants are held.

    What has been granted counts, whatever the options say: the scheduler starts servers without any. No container
    of the session runs when this is called. Who may start non-preemptible sessions is known where requests are made
    (the hub's handlers), so one that is made here is preemptible.

    :param without_gpu: make no request, whatever the options say: the session ran without a GPU and goes on so.
    :param began: when the start did, in unix seconds: a request that was cancelled since is not made again.
    :raises SessionStartError: it waits, and where; it was cancelled meanwhile; or what it asks for cannot be.
    """
    standing = ledger.request_of(who.holder)
    came_back, preemptible = False, True
    if standing and standing.state is State.RUNNING:
        # Its container ended and nobody saw it. Where it ended only for us, its number must not be used again.
        ledger.release(who.holder, EndReason.LOST, detail="its container was gone at the next start")
        came_back, preemptible = True, standing.request.preemptible
        standing = ledger.request_of(who.holder)
    if standing is None and without_gpu and not came_back:
        return None
    if standing is None:
        ask, cpu_meanwhile = _ask(who, options)
        if ask.kind is Kind.NONE:
            return None
        _refuse_cancelled(ledger, who.holder, began)
        try:
            ledger.submit(
                who.holder,
                who.user,
                ask,
                groups=who.groups,
                preemptible=preemptible,
                resumes=came_back,
                cpu_meanwhile=cpu_meanwhile,
            )
        except OpenRequest as error:
            raise SessionStartError(str(error), reason="gpus") from error
    if standing is None or standing.state is State.QUEUED:
        schedule(ledger)
        standing = ledger.request_of(who.holder)
    if standing and standing.state is State.QUEUED and standing.request.cpu_meanwhile:
        return None
    if standing is None or standing.lease is None:
        raise _waits(ledger, who.holder, standing)
    return standing.lease


def claim(ledger: Ledger, lease: Lease) -> Lease:
    """From here on the lease ends with the session's container, or with its start if that fails.

    :param lease: that was granted, and for whose host the start has made everything ready.
    :raises SessionStartError: it has been taken back, also where another one was granted since: that stays granted.
    """
    try:
        return ledger.claim(lease.holder, fence=lease.fence)
    except NoLease as error:
        standing = ledger.request_of(lease.holder)
        if standing and standing.lease:
            raise SessionStartError(
                f"{', '.join(lease.uuids)} was taken back while your session was starting, and you have "
                f"{', '.join(standing.lease.uuids)} instead. Your session starts with that by itself in a moment.",
                reason="queued",
            ) from error
        raise _waits(ledger, lease.holder, standing) from error


def fence_without_lease(ledger: Ledger, holder: str, *, always: bool = False) -> int:
    """A number for a session that starts without GPUs: newer than every lease that it has had; 0 if it had none.

    :param always: a number also then: on another host an earlier container of it may still run.
    """
    if not always and not ledger.ended(holder, most=1):
        return 0
    return ledger.new_fence(holder, "it starts without a GPU")


def stopped(ledger: Ledger, holder: str) -> None:
    """Somebody stopped a session that ran without a GPU until it gets one: it shall not start by itself hours later."""
    standing = ledger.request_of(holder)
    if standing is None or standing.state is not State.QUEUED or not standing.request.cpu_meanwhile:
        return
    if not standing.requeued:  # else its grant was taken back while it changed over: it keeps its place
        ledger.cancel(holder, "spawner", "its session was stopped")


def deleted(ledger: Ledger, holder: str) -> None:
    """The hub forgets a stopped session for good, with its user or as a named server: nothing waits for it any more."""
    why = "its server was deleted" if holder.split("/", 2)[2] else "its user was deleted"
    if ledger.cancel(holder, "hub", why) is None:
        ledger.give_up(holder, why, "hub")  # its container is on a host that does not answer now
    ledger.outdate(holder, why, "hub")


def _ask(who: Claimant, options: Mapping[str, Any]) -> tuple[Ask, bool]:
    try:
        ask = ask_from(options, default_gpus=who.default_gpus, max_gpus=who.max_gpus)
        return ask, wants_cpu_meanwhile(options)
    except BadAsk as error:
        raise SessionStartError(str(error), reason="gpus") from error


def _refuse_cancelled(ledger: Ledger, holder: str, began: float | None) -> None:
    last = ledger.ended(holder, most=1) if began is not None else ()
    if last and last[0].end_reason is EndReason.CANCELLED and (last[0].ended_at or 0.0) >= (began or 0.0):
        raise SessionStartError(
            "Its request for a GPU was given up while your session was starting, so it does not start.",
            reason="gpus",
        )


def _waits(ledger: Ledger, holder: str, standing: Standing | None) -> SessionStartError:
    if standing is None:
        last = next(iter(ledger.ended(holder, most=1)), None)
        why = f" ({last.end_detail})" if last and last.end_detail else ""
        return SessionStartError(
            f"Your request for a GPU has ended while your session was starting{why}, so it does not start. "
            "Start it again to ask anew.",
            reason="gpus",
        )
    wait = standing.wait
    if wait and wait.impossible:
        ledger.cancel(holder, "scheduler", wait.reason)
        return SessionStartError(f"This cannot be granted here: {wait.reason}", reason="gpus")
    return SessionStartError(
        f"No GPU is free for you yet, so your session waits: {wait.reason if wait else 'it has just been queued'}. "
        "It starts by itself when its turn comes; the page GPUs shows the queue, and there you can give it up.",
        reason="queued",
    )
