"""`local.yml` on a Debian that has none of it: a container of the base image, with this Python mounted."""

import subprocess
import sys
from pathlib import Path

import pytest

from .running import ANSIBLE

pytestmark = pytest.mark.docker

SCRIPT = """
set -e
ansible-playbook local.yml
ansible-playbook local.yml
ansible-playbook --check local.yml
ansible-playbook verify.yml
"""


def test_bare_debian_gets_everything_and_the_second_run_changes_nothing(docker, base_image):
    mounts = {Path(sys.prefix), Path(sys.base_prefix).resolve(), ANSIBLE}
    volumes = [f"--volume={folder}:{folder}:ro" for folder in sorted(mounts)]
    path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = [f"--workdir={ANSIBLE}", "--env=HOME=/root", f"--env=PATH={path}"]
    command = docker.command("run", "--rm", *volumes, *environment, base_image, "bash", "-c", SCRIPT)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr)
    assert done.returncode == 0
    changes = [
        line.split("changed=")[1].split()[0] for line in done.stdout.splitlines() if "changed=" in line
    ]
    assert changes[0] != "0"
    assert changes[1:] == ["0", "0", "0"]
