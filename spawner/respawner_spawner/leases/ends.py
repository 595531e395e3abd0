"""When leases are known to end: what a group was granted within its booking ends with the booking.

It is worked out from when they were granted and not written down, so that a cancelled booking ends nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from .model import Device, Kind, Lease, Reservation


def with_ends(
    leases: Sequence[Lease], devices: Iterable[Device], bookings: Iterable[Reservation]
) -> tuple[Lease, ...]:
    """The same leases, with `ends` of those that draw on one of `bookings`, which may be over.

    What the group held before the booking began counts for it and does not end; what it was granted on top of the
    booking's number came from idle GPUs and does not end either.
    """
    models = {device.uuid: device.model.lower() for device in devices}
    ends: dict[int, float] = {}
    for booking in sorted(bookings, key=lambda booking: (booking.start, booking.id)):
        left = booking.count
        for lease in sorted(leases, key=lambda lease: (lease.since, lease.id)):
            if lease.id in ends or not _counts_for(booking, lease, models):
                continue
            if lease.since >= booking.start and len(lease.uuids) <= left:
                ends[lease.id] = booking.end
            left = max(0, left - len(lease.uuids))
    return tuple(replace(lease, ends=ends[lease.id]) if lease.id in ends else lease for lease in leases)


def _counts_for(booking: Reservation, lease: Lease, models: Mapping[str, str]) -> bool:
    return (
        booking.group in lease.groups
        and lease.ask.kind is Kind.GPU
        and lease.since < booking.end
        and all(booking.model.lower() in models.get(uuid, "") for uuid in lease.uuids)
    )
