"""A real JupyterHub process without a proxy, for tests that talk to the hub's own port.

Its sessions are small web servers, enough for the hub to call them running.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import requests
from bs4 import BeautifulSoup

from tests.ports import free_port

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 240
STOP_SECONDS = 120
REQUEST_SECONDS = 120

_SESSION = """
import http.server, os, urllib.parse

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

address = urllib.parse.urlparse(os.environ["JUPYTERHUB_SERVICE_URL"])
http.server.ThreadingHTTPServer((address.hostname, address.port), Answer).serve_forever()
"""

_CONFIG = """
import os, sys
import jupyterhub.spawner
from jupyterhub.proxy import Proxy
from tests.ports import free_port

class NoProxy(Proxy):
    "Nobody is served through it: the tests talk to the hub's own port."
    should_start = False
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._routes = {}
    async def add_route(self, routespec, target, data):
        self._routes[routespec] = {"routespec": routespec, "target": target, "data": data}
    async def delete_route(self, routespec):
        self._routes.pop(routespec, None)
    async def get_all_routes(self):
        return self._routes

c = get_config()
c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = os.path.abspath("homes/{username}")
c.Spawner.cmd = [sys.executable, os.path.abspath("session.py")]
c.Spawner.start_timeout = c.Spawner.http_timeout = 300
jupyterhub.spawner.random_port = free_port
c.JupyterHub.hub_ip = "127.0.0.1"
c.JupyterHub.hub_port = int(os.environ["TEST_HUB_PORT"])
c.JupyterHub.bind_url = f"http://127.0.0.1:{os.environ['TEST_HUB_PORT']}/"
c.JupyterHub.db_url = "sqlite:///jupyterhub.sqlite"
c.JupyterHub.template_paths = [os.environ["TEST_TEMPLATES"]]
"""

_LOCAL_ACCOUNTS = """
from dataclasses import replace
from respawner_hub.auth import throttle
from respawner_hub.auth.local import LocalAccountsAuthenticator
# Seconds would be over on a busy machine before the next attempt comes.
throttle.NAME_AT_ADDRESS = replace(throttle.NAME_AT_ADDRESS, first_seconds=180)
c.JupyterHub.authenticator_class = LocalAccountsAuthenticator
c.JupyterHub.load_roles = [
    {"name": "manager", "scopes": ["admin-ui", "admin:users"], "groups": ["managers"]},
    {"name": "tests", "scopes": ["admin:users", "admin:groups", "read:users", "admin:servers", "tokens"], "services": ["tests"]},
]
c.JupyterHub.load_groups = {"managers": {"users": []}}
c.JupyterHub.services = [{"name": "tests", "api_token": os.environ["TEST_API_TOKEN"]}]
c.Authenticator.blocked_users = {"blocked"}
c.LocalAccountsAuthenticator.database_url = "sqlite:///accounts.sqlite"
c.LocalAccountsAuthenticator.auth_refresh_age = 1
"""


class RunningHub:
    """`with RunningHub(folder) as hub`: a hub with an empty database in `folder`.

    :param authentication: lines of `jupyterhub_config.py`; local accounts by default.
    """

    api_token = "0123456789abcdef" * 4
    module = "jupyterhub"

    def __init__(self, folder: Path, authentication: str = _LOCAL_ACCOUNTS) -> None:
        self.folder = folder
        self._authentication = authentication
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/hub"
        self.database_url = f"sqlite:///{folder / 'accounts.sqlite'}"

    def __enter__(self) -> RunningHub:
        (self.folder / "config.py").write_text(_CONFIG + self._authentication)
        (self.folder / "session.py").write_text(_SESSION)
        self.start()
        return self

    def start(self) -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(
                str(REPOSITORY / part) for part in ("hub", "spawner", "snapshot", "")
            ),
            "TEST_HUB_PORT": str(self.port),
            "TEST_API_TOKEN": self.api_token,
            "TEST_TEMPLATES": str(REPOSITORY / "hub" / "respawner_hub" / "templates"),
        }
        with (self.folder / "hub.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self.module, "-f", "config.py"],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_it_answers()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if exception_type:
            print(self.log())

    def log(self) -> str:
        return (self.folder / "hub.log").read_text()

    def api(self, method: str, path: str, token: str = "", **kwargs) -> requests.Response:
        headers = {"Authorization": f"token {token or self.api_token}"}
        return requests.request(
            method, f"{self.url}/api{path}", headers=headers, timeout=REQUEST_SECONDS, **kwargs
        )

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                if requests.get(f"{self.url}/api/", timeout=5).ok:
                    return
            except requests.RequestException:  # it may also take the question and be too busy to answer
                time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"the hub did not answer at {self.url}:\n{self.log()}")


class Browser:
    """Cookies, forms and an address of its own, which the hub believes as it believes its proxy."""

    _addresses = iter(range(1, 250))

    def __init__(self, hub: RunningHub, address: str = "") -> None:
        self.hub = hub
        self.session = requests.Session()
        self.session.headers["X-Forwarded-For"] = address or f"192.0.2.{next(self._addresses)}"

    def get(self, path: str, **kwargs) -> requests.Response:
        return self.session.get(self.hub.url + path, timeout=REQUEST_SECONDS, **kwargs)

    def submit(self, path: str, **fields: str) -> requests.Response:
        """Open the page and send its form, the way a browser does; redirects are not followed."""
        page = self.get(path)
        token = BeautifulSoup(page.text, "html.parser").find("input", {"name": "_xsrf"})
        assert token, f"{path} has no form ({page.status_code}): {text_of(page)}"
        return self.post(path, _xsrf=token["value"], **fields)

    def post(self, path: str, **fields: str) -> requests.Response:
        return self.session.post(
            self.hub.url + path, data=fields, allow_redirects=False, timeout=REQUEST_SECONDS
        )

    def log_in(self, name: str, password: str) -> requests.Response:
        return self.submit("/login", username=name, password=password)

    def set_password(self, name: str, code: str, password: str, repeat: str | None = None):
        return self.submit(
            "/set-password",
            username=name,
            code=code,
            new_password=password,
            repeat_password=password if repeat is None else repeat,
        )

    def change_password(self, old: str, new: str) -> requests.Response:
        return self.submit("/change-password", old_password=old, new_password=new, repeat_password=new)

    def accounts(self, action: str, name: str, **fields: str) -> requests.Response:
        return self.submit("/accounts", action=action, username=name, **fields)

    def user(self) -> str | None:
        """Who the hub thinks we are."""
        page = self.get("/home", allow_redirects=False)
        if page.status_code == 302:
            return None
        found = re.search(r'user: "([^"]+)"', page.text)
        assert found, text_of(page)
        return found.group(1)


def text_of(page: requests.Response) -> str:
    """What a person reads on the page, without the navigation."""
    soup = BeautifulSoup(page.text, "html.parser")
    for hidden in soup.find_all(["nav", "script", "noscript", "head"]) + soup.select(".modal"):
        hidden.decompose()
    return " ".join(soup.get_text(" ").split())


def code_on(page: requests.Response) -> str:
    """The one-time code that the accounts page shows."""
    code = BeautifulSoup(page.text, "html.parser").select_one("#one-time-code code")
    assert code, f"no code on the page ({page.status_code}): {text_of(page)}"
    return code.get_text(strip=True)


def account_row(page: requests.Response, name: str) -> str | None:
    row = BeautifulSoup(page.text, "html.parser").select_one(f'tr[data-account="{name}"]')
    return " ".join(row.get_text(" ").split()) if row else None
