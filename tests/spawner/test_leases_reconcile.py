"""After a crash: ledger and containers' labels are brought together, and every step is explained."""

import dataclasses
import shutil

import pytest
from respawner_spawner.leases.admin import UNKNOWN
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import State
from respawner_spawner.leases.reconcile import Container, Do, carry_out, known, plan
from respawner_spawner.leases.records import EndReason

from tests.spawner.ledgers import GIB, START, Clock, gpus, grant, holder, run, share, submit

ALICE, BOB = holder("alice"), holder("bob")
LATER = int(START) + 57
"""A fence that the ledger has not given."""
A, B, C = (device.uuid for device in gpus(3))


def container_of(lease, **more):
    container = Container(
        f"{lease.user}-{lease.fence}", "host-a", True, lease.holder, lease.user, lease.uuids, lease.fence
    )
    return dataclasses.replace(container, share_bytes=lease.share_bytes, **more)


def reconcile(ledger, *containers, grace_seconds=0, **more):
    """Plan and carry out; a second time must find nothing left but what the engine has to do."""
    devices = gpus(3)
    first = plan(
        known(ledger, containers), containers, devices, ledger.clock(), grace_seconds=grace_seconds, **more
    )
    done = carry_out(ledger, first)
    again = plan(
        known(ledger, containers), containers, devices, ledger.clock(), grace_seconds=grace_seconds, **more
    )
    assert [action.do for action in again.actions if action.do is not Do.FENCE_OFF] == []
    assert all(action.why for action in first.actions)
    return done


def what(done):
    return [(action.do, action.subject) for action in done]


def cordoned(ledger):
    return {device.uuid for device in ledger.cluster(gpus(3)).devices if device.cordon}


def test_where_both_agree_nothing_is_done(ledger):
    lease = run(ledger, "alice", A, B)
    grant(ledger, "bob", C)
    submit(ledger, "carol")
    before = len(ledger.audit())
    assert reconcile(ledger, container_of(lease)) == []
    assert len(ledger.audit()) == before


def test_a_lease_without_container_is_released(ledger):
    run(ledger, "alice", A)
    (done,) = reconcile(ledger)
    assert (done.do, done.why) == (Do.RELEASE, "it has no container any more")
    assert ledger.ended()[0].end_reason is EndReason.LOST
    assert grant(ledger, "bob", A)


def test_a_container_that_does_not_run_any_more_ended_its_lease(ledger):
    lease = run(ledger, "alice", A)
    (done,) = reconcile(ledger, container_of(lease, running=False))
    assert done.why == f"its container {f'alice-{lease.fence}'[:12]} does not run any more"
    assert ledger.ended()[0].end_reason is EndReason.FAILED


def test_a_server_that_is_being_started_is_left_alone(ledger, clock):
    run(ledger, "alice", A)
    clock.now += 599
    assert reconcile(ledger, grace_seconds=600) == []
    clock.now += 1
    assert what(reconcile(ledger, grace_seconds=600)) == [(Do.RELEASE, ALICE)]


def test_the_lease_of_a_host_that_does_not_answer_is_kept_and_flagged(ledger):
    lease = run(ledger, "alice", A)
    done = reconcile(ledger, unreachable=["host-a"])
    assert what(done) == [(Do.CORDON, "host:host-a"), (Do.FLAG, ALICE)]
    assert "the engine of host-a does not answer: the lease is kept" in ledger.request_of(ALICE).flag
    assert cordoned(ledger) == {A, B, C}
    done = reconcile(ledger, container_of(lease))
    assert what(done) == [(Do.UNCORDON, "host:host-a"), (Do.UNFLAG, ALICE)]
    assert ledger.request_of(ALICE).flag == ""
    assert cordoned(ledger) == set()


