"""The finished user image, used as a session uses it: uid 1000, no capabilities, no new privileges."""

import subprocess
from importlib.metadata import version

import pytest
from respawner_hub.images.recipe import read_recipe

from .tiny_wheels import ROOT, make_wheel

pytestmark = pytest.mark.docker

KERNEL = """
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3")
reply = client.execute_interactive(
    "import torch; x = torch.arange(6.).reshape(2, 3); print((x @ x.T).tolist())", timeout=240
)
print(reply["content"]["status"])
manager.shutdown_kernel(now=True)
"""


@pytest.fixture
def in_session(docker, user_image):
    """Run a command in a container that is as closed as a session's."""

    def run(*command: str, mount: str | None = None) -> str:
        closed = ["--network=none", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        volume = ["--volume", f"{mount}:/mnt:ro"] if mount else []
        arguments = docker.command("run", "--rm", *closed, *volume, user_image, *command)
        done = subprocess.run(arguments, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    return run


def test_single_user_server_is_the_hubs_version(in_session):
    assert in_session("jupyterhub-singleuser", "--version") == version("jupyterhub")


def test_user_is_jovyan_with_a_home_and_a_snapshot_folder_of_its_own(in_session):
    assert in_session("id", "-u") == "1000"
    assert in_session("sh", "-c", "echo $HOME; touch ~/a /var/lib/respawner/b && echo written") == (
        "/home/jovyan\nwritten"
    )


def test_kernel_computes_a_tensor(in_session):
    assert in_session("python", "-c", KERNEL).splitlines() == ["[[5.0, 14.0], [14.0, 50.0]]", "ok"]


def test_pip_install_user_works_and_comes_before_the_images_packages(in_session, tmp_path):
    make_wheel(tmp_path, "xxhash", "99.0")
    tmp_path.chmod(0o755)
    script = (
        "pip install --quiet --user --no-index /mnt/*.whl && python -c 'import xxhash; print(xxhash.VERSION)'"
    )
    assert in_session("sh", "-c", script, mount=str(tmp_path)) == "99.0"


def test_every_package_of_the_list_is_installed(in_session):
    packages = read_recipe(ROOT / "images", "cpu", None).packages
    states = in_session("dpkg-query", "-W", "-f=${Package} ${db:Status-Status}\n", *packages)
    assert sorted(states.splitlines()) == sorted(f"{package} installed" for package in packages)


def test_sshd_is_there_without_a_host_key_that_every_session_would_share(in_session):
    script = "test -x /usr/sbin/sshd && ls /etc/ssh | grep -c ssh_host_ || true"
    assert in_session("sh", "-c", script) == "0"


def test_languages_and_the_fonts_of_plots_are_there(in_session):
    assert {"en_US.utf8", "de_DE.utf8"} <= set(in_session("locale", "-a").splitlines())
    code = "from matplotlib.font_manager import get_font_names as names; print({'Liberation Sans', 'DejaVu Sans'} <= set(names()))"
    assert in_session("python", "-c", code).splitlines()[-1] == "True"


def test_torch_compile_has_its_compiler(in_session):
    code = "import torch; print(torch.compile(lambda x: x.sin() + 1)(torch.zeros(3)).tolist())"
    assert in_session("python", "-c", code) == "[1.0, 1.0, 1.0]"


def test_jupyterlab_saves_every_minute_and_asks_nobody_for_news(in_session):
    """Asked of JupyterLab's own settings code, so a renamed setting is noticed."""
    code = """
from jupyterlab.commands import get_app_dir
from jupyterlab_server.settings_utils import get_settings
from pathlib import Path
app = Path(get_app_dir())
import json
overrides = json.loads((app / "settings" / "overrides.json").read_text())
for plugin, wanted in overrides.items():
    found, _ = get_settings(str(app), str(app / "schemas"), "/tmp/none", schema_name=plugin, overrides=overrides)
    known = found["schema"]["properties"]
    print(plugin.split(":")[1], {key: known[key]["default"] for key in wanted})
"""
    assert in_session("python", "-c", code).splitlines() == [
        "plugin {'autosave': True, 'autosaveInterval': 60}",
        "notification {'checkForUpdates': False, 'fetchNews': 'false'}",
    ]
