"""The section [cluster]: where the hub finds hosts, and where sessions find the hub."""

import pytest
from docker.errors import APIError
from respawner_hub import agent, gateway
from respawner_hub.engines import engine_of, engines_of
from respawner_hub.hub_config import configure
from respawner_hub.settings import load
from traitlets.config import Config

TEXT = """
[cluster]
hub_address = "10.89.255.250"
tls_dir = "tls"
hosts = { gpu1 = "10.0.0.11", gpu2 = "10.0.0.12" }
"""


@pytest.fixture
def settings(tmp_path):
    file = tmp_path / "respawner.toml"
    file.write_text(TEXT)
    return load(file)


def test_every_host_has_an_agent_behind_tls(settings):
    assert [client.url for client in agent.clients(settings)] == [
        "https://10.0.0.11:8082",
        "https://10.0.0.12:8082",
    ]


def test_sessions_reach_the_hub_on_the_overlay(settings):
    assert gateway.remembered(settings) == "10.89.255.250"


def test_the_spawner_knows_the_hosts_and_volumes_are_shared_folders(settings):
    c = Config()
    configure(c, settings)
    assert c.GPUDockerSpawner.hosts == {"gpu1": "tcp://10.0.0.11:2376", "gpu2": "tcp://10.0.0.12:2376"}
    assert c.GPUDockerSpawner.home_volume == "/srv/respawner/{username}/home"
    assert c.JupyterHub.hub_connect_url == "http://10.89.255.250:8081"


def test_one_machine_has_one_engine(tmp_path):
    (tmp_path / "respawner.toml").write_text("")
    assert [engine.host for engine in engines_of(load(tmp_path / "respawner.toml")).values()] == [
        "unix:///var/run/docker.sock"
    ]


class Answers:
    """An engine that lists these holders, or fails."""

    def __init__(self, *holders: str, error: Exception | None = None) -> None:
        self.holders, self.error = holders, error

    async def call(self, method: str, filters: dict[str, str]) -> list[dict[str, str]]:
        if self.error:
            raise self.error
        return [{"Id": "c1"} for holder in self.holders if filters["label"].endswith(f"={holder}")]


async def test_the_engine_of_a_session_is_the_one_that_runs_it():
    engines = {"gpu1": Answers(error=APIError("away")), "gpu2": Answers("team/ada/"), "gpu3": Answers()}
    assert await engine_of(engines, "team/ada/") is engines["gpu2"]
