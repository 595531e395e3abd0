"""`respawner-hub image list`, and what `image build` and `image test` refuse; what they do is in the other files here."""

import json

import pytest
from respawner_hub.cli import image as image_cli
from respawner_hub.cli import main
from respawner_hub.images.build import recipe_of
from respawner_hub.images.docker_cli import ImageInfo
from respawner_hub.images.recipe import RECIPE_LABEL

NOTEBOOK, CUDA = "respawner/notebook:0.1.0", "respawner/pytorch-cuda:2"


class Engine:
    """Stands in for the Docker client."""

    def __init__(self):
        self.has = {}

    def check_reachable(self):
        pass

    def inspect(self, name):
        return self.has.get(name)


@pytest.fixture
def engine(monkeypatch):
    engine = Engine()
    monkeypatch.setattr(image_cli, "find_docker_cli", lambda host: engine)
    return engine


@pytest.fixture
def listed(checkout, tmp_path, capsys):
    """Call `image list` with those settings; its rows by name."""

    def listed(*arguments, settings=""):
        file = tmp_path / "respawner.toml"
        file.write_text(settings)
        assert main(["--settings", str(file), "image", "list", *arguments]) == 0
        out = capsys.readouterr().out
        return {row["name"]: row for row in json.loads(out)} if "--json" in arguments else out

    return listed


def test_list_tells_what_can_be_built_what_is_there_and_what_is_out_of_date(engine, listed):
    current = recipe_of(NOTEBOOK).digest
    engine.has[NOTEBOOK] = ImageInfo("sha256:1", 2_250_000_000, {RECIPE_LABEL: current})
    engine.has[CUDA] = ImageInfo("sha256:2", 8_000_000_000, {RECIPE_LABEL: "another"})
    rows = listed("--json")
    assert (rows[NOTEBOOK]["state"], rows[NOTEBOOK]["default"]) == ("up to date", True)
    assert (rows[CUDA]["state"], rows[CUDA]["default"]) == ("its recipe has changed since", False)
    text = listed()
    assert "2.25 GB  up to date (default)" in text
    assert "respawner/pytorch-cuda:2           2.0.0     cuda   3.11     8.00 GB" in text


def test_sessions_own_image_is_listed_also_where_it_is_not_ours(engine, listed):
    rows = listed("--json", settings='[image]\nname = "team/image:7"\n')
    assert rows["team/image:7"]["state"] == "not on the engine"
    assert rows[NOTEBOOK]["state"] == "not built"
    engine.has["team/image:7"] = ImageInfo("sha256:3", 1, {})
    assert (
        listed("--json", settings='[image]\nname = "team/image:7"\n')["team/image:7"]["state"]
        == "not ours, used as it is"
    )


def test_setting_of_torch_is_for_the_default_image_only(engine, listed):
    for name in (NOTEBOOK, CUDA):
        engine.has[name] = ImageInfo("sha256:1", 1, {RECIPE_LABEL: recipe_of(name, "2.0.0").digest})
    rows = listed("--json", settings='[image]\ntorch = "2.0.0"\n')
    assert rows[NOTEBOOK]["state"] == "up to date"
    assert rows[CUDA]["state"] == "its recipe has changed since"


def test_image_that_the_table_does_not_have_is_not_built(checkout, tmp_path, capsys):
    file = tmp_path / "respawner.toml"
    file.write_text("")
    assert main(["--settings", str(file), "image", "build", "team/image:7"]) == 1
    assert "team/image:7 is not in" in capsys.readouterr().err
