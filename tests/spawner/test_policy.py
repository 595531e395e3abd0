"""Each rule of the policy by what it does to a small cluster. `NOW` is 28 hours after time 0."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from respawner_spawner.leases.model import Cluster, Limit, Request, Reservation, Rules
from respawner_spawner.leases.policy import decide, decide_view
from respawner_spawner.leases.view import View

from .clusters import GB, HOUR, gpus, holds, mig, migs, share, wants, whole

NOW = 100_800.0
TURNS = Rules(preempt=True)


def granted(cluster: Cluster, now: float = NOW) -> dict[int, tuple[str, ...]]:
    return {grant.request_id: grant.uuids for grant in decide(cluster, now).grants}


def suspended(cluster: Cluster, now: float = NOW) -> list[int]:
    return [suspension.lease_id for suspension in decide(cluster, now).suspensions]


def cluster(
    devices: list[Any], leases: list[Any] | None = None, queue: list[Request] | None = None, **more: Any
) -> Cluster:
    return Cluster(tuple(devices), tuple(leases or ()), tuple(queue or ()), **more)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# who is next


def test_who_came_first_is_served_first() -> None:
    queue = [wants(1, "bob", whole(), 20, groups=("g",)), wants(2, "alice", whole(), 10, groups=("g",))]
    assert set(granted(cluster(gpus("a", 1), queue=queue))) == {2}


def test_a_higher_priority_goes_before_who_came_first() -> None:
    queue = [wants(1, "bob", whole(), 10), wants(2, "alice", whole(), 20, priority=1)]
    assert set(granted(cluster(gpus("a", 1), queue=queue))) == {2}


def test_a_limit_gives_its_priority_to_the_group() -> None:
    queue = [wants(1, "bob", whole(), 10), wants(2, "alice", whole(), 20, groups=("staff",))]
    limits = (Limit("group:staff", priority=3),)
    assert set(granted(cluster(gpus("a", 1), queue=queue, limits=limits))) == {2}


def test_the_account_that_holds_least_goes_first() -> None:
    leases = [holds(1, "bob", "GPU-a-0")]
    queue = [wants(2, "bob", whole(), 10), wants(3, "alice", whole(), 20)]
    assert set(granted(cluster(gpus("a", 2), leases, queue))) == {3}


def test_gpus_are_shared_out_in_turn_between_accounts() -> None:
    queue = [wants(i, "bob", whole(), i) for i in range(1, 5)] + [wants(9, "alice", whole(), 9)]
    assert set(granted(cluster(gpus("a", 2), queue=queue))) == {1, 9}


def test_a_session_that_has_had_much_stands_behind_a_new_one_of_its_group() -> None:
    old = wants(1, "bob", whole(), NOW - 100, groups=("g",), attained_seconds=5 * HOUR, resumes=True)
    new = wants(2, "alice", whole(), NOW - 10, groups=("g",))
    assert set(granted(cluster(gpus("a", 1), queue=[old, new]))) == {2}


def test_small_requests_pass_a_large_one_that_does_not_fit_yet() -> None:
    queue = [wants(1, "bob", whole(2), NOW - 60), wants(2, "alice", whole(), NOW - 30)]
    assert set(granted(cluster(gpus("a", 2), [holds(9, "carol", "GPU-a-0")], queue))) == {2}


# limits and guarantees


@pytest.mark.parametrize("subject", ["user:alice", "everyone", "group:red"])
def test_nobody_holds_more_than_a_limit(subject: str) -> None:
    queue = [wants(i, "alice", whole(), i, groups=("red",)) for i in range(1, 4)]
    full = cluster(gpus("a", 4), queue=queue, limits=(Limit(subject, most=2),))
    assert set(granted(full)) == {1, 2}
    assert "is 2 GPUs, and it holds 2 GPUs" in decide(full, NOW).waits[3].reason


def test_a_users_own_limit_replaces_that_of_everyone() -> None:
    queue = [wants(i, "alice", whole(), i) for i in range(1, 4)]
    limits = (Limit("everyone", most=1), Limit("user:alice", most=3))
    assert len(granted(cluster(gpus("a", 4), queue=queue, limits=limits))) == 3


def test_a_mig_device_and_a_share_count_by_their_memory() -> None:
    devices = [*migs("a", 0, 4, memory_gb=20), *gpus("b", 1, shareable_bytes=80 * GB)]
    limits = (Limit("user:alice", most=0.5),)
    queue = [wants(1, "alice", mig(), 1), wants(2, "alice", share(20), 2), wants(3, "alice", share(20), 3)]
    assert set(granted(cluster(devices, queue=queue, limits=limits))) == {1, 2}


def test_who_is_at_the_limit_does_not_stand_in_the_way() -> None:
    queue = [wants(1, "alice", whole(2), 0), wants(2, "bob", whole(), NOW)]
    limits = (Limit("user:alice", most=2),)
    leases = [holds(9, "alice", "GPU-a-0")]
    decision = decide(cluster(gpus("a", 4), leases, queue, limits=limits), NOW)
    assert [grant.request_id for grant in decision.grants] == [2]


def test_idle_gpus_are_lent_above_the_guarantee() -> None:
    limits = (Limit("group:red", guarantee=1), Limit("group:blue", guarantee=3))
    queue = [wants(i, "alice", whole(), i, groups=("red",)) for i in range(1, 5)]
    assert len(granted(cluster(gpus("a", 4), queue=queue, limits=limits))) == 4


def borrowed(**more: Any) -> Cluster:
    """Red holds four GPUs of which three are guaranteed to blue, which asks for one."""
    leases = [
        holds(i, "alice", f"GPU-a-{i}", since=NOW - HOUR - i, groups=("red",), **more) for i in range(4)
    ]
    limits = (Limit("group:red", guarantee=1), Limit("group:blue", guarantee=3))
    return cluster(
        gpus("a", 4), leases, [wants(9, "bob", whole(), NOW, groups=("blue",))], limits=limits, rules=TURNS
    )


def test_a_borrower_gives_the_guarantee_back_before_its_turn_ends() -> None:
    assert suspended(borrowed()) == [3]


def test_a_borrower_that_may_not_be_suspended_keeps_what_it_has() -> None:
    assert suspended(borrowed(preemptible=False)) == []


def test_nobody_is_suspended_below_the_guarantee_for_one_who_borrows() -> None:
    state = borrowed()
    state = replace(state, limits=(Limit("group:red", guarantee=4), Limit("group:blue")))
    assert suspended(replace(state, leases=tuple(replace(lease, since=0) for lease in state.leases))) == []


# which devices


def test_the_fullest_host_with_room_is_taken_so_that_whole_hosts_stay_free() -> None:
    devices = gpus("a", 4) + gpus("b", 4)
    assert granted(cluster(devices, [holds(1, "bob", "GPU-b-0")], [wants(2, "alice", whole())])) == {
        2: ("GPU-b-1",)
    }
    assert (
        granted(cluster(devices, [holds(1, "bob", "GPU-b-0")], [wants(2, "alice", whole(4))]))[2][0]
        == "GPU-a-0"
    )


def test_two_gpus_on_two_hosts_are_not_two_on_one_host() -> None:
    devices = gpus("a", 2) + gpus("b", 2)
    leases = [holds(1, "bob", "GPU-a-0"), holds(2, "bob", "GPU-b-0")]
    assert granted(cluster(devices, leases, [wants(3, "alice", whole(2))])) == {}
    spread = wants(3, "alice", whole(2, one_host=False))
    assert set(granted(cluster(devices, leases, [spread]))[3]) == {"GPU-a-1", "GPU-b-1"}


MIXED = [*gpus("a", 1, "NVIDIA H100 80GB HBM3", 80), *gpus("b", 1, "NVIDIA A100-SXM4-40GB", 40)]


def test_the_smallest_memory_that_suffices_is_taken() -> None:
    assert granted(cluster(MIXED, queue=[wants(1, "alice", whole())])) == {1: ("GPU-b-0",)}
    assert granted(cluster(MIXED, queue=[wants(1, "alice", whole(min_memory_bytes=41 * GB))])) == {
        1: ("GPU-a-0",)
    }


def test_model_host_and_uuids_are_obeyed() -> None:
    for ask in (whole(model="h100"), whole(host="a"), whole(uuids=("GPU-a-0",))):
        assert granted(cluster(MIXED, queue=[wants(1, "alice", ask)])) == {1: ("GPU-a-0",)}


def test_unequal_gpus_are_given_together_only_where_there_are_no_equal_ones() -> None:
    other = replace(gpus("a", 2)[1], model="NVIDIA GeForce RTX 4090")
    one = [*gpus("a", 1, "NVIDIA GeForce RTX 3090", 24), other]
    ask = [wants(1, "alice", whole(2))]
    assert len(granted(cluster(one, queue=ask))[1]) == 2
    assert granted(cluster([*one, *gpus("b", 2)], queue=ask)) == {1: ("GPU-b-0", "GPU-b-1")}


def test_mig_devices_come_from_the_gpu_with_the_fewest_free() -> None:
    devices = migs("a", 0, 3) + migs("a", 1, 3)
    leases = [holds(1, "bob", "MIG-a-1-0", ask=mig())]
    assert granted(cluster(devices, leases, [wants(2, "alice", mig())])) == {2: ("MIG-a-1-1",)}


def test_a_mig_profile_is_exact_and_without_one_the_memory_counts() -> None:
    devices = migs("a", 0, 1) + migs("a", 1, 1, memory_gb=20, profile="2g.20gb")
    assert granted(cluster(devices, queue=[wants(1, "alice", mig(profile="2g.20gb"))])) == {1: ("MIG-a-1-0",)}
    assert granted(cluster(devices, queue=[wants(1, "alice", mig(min_memory_bytes=15 * GB))])) == {
        1: ("MIG-a-1-0",)
    }
    assert granted(cluster(devices, queue=[wants(1, "alice", mig(profile="3g.40gb"))])) == {}


def test_a_share_goes_where_it_just_fits() -> None:
    devices = gpus("a", 1, shareable_bytes=40 * GB) + gpus("b", 1, shareable_bytes=80 * GB)
    leases = [holds(1, "bob", "GPU-b-0", ask=share(50), share_bytes=50 * GB)]
    assert granted(cluster(devices, leases, [wants(2, "alice", share(25))])) == {2: ("GPU-b-0",)}
    assert granted(cluster(devices, leases, [wants(2, "alice", share(35))])) == {2: ("GPU-a-0",)}
    assert granted(cluster(devices, leases, [wants(2, "alice", share(41))])) == {}


def test_a_shared_gpu_is_not_given_whole() -> None:
    assert granted(cluster(gpus("a", 1, shareable_bytes=GB), queue=[wants(1, "alice", whole())])) == {}


def test_a_cordoned_device_takes_nobody_and_the_reason_says_why() -> None:
    decision = decide(cluster(gpus("a", 2, cordon="Xid 79"), queue=[wants(1, "alice", whole())]), NOW)
    assert decision.grants == ()
    assert "2 fitting GPUs take no sessions now (a: Xid 79)" in decision.waits[1].reason
    assert not decision.waits[1].impossible


# large requests


def kept(waited: float, small_user: str = "alice", **more: Any) -> set[int]:
    """Dave waits for two GPUs of which one is free; carol's session on the other is young. Who of one more is served?"""
    leases = [holds(9, "carol", "GPU-a-0", since=NOW - 60), holds(8, "erin", "GPU-b-0", since=NOW - 60)]
    leases += [holds(7, small_user, "GPU-b-1", since=NOW - 60)]
    queue = [wants(1, "dave", whole(2), NOW - waited), wants(2, small_user, whole(), NOW, **more)]
    return set(granted(cluster(gpus("a", 2) + gpus("b", 2), leases, queue)))


