"""Wheels are resolved by the real pip, once, layer by layer."""

import io
import platform
import re
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from respawner_hub.images import WheelsError
from respawner_hub.images.closure import open_requirements
from respawner_hub.images.recipe import lock_name, read_recipe
from respawner_hub.images.wheelhouse import ensure_wheels, file_hash, torch_requirement, write_locks

from .tiny_wheels import make_wheel


@pytest.fixture
def fill(checkout, index, tmp_path):
    """Call `ensure_wheels` as the build does; what it logs is in `fill.said`."""

    def fill(torch="cpu", before_cuda=lambda: None, image=None):
        recipe = read_recipe(checkout / "images", torch, None, image)
        return ensure_wheels(
            recipe, tmp_path / "wheels", tmp_path / "build.log", fill.said.append, before_cuda
        )

    fill.said = []
    return fill


def names(wheelhouse, layer):
    return [re.sub(r"-py3.*", "", wheel.name) for wheel in wheelhouse.wheels(layer)]


def test_each_layer_holds_what_the_lower_ones_do_not(fill):
    wheels = fill()
    assert names(wheels, "torch") == ["shared-1.0", "torch-2.0.0+cpu"]
    assert names(wheels, "scientific") == ["arrays-1.0", "frames-1.0"]
    assert [name.split("-")[0] for name in names(wheels, "jupyter")] == ["jupyterhub", "kernel", "lab"]
    assert wheels.torch_version == "2.0.0+cpu"


def test_second_call_asks_pip_nothing(fill, index):
    fill()
    for wheel in index.iterdir():
        wheel.unlink()
    assert fill().resolved is False


def test_new_jupyter_requirement_leaves_the_lower_layers_alone(fill, checkout, index):
    before = {
        wheel: wheel.stat().st_ino for layer in ("torch", "scientific") for wheel in fill().wheels(layer)
    }
    make_wheel(index, "shared", "2.0")  # newer, and not taken: torch's layer stands
    (checkout / "images/notebook/requirements/jupyter.txt").write_text("lab<2\n")
    after = fill()
    assert after.resolved
    assert "lab-1.0" in names(after, "jupyter")
    assert {
        wheel: wheel.stat().st_ino for layer in ("torch", "scientific") for wheel in after.wheels(layer)
    } == before


def test_changed_torch_resolves_every_layer_again(fill, checkout, index):
    fill()
    make_wheel(index, "torch", "2.1.0+cpu", ["shared"])
    table = checkout / "images/versions.toml"
    table.write_text(table.read_text().replace("2.0.0", "2.1.0"))
    assert names(fill(), "torch") == ["shared-1.0", "torch-2.1.0+cpu"]


def test_interrupted_download_is_no_layer(fill, tmp_path):
    fill()
    leftover = tmp_path / "wheels" / ".jupyter.tmp"
    (tmp_path / "wheels" / "jupyter").rename(leftover)
    (leftover / "half-1.0-py3-none-any.whl").write_bytes(b"")
    wheels = fill()
    assert wheels.resolved
    assert "half-1.0" not in names(wheels, "jupyter")
    assert not leftover.exists()


def test_truncated_wheel_is_downloaded_again(fill):
    wheel = fill().wheels("scientific")[0]
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:10])
    assert fill().wheels("scientific")[0].read_bytes() == whole


def test_cuda_build_is_taken_with_a_warning_where_there_is_no_cpu_build(fill, index):
    for wheel in index.glob("torch-*+cpu-*"):
        wheel.unlink()
    asked = []
    wheels = fill("cpu", before_cuda=lambda: asked.append("room?"))
    assert wheels.torch_version == "2.0.0"
    assert asked == ["room?"]
    assert any("3 GB" in line and "pip config set" in line for line in fill.said)


def test_cuda_never_takes_the_cpu_build(fill):
    assert fill("cuda").torch_version == "2.0.0"


def test_cuda_libraries_and_tools_have_folders_of_their_own_and_unused_ones_are_empty(fill, tmp_path):
    wheels = fill("auto", image="respawner/pytorch-cuda:2")
    assert names(wheels, "nvidia") == ["nvidia_blas-12.6"]
    assert names(wheels, "torch") == ["shared-1.0", "torch-2.0.0"]
    assert names(wheels, "tools") == ["dashboard-1.0"]
    assert fill("auto", image="respawner/pytorch-cuda:2").resolved is False
    wheels = fill("cpu")
    assert (names(wheels, "nvidia"), names(wheels, "tools")) == ([], [])
    assert (tmp_path / "wheels" / "tools").is_dir()


def test_nvcc_is_of_the_release_of_torchs_cuda_whatever_is_newer(fill):
    wheels = fill("auto", image="respawner/pytorch-cuda:3-devel")
    assert names(wheels, "nvidia") == ["cuda_toolkit-13.0.3"]
    assert names(wheels, "devel") == ["ninja-1.13", "nvidia_cuda_nvcc-13.0.3"]


def test_pins_hold_in_every_layer(fill, checkout):
    table = checkout / "images/versions.toml"
    table.write_text(
        table.read_text().replace('["respawner/pytorch', 'pins = ["lab<2"]\n\n["respawner/pytorch')
    )
    assert "lab-1.0" in names(fill(), "jupyter")


