"""Where requests are made, without a hub: a ledger, the policy, and one GPU."""

from __future__ import annotations

import dataclasses

import pytest
from respawner_hub.gpus import idle
from respawner_hub.gpus.desk import Desk, Session
from respawner_hub.gpus.rounds import Policy, see
from respawner_spawner.leases.asks import BadAsk
from respawner_spawner.leases.model import Ask, Device, Kind, Rules, State
from respawner_spawner.leases.policy import decide

ADA, BOB, EVE = (Session(f"test/{name}/", name) for name in ("ada", "bob", "eve"))
ONE, MEANWHILE = {"gpus": 1}, {"gpus": 1, "cpu_meanwhile": True}


@pytest.fixture
def desk(ledger):
    ledger.heartbeat("gpu-a", [Device("GPU-0", "gpu-a", "STAND-IN A100", 80 << 30)])
    return Desk(ledger, Policy(Rules()), idle.Rules(3600, 1, 1800), max_gpus=2, default_gpus=0)


def test_cpu_now_gpu_when_free_is_a_wish_of_its_own(desk):
    assert desk.ask(ADA, ONE) is None
    assert desk.ask(BOB, MEANWHILE) is None, "it starts without a GPU"
    assert desk.ask(BOB, ONE).state is State.QUEUED, "now it waits for the GPU"
    assert desk.ask(BOB, MEANWHILE) is None
    assert desk.standing(BOB.holder).request.cpu_meanwhile


@pytest.mark.parametrize("remembered", [MEANWHILE, {}, {"gpus": 9}])
def test_who_ran_without_a_gpu_goes_on_so_when_nothing_is_asked_for_any_more(desk, remembered):
    """Its request was given up, or the settings have changed since it started."""
    desk.ask(ADA, ONE)
    desk.default_gpus = 1
    with pytest.raises(BadAsk):
        desk.ask(BOB, None, remembered, only_granted=True)
    assert desk.ask(BOB, None, remembered, only_granted=True, without_gpu=True) is None
    assert desk.standing(BOB.holder) is None
    desk.ask(BOB, ONE)
    assert desk.ask(BOB, None, only_granted=True, without_gpu=True).state is State.QUEUED, (
        "its user's last word"
    )


def test_a_choice_that_cannot_be_does_not_cost_the_place_in_the_queue(desk):
    desk.ask(ADA, ONE)
    waiting = desk.ask(BOB, ONE)
    with pytest.raises(BadAsk, match="cannot be granted"):
        desk.ask(BOB, {"gpus": 2})
    assert desk.standing(BOB.holder).request == waiting.request


def test_a_grant_is_kept_whatever_should_happen_while_it_waited(desk):
    desk.ask(ADA, ONE)
    granted = desk.standing(ADA.holder)
    assert desk.ask(ADA, MEANWHILE) is None
    assert desk.standing(ADA.holder).lease.fence == granted.lease.fence


def test_a_stop_ends_whatever_would_bring_the_session_back(desk):
    desk.ask(ADA, ONE)
    desk.ledger.stop_wanted(ADA.holder, "user:ada")
    assert desk.standing(ADA.holder) is None, "granted, and its start was interrupted"
    desk.ask(ADA, ONE)
    desk.ledger.claim(ADA.holder)
    desk.ledger.begin_suspend(ADA.holder, "preempted", Ask(Kind.GPU))
    desk.ledger.stop_wanted(ADA.holder, "user:ada")
    assert desk.ledger.release(ADA.holder).end_reason == "released"
    assert desk.standing(ADA.holder) is None
    desk.ledger.stop_wanted(ADA.holder, "user:ada")


def test_what_was_given_up_is_not_asked_for_again_by_the_scheduler(desk):
    with pytest.raises(BadAsk, match="given up meanwhile"):
        desk.ask(ADA, None, ONE, only_granted=True)
    assert desk.standing(ADA.holder) is None
    assert desk.ask(ADA, None, {"gpus": 0}, only_granted=True) is None, "it was moved to the CPU"
    desk.ask(ADA, ONE)
    assert desk.ask(ADA, None, ONE, only_granted=True) is None


def test_an_admin_who_assigns_to_somebody_who_waits_already_puts_them_first(desk):
    for session in (ADA, BOB, EVE):
        desk.ask(session, ONE)
    assert desk.standing(EVE.holder).wait.position == 2
    assert desk.ask(EVE, ONE, by="user:boss").wait.position == 1


FIXED = {"gpus": 1, "preemptible": "false"}


def allowed(desk, *subjects: str):
    return Desk(
        desk.ledger,
        dataclasses.replace(desk.policy, non_preemptible=subjects),
        desk.idle_rules,
        max_gpus=2,
        default_gpus=0,
    )


@pytest.mark.parametrize("who", ["user:ada", "group:ml", "everyone"])
def test_whom_the_admin_allows_it_starts_a_session_that_is_never_suspended_for_others(desk, who):
    desk = allowed(desk, who)
    assert desk.ask(dataclasses.replace(ADA, groups=["ml"]), FIXED) is None
    assert not desk.standing(ADA.holder).lease.preemptible


def test_nobody_else_does_unless_an_admin_assigns_it(desk):
    with pytest.raises(BadAsk, match="preemptible = false: you may not"):
        allowed(desk, "user:bob", "group:ml").ask(ADA, FIXED)
    assert desk.standing(ADA.holder) is None
    assert desk.ask(ADA, FIXED, by="user:boss") is None
    assert not desk.standing(ADA.holder).lease.preemptible


def test_a_right_that_is_gone_does_not_keep_a_session_from_starting(desk):
    assert desk.ask(ADA, None, remembered=FIXED) is None
    assert desk.standing(ADA.holder).lease.preemptible


def test_another_choice_about_preemption_is_another_wish(desk):
    desk = allowed(desk, "everyone")
    desk.ask(ADA, ONE)
    assert desk.ask(BOB, ONE).request.preemptible
    assert not desk.ask(BOB, FIXED).request.preemptible


def test_turns_take_nothing_from_a_session_that_is_not_preemptible(desk):
    """The same two sessions with and without: the policy, the ledger and the desk together."""
    desk = allowed(desk, "everyone")
    rules = Rules(preempt=True, min_run_seconds=60, slice_seconds=60)
    for options, victims in ((ONE, 1), (FIXED, 0)):
        desk.ask(ADA, options)
        desk.ledger.claim(ADA.holder)
        desk.ask(BOB, ONE)
        now = desk.ledger.clock()
        assert len(decide(see(desk.ledger, Policy(rules), now), now + 3600).suspensions) == victims
        desk.ledger.release(ADA.holder)
        desk.cancel(BOB.holder, "user:bob")