def test_a_free_gpu_is_kept_for_a_large_request_that_has_waited() -> None:
    assert kept(waited=3 * HOUR) == {2}
    assert kept(waited=49 * HOUR) == set()


def test_who_holds_less_passes_a_large_request_until_it_stands_in_front() -> None:
    assert kept(waited=5 * HOUR, small_user="zoe") == {2}


def test_who_would_hold_more_than_it_does_not_pass() -> None:
    leases = [holds(9, "carol", "GPU-a-0", since=NOW - 60)]
    leases += [holds(i, "alice", f"GPU-b-{i}", since=NOW - 60) for i in range(2)]
    queue = [wants(1, "dave", whole(2), NOW - 5 * HOUR), wants(2, "alice", whole(), NOW)]
    assert granted(cluster(gpus("a", 2) + gpus("b", 2), leases, queue)) == {}


def test_others_pass_while_the_large_request_is_far_from_being_served() -> None:
    leases = [holds(9, "carol", "GPU-a-0", since=NOW - 10 * HOUR)]
    queue = [wants(1, "dave", whole(2), NOW - 50 * HOUR), wants(2, "alice", whole(), NOW)]
    assert set(granted(cluster(gpus("a", 2), leases, queue))) == {2}
    queue[0] = wants(1, "dave", whole(2), NOW - 97 * HOUR)
    assert set(granted(cluster(gpus("a", 2), leases, queue))) == set()


