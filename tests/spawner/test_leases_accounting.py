"""GPU-hours and waiting times, from the books of both databases."""

import datetime as dt
import json

import pytest
from respawner_spawner.leases import accounting
from respawner_spawner.leases.accounting import By, Held, Hours
from respawner_spawner.leases.model import Decision, Device, Grant, Kind
from respawner_spawner.leases.records import Use

from tests.spawner.ledgers import GIB, grant, holder, run, share, submit

ALICE, BOB = holder("alice"), holder("bob")
MIDNIGHT = dt.datetime(2026, 11, 25, tzinfo=dt.UTC).timestamp()
HOUR = 3600.0


def test_a_lease_across_midnight_counts_on_both_days(ledger, clock):
    clock.now = MIDNIGHT - 2 * HOUR
    run(ledger, "alice", "GPU-a", "GPU-b")
    clock.now = MIDNIGHT + HOUR
    ledger.release(ALICE)
    assert accounting.hours(ledger, 0, clock.now) == [
        Hours("alice", "", "", "2026-11-24", held_hours=4),
        Hours("alice", "", "", "2026-11-25", held_hours=2),
    ]
    assert accounting.hours(ledger, MIDNIGHT, clock.now, [By.GPU]) == [
        Hours(gpu="GPU-a", held_hours=1),
        Hours(gpu="GPU-b", held_hours=1),
    ]
    assert accounting.hours(ledger, 0, MIDNIGHT - 2 * HOUR) == []


def test_a_lease_that_stands_counts_until_now(ledger, clock):
    clock.now = MIDNIGHT
    run(ledger, "alice", "GPU-a")
    clock.now += HOUR
    assert accounting.hours(ledger, MIDNIGHT, MIDNIGHT + 100 * HOUR, []) == [Hours(held_hours=1)]


def test_used_is_utilisation_over_time_and_split_at_midnight(ledger, clock):
    clock.now = MIDNIGHT - 60
    run(ledger, "alice", "GPU-a")
    for utilisation in (1.0, 0.5, 0.0):
        clock.now += 40
        ledger.note_use([Use(ALICE, "GPU-a", utilisation)])
    clock.now = MIDNIGHT + HOUR
    before, after = accounting.hours(ledger, 0, clock.now, [By.DAY])
    assert before.used_hours == round((40 + 20 * 0.5) / HOUR, 4)
    assert after.used_hours == round(20 * 0.5 / HOUR, 4)
    assert (before.sampled_hours, after.sampled_hours) == (round(60 / HOUR, 4), round(60 / HOUR, 4))


def test_what_nobody_saw_is_held_and_not_used(ledger, clock):
    clock.now = MIDNIGHT
    run(ledger, "alice", "GPU-a")
    clock.now += HOUR
    ledger.note_use([Use(ALICE, "GPU-a", 1.0)])
    assert accounting.hours(ledger, MIDNIGHT, clock.now, []) == [
        Hours(held_hours=1, used_hours=round(120 / HOUR, 4), sampled_hours=round(120 / HOUR, 4))
    ]


def test_readings_at_the_same_moment_count_once(ledger, clock):
    clock.now = MIDNIGHT
    run(ledger, "alice", "GPU-a")
    clock.now += 60
    for _ in range(3):
        ledger.note_use([Use(ALICE, "GPU-a", 1.0)])
    (row,) = accounting.hours(ledger, MIDNIGHT, clock.now, [])
    assert row.sampled_hours == round(60 / HOUR, 4)


def test_shares_and_mig_devices_count_their_part(ledger, clock):
    clock.now = MIDNIGHT
    migs = [Device(f"MIG-{n}", "host-a", "H100", 20 * GIB, Kind.MIG, "GPU-b", "2g.20gb") for n in range(4)]
    ledger.heartbeat("host-a", [Device("GPU-a", "host-a", "H100", 80 * GIB), *migs])
    ledger.share("GPU-a", 80 * GIB, "user:root")
    run(ledger, "alice", "GPU-a", ask=share(8))
    run(ledger, "bob", "MIG-0")
    clock.now += HOUR
    assert [row.held_hours for row in accounting.hours(ledger, 0, clock.now, [By.USER])] == [0.1, 0.25]


def test_each_group_of_a_user_gets_the_hours():
    held = [
        Held("alice", ("a", "b"), "GPU-a", "2026-11-25", HOUR, busy_seconds=HOUR / 2),
        Held("bob", ("b",), "GPU-b", "2026-11-25", HOUR),
        Held("carol", (), "GPU-c", "2026-11-25", HOUR),
    ]
    assert accounting.add_up(held, [By.GROUP]) == [
        Hours(group="", held_hours=1),
        Hours(group="a", held_hours=1, used_hours=0.5),
        Hours(group="b", held_hours=2, used_hours=0.5),
    ]
    assert accounting.add_up(held, []) == [Hours(held_hours=3, used_hours=0.5)]


def test_waiting_times_of_everybody_and_each_group(ledger, clock):
    clock.now = MIDNIGHT
    for n in range(20):
        request = submit(ledger, f"user{n}", groups=["a"] if n < 10 else [])
        clock.now += n
        ledger.apply(Decision((Grant(request.id, (f"GPU-{n}",)),)))
        clock.now -= n
    all_of_them, group = accounting.waits(ledger, MIDNIGHT, MIDNIGHT + HOUR)
    assert (all_of_them.group, all_of_them.requests) == ("", 20)
    assert (all_of_them.p50_seconds, all_of_them.p95_seconds, all_of_them.longest_seconds) == (9, 18, 19)
    assert (group.group, group.requests, group.p95_seconds) == ("a", 10, 9)
    assert accounting.waits(ledger, MIDNIGHT + HOUR, MIDNIGHT + 2 * HOUR) == []


@pytest.mark.parametrize(("percent", "expected"), [(50, 2), (75, 3), (95, 4), (100, 4), (1, 1)])
def test_percentiles_are_of_the_nearest_rank(percent, expected):
    assert accounting.percentile([4, 1, 3, 2], percent) == expected


def test_rows_as_json_and_csv(ledger, clock):
    clock.now = MIDNIGHT
    assert grant(ledger, "=cmd|calc", "GPU-a")
    clock.now += HOUR
    rows = accounting.hours(ledger, 0, clock.now)
    assert json.loads(accounting.as_json(rows))[0]["user"] == "=cmd|calc"
    assert accounting.as_csv(rows) == (
        "user,group,gpu,day,held_hours,used_hours,sampled_hours\n'=cmd|calc,,,2026-11-25,1.0,0.0,0.0\n"
    )
    assert accounting.as_csv([]) == ""
