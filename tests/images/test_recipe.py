"""The recipe's hash changes with whatever changes the image, and with nothing else."""

from importlib.metadata import version

import pytest
from respawner_hub.images import NotACheckoutError, project_root
from respawner_hub.images.build import environment_name
from respawner_hub.images.recipe import choose_torch, parse_lines, read_recipe

from .tiny_wheels import ROOT


def digest(checkout, torch="cpu", base=None):
    return read_recipe(checkout / "images", torch, base).digest


def test_same_files_and_choices_give_the_same_digest(checkout):
    assert digest(checkout) == digest(checkout)


@pytest.mark.parametrize(
    "name",
    [
        "base/packages.txt",
        "notebook/Dockerfile",
        "notebook/overrides.json",
        "notebook/requirements/torch.txt",
        "notebook/requirements/scientific.txt",
        "notebook/requirements/jupyter.txt",
    ],
)
def test_a_change_of_any_file_of_the_recipe_changes_the_digest(checkout, name):
    before = digest(checkout)
    file = checkout / "images" / name
    file.write_text(file.read_text() + "\n")
    assert digest(checkout) != before


def test_choices_change_the_digest(checkout):
    assert len({digest(checkout), digest(checkout, torch="cuda"), digest(checkout, base="mine:1")}) == 3


def test_a_change_of_the_readme_builds_nothing(checkout):
    before = digest(checkout)
    (checkout / "images" / "README.md").write_text("other words")
    assert digest(checkout) == before


def test_the_image_gets_the_hubs_own_jupyterhub(checkout):
    jupyter = read_recipe(checkout / "images", "cpu", None).requirements("jupyter")
    assert f"jupyterhub=={version('jupyterhub')}" in jupyter


def test_auto_takes_cuda_only_where_the_driver_is_loaded(tmp_path):
    driver = tmp_path / "version"
    assert choose_torch("auto", driver) == "cpu"
    driver.write_text("NVRM version: …")
    assert choose_torch("auto", driver) == "cuda"
    assert choose_torch("2.13.0", driver) == "2.13.0"


def test_comments_and_empty_lines_are_no_entries():
    assert parse_lines("# words\n\n git \nless # pager\n") == ["git", "less"]


def test_environment_name_ignores_build_and_patch_level():
    assert environment_name("3.11", "2.13.0+cpu") == environment_name("3.11", "2.13.1") == "py3.11-torch2.13"


def test_packages_stand_in_one_list_only():
    """debootstrap and the Dockerfile both read packages.txt; the Dockerfile names no package itself."""
    recipe = read_recipe(ROOT / "images", "cpu", None)
    dockerfile = recipe.files["notebook/Dockerfile"]
    assert "source=packages.txt" in dockerfile
    installs = [line for line in dockerfile.splitlines() if "apt-get install" in line]
    assert [line.split()[-1] for line in installs] == ["\\"]
    assert [line.split()[-2] for line in installs] == ["$missing;"]
    assert {"python3", "python3-pip", "tini", "git"} <= set(recipe.packages)


def test_a_folder_that_is_no_checkout_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RESPAWNER_ROOT", str(tmp_path))
    with pytest.raises(NotACheckoutError, match=str(tmp_path)):
        project_root()
