"""`respawner-hub image test` on the user image, and on images that lack something."""

import re
import secrets
import subprocess

import pytest
from respawner_hub.cli import main
from respawner_hub.images import fitness
from respawner_hub.images.errors import ImageTestError
from respawner_spawner.engine import engine_at

pytestmark = pytest.mark.docker

BAD = """
FROM {image}
USER 0
RUN rm -rf /usr/local/lib/python3*/dist-packages/torch \\
        /usr/local/share/jupyter/lab/settings/overrides.json \\
    && mkdir -p /usr/local/sbin /usr/local/lib/python3.11/dist-packages/jupyter_sshd_proxy \\
    && touch /usr/local/lib/python3.11/dist-packages/jupyter_sshd_proxy/__init__.py \\
    && printf '#!/bin/sh\\necho 4.1.6\\n' > /usr/local/sbin/jupyterhub-singleuser \\
    && printf '#!/bin/sh\\necho no hostkeys available >&2; exit 1\\n' > /usr/local/sbin/sshd \\
    && chmod 755 /usr/local/sbin/jupyterhub-singleuser /usr/local/sbin/sshd
ENV IPYTHONDIR=/nowhere
USER 2000:100
"""

WITHOUT_PYTHON = "FROM {image}\nUSER 0\nRUN rm -f /usr/bin/python3*\nUSER 1000:100\n"
OLD_PYTHON = """
FROM {image}
USER 0
RUN printf '#!/bin/sh\\necho SyntaxError: this Python is old >&2; exit 1\\n' > /usr/local/sbin/python3 && chmod 755 /usr/local/sbin/python3
USER 1000:100
"""


@pytest.fixture
def derived(docker, user_image):
    """Build an image on the user image; all are removed at the end."""
    made = []

    def build(dockerfile: str) -> str:
        made.append(f"respawner-test/fitness:{secrets.token_hex(4)}")
        command = docker.command("build", "--quiet", "--network=none", "--tag", made[-1], "-")
        text = dockerfile.format(image=user_image)
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return made[-1]

    yield build
    for image in made:
        subprocess.run(docker.command("image", "rm", "--force", image), capture_output=True, check=False)


def states(checks):
    return {check.name: check.state for check in checks}


def test_user_image_is_fit_and_leaves_nothing_behind(docker, user_image, tmp_path, capsys):
    settings = tmp_path / "respawner.toml"
    settings.write_text(f'[hub]\nstate_dir = "state"\n[engine]\nhost = "{docker.engine_host}"\n')
    assert main(["--settings", str(settings), "image", "test", user_image]) == 0
    said = capsys.readouterr().out
    for sentence in (
        "✓ user       runs as jovyan (1000:100)",
        "✓ snapshots  a variable is there again after kill -9 of the kernel",
        "adds two tensors",
        "✓ autosave   JupyterLab saves notebooks every 60 s",
        "– nvcc       there is no nvcc on PATH",
        "– gpu        no GPU was given",
        "is fit for sessions.",
    ):
        assert sentence in said
    for kind in (["ps", "--all"], ["volume", "ls"]):
        left = subprocess.run(
            docker.command(*kind, "--filter", "name=respawner-image-test", "--quiet"), capture_output=True
        )
        assert left.stdout == b""


def test_image_that_lacks_much_is_told_all_of_it_with_the_next_steps(docker, derived, tmp_path):
    checks = {
        check.name: check
        for check in fitness.prove_fit(engine_at(docker.engine_host), derived(BAD), tmp_path)
    }
    failed = {name: check.says for name, check in checks.items() if check.state == "failed"}
    assert failed == {
        "user": "uid 2000 has no entry in /etc/passwd: ssh, git and getpass fail",
        "hub": failed["hub"],
        "torch": "PyTorch is missing",
        "autosave": "JupyterLab saves notebooks every 120 s; 60 s is expected",
        "ssh": "sshd does not run as this user: no hostkeys available",
    }
    assert failed["hub"].startswith("jupyterhub 4.1.6 in the image does not fit the hub, which is ")
    assert checks["volumes"].state == "ok"
    assert all(check.next for check in checks.values() if check.state == "failed")
    assert "useradd --uid 2000" in checks["user"].next


@pytest.mark.parametrize(
    ("dockerfile", "said"),
    [
        (WITHOUT_PYTHON, r"\(status 127\): .*exec python3 failed: No such file"),
        (OLD_PYTHON, r"\(status 1\): SyntaxError: this Python is old"),
    ],
)
def test_container_that_ends_before_its_checks_is_a_failure_with_its_last_words(
    docker, derived, tmp_path, dockerfile, said
):
    [check] = fitness.prove_fit(engine_at(docker.engine_host), derived(dockerfile), tmp_path)
    assert (check.name, check.state) == ("container", "failed")
    assert re.match(f"the container ended before the first check {said}", check.says)
    assert "python3 must be 3.10 or newer" in check.next


def test_image_that_nobody_has_is_named(docker, tmp_path):
    with pytest.raises(ImageTestError, match=r"respawner-test/none:1 is not on the engine[\s\S]*docker pull"):
        fitness.prove_fit(engine_at(docker.engine_host), "respawner-test/none:1", tmp_path)
