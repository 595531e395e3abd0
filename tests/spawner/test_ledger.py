import threading

import pytest
from respawner_spawner.ledger import Ledger, NotEnoughGpus
from sqlalchemy.exc import IntegrityError

GPUS = ["GPU-a", "GPU-b", "GPU-c"]


@pytest.fixture
def ledger(tmp_path):
    return Ledger(f"sqlite:///{tmp_path / 'leases.sqlite'}")


def holders(ledger):
    return {lease.uuid: lease.holder for lease in ledger.leases()}


def test_a_device_is_granted_to_one_holder_only(ledger):
    assert ledger.acquire("alice", 2, GPUS) == ["GPU-a", "GPU-b"]
    assert ledger.acquire("bob", 1, GPUS) == ["GPU-c"]
    assert holders(ledger) == {"GPU-a": "alice", "GPU-b": "alice", "GPU-c": "bob"}


def test_too_few_free_devices_change_nothing(ledger):
    ledger.acquire("alice", 1, GPUS)
    ledger.acquire("bob", 1, GPUS)
    with pytest.raises(NotEnoughGpus, match=r"3 GPU\(s\) asked for, 2 of 3 free"):
        ledger.acquire("bob", 3, GPUS)
    assert holders(ledger) == {"GPU-a": "alice", "GPU-b": "bob"}


def test_acquiring_again_replaces_the_own_lease(ledger):
    ledger.acquire("alice", 3, GPUS)
    assert ledger.acquire("alice", 1, GPUS) == ["GPU-a"]
    assert holders(ledger) == {"GPU-a": "alice"}


def test_release_frees_devices_and_may_be_repeated(ledger):
    ledger.acquire("alice", 2, GPUS)
    assert sorted(ledger.release("alice")) == ["GPU-a", "GPU-b"]
    assert ledger.release("alice") == []
    assert ledger.acquire("bob", 3, GPUS) == GPUS


def test_what_a_living_container_is_labelled_with_is_not_handed_out(ledger):
    """The database was lost or restored from a backup; the containers still say who has what."""
    assert ledger.acquire("bob", 2, GPUS, labelled={"GPU-a": "alice"}) == ["GPU-b", "GPU-c"]
    assert ledger.acquire("alice", 1, GPUS, labelled={"GPU-a": "alice"}) == ["GPU-a"]


def test_adopted_devices_are_written_down_once(ledger):
    ledger.adopt("alice", ["GPU-a"])
    ledger.adopt("alice", ["GPU-a", "GPU-b"])
    assert holders(ledger) == {"GPU-a": "alice", "GPU-b": "alice"}
    with pytest.raises(IntegrityError):
        ledger.adopt("bob", ["GPU-b"])


def test_leases_outlive_the_process(tmp_path):
    url = f"sqlite:///{tmp_path / 'leases.sqlite'}"
    Ledger(url).acquire("alice", 1, GPUS)
    assert holders(Ledger(url)) == {"GPU-a": "alice"}


def test_simultaneous_requests_get_distinct_devices(tmp_path):
    devices = [f"GPU-{number}" for number in range(16)]
    url = f"sqlite:///{tmp_path / 'leases.sqlite'}"
    Ledger(url)
    granted, barrier = [], threading.Barrier(16)

    def ask(number):
        own = Ledger(url)  # a connection of its own, like another process
        barrier.wait()
        granted.extend(own.acquire(f"user-{number}", 1, devices))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(granted) == sorted(devices)