def test_only_the_host_that_is_emptied_is_kept() -> None:
    leases = [holds(9, "carol", "GPU-a-0", since=NOW - 60), holds(7, "alice", "GPU-b-0", since=NOW - 60)]
    leases += [holds(8, "alice", "GPU-b-1", since=NOW - 60)]
    queue = [wants(1, "dave", whole(3), NOW - 49 * HOUR), wants(2, "alice", whole(), NOW)]
    assert granted(cluster(gpus("a", 3) + gpus("b", 3), leases, queue)) == {2: ("GPU-b-2",)}


def test_an_impossible_request_keeps_nothing() -> None:
    queue = [wants(1, "dave", whole(9), 0), wants(2, "alice", whole(), NOW)]
    assert set(granted(cluster(gpus("a", 2), queue=queue), NOW + 100 * HOUR)) == {2}


def test_a_large_request_is_served_within_bounded_time_under_a_stream_of_small_ones() -> None:
    """Every ten minutes new users ask for single GPUs that they hold for an hour: one of eight is always wanted."""
    view = View(gpus("a", 8), rules=Rules(pass_seconds=12 * HOUR))
    view.add_request(wants(1, "dave", whole(8), 0))
    number = 1
    for step in range(24 * 6):
        now = step * 600.0
        for lease_id in [lease.id for lease in view.leases.values() if now - lease.since >= HOUR]:
            view.remove_lease(lease_id)
        for _ in range(2):
            number += 1
            view.add_request(wants(number, f"user{number}", whole(), now))
        for grant in decide_view(view, now).grants:
            if grant.request_id == 1:
                assert now <= view.rules.pass_seconds + 2 * HOUR
                return
            request = view.queue[grant.request_id]
            view.remove_request(request.id)
            view.add_lease(holds(request.id, request.user, *grant.uuids, since=now))
    pytest.fail("dave was never served")