def test_an_unknown_running_container_is_adopted(ledger):
    """The database was lost."""
    container = Container("c1", "host-a", True, ALICE, "alice", (A, B), fence=LATER)
    done = reconcile(ledger, container)
    assert what(done) == [(Do.RAISE_FENCE, "ledger"), (Do.ADOPT, ALICE)]
    assert "restored from a backup?" in done[0].why
    (lease,) = ledger.leases()
    assert (lease.holder, lease.uuids, lease.fence) == (ALICE, (A, B), LATER)
    assert grant(ledger, "bob", C).fence == LATER + 1


def test_containers_of_version_0_1_have_no_fence(ledger):
    lease = run(ledger, "alice", A)
    assert reconcile(ledger, container_of(lease, fence=0)) == []
    container = Container("c2", "host-a", True, BOB, "bob", (B,))
    assert what(reconcile(ledger, container_of(lease, fence=0), container)) == [(Do.ADOPT, BOB)]
    assert ledger.request_of(BOB).lease.fence == lease.fence + 1


def test_a_session_that_was_given_up_is_fenced_off(ledger):
    """An admin released the lease of a host that did not answer; now the host is back."""
    old = run(ledger, "alice", A)
    ledger.release(ALICE, "lost", by="user:root")
    done = reconcile(ledger, container_of(old))
    assert what(done) == [(Do.FENCE_OFF, ALICE), (Do.CORDON, A)]
    assert done[0].container == container_of(old)
    assert cordoned(ledger) == {A}, "until the container is gone"
    assert what(reconcile(ledger, container_of(old, running=False))) == [(Do.UNCORDON, A)]
    assert cordoned(ledger) == set()


def test_a_session_that_was_given_up_does_not_cordon_what_another_has(ledger):
    old = run(ledger, "alice", A)
    ledger.release(ALICE, "lost")
    new = run(ledger, "bob", A)
    assert what(reconcile(ledger, container_of(old), container_of(new))) == [(Do.FENCE_OFF, ALICE)]
    assert [lease.holder for lease in ledger.leases()] == [BOB]


def test_the_older_of_two_containers_of_a_session_is_fenced_off(ledger):
    old = run(ledger, "alice", A)
    ledger.release(ALICE)
    new = run(ledger, "alice", B)
    done = reconcile(ledger, container_of(new), container_of(old))
    assert what(done) == [(Do.FENCE_OFF, ALICE), (Do.CORDON, A)]
    assert [lease.uuids for lease in ledger.leases()] == [(B,)]


def test_an_older_container_of_a_session_whose_new_one_is_being_made(ledger):
    old = run(ledger, "alice", A)
    ledger.release(ALICE)
    new = run(ledger, "alice", B)
    assert what(reconcile(ledger, container_of(old), grace_seconds=600))[0] == (Do.FENCE_OFF, ALICE)
    assert ledger.leases() == [new]


def test_a_session_whose_container_has_other_devices(ledger):
    lease = run(ledger, "alice", A)
    container = container_of(lease, uuids=(B,), fence=lease.fence + 5)
    done = reconcile(ledger, container)
    assert what(done) == [(Do.RAISE_FENCE, "ledger"), (Do.RELEASE, ALICE), (Do.ADOPT, ALICE)]
    assert ledger.leases()[0].uuids == (B,)


def test_a_container_of_nobody_makes_its_devices_unknown(ledger):
    lease = run(ledger, "alice", A)
    foreign = Container("f" * 64, "host-a", True, uuids=(A, B))
    done = reconcile(ledger, container_of(lease), foreign)
    assert what(done) == [(Do.CORDON, A), (Do.CORDON, B), (Do.FLAG, ALICE)]
    assert ledger.cordons()[0].reason.startswith(f"{UNKNOWN}: used by container ffffffffffff on host-a")
    assert grant(ledger, "bob", B) is None
    assert what(reconcile(ledger, container_of(lease))) == [
        (Do.UNCORDON, A),
        (Do.UNCORDON, B),
        (Do.UNFLAG, ALICE),
    ]


