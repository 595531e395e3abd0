"""The ledger's contract, the same over SQLite and a real PostgreSQL."""

import threading

import pytest
from respawner_spawner.leases import schema
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Ask, Decision, Device, Grant, Kind, Limit, State, Wait
from respawner_spawner.leases.policy import decide
from respawner_spawner.leases.records import EndReason, HeldByAnother, NoLease, OpenRequest, Use
from sqlalchemy import insert, update
from sqlalchemy.exc import IntegrityError

from tests.spawner.ledgers import GIB, Clock, gpus, grant, holder, run, share, submit, whole

ALICE, BOB = holder("alice"), holder("bob")


def actions(ledger, subject=None):
    return [entry.action for entry in reversed(ledger.audit(subject))]


# Requests -----------------------------------------------------------------------------------------------


def test_a_request_goes_from_queued_to_ended(ledger, clock):
    request = submit(ledger, "alice", whole(2), groups=["vision", "all"], priority=3)
    assert ledger.cluster(gpus()).queue == (request,)
    assert (request.groups, request.priority, request.submitted) == (("all", "vision"), 3, clock.now)
    clock.now += 10
    (lease,) = ledger.apply(Decision((Grant(request.id, ("GPU-host-a-0", "GPU-host-a-2"), "free"),)))
    assert (lease.uuids, lease.state, lease.since) == (
        ("GPU-host-a-0", "GPU-host-a-2"),
        State.GRANTED,
        clock.now,
    )
    assert ledger.claim(ALICE).state is State.RUNNING
    cluster = ledger.cluster(gpus())
    assert (cluster.queue, [found.holder for found in cluster.leases]) == ((), [ALICE])
    clock.now += 100
    assert ledger.release(ALICE).end_reason is EndReason.RELEASED
    assert ledger.cluster(gpus()).leases == ()
    (ended,) = ledger.ended()
    assert (ended.request, ended.granted_at, ended.ended_at) == (request, clock.now - 100, clock.now)
    assert ended.lease.uuids == lease.uuids
    assert actions(ledger, ALICE) == ["submitted", "granted", "claimed", "released"]


def test_a_session_has_one_open_request(ledger):
    request = submit(ledger, "alice", whole(1))
    assert submit(ledger, "alice", whole(1)) == request
    with pytest.raises(OpenRequest, match="team/alice/ is queued with another wish"):
        submit(ledger, "alice", whole(2))
    ledger.apply(Decision((Grant(request.id, ("GPU-a",)),)))
    ledger.claim(ALICE)
    with pytest.raises(OpenRequest, match="has a lease already"):
        submit(ledger, "alice", whole(1))
    assert actions(ledger).count("submitted") == 1


@pytest.mark.parametrize(
    "ask",
    [Ask(), Ask(Kind.GPU, count=0), Ask(Kind.SHARE), Ask(Kind.SHARE, count=2, share_bytes=GIB)],
    ids=["no GPU", "zero", "share without memory", "two shares"],
)
def test_an_ask_that_no_lease_answers_is_refused(ledger, ask):
    with pytest.raises(ValueError, match=r"needs no lease|at least one|A share is one"):
        submit(ledger, "alice", ask)
    assert ledger.queue() == []


def test_a_cancelled_request_ends_and_may_be_cancelled_again(ledger):
    submit(ledger, "alice")
    assert ledger.cancel(ALICE, reason="changed my mind").holder == ALICE
    assert ledger.cancel(ALICE) is None
    assert ledger.ended()[0].end_reason is EndReason.CANCELLED
    grant(ledger, "alice", "GPU-a")
    assert ledger.cancel(ALICE)
    assert ledger.leases() == []


def test_a_running_session_is_not_cancelled(ledger):
    run(ledger, "alice", "GPU-a")
    assert ledger.cancel(ALICE) is None
    assert [lease.holder for lease in ledger.leases()] == [ALICE]


