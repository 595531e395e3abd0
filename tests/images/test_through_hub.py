"""What `through_hub.py` says where it cannot connect; that it connects is `tests/e2e/test_ssh.py`."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[2] / "images" / "ssh" / "through_hub.py"


@pytest.mark.parametrize(
    ("status", "said"),
    [(302, "the session does not run"), (424, "the session does not run"), (403, "the token is not valid"), (404, "no jupyter-sshd-proxy")],
)  # fmt: skip
def test_each_refusal_of_the_hub_has_its_meaning(tmp_path, status, said):
    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Location", "/hub/user/ada/sshd/")
            self.end_headers()

    (tmp_path / "token").write_text("t\n")
    with HTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        done = subprocess.run(
            [sys.executable, str(CLIENT), f"http://127.0.0.1:{hub.server_port}/user/ada/"],
            env={**os.environ, "RESPAWNER_SSH_TOKEN_FILE": str(tmp_path / "token")},
            capture_output=True,
            text=True,
            check=False,
        )
        hub.shutdown()
    assert done.returncode == 1
    assert said in done.stderr
