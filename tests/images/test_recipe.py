"""The recipe's hash changes with whatever changes the image, and with nothing else."""

from importlib.metadata import version

import pytest
from respawner_hub.images import NotACheckoutError, project_root
from respawner_hub.images.build import environment_name
from respawner_hub.images.errors import VersionsError
from respawner_hub.images.recipe import choose_torch, parse_lines, read_recipe
from respawner_hub.images.versions import read_versions, version_of

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
        "notebook/session-environment.sh",
        "notebook/requirements/scientific.txt",
        "notebook/requirements/jupyter.txt",
    ],
)
def test_a_change_of_any_file_of_the_recipe_changes_the_digest(checkout, name):
    before = digest(checkout)
    file = checkout / "images" / name
    file.write_text(file.read_text() + "\n")
    assert digest(checkout) != before


def test_a_rows_own_change_changes_its_digest_and_anothers_does_not(checkout):
    file = checkout / "images" / "versions.toml"
    before = digest(checkout)
    file.write_text(file.read_text() + 'pins = ["frames<9"]\n')  # of the last row
    assert digest(checkout) == before
    file.write_text(file.read_text().replace('torch = "2.0.0"', 'torch = "2.0.1"', 1))
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


def test_every_row_of_the_real_table_has_its_recipe():
    for name in read_versions(ROOT / "images"):
        recipe = read_recipe(ROOT / "images", "auto", None, name)
        assert all(recipe.requirements(layer) for layer in recipe.version.layers)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('torch = "2.7"', r"torch = '2.7'.*pattern"),
        ('build = "rocm"', r"build = 'rocm'.*'auto', 'cpu' or 'cuda'"),
        ('python = "3.12"', r"python = '3.12'.*'3.11' or '3.13'"),
        (
            'layers = ["jupyter", "torch"]',
            r"layers.*must be torch and any of scientific, jupyter, tools, devel, in this order",
        ),
        (
            'layers = ["torch", "jupyter", "devel"]',
            r"devel needs.*build = 'auto', cuda = ''.*CUDA 12 have no nvcc",
        ),
        (
            'build = "cuda"\ncuda = "12.6"\nlayers = ["torch", "jupyter", "devel"]',
            r"devel needs.*cuda = '12\.6'",
        ),
        ('layers = ["torch"]', "jupyter cannot be left out"),
        ('build = "cpu"\ncuda = "12.6"', "CPU build"),
        ("typo = 1", r"typo = 1"),
        ("=", "cannot be read"),
    ],
)
def test_wrong_row_is_told_with_its_key_and_value(tmp_path, line, told):
    torch = "" if line.startswith("torch") else 'torch = "2.7.1"\n'
    (tmp_path / "versions.toml").write_text(f'["a:1"]\n{torch}{line}\n')
    with pytest.raises(VersionsError, match=told):
        read_versions(tmp_path)


def test_image_that_is_not_in_the_table_is_told_with_those_that_are():
    with pytest.raises(VersionsError, match=r"respawner/nothing:1 is not in .*respawner/pytorch-cuda:2\.7"):
        version_of(ROOT / "images", "respawner/nothing:1")


def test_a_folder_that_is_no_checkout_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RESPAWNER_ROOT", str(tmp_path))
    with pytest.raises(NotACheckoutError, match=str(tmp_path)):
        project_root()