def test_the_queue_says_why_each_request_waits(ledger, clock):
    alice, bob = submit(ledger, "alice"), submit(ledger, "bob")
    wait = Wait(bob.id, 1, "1st in the queue: gpu-b is free the earliest", clock.now + 600)
    ledger.apply(Decision(waits={bob.id: wait, 999: Wait(999, 2, "of another time")}))
    assert [(found.request, found.wait) for found in ledger.queue()] == [(bob, wait), (alice, None)]
    assert ledger.request_of(BOB).wait == wait
    with pytest.raises(NoLease, match=r"team/bob/ yet: 1st in the queue: gpu-b is free the earliest"):
        ledger.claim(BOB)
    ledger.apply(Decision(waits={bob.id: Wait(bob.id, 1, wait.reason, clock.now + 610)}))
    assert ledger.request_of(BOB).wait.expected == wait.expected, "small moves are not written"
    ledger.apply(Decision(waits={bob.id: Wait(bob.id, 1, wait.reason, clock.now + 900)}))
    assert ledger.request_of(BOB).wait.expected == clock.now + 900


def test_every_field_of_an_ask_comes_back(ledger):
    ask = Ask(Kind.MIG, 2, "H100", 5, "1g.10gb", 0, "host-a", ("MIG-1", "MIG-2"), False)
    assert submit(ledger, "alice", ask).ask == ask
    assert ledger.cluster(()).queue[0].ask == ask


# Grants -------------------------------------------------------------------------------------------------


def test_a_device_has_one_holder(ledger):
    run(ledger, "alice", "GPU-a")
    assert grant(ledger, "bob", "GPU-a") is None
    assert ledger.request_of(BOB).state is State.QUEUED
    assert [lease.holder for lease in ledger.leases()] == [ALICE]


def test_one_taken_device_refuses_the_whole_grant(ledger):
    run(ledger, "alice", "GPU-b")
    assert grant(ledger, "bob", "GPU-a", "GPU-b") is None
    assert grant(ledger, "carol", "GPU-a")


def test_the_database_itself_refuses_a_second_holder(ledger):
    """Even where our own look were wrong."""
    lease = run(ledger, "alice", "GPU-a")
    row = {"request_id": lease.id, "uuid": "GPU-a", "slot": 0, "share_bytes": 0, "part": 1, "since": 0}
    with pytest.raises(IntegrityError), ledger.database.write() as connection:
        connection.execute(insert(schema.holdings).values(row))


def test_stale_decisions_are_skipped(ledger):
    request = submit(ledger, "alice")
    decision = Decision((Grant(request.id, ("GPU-a",)), Grant(999, ("GPU-b",))))
    assert len(ledger.apply(decision)) == 1
    assert ledger.apply(decision) == []
    ledger.cancel(ALICE)
    assert ledger.apply(decision) == []
    two = submit(ledger, "bob", whole(2))
    assert ledger.apply(Decision((Grant(two.id, ("GPU-a",)),))) == [], "fewer than asked for"
    assert ledger.apply(Decision((Grant(two.id, ("GPU-a", "GPU-a")),))) == []


def test_a_cordon_that_came_after_the_decision_holds(ledger):
    ledger.heartbeat("host-a", gpus(2))
    ledger.cordon("GPU-host-a-0", "Xid 79", "health")
    assert grant(ledger, "alice", "GPU-host-a-0") is None
    ledger.cordon("host:host-a", "drained", "user:root")
    assert grant(ledger, "alice", "GPU-host-a-1") is None
    ledger.uncordon("host:host-a", "user:root")
    assert grant(ledger, "alice", "GPU-host-a-1")


