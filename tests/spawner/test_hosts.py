"""Which host a session goes to, and which host is lost."""

from collections import Counter

import pytest
from respawner_spawner.hosts import choose_host, known_host, open_hosts, silent_seconds
from respawner_spawner.leases.admin import host_target
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Device
from respawner_spawner.leases.reconcile import SILENT_ENGINE

from tests.spawner.ledgers import holder, run

HOSTS = ["gpu1", "gpu2", "gpu3"]


@pytest.fixture
def ledger(tmp_path, clock):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", clock)
    for host in HOSTS:
        ledger.heartbeat(host, [])
    return ledger


def test_sessions_without_gpus_spread_over_the_hosts():
    found = Counter(choose_host(holder(f"user{n}"), HOSTS) for n in range(300))
    assert min(found[host] for host in HOSTS) > 70


def test_a_host_that_goes_moves_only_its_own_sessions():
    for n in range(100):
        before = choose_host(holder(f"user{n}"), HOSTS)
        if before != "gpu2":
            assert choose_host(holder(f"user{n}"), ["gpu1", "gpu3"]) == before


def test_the_order_of_the_hosts_does_not_matter():
    assert choose_host(holder("ada"), HOSTS) == choose_host(holder("ada"), reversed(HOSTS))


def test_a_host_that_was_not_heard_of_while_others_were_is_silent(ledger, clock):
    clock.now += 100
    ledger.heartbeat("gpu1", [])
    ledger.heartbeat("gpu3", [])
    assert silent_seconds(ledger, HOSTS) == {"gpu2": 100.0}
    assert open_hosts(ledger, HOSTS) == ["gpu1", "gpu3"]


def test_where_nobody_has_listened_no_host_is_silent(ledger, clock):
    """The scheduler was away: that says nothing of the hosts."""
    clock.now += 100
    assert silent_seconds(ledger, HOSTS) == {}
    assert open_hosts(ledger, HOSTS) == HOSTS


def test_a_host_that_was_never_heard_of_takes_nothing(ledger):
    assert open_hosts(ledger, [*HOSTS, "gpu4"]) == HOSTS


def test_a_cordoned_host_takes_nothing(ledger):
    ledger.cordon(host_target("gpu2"), "new memory", "admin")
    assert open_hosts(ledger, HOSTS) == ["gpu1", "gpu3"]


def test_what_nobody_has_looked_at_yet_takes_sessions_without_gpus_and_a_silent_engine_none(ledger):
    ledger.cordon(
        host_target("gpu1"), "holder unknown: gpu1 has not been looked at since the hub started", "hub"
    )
    ledger.cordon(host_target("gpu3"), SILENT_ENGINE, "reconcile")
    assert open_hosts(ledger, HOSTS) == ["gpu1", "gpu2"]


def test_a_session_is_where_it_was_started_last_until_its_container_is_gone(ledger):
    first, second = (ledger.new_fence(holder("ada"), "it starts without a GPU") for _ in range(2))
    assert known_host(ledger, holder("ada")) == ""
    assert ledger.started(holder("ada"), second, "gpu2")
    assert not ledger.started(holder("ada"), first, "gpu1"), "an older one of it was only found now"
    ledger.container_gone(holder("ada"), first)
    assert known_host(ledger, holder("ada")) == "gpu2"
    ledger.container_gone(holder("ada"), second)
    assert known_host(ledger, holder("ada")) == ""
    assert ledger.newest_start(holder("ada")).fence == second


def test_a_session_with_gpus_that_started_before_starts_were_noted_is_where_its_gpus_are(ledger):
    ledger.heartbeat("gpu2", [Device("GPU-0", "gpu2", "STAND-IN A100", 80 << 30)])
    assert known_host(ledger, holder("ada")) == ""
    run(ledger, "ada", "GPU-0")
    assert known_host(ledger, holder("ada")) == "gpu2"
    ledger.release(holder("ada"))
    assert known_host(ledger, holder("ada")) == ""
