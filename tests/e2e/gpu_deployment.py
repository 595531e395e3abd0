"""A deployment on a private engine whose GPUs are stand-ins, and what plays the parts around the spawner.

Real: dockerd with its `DeviceRequests`, the hub, the ledger and the policy. Stand-ins: the NVIDIA hook, the session
(unless the real image is asked for), and the agent, of which only the heartbeat is needed here.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import docker
from respawner_hub.settings import load
from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Device, Kind, Lease
from respawner_spawner.leases.records import Standing

from tests.standins import gpu_engine, stub_session

from .deployment import ARTIFACTS, Deployment, wait_until

HOST = "stand-in"
MEMORY_BYTES = 80 << 30
HEARTBEAT_SECONDS = 5


class GpuDeployment(Deployment):
    """A `Deployment` that knows what its engine's GPUs are given to."""

    def __init__(self, engine: gpu_engine.GpuEngine, *, logins: bool = False, **settings: Any) -> None:
        """
        :param logins: whether its people have accounts, so that they can log in with a browser.
        """
        self.logins = logins
        super().__init__(engine=engine.socket, **settings)
        self.gpu_engine = engine
        self.devices: Sequence[Device] | None = None
        """What the agent tells of; None: it is dead."""
        self._end = threading.Event()
        self._agent: threading.Thread | None = None

    @property
    def ledger(self) -> Ledger:
        if "_ledger" not in self.__dict__:
            self._ledger = Ledger(load(self.settings_file).own_database_url)
        return self._ledger

    def holder(self, user: str) -> str:
        return f"{self.name}/{user}/"

    def standing(self, user: str) -> Standing | None:
        """The user's open request."""
        return self.ledger.request_of(self.holder(user))

    def lease(self, user: str) -> Lease:
        standing = self.standing(user)
        assert standing, f"{user} has no lease"
        assert standing.lease, standing
        return standing.lease

    def somebody(self, name: str) -> contextlib.AbstractContextManager[str]:
        """A user, gone at the end with everything that is theirs."""
        return self.new_user(name) if self.logins else self.person(name)

    @contextlib.contextmanager
    def person(self, name: str) -> Iterator[str]:
        """A user who never logs in: everything is asked over the API."""
        self.api("POST", f"users/{name}").raise_for_status()
        try:
            yield name
        finally:
            self.ledger.cancel(self.holder(name))
            self.stop_server(name)
            self.api("DELETE", f"users/{name}").raise_for_status()
            for volume in self.engine.volumes(filters={"name": f"-{name}"})["Volumes"] or []:
                self.engine.remove_volume(volume["Name"], force=True)

    def ensure_server(
        self, user: str, options: dict[str, object] | None = None, timeout: float = 480
    ) -> None:
        """Ask until the user's server runs: also where somebody else starts it, or where it has to queue first."""

        def runs() -> bool:
            server = self.api("GET", f"users/{user}").json()["servers"].get("")
            if not server:
                body = {} if options is None else {"json": options}
                self.api("POST", f"users/{user}/server", **body)
            return bool(server and server["ready"])

        wait_until(runs, timeout, f"{user}'s server")

    # The agent's part -------------------------------------------------------------------------------------

    def beat(self, devices: Sequence[Device] | None) -> None:
        """Tell the ledger of these devices, now and every few seconds until `close`."""
        self.devices = devices
        self.heartbeat()
        if self._agent is None:
            self._agent = threading.Thread(target=self._keep_beating, daemon=True)
            self._agent.start()

    def heartbeat(self) -> None:
        if (devices := self.devices) is not None:
            self.ledger.heartbeat(HOST, devices)

    def _keep_beating(self) -> None:
        while not self._end.wait(HEARTBEAT_SECONDS):
            self.heartbeat()

    # Which devices a session really has ---------------------------------------------------------------------

    def requested(self, user: str) -> list[str]:
        """What the engine was asked for."""
        inspection = self.engine.inspect_container(self.container(user))
        requests = inspection["HostConfig"]["DeviceRequests"] or []
        return [uuid for request in requests for uuid in request["DeviceIDs"]]

    def given(self, user: str) -> list[str]:
        """What the hook gave, as it wrote it down."""
        container = self.engine.inspect_container(self.container(user))["Id"]
        found = [grant["granted"] for grant in self.gpu_engine.grants() if grant["container"] == container]
        return found[-1] if found else []

    def seen(self, user: str) -> list[str]:
        """What a program in the container sees."""
        output = self.exec(user, "sh", "-c", "nvidia-smi -L 2>/dev/null || true")
        return re.findall(r"UUID: ([^)]+)", output)

    def close(self) -> None:
        self._end.set()
        if self._agent:
            self._agent.join()
        super().close()


def whole_gpu(uuid: str) -> Device:
    return Device(uuid, HOST, "STAND-IN A100", MEMORY_BYTES)


def mig_device(uuid: str, parent: str) -> Device:
    return Device(uuid, HOST, "STAND-IN A100", 10 << 30, Kind.MIG, parent, "1g.10gb")


@contextlib.contextmanager
def deployment_with_gpus(
    devices: Sequence[Device],
    image: str = stub_session.IMAGE,
    *,
    live_restore: bool = False,
    **settings: dict[str, object],
) -> Iterator[GpuDeployment]:
    """A running deployment with these stand-in devices on an engine of its own; sessions are stand-ins by default.

    :param live_restore: whether sessions outlive a killed engine.
    """
    uuids = [device.uuid for device in devices]
    with gpu_engine.running(uuids, log_to=ARTIFACTS / "logs", live_restore=live_restore) as engine:
        if image == stub_session.IMAGE:
            stub_session.build(engine.client)
        else:
            copy_image(image, engine)
        session = {"max_gpus": 2, "stop_grace_seconds": 20, "mem_limit": "", **settings.pop("session", {})}
        with GpuDeployment(
            engine, image={"name": image, "build": False}, session=session, **settings
        ) as deployment:
            deployment.sections["engine"] |= {"start": False, "subnet": engine.subnet}
            deployment.write_settings()
            deployment.up()
            deployment.beat(devices)
            yield deployment


def copy_image(image: str, to: gpu_engine.GpuEngine) -> None:
    """From the engine of all tests."""
    source = docker.APIClient(base_url=os.environ["DOCKER_HOST"], version="auto", timeout=600)
    to.client.load_image(source.get_image(image))