# bookings


def booked(now: float, holders: int = 0, rules: Rules | None = None, **more: Any) -> Cluster:
    """Two of three GPUs are booked for red, from NOW for two hours. Alice, of no group, wants one."""
    leases = [holds(i, "carol", f"GPU-a-{i}", since=now - HOUR) for i in range(holders)]
    booking = Reservation(1, "red", 2, NOW, NOW + 2 * HOUR)
    queue = [wants(9, "alice", whole(), now, **more)]
    return cluster(gpus("a", 3), leases, queue, reservations=(booking,), rules=rules or Rules())


def test_booked_gpus_are_kept_for_the_group() -> None:
    assert set(granted(booked(NOW, holders=0))) == {9}
    state = booked(NOW, holders=1)
    assert granted(state) == {}
    assert (
        decide(state, NOW)
        .waits[9]
        .reason.startswith(
            "1st in the queue: needs 1 GPU; 2 GPUs are booked for group red from 04:00 until 06:00"
        )
    )
    assert decide(state, NOW).waits[9].expected == NOW + 2 * HOUR
    assert set(granted(booked(NOW, holders=1, groups=("red",)))) == {9}


def test_a_booking_ends() -> None:
    assert set(granted(booked(NOW + 2 * HOUR, holders=1), NOW + 2 * HOUR)) == {9}


def test_gpus_are_kept_shortly_before_the_booking_and_not_long_before() -> None:
    assert set(granted(booked(NOW - 3 * HOUR, holders=1), NOW - 3 * HOUR)) == {9}
    assert set(granted(booked(NOW - HOUR, holders=1), NOW - HOUR)) == set()


def test_before_a_booking_only_sessions_that_can_be_ended_by_then_are_placed() -> None:
    soon = NOW - HOUR
    assert set(granted(booked(soon, 1, TURNS), soon)) == {9}
    fixed = booked(soon, 1, TURNS, preemptible=False)
    held = tuple(replace(lease, preemptible=False) for lease in fixed.leases)
    assert set(granted(replace(fixed, leases=held), soon)) == set()
    assert set(granted(booked(NOW - 600, 1, TURNS, preemptible=False), NOW - 600)) == set(
        granted(booked(NOW - 600, 1, TURNS), NOW - 600)
    )


