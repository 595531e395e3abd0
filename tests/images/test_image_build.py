"""The real Dockerfile, built on the real engine from wheels of a few bytes."""

import secrets
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from respawner_hub.images import BuildError, ImageResult, NoBaseError, ensure_image
from respawner_hub.images.docker_cli import DockerCli

pytestmark = pytest.mark.docker


@dataclass
class Builder:
    docker: DockerCli
    base: str
    state_dir: Path
    image: str = field(default_factory=lambda: f"respawner-test/notebook:{secrets.token_hex(4)}")
    said: list[str] = field(default_factory=list)

    def ensure(self, **settings) -> ImageResult:
        self.said.clear()
        chosen = {"base": self.base, "torch": "cpu", **settings}
        return ensure_image(
            engine_host=self.docker.engine_host,
            image=self.image,
            state_dir=self.state_dir,
            log=self.said.append,
            **chosen,
        )

    def layers(self) -> list[str]:
        return self._docker("image", "inspect", "--format", '{{join .RootFS.Layers " "}}', self.image).split()

    def run(self, *command: str) -> str:
        return self._docker("run", "--rm", "--network=none", self.image, *command)

    def _docker(self, *arguments: str) -> str:
        return subprocess.run(
            self.docker.command(*arguments), capture_output=True, text=True, check=True
        ).stdout.strip()


@pytest.fixture
def builder(docker, base_image, checkout, index, tmp_path):
    builder = Builder(docker, base_image, tmp_path / "state")
    yield builder
    subprocess.run(docker.command("image", "rm", "--force", builder.image), capture_output=True, check=False)


def test_image_is_built_once_and_its_labels_tell_what_it_is(builder):
    first = builder.ensure()
    assert first.built
    assert (
        builder.run("python3", "-c", "import torch, lab; print(torch.VERSION, lab.VERSION)")
        == "2.0.0+cpu 2.0"
    )
    labels = builder.docker.inspect(builder.image).labels
    assert labels["org.respawner.environment"] == "py3.11-torch2.0"
    second = builder.ensure()
    assert (second.built, second.image_id) == (False, first.image_id)
    assert builder.said == [f"image: {builder.image} is up to date"]


def test_new_jupyter_moves_neither_torch_nor_the_scientific_layer(builder, checkout):
    builder.ensure()
    before = builder.layers()
    (checkout / "images/notebook/requirements/jupyter.txt").write_text("lab<2\n")
    assert builder.ensure().built
    after = builder.layers()
    assert builder.run("python3", "-c", "import lab; print(lab.VERSION)") == "1.0"
    changed = [position for position, layer in enumerate(before) if after[position] != layer]
    # base, packages, CUDA's libraries, torch and scientific come first
    assert changed[0] == 5
    assert len(before) == len(after)


def test_image_with_nvcc_has_it_where_programs_look_for_it(builder):
    builder.image = "respawner/pytorch-cuda:3-devel"
    builder.ensure(torch="auto")
    assert builder.run("nvcc") == builder.run("bash", "-lc", "nvcc") == "release 13.0.3"
    assert builder.run("sh", "-c", "readlink -e $CUDA_HOME/lib64/libcudart.so").endswith("libcudart.so.13")
    assert builder.run("id", "-u") == "1000"


def test_failed_build_names_its_last_lines_and_leaves_the_earlier_image(builder, checkout):
    first = builder.ensure()
    dockerfile = checkout / "images/notebook/Dockerfile"
    dockerfile.write_text(dockerfile.read_text() + "RUN echo the reason it fails && false\n")
    with pytest.raises(BuildError, match=r"the reason it fails[\s\S]*image-build\.log"):
        builder.ensure()
    assert builder.docker.inspect(builder.image).image_id == first.image_id
    assert "the reason it fails" in (builder.state_dir / "log/image-build.log").read_text()


def test_rebuilt_image_leaves_no_nameless_one_behind(builder, checkout):
    first = builder.ensure()
    (checkout / "images/notebook/requirements/jupyter.txt").write_text("lab<2\n")
    builder.ensure()
    assert builder.docker.inspect(first.image_id) is None


def test_admins_own_image_is_used_as_it_is(builder):
    builder._docker("image", "tag", builder.base, builder.image)
    result = builder.ensure()
    assert not result.built
    assert builder.said == [f"image: {builder.image} is not one of ours, used as it is"]


def test_image_that_an_admin_built_on_ours_is_never_overwritten(builder, checkout):
    builder.ensure()
    ours, builder.image = builder.image, builder.image + "-of-the-team"
    builder._docker("image", "tag", ours, builder.image)  # inherits every label, as FROM does
    (checkout / "images/notebook/requirements/jupyter.txt").write_text("lab<2\n")
    try:
        assert not builder.ensure().built
    finally:
        builder._docker("image", "rm", ours)


def test_base_that_nobody_has_is_named(builder):
    with pytest.raises(NoBaseError, match=r"respawner-test/no-such-base[\s\S]*image\.base"):
        builder.ensure(base="respawner-test/no-such-base:1")
