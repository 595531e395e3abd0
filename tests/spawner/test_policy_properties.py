"""What holds for every decision, whatever the cluster: hypothesis makes the clusters."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from respawner_spawner.leases.model import (
    LEAST_TURN_IN_COSTS,
    Ask,
    Cluster,
    Decision,
    Device,
    Grant,
    Kind,
    Lease,
    Limit,
    Reservation,
    Rules,
    State,
)
from respawner_spawner.leases.policy import decide, decide_view
from respawner_spawner.leases.view import WHOLE, View, subjects

from .clusters import clusters, gpus, wants

NOW = 100_000.0
EXAMPLES = settings(max_examples=60, deadline=None)


@EXAMPLES
@given(clusters())
def test_no_device_gets_a_second_exclusive_holder(cluster: Cluster) -> None:
    held = Counter(uuid for lease in cluster.leases if not lease.share_bytes for uuid in lease.uuids)
    held.update(
        uuid for grant in decide(cluster, NOW).grants if not grant.share_bytes for uuid in grant.uuids
    )
    assert max(held.values(), default=0) <= 1


@EXAMPLES
@given(clusters())
def test_shares_never_take_more_memory_than_there_is(cluster: Cluster) -> None:
    taken: Counter[str] = Counter()
    for holder in (*cluster.leases, *decide(cluster, NOW).grants):
        taken[holder.uuids[0]] += holder.share_bytes
    assert all(taken[device.uuid] <= device.shareable_bytes for device in cluster.devices)


@EXAMPLES
@given(clusters())
def test_a_grant_is_what_was_asked_for(cluster: Cluster) -> None:
    devices = {device.uuid: device for device in cluster.devices}
    for grant in decide(cluster, NOW).grants:
        ask = next(request.ask for request in cluster.queue if request.id == grant.request_id)
        _assert_fulfils([devices[uuid] for uuid in grant.uuids], ask, grant)


def _assert_fulfils(granted: list[Device], ask: Ask, grant: Grant) -> None:
    assert len(granted) == len(set(grant.uuids)) == ask.count
    assert len({device.host for device in granted}) == 1 or not ask.one_host
    for device in granted:
        assert not device.cordon
        assert device.kind == (Kind.MIG if ask.kind == Kind.MIG else Kind.GPU)
        assert (device.shareable_bytes > 0) == (ask.kind == Kind.SHARE)
        assert ask.model.lower() in device.model.lower()
        assert device.memory_bytes >= ask.min_memory_bytes
        assert ask.profile in ("", device.profile)
        assert ask.host in ("", device.host)
        assert not ask.uuids or device.uuid in ask.uuids
    assert grant.share_bytes == (ask.share_bytes if ask.kind == Kind.SHARE else 0)


@EXAMPLES
@given(clusters())
def test_no_grant_takes_a_user_or_group_over_its_limit(cluster: Cluster) -> None:
    view = View.of(cluster)
    by_id = {request.id: request for request in cluster.queue}
    held = Counter(view.held)
    for grant in decide(cluster, NOW).grants:
        request = by_id[grant.request_id]
        for subject in subjects(request.user, request.groups):
            held[subject] += view.cost(grant.uuids, grant.share_bytes)
            most = view.most(subject)
            assert most is None or held[subject] <= most * WHOLE


@EXAMPLES
@given(clusters())
def test_every_request_is_granted_or_told_why_it_waits(cluster: Cluster) -> None:
    decision = decide(cluster, NOW)
    granted = {grant.request_id for grant in decision.grants}
    assert granted.isdisjoint(decision.waits)
    assert granted | set(decision.waits) == {request.id for request in cluster.queue}
    assert sorted(wait.position for wait in decision.waits.values()) == list(
        range(1, len(decision.waits) + 1)
    )
    assert all(wait.reason for wait in decision.waits.values())
    assert all(wait.expected is None or wait.expected >= NOW for wait in decision.waits.values())


@EXAMPLES
@given(clusters())
def test_only_those_who_agreed_are_suspended(cluster: Cluster) -> None:
    leases = {lease.id: lease for lease in cluster.leases}
    suspended = [leases[suspension.lease_id] for suspension in decide(cluster, NOW).suspensions]
    assert len({lease.id for lease in suspended}) == len(suspended)
    for lease in suspended:
        assert lease.preemptible
        assert not lease.suspending
        assert lease.state == State.RUNNING
        assert cluster.rules.interrupt_cells or not lease.cell_running
        booking_is_over = lease.ends is not None and lease.ends <= NOW
        assert booking_is_over or (
            cluster.rules.preempt and NOW - lease.since >= cluster.rules.least_run_seconds
        )


@EXAMPLES
@given(clusters())
def test_the_same_cluster_gets_the_same_decision(cluster: Cluster) -> None:
    assert _plain(decide(cluster, NOW)) == _plain(decide(cluster, NOW))


@EXAMPLES
@given(clusters(), clusters())
def test_a_view_that_is_kept_decides_like_one_from_nothing(before: Cluster, after: Cluster) -> None:
    view = View.of(before)
    decide_view(view, NOW - 60)
    assert _plain(decide_view(view.follow(after), NOW)) == _plain(decide(after, NOW))


@EXAMPLES
@given(clusters(), st.data())
def test_a_view_that_lives_through_a_change_decides_like_one_from_nothing(
    cluster: Cluster, data: st.DataObject
) -> None:
    """On the same devices: leases end, requests go, grants become leases, one thing after the other."""
    view = View.of(cluster)
    decision = decide_view(view, NOW)
    leases = list(cluster.leases)
    for lease in list(leases):
        if data.draw(st.booleans()):
            leases.remove(lease)
            view.remove_lease(lease.id)
    queue = {request.id: request for request in cluster.queue}
    for grant in decision.grants:
        request = queue.pop(grant.request_id)
        lease = _as_lease(grant, request.user, request.groups, request.ask)
        leases.append(lease)
        view.remove_request(request.id)
        view.add_lease(lease)
    after = Cluster(
        cluster.devices,
        tuple(leases),
        tuple(queue.values()),
        cluster.limits,
        cluster.reservations,
        cluster.rules,
    )
    assert _plain(decide_view(view, NOW + 1)) == _plain(decide(after, NOW + 1))


def _as_lease(grant: Grant, user: str, groups: tuple[str, ...], ask: Ask) -> Lease:
    return Lease(
        grant.request_id,
        grant.request_id,
        "",
        user,
        ask,
        grant.uuids,
        NOW,
        groups,
        share_bytes=grant.share_bytes,
    )


def _plain(decision: Decision) -> tuple[object, ...]:
    return decision.grants, decision.suspensions, list(decision.waits.items())


@EXAMPLES
@given(
    min_run=st.sampled_from([0.0, 60.0, 900.0]),
    slice_seconds=st.sampled_from([1.0, 300.0, 7200.0]),
    cost=st.sampled_from([0.0, 30.0, 200.0]),
    sessions=st.integers(2, 4),
    priorities=st.lists(st.sampled_from([0, 1]), min_size=4, max_size=4),
    limits=st.sampled_from(
        [
            (),
            (Limit("group:red", guarantee=1),),
            (Limit("group:red", guarantee=1), Limit("group:blue", guarantee=1)),
        ]
    ),
    bookings=st.sampled_from([(), ("red",), ("red", "blue")]),
)
def test_sessions_do_not_suspend_each_other_faster_than_a_suspend_is_worth(
    min_run, slice_seconds, cost, sessions, priorities, limits, bookings
) -> None:
    """They never end, and each wants the only GPU: however they take turns, every turn is long enough."""
    rules = Rules(
        preempt=True, min_run_seconds=min_run, slice_seconds=slice_seconds, suspend_cost_seconds=cost
    )
    booked = tuple(Reservation(i, group, 1, 0, 1e9) for i, group in enumerate(bookings))
    queue = [
        wants(i, f"u{i}", Ask(Kind.GPU), 0, groups=(("red", "blue")[i % 2],), priority=priorities[i])
        for i in range(sessions)
    ]
    lease: Lease | None = None
    for now in range(0, 20_000, 50):
        state = Cluster(tuple(gpus("a", 1)), (lease,) if lease else (), tuple(queue), limits, booked, rules)
        decision = decide(state, float(now))
        for grant in decision.grants:
            request = next(r for r in queue if r.id == grant.request_id)
            queue.remove(request)
            lease = Lease(
                request.id,
                now + 1,
                request.holder,
                request.user,
                request.ask,
                grant.uuids,
                float(now),
                request.groups,
                request.priority,
                attained_seconds=request.attained_seconds,
            )
        if decision.suspensions:
            assert lease is not None
            assert now - lease.since >= max(min_run, LEAST_TURN_IN_COSTS * cost)
            queue.append(
                wants(
                    lease.id,
                    lease.user,
                    lease.ask,
                    float(now),
                    groups=lease.groups,
                    priority=lease.priority,
                    attained_seconds=lease.attained_at(now),
                    resumes=True,
                )
            )
            lease = None
