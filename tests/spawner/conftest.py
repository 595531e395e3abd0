import pytest
from respawner_spawner.leases.ledger import Ledger

from tests.spawner.ledgers import Clock, database_on, in_memory, postgresql


@pytest.fixture(scope="session")
def postgresql_server():
    with postgresql() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request):
    """An empty database, of both kinds in turn."""
    if request.param == "sqlite":
        with in_memory() as folder:
            yield f"sqlite:///{folder / 'ledger.sqlite'}"
    else:
        with database_on(request.getfixturevalue("postgresql_server")) as url:
            yield url


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(database_url, clock):
    ledger = Ledger(database_url, clock)
    yield ledger
    ledger.close()