def test_processes_of_nobody_make_their_device_unknown(ledger):
    assert what(reconcile(ledger, strangers={B: "python (pid 4711 of root)"})) == [(Do.CORDON, B)]
    assert "python (pid 4711 of root), which no lease explains" in ledger.cordons()[0].reason
    assert grant(ledger, "alice", B) is None


def test_an_admins_cordon_is_not_touched(ledger):
    ledger.cordon(A, "being cleaned", "user:root")
    assert reconcile(ledger) == []
    assert cordoned(ledger) == {A}


def test_shares_of_one_device_are_adopted_side_by_side(ledger):
    one = Container("c1", "host-a", True, ALICE, "alice", (A,), LATER, 8 * GIB)
    two = Container("c2", "host-a", True, BOB, "bob", (A,), LATER + 1, 8 * GIB)
    assert what(reconcile(ledger, one, two))[1:] == [(Do.ADOPT, BOB), (Do.ADOPT, ALICE)]
    assert sum(lease.share_bytes for lease in ledger.leases()) == 16 * GIB
    assert grant(ledger, "carol", A) is None


def test_a_grant_in_the_way_of_a_running_container_goes_back_to_the_queue(ledger, clock):
    """The database was restored, and something was granted before anybody looked at the containers."""
    lease = grant(ledger, "bob", A)
    container = Container("c1", "host-a", True, ALICE, "alice", (A,), fence=LATER)
    assert what(reconcile(ledger, container)) == [
        (Do.RAISE_FENCE, "ledger"),
        (Do.REVOKE, BOB),
        (Do.ADOPT, ALICE),
    ]
    (waiting,) = ledger.queue()
    assert (waiting.request.id, waiting.request.submitted, waiting.state) == (
        lease.id,
        clock.now,
        State.QUEUED,
    )
    ledger.release(ALICE)
    assert grant(ledger, "bob", A).fence == LATER + 1
    assert ledger.claim(BOB).uuids == (A,)


def test_two_running_sessions_on_one_device_are_the_admins_to_part(ledger):
    """Both may be right: nothing is stopped, nothing is handed out."""
    lease = run(ledger, "bob", A)
    container = Container("c1", "host-a", True, ALICE, "alice", (A, B), fence=LATER)
    done = reconcile(ledger, container, container_of(lease))
    assert what(done) == [(Do.RAISE_FENCE, "ledger"), (Do.CORDON, A), (Do.CORDON, B), (Do.FLAG, BOB)]
    assert cordoned(ledger) == {A, B}
    assert [lease.holder for lease in ledger.leases()] == [BOB]


def test_a_fence_that_was_given_twice(ledger):
    lease = grant(ledger, "bob", B)
    container = Container("c1", "host-a", True, ALICE, "alice", (A,), fence=lease.fence)
    assert what(reconcile(ledger, container)) == [(Do.REVOKE, BOB), (Do.ADOPT, ALICE)]


def test_a_session_without_gpu_beside_its_request_is_no_business_of_this(ledger):
    submit(ledger, "alice", cpu_meanwhile=True)
    assert reconcile(ledger, Container("c1", "host-a", True, ALICE, "alice")) == []
    assert len(ledger.queue()) == 1


def without_gpu(ledger, user, host, running=True):
    """The newest container of a session that starts there."""
    fence = ledger.new_fence(holder(user), "it starts without a GPU")
    ledger.started(holder(user), fence, host)
    return Container(f"{user}-{fence}", host, running, holder(user), user, (), fence)


def test_a_session_without_gpu_that_was_started_again_elsewhere_is_fenced_off(ledger):
    """Whether that one still runs, is being made, or has ended."""
    old, new = without_gpu(ledger, "alice", "host-a"), without_gpu(ledger, "alice", "host-b")
    for others in ([new], [], [dataclasses.replace(new, running=False)]):
        done = reconcile(ledger, old, *others)
        assert what(done) == [(Do.FENCE_OFF, ALICE)]
        assert done[0].container == old
    assert reconcile(ledger, new) == []


