"""Images that users may choose: tested before they are offered, and offered without a restart of the hub."""

import json
import os
from types import SimpleNamespace

import pytest
import requests
from respawner_hub import hub_config
from respawner_hub.cli import image as image_cli
from respawner_hub.cli import main
from respawner_hub.images import OfferedError, fitness, offered
from respawner_hub.images.fitness import Check
from respawner_hub.settings import Settings
from respawner_spawner.engine import EngineUnreachable
from respawner_spawner.spawner import GPUDockerSpawner
from traitlets.config import Config

from .test_fitness import WITHOUT_PYTHON, derived  # noqa: F401  # a fixture

OURS, THEIRS = "respawner/notebook:0.1.0", "lab/physics:3"


def test_offered_images_are_the_default_and_those_that_were_added(tmp_path):
    assert offered.choices(tmp_path, OURS) == [OURS]
    offered.offer(tmp_path, THEIRS, {"gpu-1": "sha256:1"})
    offered.offer(tmp_path, OURS, {"gpu-1": "sha256:2"})
    offered.offer(tmp_path, THEIRS, {"gpu-1": "sha256:3"})
    assert offered.choices(tmp_path, OURS) == [OURS, THEIRS]
    assert offered.read_offered(tmp_path)[THEIRS].image_ids == {"gpu-1": "sha256:3"}
    assert offered.withdraw(tmp_path, THEIRS)
    assert not offered.withdraw(tmp_path, THEIRS)
    assert offered.choices(tmp_path, OURS) == [OURS]


@pytest.mark.parametrize(
    "text", ["{", '{"format": 2, "images": []}', '{"format": 1, "images": [{"name": 3}]}']
)
def test_a_damaged_list_is_named_with_the_next_step(tmp_path, text):
    (tmp_path / offered.FILE_NAME).write_text(text)
    with pytest.raises(OfferedError, match=r"offered-images\.json"):
        offered.read_offered(tmp_path)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """What the hub's settings make of the spawner's, before an admin's own files."""
    monkeypatch.setattr(hub_config, "ensure_bundle", lambda folder: folder)
    config = Config()
    hub_config._spawner(config, Settings.model_validate({"hub": {"state_dir": tmp_path}}))
    return config


@pytest.mark.parametrize("name", ["DockerSpawner", "GPUDockerSpawner"])
def test_an_admins_own_list_comes_instead(config, name):
    config[name].allowed_images = [THEIRS]
    spawner = GPUDockerSpawner(config=config, user=SimpleNamespace(name="ada"), hub=None)
    assert list(spawner._get_allowed_images()) == [THEIRS]


def test_the_spawner_asks_anew_each_time(config, tmp_path):
    """A hub that runs offers what was added a moment ago, and refuses what was removed."""
    spawner = GPUDockerSpawner(config=config, user=SimpleNamespace(name="ada"), hub=None)
    assert list(spawner._get_allowed_images()) == [OURS]
    offered.offer(tmp_path, THEIRS, {})
    assert list(spawner._get_allowed_images()) == [OURS, THEIRS]
    offered.withdraw(tmp_path, THEIRS)
    assert list(spawner._get_allowed_images()) == [OURS]


@pytest.fixture
def command(tmp_path):
    """Call `image …` of a deployment that has nothing yet."""
    file = tmp_path / "respawner.toml"
    file.write_text(f'[hub]\nstate_dir = "state"\n[engine]\nhost = "{os.environ["DOCKER_HOST"]}"\n')
    return lambda *arguments: main(["--settings", str(file), "image", *arguments])


@pytest.mark.docker
def test_an_image_is_offered_once_it_is_proven_fit(
    docker, user_image, command, monkeypatch, tmp_path, capsys
):
    """What proves it is in test_fitness.py; here it only says so."""
    tested = []

    def prove_fit(engine, image, state_dir, gpus, on_check):
        tested.append((image, gpus))
        return [Check("kernel", "ok", "computes"), Check("ssh", "absent", "none")]

    monkeypatch.setattr(fitness, "prove_fit", prove_fit)
    other = "respawner-test/offered:1"
    docker._ask("tag", user_image, other)
    try:
        assert command("add", other, "--gpu", "GPU-a") == 0
        assert tested == [(other, ["GPU-a"])]
        assert offered.choices(tmp_path / "state", OURS) == [OURS, other]
        capsys.readouterr()
        assert command("list", "--json") == 0
        rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
        assert rows[other]["offered"] == "offered"
        assert rows["respawner/pytorch-cuda:2.7"]["offered"] == ""
        docker._ask("tag", f"respawner/base:{base_tag(docker)}", other)
        assert command("list") == 0
        assert "(offered, but another image since its test: add it again)" in capsys.readouterr().out
        assert command("remove", other) == 0
        assert command("remove", other) == 1
        assert "respawner-test/offered:1 is not offered; there are none." in capsys.readouterr().err
        assert command("remove", OURS) == 1
    finally:
        docker._ask("image", "rm", other)


