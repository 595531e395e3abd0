"""What a hub that starts hands out before anybody else has looked: a real hub process, a stand-in for the engine's API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from respawner_hub.gpus.containers import Reconciler
from respawner_hub.gpus.rounds import Policy, run_round
from respawner_spawner.leases.model import Rules

from .gpu_hub import GIB, HOST, GpuHub, eventually
from .test_gpus_containers import StandInEngine

FENCE = 1_700_000_000


def container(uuids: str) -> dict:
    """Bob's, as the engine lists it."""
    labels = {"deployment": "test", "holder": "test/bob/", "user": "bob", "gpus": uuids, "fence": str(FENCE)}
    labels |= {"groups": '["lab"]', "preemptible": "false"}
    return {
        "Id": "c1",
        "State": "running",
        "Labels": {f"org.respawner.{key}": value for key, value in labels.items()},
    }


@contextmanager
def engine(containers: list[dict], *, answers: bool = True) -> Iterator[str]:
    """The few calls that a look needs; gives its address. One that does not answer takes calls and says nothing."""
    over = threading.Event()

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not answers:
                over.wait()
                return
            found = {"ApiVersion": "1.41"} if self.path.endswith("/version") else containers
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"tcp://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()


def hub_on(folder, address: str, first_look_seconds: float = 120) -> GpuHub:
    engines = (
        f"import __main__\n__main__.FIRST_LOOK_SECONDS = {first_look_seconds}\n"
        "from respawner_spawner.engine import engine_at\n"
        f"c.RespawnerHub.engines = lambda: {{{HOST!r}: engine_at({address!r})}}\n"
    )
    return GpuHub(folder, gpus=2, more=engines)


def state(hub: GpuHub, user: str, options: dict) -> str:
    hub.ask(user, options, token=hub.token(user))
    return hub.ledger.request_of(f"test/{user}/").state


@pytest.mark.parametrize("wish", [{"gpus": 1}, {"share": "40G"}])
def test_the_first_submit_after_a_backup_was_put_back_gets_nothing_that_is_in_use(tmp_path, wish):
    """The database knows nothing of bob: it is older than his container. He has the GPU that would be given first."""
    with engine([container("GPU-0")]) as address, hub_on(tmp_path, address) as hub:
        assert hub.ledger.request_of("test/bob/").lease.fence == FENCE
        request = hub.ledger.request_of("test/bob/").request
        assert (request.groups, request.preemptible) == (("lab",), False)
        for device in hub.devices:
            hub.ledger.share(device.uuid, 40 * GIB if "share" in wish else 0, "test")
        assert state(hub, "ada", wish) != "queued"
        assert hub.ledger.request_of("test/ada/").lease.uuids == ("GPU-1",)
        assert state(hub, "eve", wish) == "queued"
        assert hub.ledger.cordons() == []


async def test_nothing_is_granted_before_the_engine_has_answered_and_no_cpu_session_waits_for_that(tmp_path):
    with engine([], answers=False) as address, hub_on(tmp_path, address, 1) as hub:
        hub.ledger.share("GPU-1", 40 * GIB, "test")
        for user, wish in (("ada", {"gpus": 1}), ("eve", {"share": "20G"})):
            waiting = hub.ask(user, wish, token=hub.token(user)).json()
            assert waiting["state"] == "queued"
            assert f"{HOST} has not been looked at since the hub started" in waiting["reason"]
        assert hub.ask("bob", {"gpus": 0}, token=hub.token("bob")).status_code in (201, 202)
        eventually(lambda: hub.api("GET", "/users/bob").json()["server"], "bob's server")

        await Reconciler(hub.ledger, {HOST: StandInEngine([container("GPU-0")])}, "test").compare({})
        assert [lease.holder for lease in run_round(hub.ledger, Policy(Rules())).granted] == ["test/eve/"]
        assert "held by bob" in hub.ledger.request_of("test/ada/").wait.reason
        assert hub.ledger.cordons() == []