def test_a_session_without_gpu_that_goes_on_with_one_is_fenced_off(ledger):
    old, lease = without_gpu(ledger, "alice", "host-a"), run(ledger, "alice", A)
    assert reconcile(ledger, old, grace_seconds=600) == [], "until its start is noted"
    ledger.started(ALICE, lease.fence, "host-a")
    assert what(reconcile(ledger, old, grace_seconds=600)) == [(Do.FENCE_OFF, ALICE)]


def test_a_grant_does_not_end_the_session_that_waits_for_it_without_a_gpu(ledger):
    old = without_gpu(ledger, "alice", "host-a")
    grant(ledger, "alice", A, cpu_meanwhile=True)
    assert reconcile(ledger, old) == []


def test_a_session_without_gpu_that_the_ledger_has_forgotten_is_known_again(ledger):
    """The database was lost: its user's next start goes on in the container."""
    container = Container("c1", "host-b", True, ALICE, "alice", (), LATER)
    assert what(reconcile(ledger, container)) == [(Do.RAISE_FENCE, "ledger"), (Do.NOTE, ALICE)]
    assert (ledger.newest_start(ALICE).fence, ledger.newest_start(ALICE).host) == (LATER, "host-b")


def test_a_database_restored_from_an_older_backup(tmp_path):
    """Since the backup bob left, carol came with his device, dave queued, and alice was resumed elsewhere."""
    path, clock = tmp_path / "ledger.sqlite", Clock()
    ledger = Ledger(f"sqlite:///{path}", clock)
    run(ledger, "alice", A)
    run(ledger, "bob", B)
    ledger.close()
    shutil.copy(path, tmp_path / "backup")
    ledger.release(ALICE)
    ledger.release(BOB)
    carol, alice = run(ledger, "carol", B), run(ledger, "alice", C)
    submit(ledger, "dave")
    ledger.close()
    for name in ("ledger.sqlite-wal", "ledger.sqlite-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "backup", path)

    done = reconcile(ledger, container_of(carol), container_of(alice))
    assert what(done) == [
        (Do.RAISE_FENCE, "ledger"),
        (Do.RELEASE, ALICE),
        (Do.RELEASE, BOB),
        (Do.ADOPT, ALICE),
        (Do.ADOPT, carol.holder),
    ]
    assert {lease.holder: (lease.uuids, lease.fence) for lease in ledger.leases()} == {
        carol.holder: ((B,), carol.fence),
        ALICE: ((C,), alice.fence),
    }
    assert grant(ledger, "dave", A).fence == alice.fence + 1


@pytest.mark.parametrize("moment", range(4))
def test_a_plan_that_was_cut_short_is_finished_by_the_next(ledger, moment):
    run(ledger, "bob", A)
    containers = [
        Container("c1", "host-a", True, ALICE, "alice", (A,), fence=LATER),
        Container("c2", "host-a", True, uuids=(C,)),
    ]
    whole = plan(known(ledger, containers), containers, gpus(3), ledger.clock(), grace_seconds=0)
    carry_out(ledger, dataclasses.replace(whole, actions=whole.actions[:moment]))
    reconcile(ledger, *containers)
    assert [(lease.holder, lease.fence) for lease in ledger.leases()] == [(ALICE, LATER)]
    assert cordoned(ledger) == {C}


def test_a_plan_that_is_out_of_date_does_no_harm(ledger):
    lease = run(ledger, "alice", A)
    old = plan(known(ledger, ()), (), gpus(3), ledger.clock(), grace_seconds=0)
    ledger.release(ALICE)
    again = run(ledger, "alice", A)
    assert again.fence > lease.fence
    assert carry_out(ledger, old) == []
    assert ledger.leases() == [again]


def test_shares_run_side_by_side_without_any_action(ledger):
    ledger.share(A, 16 * GIB, "user:root")
    leases = [run(ledger, user, A, ask=share(8)) for user in ("alice", "bob")]
    assert reconcile(ledger, *map(container_of, leases)) == []
