import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from respawner_hub.local_engine import EngineError, ensure_engine
from respawner_hub.settings import Settings


def settings(folder: Path, **engine) -> Settings:
    values = {"host": f"unix://{folder / 'docker.sock'}", **engine}
    return Settings.model_validate({"hub": {"state_dir": folder / "var"}, "engine": values})


def test_a_remote_engine_that_does_not_answer_is_named(tmp_path):
    with pytest.raises(EngineError, match=r"tcp://127\.0\.0\.1:9 does not answer.*\[engine\] host"):
        ensure_engine(settings(tmp_path, host="tcp://127.0.0.1:9"), print)


def test_an_engine_that_we_shall_not_start_is_not_started(tmp_path):
    with pytest.raises(EngineError, match=r"\[engine\] start is false"):
        ensure_engine(settings(tmp_path, start=False), print)


def test_no_permission_is_told_with_both_ways_out(tmp_path):
    """As an ordinary user, who may not open the socket."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o600)
        for folder in (tmp_path, *tmp_path.parents):
            if folder.stat().st_uid == 0 and folder != Path("/") and not folder.stat().st_mode & 0o001:
                folder.chmod(folder.stat().st_mode | 0o011)
        code = f"""
import os
from respawner_hub.local_engine import EngineError, _connect
from respawner_hub.settings import Settings
settings = Settings.model_validate({{"engine": {{"host": "unix://{path}"}}}})
os.setgid(65534); os.setuid(65534)
try:
    _connect(settings)
except EngineError as error:
    print(error)
"""
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "No permission to use Docker" in result.stdout, result.stderr
    assert "sudo make up" in result.stdout
    assert "usermod -aG docker" in result.stdout