def test_what_the_group_holds_already_counts_for_its_booking() -> None:
    state = booked(NOW, holders=1)
    members = (holds(5, "rita", "GPU-a-1", groups=("red",)), holds(6, "rob", "GPU-a-0", groups=("red",)))
    assert set(granted(replace(state, leases=members))) == {9}


def test_a_booked_group_is_given_gpus_by_suspending_others() -> None:
    state = booked(NOW, holders=3, rules=TURNS, groups=("red",))
    assert len(suspended(state)) == 1


def test_a_session_whose_booking_is_over_makes_room_even_without_turns() -> None:
    lease = holds(1, "carol", "GPU-a-0", ends=NOW - 1)
    state = cluster(gpus("a", 1), [lease], [wants(2, "alice", whole())])
    assert suspended(state) == [1]
    assert suspended(replace(state, leases=(replace(lease, cell_running=True),))) == []
    assert suspended(replace(state, leases=(replace(lease, preemptible=False),))) == []
    assert suspended(replace(state, queue=())) == []


# turns


def turn(ran: float = 3 * HOUR, rules: Rules = TURNS, **more: Any) -> list[int]:
    """Bob has run on the only GPU, alice waits."""
    lease = holds(1, "bob", "GPU-a-0", since=NOW - ran, **more)
    return suspended(cluster(gpus("a", 1), [lease], [wants(2, "alice", whole(), NOW)], rules=rules))


def test_a_turn_ends_when_somebody_waits_who_has_had_less() -> None:
    assert turn() == [1]
    assert turn(ran=1.9 * HOUR) == []


def test_nobody_is_suspended_unless_the_rules_and_the_session_allow_it() -> None:
    assert turn(rules=Rules()) == []
    assert turn(preemptible=False) == []
    assert turn(suspending=True) == []
    assert turn(cell_running=True) == []
    assert turn(cell_running=True, rules=Rules(preempt=True, interrupt_cells=True)) == [1]


def test_nobody_is_suspended_before_the_minimum_run_time() -> None:
    recent = {"ran": 1000, "attained_seconds": 50 * HOUR}
    assert turn(**recent) == []
    assert turn(**recent, rules=Rules(preempt=True, min_run_seconds=900)) == [1]


def test_service_of_earlier_leases_counts() -> None:
    assert turn(ran=HOUR, attained_seconds=HOUR) == [1]


def test_who_has_had_most_makes_room() -> None:
    leases = [holds(i, "bob", f"GPU-a-{i}", since=NOW - (3 + (i == 1)) * HOUR) for i in range(4)]
    assert suspended(cluster(gpus("a", 4), leases, [wants(9, "alice", whole(), NOW)], rules=TURNS)) == [1]


def test_who_waits_gains_on_those_who_run_so_that_a_long_session_gets_its_turn_again() -> None:
    def state(waited: float) -> Cluster:
        long = wants(2, "alice", whole(), NOW - waited, attained_seconds=20 * HOUR, resumes=True)
        return cluster(gpus("a", 1), [holds(1, "bob", "GPU-a-0", since=NOW - 3 * HOUR)], [long], rules=TURNS)

    assert suspended(state(waited=HOUR)) == []
    assert suspended(state(waited=20 * HOUR)) == [1]


def test_who_has_run_long_enough_is_found_among_many_that_have_just_come_back() -> None:
    back = [holds(i, "bob", f"GPU-a-{i}", since=NOW - 60, attained_seconds=90 * HOUR) for i in range(7)]
    old = holds(7, "bob", "GPU-a-7", since=NOW - 3 * HOUR)
    queue = [wants(9, "alice", whole(), NOW)]
    assert suspended(cluster(gpus("a", 8), [*back, old], queue, rules=TURNS)) == [7]
    assert suspended(cluster(gpus("a", 8), back, queue, rules=TURNS)) == []


