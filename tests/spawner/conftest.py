import pytest
from respawner_hub.settings import Settings

from tests.standins import build_fake_nvml


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """Folder of the stand-in libnvidia-ml.so.1."""
    return build_fake_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def any_image() -> str:
    """An image that is on the engine of every test with the marker `docker`, with `sleep` and python3."""
    return Settings().image.name
