"""Draining, without a hub: who is tried again, and when."""

from __future__ import annotations

import pytest
from respawner_hub.gpus import actions, drain, idle, views
from respawner_hub.gpus.desk import Desk
from respawner_hub.gpus.rounds import Policy
from respawner_spawner.leases.model import Rules

from tests.spawner.ledgers import gpus, holder, run

ADA, BOB = holder("ada"), holder("bob")
A, B, C = (device.uuid for device in gpus(3))


@pytest.fixture
def ledger(ledger):
    ledger.heartbeat("host-a", gpus(3))
    return ledger


@pytest.fixture
def desk(ledger):
    return Desk(ledger, Policy(Rules()), idle.Rules(3600, 1, 1800), max_gpus=2, default_gpus=0)


def fails(ledger, user: str, why: str = "a cell runs") -> None:
    assert ledger.abort_suspend(holder(user), why)


def test_who_could_not_be_suspended_is_tried_again_with_longer_and_longer_pauses(ledger, desk, clock):
    run(ledger, "ada", A)
    desk.carry_out(actions.Drain(target="host-a", reason="new fans"), "user:boss")
    waits = []
    for _ in range(8):
        clock.now += 1
        fails(ledger, "ada")
        [found] = drain.drained(ledger)
        waits.append(found.next_try - clock.now)
        clock.now = found.next_try - 1
        assert drain.suspend_due(ledger, "scheduler") == 0
        clock.now = found.next_try
        assert drain.suspend_due(ledger, "scheduler") == 1
    assert waits[0] == drain.RETRY_LEAST_SECONDS
    assert waits == sorted(waits)
    assert waits[-1] == drain.RETRY_MOST_SECONDS
    standing = ledger.request_of(ADA)
    assert standing.suspend_reason == "draining: new fans"
    assert (standing.comes_back.count, standing.comes_back.uuids) == (1, ())


def test_an_uncordoned_host_is_not_drained_any_more(ledger, desk, clock):
    run(ledger, "ada", A)
    desk.carry_out(actions.Drain(target="host-a"), "user:boss")
    fails(ledger, "ada")
    desk.carry_out(actions.Uncordon(target="host-a"), "user:boss")
    clock.now += 10 * drain.RETRY_MOST_SECONDS
    assert drain.suspend_due(ledger, "scheduler") == 0


def test_only_what_is_drained_is_tried_and_a_mere_cordon_moves_nobody(ledger, desk):
    run(ledger, "ada", A)
    run(ledger, "bob", B)
    desk.carry_out(actions.Cordon(target=A), "user:boss")
    assert drain.drained(ledger) == []
    desk.carry_out(actions.Drain(target=B), "user:boss")
    assert [s.request.holder for s in ledger.standings() if s.suspending_since] == [BOB]


def test_a_second_drain_by_the_admin_does_not_wait(ledger, desk):
    run(ledger, "ada", A)
    for _ in range(2):
        assert "suspended now: 1" in desk.carry_out(actions.Drain(target=A), "user:boss")
        fails(ledger, "ada")


def test_a_server_that_began_to_start_meanwhile_is_suspended_too(ledger, desk):
    desk.carry_out(actions.Drain(target=A), "user:boss")
    ledger.adopt(ADA, "ada", [A])  # as one that was granted before and started after
    assert drain.suspend_due(ledger, "scheduler", leave=[ADA]) == 0, "it stops anyway"
    assert drain.suspend_due(ledger, "scheduler") == 1


def test_the_admin_sees_why_and_when_next(ledger, desk, clock):
    run(ledger, "ada", A)
    desk.carry_out(actions.Drain(target=A), "user:boss")
    clock.now += 5
    fails(ledger, "ada", "notebook.ipynb: the disk is full")
    [lease] = views.view(ledger, "leases", {})
    assert lease["suspend_retry_at"] == clock.now + drain.RETRY_LEAST_SECONDS
    said = views.suspend_words(lease, clock.now)
    assert said.startswith("not suspended: notebook.ipynb: the disk is full; next try ")
    assert views.suspend_words(lease, clock.now + 3600).endswith("next try any moment")
