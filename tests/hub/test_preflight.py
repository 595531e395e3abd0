import os
import socket
import subprocess

import pytest
from respawner_hub import preflight
from respawner_hub.settings import Settings


def settings(folder, **hub) -> Settings:
    return Settings.model_validate({"hub": {"state_dir": folder / "var", **hub}})


def test_a_taken_port_is_named_with_setting_and_next_step(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(preflight.PreflightError, match=rf"Port {port} .*taken.*\[hub\] port"):
            preflight.check(settings(tmp_path, port=port), ours_runs=False)
        preflight.check(settings(tmp_path, port=port), ours_runs=True)


def test_a_taken_port_of_the_agent_is_named_with_its_section(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        values = {"hub": {"state_dir": tmp_path / "var"}, "agent": {"port": port}}
        with pytest.raises(preflight.PreflightError, match=rf"Port {port} .*taken.*\[agent\] port"):
            preflight.check(Settings.model_validate(values), ours_runs=False)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "var").write_text("a file where the folder should be")
    with pytest.raises(preflight.PreflightError, match=r"var cannot be written .*state_dir"):
        preflight.check(settings(tmp_path), ours_runs=True)


def test_a_full_disk_is_said_before_anything_is_built(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    small = tmp_path / "var"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", small], check=True)
    try:
        with pytest.raises(preflight.PreflightError, match=r"Only 0\.1 GiB free"):
            preflight.check(settings(tmp_path), ours_runs=True)
    finally:
        subprocess.run(["umount", small], check=True)


def test_all_problems_are_told_at_once(tmp_path):
    (tmp_path / "var").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(preflight.PreflightError) as caught:
            preflight.check(settings(tmp_path, port=taken.getsockname()[1]), ours_runs=False)
    assert len(str(caught.value).splitlines()) == 2
