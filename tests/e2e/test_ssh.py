"""SSH through the hub, as docs/ssh.md says: a real ssh and sshd, the hub's proxy between them.

The image is the user image with jupyter-sshd-proxy on it, as the images with the layer `tools` have it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import pytest
from respawner_hub.settings import ImageSettings

from .deployment import ROOT, Deployment

pytestmark = [pytest.mark.docker]

CLIENT = ROOT / "images" / "ssh" / "through_hub.py"
DOCKERFILE = """
FROM {image}
USER 0
COPY wheels /wheels
RUN pip3 install --no-cache-dir --root-user-action=ignore --no-index --find-links /wheels jupyter-sshd-proxy && rm -r /wheels
USER 1000:100
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The user image with what the layer `tools` adds for SSH; removed at the end."""
    folder, name = tmp_path_factory.mktemp("ssh-image"), f"respawner-test/ssh:{secrets.token_hex(4)}"
    plain = os.environ.get("RESPAWNER_TEST_IMAGE", ImageSettings().name)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"]
    for_image = [
        "--python-version",
        "3.11",
        "--platform",
        "manylinux2014_x86_64",
        "--platform",
        "manylinux_2_28_x86_64",
    ]
    subprocess.run(
        [*pip, *for_image, "--dest", str(folder / "wheels"), "jupyter-sshd-proxy>=0.3"], check=True
    )
    (folder / "Dockerfile").write_text(DOCKERFILE.format(image=plain))
    subprocess.run(["docker", "build", "--quiet", "--network=none", "--tag", name, str(folder)], check=True)
    yield name
    subprocess.run(["docker", "image", "rm", "--force", name], check=True, capture_output=True)


@pytest.fixture(scope="module")
def ssh_deployment(image):
    with Deployment(image={"name": image, "build": False}) as deployment:
        deployment.up()
        yield deployment


@pytest.fixture
def ada(ssh_deployment):
    with ssh_deployment.new_user("ada") as name:
        ssh_deployment.start_server(name)
        yield name


@pytest.fixture
def connect(ssh_deployment, ada, tmp_path):
    """Run ssh, scp or sftp with a configuration as in docs/ssh.md, and a token of ada's."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    key = (tmp_path / "key.pub").read_text()
    ssh_deployment.exec(
        ada, "sh", "-c", f"umask 077; mkdir -p ~/.ssh; echo '{key.strip()}' >> ~/.ssh/authorized_keys"
    )
    token = ssh_deployment.api("POST", f"users/{ada}/tokens", json={"note": "ssh"}).json()["token"]
    (tmp_path / "token").write_text(token + "\n")
    (tmp_path / "config").write_text(
        f"""Host session
    User jovyan
    HostKeyAlias respawner-ada
    IdentityFile {tmp_path / "key"}
    UserKnownHostsFile {tmp_path / "known_hosts"}
    StrictHostKeyChecking accept-new
    BatchMode yes
    ProxyCommand {sys.executable} {CLIENT} {ssh_deployment.url}user/ada/
"""
    )

    def connect(program: str, *arguments: str, **options):
        environment = {**os.environ, "RESPAWNER_SSH_TOKEN_FILE": str(tmp_path / "token")}
        command = [program, "-F", str(tmp_path / "config"), *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, timeout=300, check=False, **options
        )

    return connect


def test_ssh_scp_and_the_sessions_own_environment(ssh_deployment, connect, ada, tmp_path):
    whoami = connect("ssh", "session", "id -un; hostname")
    assert whoami.returncode == 0, whoami.stderr.decode()
    assert whoami.stdout.decode().split() == ["jovyan", ssh_deployment.exec(ada, "hostname").strip()]
    content = secrets.token_bytes(5_000_000)  # more than a frame, a pipe and a window hold
    (tmp_path / "file").write_bytes(content)
    for arguments in ((str(tmp_path / "file"), "session:file"), ("session:file", str(tmp_path / "back"))):
        copied = connect("scp", "-q", *arguments)
        assert copied.returncode == 0, copied.stderr.decode()
    assert (tmp_path / "back").read_bytes() == content
    failed = connect("ssh", "session", "exit 7")
    assert failed.returncode == 7
    for shell in (
        "echo $PYTHONUSERBASE $NVIDIA_VISIBLE_DEVICES",
        "bash -lc 'echo $PYTHONUSERBASE $NVIDIA_VISIBLE_DEVICES'",
    ):
        inside = ssh_deployment.exec(ada, "sh", "-c", "echo $PYTHONUSERBASE $NVIDIA_VISIBLE_DEVICES")
        assert connect("ssh", "session", shell).stdout.decode() == inside
    assert connect("ssh", "session", "env").stdout.decode().count("API_TOKEN") == 0


def test_a_wrong_token_a_stopped_session_and_a_wrong_address_are_said(ssh_deployment, connect, ada, tmp_path):
    token = (tmp_path / "token").read_text()
    (tmp_path / "token").write_text("nobody's\n")
    assert "the token is not valid" in connect("ssh", "session", "true").stderr.decode()
    (tmp_path / "token").unlink()
    assert "put a token of the hub" in connect("ssh", "session", "true").stderr.decode()
    (tmp_path / "token").write_text(token)
    ssh_deployment.stop_server(ada)
    stopped = connect("ssh", "session", "true")
    assert stopped.returncode == 255
    assert "the session does not run" in stopped.stderr.decode()
