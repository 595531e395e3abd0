"""Layers and bill of materials."""

import json
import subprocess

import pytest
from respawner_hub.images.contents import cyclonedx, layers, shown_as, wheel_hashes, write_sbom
from respawner_hub.images.wheelhouse import file_hash

from .tiny_wheels import make_wheel


@pytest.mark.parametrize(
    ("instruction", "shown"),
    [
        ("RUN /bin/sh -c set -e; set -- /wheels/nvidia/*.whl; if [ -e … # buildkit", "CUDA libraries"),
        ("RUN /bin/sh -c pip3 install --no-deps /wheels/torch/*.whl # buildkit", "PyTorch"),
        ("RUN /bin/sh -c set -e; missing=$(sed 's/#.*//' /tmp/packages.txt # buildkit", "Debian packages"),
        ("RUN /bin/sh -c useradd jovyan # buildkit", "useradd jovyan"),
        ("COPY overrides.json /usr/local/share # buildkit", "COPY overrides.json /usr/local/share"),
        ("", "base"),
    ],
)
def test_layers_are_named_for_people(instruction, shown):
    assert shown_as(instruction) == shown


def test_bill_of_materials_has_versions_licences_and_hashes(tmp_path):
    wheel = make_wheel(tmp_path, "Some_Thing", "1.0")
    installed = [
        {"metadata": {"name": "some.thing", "version": "1.0", "license_expression": "MIT"}},
        {"metadata": {"name": "other", "version": "2", "license": "BSD"}},
    ]
    found = cyclonedx("a:1", "sha256:1", ["git\t2.39\tamd64"], installed, wheel_hashes([wheel]))
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.5")
    debian, other, thing = found["components"]
    assert debian["purl"] == "pkg:deb/debian/git@2.39?arch=amd64"
    assert other["licenses"] == [{"license": {"name": "BSD"}}]
    assert "hashes" not in other
    assert thing["purl"] == "pkg:pypi/some-thing@1.0"
    assert thing["hashes"] == [{"alg": "SHA-256", "content": file_hash(wheel)}]
    assert thing["licenses"] == [{"expression": "MIT"}]


@pytest.mark.docker
def test_user_images_layers_add_up_and_its_bill_lists_what_it_has(docker, user_image, tmp_path):
    found = layers(docker, user_image)
    assert {"PyTorch", "scientific", "jupyter"} <= {layer.made_by for layer in found}
    whole = docker.inspect(user_image).size_bytes
    assert abs(sum(layer.size_bytes for layer in found) - whole) < 0.02 * whole
    file, counts = write_sbom(docker, user_image, tmp_path)
    listed = {part["name"]: part["version"] for part in json.loads(file.read_text())["components"]}
    script = "from importlib.metadata import version; print(version('torch'))"
    command = docker.command("run", "--rm", "--network=none", user_image, "python3", "-c", script)
    assert (
        listed["torch"] == subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    )
    assert "tini" in listed
    assert counts["deb"] + counts["pypi"] == len(json.loads(file.read_text())["components"])