def test_those_who_have_room_already_cause_no_suspension_and_leave_none_for_others() -> None:
    leases = [
        holds(1, "bob", "GPU-a-0", suspending=True),
        *[holds(i, "bob", f"GPU-a-{i}", since=0) for i in (2, 3)],
    ]
    queue = [wants(8, "alice", whole(), NOW - 10), wants(9, "eve", whole(), NOW)]
    state = cluster(gpus("a", 4)[:1] + gpus("a", 4)[2:], leases, queue, rules=TURNS)
    assert [(s.lease_id, s.for_request) for s in decide(state, NOW).suspensions] == [(3, 9)]


def test_as_few_as_needed_are_suspended_and_on_one_host() -> None:
    leases = [holds(1, "bob", "GPU-a-0"), holds(2, "bob", "GPU-b-0"), holds(3, "bob", "GPU-b-1")]
    state = cluster(gpus("a", 1) + gpus("b", 2), leases, [wants(9, "alice", whole(2), NOW)], rules=TURNS)
    assert sorted(suspended(state)) == [2, 3]


def test_nobody_more_is_suspended_while_one_is_on_its_way_out() -> None:
    leases = [holds(1, "bob", "GPU-a-0", suspending=True), holds(2, "bob", "GPU-a-1")]
    state = cluster(gpus("a", 2), leases, [wants(9, "alice", whole(), NOW)], rules=TURNS)
    assert suspended(state) == []
    state = replace(state, queue=(*state.queue, wants(10, "zoe", whole(), NOW)))
    assert suspended(state) == [2]


def test_who_was_told_makes_room_before_others_who_have_had_more() -> None:
    leases = [
        holds(1, "bob", "GPU-a-0", since=NOW - 5 * HOUR),
        holds(2, "eve", "GPU-a-1", since=NOW - 3 * HOUR, warned=True),
        holds(3, "dan", "GPU-a-2", since=NOW - HOUR, warned=True),
    ]
    state = cluster(gpus("a", 3), leases, [wants(9, "alice", whole(), NOW)], rules=TURNS)
    assert suspended(state) == [2]
    in_a_cell = replace(state, leases=(leases[0], replace(leases[1], cell_running=True), leases[2]))
    assert suspended(in_a_cell) == [1]


def test_a_session_that_draws_on_a_booking_makes_no_room_for_another_booking() -> None:
    """Two groups have booked the only GPU at the same time: they do not take it from each other again and again."""
    both = tuple(
        Reservation(i, group, 1, NOW - 3 * HOUR, NOW + HOUR) for i, group in enumerate(("red", "blue"))
    )
    lease = holds(1, "bob", "GPU-a-0", since=NOW - HOUR, groups=("red",))
    queue = [wants(2, "alice", whole(), NOW, groups=("blue",))]
    state = cluster(gpus("a", 1), [lease], queue, reservations=both, rules=TURNS)
    assert suspended(state) == []
    assert suspended(replace(state, reservations=both[1:])) == [1]


def test_a_group_takes_nothing_from_its_own_wide_session_for_the_rest_of_its_booking() -> None:
    booking = (Reservation(1, "red", 3, NOW - 3 * HOUR, NOW + HOUR),)
    wide = holds(1, "bob", "GPU-a-0", "GPU-a-1", since=NOW - HOUR, groups=("red",))
    other = holds(2, "eve", "GPU-a-2", since=NOW - HOUR)
    queue = [wants(3, "alice", whole(), NOW, groups=("red",))]
    state = cluster(gpus("a", 3), [wide, other], queue, reservations=booking, rules=TURNS)
    assert suspended(state) == [2]
    assert suspended(replace(state, leases=(wide, replace(other, preemptible=False)))) == []


def test_a_turn_is_worth_its_suspend_whatever_the_admin_sets() -> None:
    hasty = Rules(preempt=True, min_run_seconds=0, slice_seconds=1, suspend_cost_seconds=200)
    assert turn(ran=999, rules=hasty) == []
    assert turn(ran=1000, rules=hasty) == [1]


def test_a_wide_session_is_not_suspended_for_one_gpu_that_is_wanted() -> None:
    leases = [holds(1, "bob", *(f"GPU-a-{i}" for i in range(4)))]
    queue = [wants(i, "alice", whole(), NOW) for i in range(10, 14)]
    assert suspended(cluster(gpus("a", 4), leases, queue[:1], rules=TURNS)) == []
    assert suspended(cluster(gpus("a", 4), leases, queue, rules=TURNS)) == [1]