def locked(fill, checkout, image="respawner/pytorch-cuda:2"):
    """Fill, write the locks, and throw the wheels away."""
    recipe = read_recipe(checkout / "images", "auto", None, image)
    wheels = fill("auto", image=image)
    files = write_locks(recipe, wheels, checkout / "images" / Path(lock_name(image, "x")).parent, image)
    shutil.rmtree(wheels.folder)
    return files


def test_locked_layers_get_the_same_wheels_whatever_is_newer(fill, checkout, index):
    files = locked(fill, checkout)
    assert [file.name for file in files] == ["torch.txt", "scientific.txt", "jupyter.txt", "tools.txt"]
    assert re.search(r"^lab===2\.0 --hash=sha256:[0-9a-f]{64}$", files[2].read_text(), re.MULTILINE)
    make_wheel(index, "lab", "3.0", ["shared", "kernel"])
    wheels = fill("auto", image="respawner/pytorch-cuda:2")
    assert "lab-2.0" in names(wheels, "jupyter")
    assert names(wheels, "nvidia") == ["nvidia_blas-12.6"]


def test_wheel_that_is_not_the_locked_one_is_refused(fill, checkout, index):
    locked(fill, checkout)
    make_wheel(index, "dashboard", "1.0", ["shared", "lab", "kernel"])
    with pytest.raises(WheelsError, match=r"hash[\s\S]*another file than the one that was locked"):
        fill("auto", image="respawner/pytorch-cuda:2")


def test_lock_of_other_requirements_is_told_and_not_used(fill, checkout, index):
    locked(fill, checkout)
    (checkout / "images/notebook/requirements/tools.txt").write_text("dashboard>=2\n")
    make_wheel(index, "dashboard", "2.0")
    assert names(fill("auto", image="respawner/pytorch-cuda:2"), "tools") == ["dashboard-2.0"]
    [line] = [line for line in fill.said if "lock" in line]
    assert "layer tools is for other requirements" in line


def source(folder, name, version, setup=""):
    """A source distribution that needs no network to be built, and its hash."""
    content = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND.format(name=name, version=version, tag=setup or "py3-none-any"),
    }
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file, text in content.items():
            member = tarfile.TarInfo(f"{name}-{version}/{file}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return f"{name}=={version} --hash=sha256:{file_hash(path)}"


BACKEND = """
import zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    info = "{name}-{version}.dist-info"
    name = "{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as archive:
        archive.writestr("{name}.py", "")
        archive.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        archive.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: {tag}\\n")
        archive.writestr(info + "/RECORD", "")
    return name
"""


def test_what_has_no_wheel_is_built_here_and_not_locked_as_a_wheel(fill, checkout, index):
    make_wheel(index, "dashboard", "2.0", ["parser"])
    line = source(index, "parser", "4.9")
    (checkout / "images/notebook/requirements/tools.source.txt").write_text(line + "\n")
    files = locked(fill, checkout)
    assert "parser" not in files[-1].read_text()
    assert names(fill("auto", image="respawner/pytorch-cuda:2"), "tools") == ["dashboard-2.0", "parser-4.9"]


def test_source_that_compiles_is_refused(fill, checkout, index):
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}-abi3-linux_{platform.machine()}"
    line = source(index, "parser", "4.9", tag)
    (checkout / "images/notebook/requirements/tools.source.txt").write_text(line + "\n")
    with pytest.raises(WheelsError, match=r"compiled for this machine.*tools\.source\.txt"):
        fill("auto", image="respawner/pytorch-cuda:2")


def test_no_room_for_cuda_stops_before_the_download(fill, tmp_path):
    def no_room():
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        fill("cuda", before_cuda=no_room)
    assert not list((tmp_path / "wheels").glob("**/torch*.whl"))


def test_missing_package_is_named_with_pips_words_and_the_next_step(fill, checkout):
    (checkout / "images/notebook/requirements/scientific.txt").write_text("nobody-has-this\n")
    with pytest.raises(
        WheelsError, match=r"No matching distribution found for nobody-has-this[\s\S]*pip config list"
    ):
        fill()


def test_what_only_the_images_python_needs_is_found(fill, index):
    """pip evaluates markers for the Python that runs it: here never this one's version."""
    make_wheel(index, "kernel", "1.1", ['backport; python_full_version == "3.11.2"'])
    make_wheel(index, "backport", "1.0")
    assert "backport-1.0" in names(fill(), "jupyter")


def test_extras_and_markers_are_followed_as_the_image_sees_them(tmp_path):
    wheels = [
        make_wheel(tmp_path, "top", "1.0", ["mid[fast]", 'old; python_version < "3.11"']),
        make_wheel(tmp_path, "mid", "1.0", ['speed>=2; extra == "fast"', 'docs; extra == "doc"']),
    ]
    assert open_requirements(["top"], wheels, "3.11.2") == ["speed>=2"]
    assert open_requirements(["top"], wheels, "3.10.1") == ["old", "speed>=2"]


@pytest.mark.parametrize(
    ("choice", "asked"),
    [
        ("cpu", ("torch==2.13.0+cpu", "torch===2.13.0")),
        ("cuda", ("torch===2.13.0", None)),
        ("2.12.1", ("torch==2.12.1", None)),
    ],
)
def test_what_pip_is_asked_for(choice, asked):
    assert torch_requirement(choice, "torch==2.13.0") == asked
