"""Throttling, with a clock that the tests turn."""

import pytest
from respawner_hub.auth.throttle import (
    ADDRESS,
    FORGET_SECONDS,
    NAME,
    NAME_AT_ADDRESS,
    Throttle,
    wait_message,
)

HERE, ELSEWHERE = "192.0.2.1", "198.51.100.7"


@pytest.fixture
def throttle(clock):
    return Throttle(clock)


def fail_until_refused(throttle, name="alice", address=HERE) -> tuple[int, float]:
    """How many attempts were admitted, and the wait after them."""
    for admitted in range(1000):
        wait = throttle.admit(name, address)
        if wait:
            return admitted, wait
    raise AssertionError("never refused")


def test_some_attempts_are_free_then_the_wait_doubles_up_to_its_longest(throttle, clock):
    admitted, wait = fail_until_refused(throttle)
    assert admitted == NAME_AT_ADDRESS.free + 1
    waits = [wait]
    for _ in range(12):
        clock.now += waits[-1]
        assert throttle.admit("alice", HERE) == 0
        waits.append(throttle.admit("alice", HERE))
    assert waits[:5] == [2, 4, 8, 16, 32]
    assert waits[-1] == NAME_AT_ADDRESS.longest_seconds == 180


def test_refused_attempt_does_not_lengthen_the_wait(throttle, clock):
    _, wait = fail_until_refused(throttle)
    clock.now += wait / 2
    for _ in range(50):
        assert throttle.admit("alice", HERE) == wait / 2
    clock.now += wait / 2
    assert throttle.admit("alice", HERE) == 0


def test_success_resets_the_name(throttle):
    for _ in range(NAME_AT_ADDRESS.free):
        assert throttle.admit("alice", HERE) == 0
    throttle.succeeded("alice", HERE)
    assert fail_until_refused(throttle)[0] == NAME_AT_ADDRESS.free + 1


def test_parallel_attempts_are_counted_before_they_are_checked(throttle):
    """None of them has been told to have failed yet."""
    waits = [throttle.admit("alice", HERE) for _ in range(100)]
    assert waits.count(0) == NAME_AT_ADDRESS.free + 1


def test_address_that_tries_many_names_waits(throttle):
    waits = [throttle.admit(f"user{number}", HERE) for number in range(100)]
    assert waits.count(0) == ADDRESS.free + 1


def test_attacker_cannot_clear_an_address_with_an_account_of_his_own(throttle):
    admitted = 0
    for number in range(100):
        admitted += throttle.admit(f"user{number}", HERE) == 0
        if throttle.admit("mallory", HERE) == 0:
            throttle.succeeded("mallory", HERE)
    assert admitted == ADDRESS.free + 1


def test_name_attacked_from_many_addresses_waits(throttle):
    waits = [throttle.admit("alice", f"10.0.{number}.1") for number in range(100)]
    assert waits.count(0) == NAME.free + 1


def test_user_logs_in_from_a_known_address_while_the_name_is_attacked(throttle, clock):
    assert throttle.admit("alice", HERE) == 0
    throttle.succeeded("alice", HERE)
    for number in range(200):
        throttle.admit("alice", f"10.0.{number}.1")
        clock.now += 1
    assert throttle.admit("alice", ELSEWHERE) > 0
    assert throttle.admit("alice", HERE) == 0


def test_colleague_logs_in_while_somebody_guesses_at_the_same_address(throttle):
    throttle.admit("alice", HERE)
    throttle.succeeded("alice", HERE)
    for number in range(100):
        throttle.admit(f"user{number}", HERE)
    assert throttle.admit("bob", HERE) > 0
    assert throttle.admit("alice", HERE) == 0


def test_known_address_is_no_free_pass_for_guessing(throttle):
    throttle.admit("alice", HERE)
    throttle.succeeded("alice", HERE)
    assert fail_until_refused(throttle)[0] == NAME_AT_ADDRESS.free + 1


def test_attacked_name_waits_no_longer_than_a_minute_from_a_new_address(throttle, clock):
    for number in range(2000):
        throttle.admit("alice", f"10.{number // 250}.{number % 250}.1")
        clock.now += 5
    assert 0 <= throttle.admit("alice", ELSEWHERE) <= NAME.longest_seconds == 60


def test_guesses_at_one_account_from_everywhere_stay_below_100_an_hour(throttle, clock):
    admitted = 0
    end = clock.now + 10 * 3600
    number = 0
    while clock.now < end:
        number += 1
        admitted += throttle.admit("alice", f"10.{number // 250 % 250}.{number % 250}.1") == 0
        clock.now += 1
    assert admitted / 10 < 100


def test_removed_account_leaves_no_known_address(throttle):
    throttle.admit("alice", HERE)
    throttle.succeeded("alice", HERE)
    throttle.forget("alice")
    for number in range(20):
        throttle.admit("alice", f"10.0.{number}.1")
    assert throttle.admit("alice", HERE) > 0


def test_failures_are_forgotten_after_a_quiet_hour(throttle, clock):
    fail_until_refused(throttle)
    clock.now += FORGET_SECONDS + 1
    assert fail_until_refused(throttle)[0] == NAME_AT_ADDRESS.free + 1


def test_ipv6_addresses_of_one_network_are_one_attacker(throttle):
    waits = [throttle.admit(f"user{number}", f"2001:db8:0:1::{number:x}") for number in range(100)]
    assert waits.count(0) == ADDRESS.free + 1
    assert throttle.admit("user", "2001:db8:0:2::1") == 0


def test_ipv4_address_written_as_ipv6_is_the_same(throttle):
    fail_until_refused(throttle)
    assert throttle.admit("alice", f"::ffff:{HERE}") > 0


def test_memory_is_bounded(clock):
    throttle = Throttle(clock, most_entries=100)
    for number in range(5000):
        name, address = f"user{number}", f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
        if throttle.admit(name, address) == 0 and number % 2:
            throttle.succeeded(name, address)
    assert len(throttle._counters) <= 100
    assert len(throttle._known) <= 100


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 second,"),
        (1, "2 seconds,"),
        (4.4, "5 seconds,"),
        (60, "1 minute,"),
        (61, "2 minutes,"),
        (180, "3 minutes,"),
    ],
)
def test_message_says_how_long_to_wait(seconds, text):
    assert f"Wait {text}" in wait_message(seconds)