def test_a_lower_priority_makes_room_without_waiting_for_the_end_of_its_turn() -> None:
    lease = holds(1, "bob", "GPU-a-0", since=NOW - 1900)
    urgent = wants(2, "alice", whole(), NOW, priority=1)
    assert suspended(cluster(gpus("a", 1), [lease], [urgent], rules=TURNS)) == [1]
    late = replace(lease, since=0, priority=2)
    assert suspended(cluster(gpus("a", 1), [late], [urgent], rules=TURNS)) == []


# words


def test_the_reason_says_position_need_host_time_and_whose_booking() -> None:
    at_14_20 = 14 * HOUR + 20 * 60
    devices = gpus("gpu-a", 4) + gpus("gpu-b", 2)
    leases = [
        holds(1, "alice", "GPU-gpu-a-0", "GPU-gpu-a-1", "GPU-gpu-a-2"),
        holds(2, "carol", "GPU-gpu-b-0", "GPU-gpu-b-1", ends=at_14_20),
    ]
    queue = [wants(3, "bob", whole(4), 12 * HOUR), wants(4, "dave", whole(2), 13 * HOUR)]
    wait = decide(cluster(devices, leases, queue), 13.5 * HOUR).waits[4]
    assert wait.reason == (
        "2nd in the queue: needs 2 GPUs on one host; gpu-b is free the earliest, about 14:20, when carol's booking ends"
    )
    assert wait.expected == at_14_20


def test_where_nobody_can_tell_the_reason_says_so() -> None:
    leases = [holds(1, "carol", "GPU-a-0")]
    queue = [wants(2, "bob", whole(), 0), wants(3, "alice", whole(), 1)]
    waits = decide(cluster(gpus("a", 1), leases, queue), NOW).waits
    assert (
        waits[2].reason
        == "1st in the queue: needs 1 GPU; what fits is held by carol (1); nobody can tell when it comes free"
    )
    assert waits[3].reason.endswith("nobody can tell when it comes free; behind bob")
    assert waits[3].expected is None


def test_with_turns_the_end_of_the_turn_is_told_and_the_next_one_gets_the_turn_after() -> None:
    leases = [holds(1, "carol", "GPU-a-0", since=NOW - HOUR)]
    queue = [wants(2, "bob", whole(), NOW - 60), wants(3, "alice", whole(), NOW)]
    waits = decide(cluster(gpus("a", 1), leases, queue, rules=TURNS), NOW).waits
    assert waits[2].expected == NOW + HOUR
    assert waits[2].reason.endswith("a is free the earliest, about 05:00, when carol's turn ends")
    assert waits[3].expected == NOW + 3 * HOUR


def test_an_impossible_request_names_the_largest_there_is() -> None:
    wait = decide(cluster(gpus("a", 2) + gpus("b", 4), queue=[wants(1, "alice", whole(8))]), NOW).waits[1]
    assert wait.impossible
    assert wait.reason == "cannot be granted: no host has 8 GPUs; the largest is b with 4 such GPUs"


def test_more_than_the_limit_is_impossible() -> None:
    limits = (Limit("group:red", most=2),)
    wait = decide(
        cluster(gpus("a", 4), queue=[wants(1, "alice", whole(3), groups=("red",))], limits=limits), NOW
    ).waits[1]
    assert wait.impossible
    assert wait.reason == "cannot be granted: asks for 3 GPUs on one host, and the limit of group red is 2"


def test_who_waits_behind_a_large_request_is_told_for_whom_gpus_are_kept() -> None:
    leases = [holds(9, "carol", "GPU-a-0", since=NOW - 60)]
    queue = [wants(1, "dave", whole(2), NOW - 49 * HOUR), wants(2, "alice", whole(), NOW)]
    waits = decide(cluster(gpus("a", 2), leases, queue), NOW).waits
    assert "what is free is kept for dave, who has waited since" in waits[2].reason
    assert "for 2 GPUs on one host" in waits[2].reason


def test_waits_of_a_view_that_moved_on_are_refused() -> None:
    view = View.of(cluster(gpus("a", 1), [holds(1, "bob", "GPU-a-0")], [wants(2, "alice", whole())]))
    waits = decide_view(view, NOW).waits
    view.remove_lease(1)
    with pytest.raises(RuntimeError, match="read its waits before the view changes"):
        len(waits)
