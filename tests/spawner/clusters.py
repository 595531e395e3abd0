"""Short ways to write down clusters for the tests of the policy, and a strategy that makes any."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from respawner_spawner.leases.model import (
    Ask,
    Cluster,
    Device,
    Kind,
    Lease,
    Limit,
    Request,
    Reservation,
    Rules,
)

GB = 10**9
HOUR = 3600.0


def gpus(
    host: str, count: int, model: str = "NVIDIA H100 80GB HBM3", memory_gb: int = 80, **more: Any
) -> list[Device]:
    return [Device(f"GPU-{host}-{i}", host, model, memory_gb * GB, **more) for i in range(count)]


def migs(
    host: str, gpu: int, count: int, memory_gb: int = 10, profile: str = "1g.10gb", **more: Any
) -> list[Device]:
    """MIG devices of one GPU."""
    parent = f"GPU-{host}-{gpu}"
    return [
        Device(
            f"MIG-{host}-{gpu}-{i}",
            host,
            "NVIDIA H100 80GB HBM3",
            memory_gb * GB,
            Kind.MIG,
            parent,
            profile,
            **more,
        )
        for i in range(count)
    ]


def whole(count: int = 1, **more: Any) -> Ask:
    return Ask(Kind.GPU, count, **more)


def share(gb: int, **more: Any) -> Ask:
    return Ask(Kind.SHARE, share_bytes=gb * GB, **more)


def mig(count: int = 1, **more: Any) -> Ask:
    return Ask(Kind.MIG, count, **more)


def wants(number: int, user: str, ask: Ask, submitted: float = 0, **more: Any) -> Request:
    return Request(number, f"hub/{user}/{number}", user, ask, submitted, **more)


def holds(number: int, user: str, *uuids: str, since: float = 0, **more: Any) -> Lease:
    ask = more.pop("ask", Ask(Kind.GPU, len(uuids)))
    return Lease(number, number, f"hub/{user}/{number}", user, ask, tuple(uuids), since, **more)


NAMES = st.sampled_from(["alice", "bob", "carol", "dave"])
GROUPS = st.lists(st.sampled_from(["red", "blue"]), unique=True, max_size=2).map(tuple)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    """Any small cluster whose leases were possible, with what waits for it. `now` is meant to be near 100,000."""
    devices = draw(_devices())
    leases = draw(_leases(devices))
    queue = draw(st.lists(_asks(), max_size=8))
    requests = tuple(
        wants(
            1000 + i,
            draw(NAMES),
            ask,
            draw(st.sampled_from([0.0, 50_000.0, 90_000.0, 99_000.0])),
            groups=draw(GROUPS),
            priority=draw(st.sampled_from([0, 0, 5])),
            preemptible=draw(st.booleans()),
            attained_seconds=draw(st.sampled_from([0.0, 0.0, 9000.0])),
        )
        for i, ask in enumerate(queue)
    )
    return Cluster(devices, leases, requests, draw(_limits()), draw(_reservations()), draw(_rules()))


@st.composite
def _devices(draw: st.DrawFn) -> tuple[Device, ...]:
    devices: list[Device] = []
    for host in ["a", "b", "c"][: draw(st.integers(1, 3))]:
        cordon = draw(st.sampled_from(["", "", "", "drained"]))
        model, memory = draw(st.sampled_from([("NVIDIA H100 80GB HBM3", 80), ("NVIDIA A100-SXM4-40GB", 40)]))
        devices += gpus(host, draw(st.integers(1, 4)), model, memory, cordon=cordon)
        if draw(st.booleans()):
            devices += migs(host, 8, 3, cordon=cordon)
        if draw(st.booleans()):
            devices += [
                Device(f"GPU-{host}-9", host, model, memory * GB, shareable_bytes=30 * GB, cordon=cordon)
            ]
    return tuple(devices)


@st.composite
def _leases(draw: st.DrawFn, devices: tuple[Device, ...]) -> tuple[Lease, ...]:
    leases: list[Lease] = []
    for number, device in enumerate(devices, start=1):
        if not draw(st.booleans()):
            continue
        shared = device.shareable_bytes > 0
        ask = share(10) if shared else Ask(device.kind, 1)
        leases.append(
            holds(
                number,
                draw(NAMES),
                device.uuid,
                ask=ask,
                since=draw(st.sampled_from([0.0, 90_000.0, 99_900.0])),
                share_bytes=10 * GB if shared else 0,
                groups=draw(GROUPS),
                preemptible=draw(st.booleans()),
                cell_running=draw(st.booleans()),
                suspending=draw(st.sampled_from([False, False, True])),
                warned=draw(st.sampled_from([False, False, True])),
                ends=draw(st.sampled_from([None, None, 99_000.0, 120_000.0])),
            )
        )
    return tuple(leases)


def _asks() -> st.SearchStrategy[Ask]:
    model = st.sampled_from(["", "", "h100", "A100"])
    return st.one_of(
        st.builds(whole, st.integers(1, 5), model=model, one_host=st.sampled_from([True, True, False])),
        st.builds(whole, st.integers(1, 2), host=st.sampled_from(["a", "b", "z"])),
        st.builds(whole, st.just(1), uuids=st.sampled_from([("GPU-a-0",), ("GPU-b-0",)])),
        st.builds(whole, st.just(1), min_memory_bytes=st.just(60 * GB)),
        st.builds(mig, st.integers(1, 4), profile=st.sampled_from(["", "1g.10gb", "2g.20gb"])),
        st.builds(share, st.sampled_from([10, 20, 50])),
    )


def _limits() -> st.SearchStrategy[tuple[Limit, ...]]:
    amounts = st.sampled_from([None, 1.0, 2.5, 4.0])
    return st.lists(
        st.builds(
            Limit,
            st.sampled_from(["user:alice", "everyone", "group:red", "group:blue"]),
            amounts,
            st.sampled_from([0, 0, 2.0]),
            st.sampled_from([None, None, 3]),
        ),
        unique_by=lambda limit: limit.subject,
        max_size=3,
    ).map(tuple)


def _reservations() -> st.SearchStrategy[tuple[Reservation, ...]]:
    booking = st.builds(
        Reservation,
        st.just(1),
        st.sampled_from(["red", "blue"]),
        st.integers(1, 3),
        st.sampled_from([90_000.0, 103_000.0, 190_000.0]),
        st.just(200_000.0),
        st.sampled_from(["", "H100"]),
    )
    return st.lists(booking, max_size=2).map(tuple)


def _rules() -> st.SearchStrategy[Rules]:
    return st.builds(Rules, preempt=st.booleans(), interrupt_cells=st.booleans())
