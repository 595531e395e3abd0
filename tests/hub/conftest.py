import pytest
from respawner_spawner.leases.ledger import Ledger

from tests.spawner.ledgers import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path, clock):
    """An empty one. Modules put their hosts into it."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", clock)
    yield ledger
    ledger.close()
