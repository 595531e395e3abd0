"""Plays jupyterhub-singleuser for the hub and the spawner: it answers, and says how far it is saved.

``PUT …/stub/state`` with ``saved``, ``dirty`` or ``failed`` writes the status file that `respawner.flush` reads, as
a kernel would.
"""

import json
import os
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

PREFIX = os.environ["JUPYTERHUB_SERVICE_PREFIX"]
ANSWERS = {
    "api": {"version": "stub"},
    "api/": {"version": "stub"},
    "api/status": {"kernels": 0, "connections": 0, "last_activity": "2026-01-01T00:00:00Z"},
    "api/kernelspecs": {"default": "python3", "kernelspecs": {"python3": {"name": "python3"}}},
    "api/kernels": [],
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = urlsplit(self.path).path.removeprefix(PREFIX)
        if path in ANSWERS:
            self._send("application/json", json.dumps(ANSWERS[path]))
        else:
            self._send("text/html", "<title>JupyterLab</title>A stand-in session.")

    def do_PUT(self):
        state = self.rfile.read(int(self.headers["Content-Length"])).decode()
        start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        content = {"format": 1, "pid": os.getpid(), "start": start, "state": state, "timeline": "stub.ipynb"}
        folder = Path(os.environ["RESPAWNER_RUNTIME"]) / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stub.json").write_text(json.dumps(content))
        self._send("application/json", "{}")

    def _send(self, kind, text):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("X-JupyterHub-Version", os.environ["STUB_VERSION"])
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # also as a container's first process, at once
    port = urlsplit(os.environ.get("JUPYTERHUB_SERVICE_URL", "")).port or 8888
    ThreadingHTTPServer(("", port), Handler).serve_forever()
