"""What shells over SSH get of the session: `images/notebook/session-environment.sh`, sourced by a real bash."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "images" / "notebook" / "session-environment.sh"
OF_THE_SESSION = {
    "PATH": "/usr/bin:/bin:/home/jovyan/.local/bin",
    "PYTHONUSERBASE": "/home/jovyan/.local/respawner/py3.11-torch2.7",
    "RESPAWNER_STORE": "/var/lib/respawner/store",
    "NVIDIA_VISIBLE_DEVICES": "GPU-a",
    "WITH_LINES": "one\ntwo = 'three' $(touch made)",
    "HOME": "/elsewhere",
    "JUPYTERHUB_API_TOKEN": "t",
    "MY_SECRET": "s",
    "JPY_SESSION_NAME": "/home/jovyan/a.ipynb",
    "BASH_FUNC_x%%": "() { echo bad; }",
}


@pytest.fixture
def shell(tmp_path):
    """The variables that bash has after the script, with what process 1 has standing in a file."""
    process = tmp_path / "environ"
    process.write_bytes(b"".join(f"{name}={value}\0".encode() for name, value in OF_THE_SESSION.items()))
    script = tmp_path / "script.sh"
    script.write_text(SCRIPT.read_text().replace("/proc/1/environ", str(process)))

    def shell(program="bash", **environment):
        command = f". {script}; env -0"
        done = subprocess.run(
            [program, "-c", command], env={"PATH": "/usr/bin:/bin", "HOME": "/home/jovyan", **environment},
            cwd=tmp_path, capture_output=True, check=True,
        )  # fmt: skip
        assert done.stderr == b""
        return dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if entry)

    return shell


def test_a_shell_over_ssh_has_the_sessions_variables_and_none_of_its_tokens(shell, tmp_path):
    found = shell(SSH_CONNECTION="127.0.0.1 1 127.0.0.1 2")
    kept = ("PATH", "PYTHONUSERBASE", "RESPAWNER_STORE", "NVIDIA_VISIBLE_DEVICES", "WITH_LINES")
    assert {name: found[name] for name in kept} == {name: OF_THE_SESSION[name] for name in kept}
    assert found["HOME"] == "/home/jovyan"
    assert (
        not {"JUPYTERHUB_API_TOKEN", "MY_SECRET", "JPY_SESSION_NAME", "BASH_FUNC_x%%", "entry"} & found.keys()
    )
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("program", "environment"),
    [
        ("bash", {}),
        ("bash", {"SSH_CONNECTION": "x", "RESPAWNER_STORE": "/mine"}),
        ("sh", {"SSH_CONNECTION": "x"}),
    ],
)
def test_other_shells_are_left_as_they_are(shell, program, environment):
    """The browser's terminal, a shell within a shell, and a shell that is not bash."""
    assert "PYTHONUSERBASE" not in shell(program, **environment)