def test_fences_grow_with_every_grant(ledger):
    fences = []
    for user in ("alice", "bob", "alice"):
        fences.append(run(ledger, user, "GPU-a").fence)
        ledger.release(holder(user))
    assert fences == sorted(set(fences))
    assert ledger.last_fence() == fences[-1]
    assert ledger.raise_fence(fences[-1] + 100)
    assert not ledger.raise_fence(50)
    assert grant(ledger, "carol", "GPU-a").fence == fences[-1] + 101
    assert ledger.new_fence(ALICE, "starts without a GPU") == fences[-1] + 102


def test_fences_grow_also_when_a_restored_database_has_forgotten_some(ledger, clock):
    """Nothing tells of them: no container runs any more."""
    fence = run(ledger, "alice", "GPU-a").fence
    ledger.release(ALICE)
    with ledger.database.engine.begin() as connection:
        connection.execute(update(schema.ledger).values(last_fence=0))
    clock.now += 1
    assert grant(ledger, "bob", "GPU-a").fence > fence


def test_devices_of_a_session_that_was_given_up_are_not_handed_out(ledger):
    assert ledger.give_up(ALICE, "its host is gone", "user:root") is None
    run(ledger, "alice", "GPU-a")
    assert ledger.give_up(ALICE, "its host is gone", "user:root").end_reason is EndReason.LOST
    assert grant(ledger, "bob", "GPU-a") is None
    assert actions(ledger)[-3:] == ["lost", "cordoned", "submitted"]


def test_shares_of_a_device_fit_into_what_may_be_shared(ledger):
    ledger.share("GPU-a", 20 * GIB, "user:root")
    for user in ("alice", "bob"):
        assert grant(ledger, user, "GPU-a", ask=share(8))
    assert grant(ledger, "carol", "GPU-a", ask=share(8)) is None
    assert grant(ledger, "dave", "GPU-a", ask=share(4))
    ledger.claim(ALICE)
    ledger.release(ALICE)
    assert grant(ledger, "carol", "GPU-a", ask=share(8)) is not None
    assert sum(lease.share_bytes for lease in ledger.leases()) == 20 * GIB


def test_shares_and_whole_devices_do_not_mix(ledger):
    ledger.share("GPU-a", 20 * GIB, "user:root")
    assert grant(ledger, "alice", "GPU-a", ask=share(8))
    assert grant(ledger, "bob", "GPU-a") is None
    ledger.cancel(ALICE)
    assert grant(ledger, "bob", "GPU-a")
    assert grant(ledger, "carol", "GPU-a", ask=share(1)) is None


def test_a_device_that_is_not_shared_gives_no_share(ledger):
    assert grant(ledger, "alice", "GPU-a", ask=share(1)) is None
    assert ledger.share("GPU-a", GIB, "user:root")
    assert not ledger.share("GPU-a", GIB, "user:root")
    assert grant(ledger, "alice", "GPU-a", ask=share(1))
    ledger.share("GPU-a", 0, "user:root")
    assert ledger.sharing() == {}
    assert grant(ledger, "bob", "GPU-a", ask=share(1)) is None


def test_a_gpu_and_its_mig_devices_are_not_held_at_once(ledger):
    mig = Device("MIG-1", "host-a", "NVIDIA H100", 10 * GIB, Kind.MIG, "GPU-a", "1g.10gb")
    ledger.heartbeat("host-a", [mig])
    run(ledger, "alice", "GPU-a")
    assert grant(ledger, "bob", "MIG-1", ask=Ask(Kind.MIG)) is None
    ledger.release(ALICE)
    assert grant(ledger, "bob", "MIG-1", ask=Ask(Kind.MIG))
    assert grant(ledger, "carol", "GPU-a") is None


