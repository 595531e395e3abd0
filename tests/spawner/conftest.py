import pytest
from respawner_hub.settings import Settings
from respawner_spawner.leases.ledger import Ledger

from tests.spawner.ledgers import Clock, database_on, in_memory, postgresql
from tests.standins import build_fake_nvml


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """Folder of the stand-in libnvidia-ml.so.1."""
    return build_fake_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def any_image() -> str:
    """An image that is on the engine of every test with the marker `docker`, with `sleep` and python3."""
    return Settings().image.name


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
