"""The lease at a start, with the real ledger and the real policy."""

import pytest
from respawner_spawner import claim as module
from respawner_spawner.claim import Claimant, deleted, fence_without_lease, granted, schedule, stopped
from respawner_spawner.failure import SessionStartError
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Ask, Device, Kind, State
from respawner_spawner.leases.records import EndReason

ADA, BOB, EVE = (Claimant(f"d/{name}/", name, groups=["ml"], max_gpus=2) for name in ("ada", "bob", "eve"))
ONE = {"gpus": 1}


@pytest.fixture
def ledger(tmp_path):
    """Two GPUs on one host, whose agent has just told of them."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    ledger.heartbeat("here", [Device(f"GPU-{name}", "here", "A100", 80 << 30) for name in "ab"])
    yield ledger
    ledger.close()


def claim(ledger, who, options, **more):
    """As a start whose image is there."""
    lease = granted(ledger, who, options, **more)
    return lease and module.claim(ledger, lease)


def test_a_session_without_gpus_needs_no_lease(ledger):
    assert claim(ledger, ADA, {}) is None
    assert ledger.request_of(ADA.holder) is None


def test_a_caller_without_the_queue_gets_what_is_free_at_once(ledger):
    lease = claim(ledger, ADA, {"gpus": "2"})
    assert set(lease.uuids) == {"GPU-a", "GPU-b"}
    assert lease.groups == ("ml",)
    assert ledger.request_of(ADA.holder).state is State.RUNNING


def test_a_granted_lease_is_taken_whatever_the_options_say(ledger):
    """The scheduler starts servers without options."""
    ledger.submit(ADA.holder, "ada", Ask(Kind.GPU))
    with pytest.raises(SessionStartError):  # a caller in between, who may not schedule, changes nothing
        claim(ledger, ADA, {}, schedule=lambda ledger: None)
    assert len(claim(ledger, ADA, {}).uuids) == 1


def test_who_cannot_have_one_now_is_told_the_place_in_the_queue_and_waits_there(ledger):
    claim(ledger, ADA, {"gpus": 2})
    for place, who in enumerate((BOB, EVE), start=1):
        with pytest.raises(
            SessionStartError, match=f"waits: {place}(st|nd) in the queue.*page GPUs"
        ) as caught:
            claim(ledger, who, ONE)
        assert caught.value.reason == "queued"
    assert [standing.request.holder for standing in ledger.queue()] == [BOB.holder, EVE.holder]
    ledger.release(ADA.holder)
    assert claim(ledger, BOB, {}).uuids != claim(ledger, EVE, {}).uuids


def test_what_can_never_be_is_said_and_does_not_wait(ledger):
    with pytest.raises(SessionStartError, match="This cannot be granted here"):
        claim(ledger, ADA, {"gpus": 1, "gpu_model": "B200"})
    assert ledger.queue() == []


@pytest.mark.parametrize("wanted", [3, -1, "many"])
def test_an_impossible_number_is_named_with_the_choice(ledger, wanted):
    with pytest.raises(SessionStartError, match=rf"gpus = {wanted!r}: choose 0 to 2"):
        claim(ledger, ADA, {"gpus": wanted})
    assert ledger.request_of(ADA.holder) is None


def test_a_lease_whose_container_is_gone_is_never_taken_again(ledger):
    first = claim(ledger, ADA, ONE)
    again = claim(ledger, ADA, ONE)
    assert again.fence > first.fence
    (ended,) = ledger.ended(ADA.holder)
    assert (ended.lease.fence, ended.end_reason) == (first.fence, EndReason.LOST)


@pytest.mark.parametrize(("name", "why"), [("", "its user was deleted"), ("lab", "its server was deleted")])
def test_what_is_deleted_waits_no_longer(ledger, name, why):
    holder = f"d/ada/{name}"
    ledger.submit(holder, "ada", Ask(Kind.GPU))
    deleted(ledger, holder)
    assert ledger.ended(holder)[0].end_detail == why
    deleted(ledger, holder)


def test_cpu_now_gpu_when_free(ledger):
    claim(ledger, ADA, {"gpus": 2})
    assert claim(ledger, BOB, {"gpus": 1, "cpu_meanwhile": True}) is None
    assert ledger.request_of(BOB.holder).request.cpu_meanwhile
    assert claim(ledger, BOB, {}) is None, "a restart meanwhile keeps the place"
    ledger.release(ADA.holder)
    assert claim(ledger, BOB, {}) is not None


def test_a_stopped_session_does_not_start_by_itself_when_its_gpu_is_free(ledger):
    claim(ledger, ADA, {"gpus": 2})
    claim(ledger, BOB, {"gpus": 1, "cpu_meanwhile": True})
    stopped(ledger, BOB.holder)
    assert ledger.request_of(BOB.holder) is None
    ledger.submit(BOB.holder, BOB.user, Ask(Kind.GPU, 1), resumes=True)
    stopped(ledger, BOB.holder)
    assert ledger.request_of(BOB.holder), "a suspended session waits on"


def test_who_lost_the_gpu_while_changing_over_to_it_keeps_the_place(ledger):
    ledger.submit("team/ada/", "ada", Ask(Kind.GPU), cpu_meanwhile=True)
    schedule(ledger)
    granted = ledger.request_of("team/ada/").lease
    assert ledger.revoke("team/ada/", granted.fence, "the GPU fell ill", "scheduler")
    stopped(ledger, "team/ada/")
    assert ledger.request_of("team/ada/").state is State.QUEUED


def test_a_session_that_is_deleted_while_its_host_is_lost_holds_nothing_for_ever(ledger):
    ledger.submit("team/ada/", "ada", Ask(Kind.GPU))
    schedule(ledger)
    lease = ledger.claim("team/ada/")
    deleted(ledger, "team/ada/")
    assert ledger.request_of("team/ada/") is None
    assert {cordon.target for cordon in ledger.cordons()} == set(lease.uuids)


def test_a_request_that_is_given_up_while_its_server_starts_is_not_made_again(ledger):
    ledger.submit(ADA.holder, "ada", Ask(Kind.GPU))
    schedule(ledger)
    began = ledger.clock()
    ledger.cancel(ADA.holder)
    with pytest.raises(SessionStartError, match="given up while your session was starting"):
        claim(ledger, ADA, ONE, began=began)
    assert ledger.request_of(ADA.holder) is None
    assert claim(ledger, ADA, ONE, began=ledger.clock()), "who starts it once more wants it"


def test_a_session_that_had_a_lease_and_goes_on_without_gpu_has_a_newer_number(ledger):
    assert fence_without_lease(ledger, ADA.holder) == 0
    lease = claim(ledger, ADA, ONE)
    ledger.release(ADA.holder)
    without = fence_without_lease(ledger, ADA.holder)
    assert without > lease.fence
    assert claim(ledger, ADA, ONE).fence > without
    assert [e.data["fence"] for e in ledger.audit(ADA.holder) if e.action == "fence given"] == [without]


def test_a_session_whose_container_was_lost_stays_non_preemptible(ledger):
    ledger.submit(ADA.holder, "ada", Ask(Kind.GPU), preemptible=False)
    claim(ledger, ADA, ONE)
    assert not claim(ledger, ADA, ONE).preemptible


def test_a_start_that_fails_before_it_claims_keeps_the_grant(ledger):
    lease = granted(ledger, ADA, ONE)
    ledger.release(ADA.holder, EndReason.FAILED)
    assert ledger.request_of(ADA.holder).state is State.GRANTED
    assert claim(ledger, ADA, {}).fence == lease.fence


def test_a_grant_that_is_taken_back_before_it_is_claimed_is_no_lease(ledger):
    lease = granted(ledger, ADA, ONE)
    assert ledger.revoke(ADA.holder, lease.fence, "the GPU fell ill", "scheduler")
    with pytest.raises(SessionStartError, match="your session waits"):
        module.claim(ledger, lease)


def test_a_grant_that_came_instead_of_the_one_that_was_meant_stays_granted(ledger):
    lease = granted(ledger, ADA, ONE)
    ledger.cordon(lease.uuids[0], "it is ill", "health")
    assert ledger.revoke(ADA.holder, lease.fence, "the GPU fell ill", "scheduler")
    schedule(ledger)
    other = ledger.request_of(ADA.holder).lease
    assert other.uuids != lease.uuids
    with pytest.raises(
        SessionStartError, match=f"{lease.uuids[0]} was taken back.*you have {other.uuids[0]}"
    ):
        module.claim(ledger, lease)
    assert ledger.request_of(ADA.holder).state is State.GRANTED
    assert granted(ledger, ADA, {}) == other


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_who_has_no_request_any_more_is_not_told_to_wait(ledger, how):
    lease = granted(ledger, ADA, ONE)
    if how == "cancelled":
        ledger.cancel(ADA.holder, "user:ada", "changed my mind")
    else:
        ledger.expire(ledger.clock() + 3600)
    said = {"cancelled": "changed my mind", "expired": "did not start within 600 s"}[how]
    with pytest.raises(SessionStartError, match=f"request for a GPU has ended.*{said}.*Start it again"):
        module.claim(ledger, lease)