def test_schedulers_with_the_same_view_grant_nothing_twice(database_url):
    """Sixteen at once, each a ledger of its own, like processes."""
    first = Ledger(database_url)
    requests = [submit(first, f"user{n}") for n in range(16)]
    devices = [f"GPU-{n}" for n in range(16)]
    granted, barrier = [], threading.Barrier(16)

    def decide(number):
        own = Ledger(database_url)
        grants = tuple(Grant(r.id, (devices[(n + number) % 16],)) for n, r in enumerate(requests))
        barrier.wait()
        granted.extend(own.apply(Decision(grants)))
        own.close()

    threads = [threading.Thread(target=decide, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [uuid for lease in first.leases() for uuid in lease.uuids]
    assert len(held) == len(set(held)) == len(granted) >= 1
    assert len({lease.id for lease in granted}) == len({lease.fence for lease in granted}) == len(granted)
    first.close()


# The life of a lease --------------------------------------------------------------------------------------


def test_claiming_needs_a_grant_and_may_be_repeated(ledger):
    with pytest.raises(NoLease, match="ask for one first"):
        ledger.claim(ALICE)
    submit(ledger, "alice")
    with pytest.raises(NoLease, match="it has just been queued"):
        ledger.claim(ALICE)
    ledger.cancel(ALICE)
    grant(ledger, "alice", "GPU-a")
    assert ledger.claim(ALICE) == ledger.claim(ALICE)
    assert actions(ledger).count("claimed") == 1


def test_releasing_twice_is_fine_and_leaves_the_queue_alone(ledger):
    assert ledger.release(ALICE) is None
    submit(ledger, "alice")
    assert ledger.release(ALICE) is None
    assert ledger.request_of(ALICE).state is State.QUEUED


def test_a_late_release_ends_no_newer_lease(ledger):
    old = run(ledger, "alice", "GPU-a")
    ledger.release(ALICE)
    new = run(ledger, "alice", "GPU-a")
    assert ledger.release(ALICE, fence=old.fence) is None
    assert ledger.release(ALICE, fence=new.fence)


def test_a_grant_expires_when_its_server_does_not_start(ledger, clock):
    grant(ledger, "alice", "GPU-a")
    run(ledger, "bob", "GPU-b")
    clock.now += 599
    assert ledger.expire() == []
    clock.now += 1
    assert ledger.expire(clock.now, 600, spared=[ALICE]) == []
    assert [lease.holder for lease in ledger.expire(clock.now, 600)] == [ALICE]
    assert ledger.expire() == []
    assert [lease.holder for lease in ledger.leases()] == [BOB]
    assert ledger.ended()[0].end_reason is EndReason.EXPIRED


def test_a_suspended_session_queues_again_in_the_same_transaction(ledger, clock):
    run(ledger, "alice", "GPU-a", groups=["g"], priority=2)
    clock.now += 50
    other = Ask(Kind.GPU, uuids=("GPU-b",))
    assert ledger.begin_suspend(ALICE, "bob's turn", comes_back=other)
    assert ledger.cluster(()).leases[0].suspending
    clock.now += 50
    ended = ledger.release(ALICE, "failed")
    assert (ended.end_reason, ended.end_detail, ended.comes_back) == ("suspended", "bob's turn", other)
    (again,) = ledger.cluster(()).queue
    assert (again.ask, again.resumes, again.attained_seconds) == (other, True, 100)
    assert (again.groups, again.priority) == (("g",), 2)
    assert actions(ledger, ALICE)[-3:] == ["suspending", "suspended", "submitted"]


def test_a_session_reclaimed_while_idle_comes_back_when_its_user_does(ledger, clock):
    run(ledger, "alice", "GPU-a", "GPU-b")
    ledger.begin_suspend(ALICE, "idle for 2 h")
    clock.now += 30
    assert ledger.release(ALICE).end_reason is EndReason.SUSPENDED
    assert ledger.queue() == []
    assert submit(ledger, "alice", resumes=True).attained_seconds == 60
    ledger.cancel(ALICE)
    assert submit(ledger, "alice").attained_seconds == 0


def test_an_aborted_suspend_keeps_the_lease_and_tells_why(ledger, clock):
    run(ledger, "alice", "GPU-a")
    assert not ledger.abort_suspend(ALICE, "nothing was begun")
    ledger.begin_suspend(ALICE, "idle", comes_back=whole())
    assert ledger.abort_suspend(ALICE, "kernel 1 is not durable: disk full")
    standing = ledger.request_of(ALICE)
    assert (standing.suspending_since, standing.comes_back) == (None, None)
    assert standing.suspend_failure == "kernel 1 is not durable: disk full"
    assert standing.suspend_failed_at == clock.now
    assert ledger.release(ALICE).end_reason is EndReason.RELEASED
    assert ledger.queue() == []
    assert not ledger.begin_suspend(ALICE, "gone")


def test_a_warning_is_put_off_or_withdrawn(ledger, clock):
    assert not ledger.warn(ALICE, "idle", clock.now + 300)
    run(ledger, "alice", "GPU-a")
    assert ledger.warn(ALICE, "idle for 2 h", clock.now + 300)
    standing = ledger.request_of(ALICE)
    assert (standing.warned_at, standing.warning, standing.reclaim_at) == (
        clock.now,
        "idle for 2 h",
        clock.now + 300,
    )
    standing = ledger.snooze(ALICE, clock.now + 3600, "user:alice")
    assert (standing.warned_at, standing.snoozed_until, standing.snoozes) == (None, clock.now + 3600, 1)
    assert not ledger.withdraw_warning(ALICE, "busy again")
    ledger.warn(ALICE, "idle", clock.now)
    assert ledger.withdraw_warning(ALICE, "busy again")
    assert ledger.request_of(ALICE).reclaim_at is None


def test_idleness_counts_from_the_last_work_that_was_seen(ledger, clock):
    run(ledger, "alice", "GPU-a")
    clock.now += 100
    before = ledger.cluster(()).leases
    assert ledger.request_of(ALICE).idle_seconds == 100
    clock.now += 1
    assert ledger.cluster(()).leases == before, "a view that is kept finds nothing to do"
    clock.now -= 1
    assert ledger.note_activity(ALICE, 20, cell_running=True)
    clock.now += 5
    found = ledger.request_of(ALICE)
    assert (found.idle_seconds, found.lease.cell_running) == (25, True)
    assert not ledger.note_activity(BOB, 0)


def test_a_running_container_is_adopted_with_its_fence(ledger):
    submit(ledger, "alice", whole(3))
    lease = ledger.adopt(ALICE, "alice", ["GPU-a", "GPU-b"], fence=41)
    assert (lease.fence, lease.state, lease.ask.count) == (41, State.RUNNING, 2)
    assert ledger.adopt(ALICE, "alice", ["GPU-b", "GPU-a"], fence=41).id == lease.id
    assert ledger.adopt(ALICE, "alice", ["GPU-b", "GPU-a"], fence=41, groups=["ml"]).groups == ("ml",)
    assert ledger.adopt(ALICE, "alice", ["GPU-b", "GPU-a"], fence=41, groups=["nlp"]).groups == ("ml",)
    assert not ledger.adopt("team/carol/", "carol", ["GPU-d"], fence=44, preemptible=False).preemptible
    with pytest.raises(HeldByAnother, match="GPU-b is team/alice/'s"):
        ledger.adopt(BOB, "bob", ["GPU-b"], fence=42)
    assert ledger.request_of(BOB) is None, "a refused adoption leaves nothing"
    with pytest.raises(HeldByAnother):
        ledger.adopt(ALICE, "alice", ["GPU-c"], fence=43)


def test_leases_outlive_the_process(database_url):
    run(Ledger(database_url), "alice", "GPU-a")
    assert [lease.holder for lease in Ledger(database_url).leases()] == [ALICE]


# What admins set ------------------------------------------------------------------------------------------


def test_each_reason_of_a_cordon_is_removed_for_itself(ledger):
    ledger.cordon("GPU-host-a-0", "Xid 79", "health")
    ledger.cordon("GPU-host-a-0", "Xid 79", "health")
    ledger.cordon("GPU-host-a-0", "being cleaned", "user:root")
    ledger.cordon("host:host-a", "drained", "user:root")
    assert ledger.cluster(gpus(1)).devices[0].cordon == "Xid 79; being cleaned; drained"
    assert [cordon.by for cordon in ledger.uncordon("GPU-host-a-0", "health", "Xid 79")] == ["health"]
    assert ledger.uncordon("GPU-host-a-0", "health", "Xid 79") == []
    assert [cordon.reason for cordon in ledger.cordons()] == ["being cleaned", "drained"]
    ledger.uncordon("host:host-a", "user:root")
    ledger.uncordon("GPU-host-a-0", "user:root")
    assert ledger.cluster(gpus(1)).devices[0].cordon == ""


def test_a_gpus_cordon_holds_for_its_mig_devices(ledger):
    ledger.cordon("GPU-a", "too hot", "health")
    mig = Device("MIG-1", "host-a", "NVIDIA H100", 10 * GIB, Kind.MIG, "GPU-a", "1g.10gb")
    assert ledger.cluster([mig]).devices[0].cordon == "too hot"


def test_limits_are_set_replaced_and_removed(ledger):
    ledger.set_limit(Limit("group:vision", 8, 4, 2), "user:root")
    ledger.set_limit(Limit("everyone", 2), "user:root")
    ledger.set_limit(Limit("group:vision", None, 2), "user:root")
    assert ledger.cluster(()).limits == (Limit("everyone", 2), Limit("group:vision", None, 2))
    assert ledger.remove_limit("everyone", "user:root")
    assert not ledger.remove_limit("everyone", "user:root")
    assert ledger.limits() == [Limit("group:vision", None, 2)]


@pytest.mark.parametrize(
    "limit", [Limit("vision", 1), Limit("user:", 1), Limit("everyone", -1), Limit("group:a", 1, 2)]
)
def test_a_limit_that_makes_no_sense_is_refused(ledger, limit):
    with pytest.raises(ValueError, match=limit.subject):
        ledger.set_limit(limit, "user:root")


def test_reservations_end_by_themselves_or_are_cancelled(ledger, clock):
    later = ledger.reserve("vision", 2, clock.now + 100, clock.now + 200, "user:root", "H100", "deadline")
    soon = ledger.reserve("nlp", 1, clock.now, clock.now + 50, "user:root")
    assert ledger.cluster(()).reservations == (soon, later)
    clock.now += 50
    assert ledger.reservations() == [later]
    assert not ledger.cancel_reservation(soon.id, "user:root")
    assert ledger.cancel_reservation(later.id, "user:root")
    with pytest.raises(ValueError, match="count = 0"):
        ledger.reserve("vision", 0, clock.now, clock.now + 1, "user:root")
    with pytest.raises(ValueError, match="before it starts, or over already"):
        ledger.reserve("vision", 1, clock.now, clock.now, "user:root")


def test_what_a_group_is_granted_within_its_booking_ends_with_it(ledger, clock):
    before = run(ledger, "vera", "GPU-host-a-0", groups=("vision",))
    clock.now += 10
    booking = ledger.reserve("vision", 2, clock.now, clock.now + 100, "user:root")
    within = run(ledger, "victor", "GPU-host-a-1", groups=("vision",))
    on_top = run(ledger, "vic", "GPU-host-a-2", groups=("vision",))
    other = run(ledger, "nora", "GPU-host-b-0", groups=("nlp",))

    def ends():
        found = ledger.cluster(gpus(3) + gpus(1, "host-b"))
        return {lease.holder: lease.ends for lease in found.leases}

    nobody = {lease.holder: None for lease in (before, within, on_top, other)}
    assert ends() == {**nobody, within.holder: booking.end}
    clock.now += 200
    assert ends() == {**nobody, within.holder: booking.end}
    assert ledger.cluster(gpus(3)).reservations == ()
    clock.now -= 200
    ledger.cancel_reservation(booking.id, "user:root")
    assert ends() == nobody


def test_a_session_whose_booking_is_over_makes_room_for_whoever_waits(ledger, clock):
    ledger.reserve("vision", 1, clock.now, clock.now + 100, "user:root")
    run(ledger, "victor", "GPU-host-a-0", groups=("vision",))
    submit(ledger, "nora", groups=("nlp",))
    clock.now += 99
    assert decide(ledger.cluster(gpus(1)), clock.now).suspensions == ()
    clock.now += 1
    (out,) = decide(ledger.cluster(gpus(1)), clock.now).suspensions
    assert [lease.id for lease in ledger.leases()] == [out.lease_id]
    assert out.reason == "its booking is over; nora waits for 1"


def test_a_booking_of_another_model_or_group_ends_nobody(ledger, clock):
    ledger.reserve("vision", 1, clock.now, clock.now + 100, "user:root", model="A100")
    ledger.reserve("nlp", 1, clock.now, clock.now + 100, "user:root")
    run(ledger, "victor", "GPU-host-a-0", groups=("vision",))
    assert [lease.ends for lease in ledger.cluster(gpus(1)).leases] == [None]


def test_devices_are_those_that_the_agents_told_last(ledger, clock):
    ledger.heartbeat("host-a", gpus(2))
    ledger.heartbeat("host-b", gpus(1, "host-b"))
    assert ledger.devices() == gpus(2) + gpus(1, "host-b")
    clock.now += 25
    ledger.heartbeat("host-a", gpus(2)[:1], "one is lost")
    clock.now += 10
    here, silent = ledger.devices()
    assert (here.uuid, here.cordon) == ("GPU-host-a-0", "")
    assert silent.cordon == "the agent of host-b has been silent for 35 s"
    assert [agent.host for agent in ledger.agents()] == ["host-a", "host-b"]
    assert actions(ledger, "GPU-host-a-1") == ["device came", "device gone"]
    ledger.heartbeat("host-b")
    assert ledger.devices()[1].cordon == ""


def test_a_heartbeat_that_tells_nothing_new_stands_in_no_log(ledger, clock):
    ledger.heartbeat("host-a", gpus(2))
    before = len(ledger.audit())
    clock.now += 5
    ledger.heartbeat("host-a", gpus(2))
    assert len(ledger.audit()) == before


# What was -------------------------------------------------------------------------------------------------


def test_the_audit_log_says_who_what_when_and_why(ledger, clock):
    ledger.cordon("GPU-a", "too hot", "health")
    clock.now += 1
    ledger.uncordon("GPU-a", "user:root", why="fan replaced")
    last, first = ledger.audit("GPU-a")
    assert (first.at, first.by, first.action, first.reason) == (
        clock.now - 1,
        "health",
        "cordoned",
        "too hot",
    )
    assert (last.by, last.reason, last.data) == ("user:root", "fan replaced", {"cordon": "too hot"})
    assert ledger.audit(before_id=last.id) == [first]
    assert ledger.audit(since=clock.now) == [last]
    assert len(ledger.audit(most=1)) == 1


def test_readings_count_for_the_lease_that_they_belong_to(ledger, clock):
    run(ledger, "alice", "GPU-a")
    clock.now += 10
    assert ledger.note_use([Use(ALICE, "GPU-a", 0.5), Use(BOB, "GPU-a", 1), Use(ALICE, "GPU-b", 1)]) == 1


def test_threads_share_one_ledger(database_url):
    ledger, clock = Ledger(database_url, Clock()), Clock()

    def live(number):
        run(ledger, f"user{number}", f"GPU-{number}")
        ledger.note_activity(holder(f"user{number}"), 1)
        ledger.release(holder(f"user{number}"))

    threads = [threading.Thread(target=live, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger.ended()) == 12
    assert clock.now == ledger.ended()[0].ended_at
    ledger.close()
