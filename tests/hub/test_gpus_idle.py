"""When an idle session is warned, forgiven and suspended. Times are minutes here, written as seconds."""

from dataclasses import replace

import pytest
from respawner_hub.gpus.idle import Rules, Session, Verdict, judge, judge_preemption, why_no_snooze
from respawner_spawner.leases.model import Ask, Kind, Request, State
from respawner_spawner.leases.records import Standing

RULES = Rules(idle_seconds=100, snoozes=2, snooze_seconds=50)
IDLE = Session(since=0, gpu_used=50, kernel_active=20)
WARNED = replace(IDLE, reclaim_at=160)


def test_a_session_is_left_alone_until_gpu_and_kernel_have_idled_long_enough():
    assert judge(IDLE, RULES, now=149) is Verdict.LEAVE
    assert judge(IDLE, RULES, now=150) is Verdict.WARN
    assert judge(replace(IDLE, kernel_active=149), RULES, now=150) is Verdict.LEAVE
    assert judge(replace(IDLE, since=60), RULES, now=150) is Verdict.LEAVE


def test_a_warned_session_is_suspended_after_the_time_it_was_promised():
    assert judge(WARNED, RULES, now=159) is Verdict.LEAVE
    assert judge(WARNED, RULES, now=160) is Verdict.SUSPEND


def test_work_takes_a_warning_back():
    assert judge(replace(WARNED, gpu_used=155), RULES, now=160) is Verdict.FORGIVE
    assert judge(replace(WARNED, kernel_active=155), RULES, now=160) is Verdict.FORGIVE


@pytest.mark.parametrize("cell", [True, None])
def test_a_running_cell_is_never_interrupted_unless_the_admin_says_so(cell):
    assert judge(replace(IDLE, cell_running=cell), RULES, now=1_000) is Verdict.LEAVE
    assert judge(replace(WARNED, cell_running=cell), RULES, now=1_000) is Verdict.FORGIVE
    hard = replace(RULES, interrupt_cells=True)
    assert judge(replace(WARNED, cell_running=cell), hard, now=1_000) is Verdict.SUSPEND


def test_a_snooze_puts_it_off_and_the_next_warning_comes_afterwards():
    snoozed = replace(WARNED, snoozed_until=200)
    assert judge(snoozed, RULES, now=199) is Verdict.FORGIVE
    assert judge(replace(snoozed, reclaim_at=None), RULES, now=200) is Verdict.WARN


def warned(**more):
    request = Request(1, "d/ada/", "ada", Ask(Kind.GPU), 0)
    return Standing(request, State.RUNNING, **{"reclaim_at": 160, **more})


def test_snoozes_are_limited_and_need_a_warning():
    assert why_no_snooze(warned(snoozes=1), RULES) == ""
    assert "put off 2 times already" in why_no_snooze(warned(snoozes=2), RULES)
    assert "has not been warned" in why_no_snooze(warned(reclaim_at=None), RULES)


def test_a_preemption_is_put_off_only_where_the_admin_allows_it():
    assert "Somebody waits" in why_no_snooze(warned(warned_for_others=True), RULES)
    generous = replace(RULES, can_snooze_preemption=True)
    assert why_no_snooze(warned(warned_for_others=True), generous) == ""


def test_nobody_is_idle_where_the_admin_says_so():
    assert judge(IDLE, replace(RULES, idle_seconds=0), now=1e9) is Verdict.LEAVE


def test_a_device_that_tells_no_use_leaves_the_kernels_to_tell():
    assert judge(replace(IDLE, gpu_used=None), RULES, now=120) is Verdict.WARN


def test_a_preempted_session_is_warned_also_while_it_works_and_waits_for_its_cell():
    busy = replace(IDLE, kernel_active=149, cell_running=True)
    assert judge_preemption(busy, RULES, now=150) is Verdict.WARN
    warned = replace(busy, reclaim_at=160)
    assert judge_preemption(warned, RULES, now=170) is Verdict.LEAVE
    assert judge_preemption(replace(warned, cell_running=False), RULES, now=170) is Verdict.SUSPEND


def test_a_snooze_holds_against_preemption_only_where_the_admin_allows_it():
    snoozed = replace(WARNED, snoozed_until=500)
    assert judge_preemption(snoozed, RULES, now=160) is Verdict.SUSPEND
    assert judge_preemption(snoozed, replace(RULES, can_snooze_preemption=True), now=160) is Verdict.LEAVE