@pytest.fixture
def engines(monkeypatch):
    """Host → the stand-in for its engine, which has every image."""
    client = SimpleNamespace(inspect_image=lambda name: {"Id": "sha256:1"})
    engines = {host: SimpleNamespace(client=client, host=f"tcp://{host}:2376") for host in ("gpu-1", "gpu-2")}
    monkeypatch.setattr(image_cli, "engines_of", lambda settings: engines)
    return engines


def test_an_offered_image_that_fails_its_next_test_is_withdrawn(
    engines, command, monkeypatch, tmp_path, capsys
):
    state = "ok"
    monkeypatch.setattr(fitness, "prove_fit", lambda *arguments, **named: [Check("kernel", state, "")])
    assert command("add", THEIRS) == 0
    assert offered.choices(tmp_path / "state", OURS) == [OURS, THEIRS]
    state = "failed"
    assert command("add", THEIRS) == 1
    assert f"{THEIRS} is not offered any more: on gpu-1 it is not fit" in capsys.readouterr().err
    assert offered.choices(tmp_path / "state", OURS) == [OURS]
    assert command("add", THEIRS) == 1
    assert f"{THEIRS} is not offered: on gpu-1" in capsys.readouterr().err


@pytest.mark.parametrize("error", [EngineUnreachable("refused"), requests.ReadTimeout("refused")])
@pytest.mark.parametrize("asked", ["ensure_present", "prove_fit", "inspect"])
def test_a_host_that_is_down_is_named(engines, command, monkeypatch, tmp_path, capsys, asked, error):
    class Down:
        def __getattr__(self, name):
            raise error

    down = SimpleNamespace(client=Down(), host="tcp://gpu-2:2376")
    if asked != "ensure_present":
        monkeypatch.setattr(fitness, "ensure_present", lambda engine, name: False)
    if asked == "inspect":
        monkeypatch.setattr(fitness, "prove_fit", lambda *arguments, **named: [])
    if asked == "prove_fit":

        async def image_facts(engine, image):
            raise error

        monkeypatch.setattr(fitness, "image_facts", image_facts)
    engines.clear()
    engines["gpu-2"] = down
    assert command("add", THEIRS) == 1
    said = capsys.readouterr().err
    assert "The engine at tcp://gpu-2:2376 does not answer as it should: refused." in said
    assert offered.choices(tmp_path / "state", OURS) == [OURS]


def test_a_device_of_a_cluster_is_refused_since_nobody_would_try_it(
    engines, command, monkeypatch, tmp_path, capsys
):
    (tmp_path / "respawner.toml").write_text(
        '[hub]\nstate_dir = "state"\n[cluster]\nhosts = {gpu-1 = "10.0.0.1"}\nhub_address = "10.0.1.1"\n'
    )
    assert command("add", THEIRS, "--gpu", "GPU-a") == 1
    assert "--gpu GPU-a is for one machine" in capsys.readouterr().err
    assert offered.choices(tmp_path / "state", OURS) == [OURS]


def base_tag(docker) -> str:
    return docker._ask("image", "ls", "respawner/base", "--format", "{{.Tag}}").stdout.split()[0]


@pytest.mark.docker
def test_an_image_that_is_not_fit_or_not_there_is_not_offered(docker, derived, command, tmp_path, capsys):  # noqa: F811
    image = derived(WITHOUT_PYTHON)
    assert command("add", image) == 1
    said = capsys.readouterr()
    assert "✗ container" in said.out
    assert f"{image} is not offered: on " in said.err
    assert command("add", "respawner-test/nobody-has:1") == 1
    assert "cannot be pulled" in capsys.readouterr().err
    assert offered.choices(tmp_path / "state", OURS) == [OURS]
