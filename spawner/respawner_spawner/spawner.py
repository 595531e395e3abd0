"""`GPUDockerSpawner`: the life of one session's container.

The lifecycle stands in `start`, `poll`, `stop` and `run_post_stop_hook`, in this order. Three rules hold in
all of them: a container is never removed before its exit code and log are read; what cannot be reached is
not dead; a lease ends only when its container is gone.

Nothing waits for a GPU here: a start takes the lease that its session has been granted (`claim`).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound
from dockerspawner import DockerSpawner
from dockerspawner.dockerspawner import _deep_merge
from jupyterhub.traitlets import ByteSpecification
from respawner import contract
from traitlets import Bool, Callable, Dict, Integer, List, Unicode, default

from . import container_spec
from .claim import Claimant, claim, deleted, fence_without_lease, granted, schedule, stopped
from .durable import Saved, flush
from .engine import CALL_FAILED, UNREACHABLE, Engine, engine_at
from .failure import Ending, SessionStartError, read_ending
from .hosts import LOST_SECONDS, choose_host, host_of, known_host, open_hosts, silent_seconds
from .image_facts import ImageFacts, image_facts
from .leases.ledger import Ledger
from .leases.model import Lease
from .leases.records import EndReason, LedgerError
from .readiness import refuse_without_kernels, wait_until_listening
from .spawn_form import image_form, options_from_form
from .volumes import fill_volumes

LOOK_SECONDS = 10
_ledgers: dict[str, Ledger] = {}


async def _spawn_form(spawner: GPUDockerSpawner) -> str:
    """The spawn page's form: images where an admin allows several. The hub's own asks for GPUs too."""
    allowed = spawner._get_allowed_images()
    images = [] if allowed == "*" else list(allowed or [])
    return image_form(images, spawner.image)


class GPUDockerSpawner(DockerSpawner):
    """One container a session, with volumes that outlive it and GPUs that nobody else has."""

    deployment = Unicode(
        "respawner",
        help="Name of the deployment, the prefix of containers and volumes. Example: ``c.GPUDockerSpawner.deployment = 'ml-team'``",
    ).tag(config=True)
    engine_host = Unicode(
        "unix:///var/run/docker.sock",
        help="Docker Engine of the sessions. Example: ``c.GPUDockerSpawner.engine_host = 'unix:///run/docker.sock'``",
    ).tag(config=True)
    hosts = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        help="Engines of several hosts, by the name that the host's agent gives; empty: `engine_host` alone. `engine_host` is then the hub's own. Example: ``c.GPUDockerSpawner.hosts = {'gpu1': 'tcp://10.0.0.11:2376', 'gpu2': 'tcp://10.0.0.12:2376'}``",
    ).tag(config=True)
    engine_tls_dir = Unicode(
        help="Folder with ca.crt, client.crt and client.key for the engines in `hosts`. Example: ``c.GPUDockerSpawner.engine_tls_dir = '/etc/respawner/tls'``",
    ).tag(config=True)
    database_url = Unicode(
        help="SQLAlchemy URL of the leases. Example: ``c.GPUDockerSpawner.database_url = 'sqlite:////srv/leases.sqlite'``"
    ).tag(config=True)
    bundle = Unicode(
        help="Folder of the kernel bundle on the engine's host. Example: ``c.GPUDockerSpawner.bundle = '/srv/respawner/bundle/1a2b'``"
    ).tag(config=True)
    home_volume = Unicode(
        "{deployment}-home-{username}",
        help="Docker volume of a user's files. Example: ``c.GPUDockerSpawner.home_volume = 'home-{username}'``",
    ).tag(config=True)
    snapshot_volume = Unicode(
        "{deployment}-snapshots-{username}",
        help="Docker volume of a user's snapshots. Example: ``c.GPUDockerSpawner.snapshot_volume = 'snap-{username}'``",
    ).tag(config=True)
    gpus = Integer(
        0,
        min=0,
        help="GPUs of a session whose user chooses nothing. Example: ``c.GPUDockerSpawner.gpus = 1``",
    ).tag(config=True)
    max_gpus = Integer(
        1, min=0, help="The most GPUs one session may ask for. Example: ``c.GPUDockerSpawner.max_gpus = 2``"
    ).tag(config=True)
    pids_limit = Integer(
        4096, help="Processes and threads of a session. Example: ``c.GPUDockerSpawner.pids_limit = 2048``"
    ).tag(config=True)
    shm_size = ByteSpecification(
        1 << 31, help="Size of /dev/shm. Example: ``c.GPUDockerSpawner.shm_size = '8G'``"
    ).tag(config=True)
    cap_add = List(
        Unicode(),
        help="Linux capabilities that sessions keep; all others are dropped. Example: ``c.GPUDockerSpawner.cap_add = ['NET_RAW']``",
    ).tag(config=True)
    stop_grace_seconds = Integer(
        120,
        min=1,
        help="Time a stopped session has to become durable. Example: ``c.GPUDockerSpawner.stop_grace_seconds = 300``",
    ).tag(config=True)
    schedule = Callable(
        schedule,
        help="Grants what can be granted now: for callers who start a server without the queue. Example: ``c.GPUDockerSpawner.schedule = lambda ledger: None`` leaves all grants to the scheduler",
    ).tag(config=True)
    lease = List(Unicode(), help="UUIDs of this session's GPUs and MIG devices.")
    host = Unicode(help="Name of the host of this session's container, where there are several.")
    fence = Integer(0, help="Number of the session's hold on them.")
    will_resume = Bool(
        False, help="True while a running session is out of reach: its token and OAuth client are kept."
    )

    only_if_durable = False
    """Whether the stop that comes is part of a suspend, which must cost nobody a variable. Set by who asks for it."""
    _share: container_spec.Share | None = None
    """Where the session has a part of its GPU."""
    _preemptible = True
    _stopped = False
    """Whether somebody asked for the end of the session."""
    _failure = ""
    """Why its start failed."""
    _confirmed = False
    """Whether this hub process has seen the session run. Until then a "stop" means that the hub did not reach it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._said: list[dict[str, Any]] = []
        self._news = asyncio.Event()

    # What stock DockerSpawner shares among everybody ---------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The one that has, or gets, this session's container."""
        return self._engine_of(self.host)

    def _engine_of(self, host: str) -> Engine:
        if host in self.hosts:
            return engine_at(self.hosts[host], self.engine_tls_dir)
        return engine_at(self.engine_host)

    @property
    def client(self) -> Any:
        return self.engine.client

    def docker(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.engine.call(method, *args, **kwargs)

    @property
    def ledger(self) -> Ledger:
        if self.database_url not in _ledgers:
            _ledgers[self.database_url] = Ledger(self.database_url)
        return _ledgers[self.database_url]

    @property
    def holder(self) -> str:
        """Name of this session in the ledger and in labels."""
        return f"{self.deployment}/{self.user.name}/{self.name}"

    @default("options_form")
    def _options_form(self) -> Any:
        return _spawn_form

    @default("options_from_form")
    def _options_from_form(self) -> Any:
        return options_from_form

    @default("apply_user_options")
    def _apply_user_options(self) -> Any:
        return lambda spawner, options: None  # `start` checks and applies them

    @default("prefix")
    def _prefix(self) -> str:
        return self.deployment

    @default("use_internal_ip")
    def _use_internal_ip(self) -> bool:
        return True

    @default("pull_policy")
    def _pull_policy(self) -> str:
        return "ifnotpresent"

    def template_namespace(self) -> dict[str, Any]:
        return {**super().template_namespace(), "deployment": self.deployment}

    def get_state(self) -> dict[str, Any]:
        held = {"lease": list(self.lease), "fence": self.fence} if self.fence else {}
        where = {"host": self.host} if self.host else {}
        return {**super().get_state(), **held, **where}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.lease, self.fence = state.get("lease", []), state.get("fence", 0)
        self.host = state.get("host", "")

    def clear_state(self) -> None:
        super().clear_state()
        self.lease, self.fence, self.host = [], 0, ""

    # Start ----------------------------------------------------------------------------------------------

    async def start(self) -> tuple[str, int]:
        """Adopt the session's running container, or make a new one and wait until its server listens.

        :raises SessionStartError: with the container's exit code and log, or with the place in the queue; nothing
            is left behind.
        """
        self._confirmed, self._stopped, self._failure, self.will_resume = True, False, "", False
        self.only_if_durable = False
        self._said.clear()
        began = time.time()
        try:
            if running := await self._goes_on(await self._find()):
                return await self._adopt(running)
            lease = await self._granted(began)
            if await self._place(lease) and (running := await self._goes_on(await self._look())):
                return await self._adopt(running)
            image = await self._choose_image()
            await self._claim(lease)
            return await self._start_container(image)
        except SessionStartError as error:
            self._failure = str(error)
            raise
        except APIError as error:
            self._failure = self._explain(error)
            raise SessionStartError(self._failure, reason="container") from error
        except UNREACHABLE as error:
            self._failure = f"the engine does not answer: {error}"
            raise SessionStartError(
                f"The Docker engine at {self.engine.host} does not answer ({type(error).__name__}). "
                "Your files and snapshots are safe; tell your admin.",
                reason="engine",
            ) from error

    async def _find(self) -> dict[str, Any] | None:
        """The session's container of an earlier start; None where the ledger, or the host that it names, knows of none.

        JupyterHub forgets `host` before a start. Of several hosts only the one that had the newest start is asked, so
        that another one that hangs keeps nobody waiting. It has to answer, unless it is lost: not to have looked is no
        proof that nothing runs there. What was given up has no host.
        """
        if self.hosts and not self.host:
            self.host = await asyncio.to_thread(known_host, self.ledger, self.holder)
            if not self.host:
                return None
        try:
            return await self._look()
        except UNREACHABLE:
            if not (lost := await self._lost()):
                raise
            self.log.warning("%s starts elsewhere: %s", self._log_name, lost)
            self.host, self.object_id = "", ""
            return None

    async def _goes_on(self, found: dict[str, Any] | None) -> dict[str, Any] | None:
        """The container that was found, where its session can go on in it. Otherwise its place is made free."""
        if found is None:
            return None
        if found["State"]["Running"]:
            if not await self._is_given_up(_fence_of(found)):
                return found
            await self._stop_given_up()
        await self._remove(self.object_id)
        return None

    async def _lost(self) -> str:
        """Why the session's host counts as lost; "" while it does not."""
        if self.host not in self.hosts:
            return ""
        age = (await asyncio.to_thread(silent_seconds, self.ledger, list(self.hosts))).get(self.host, 0.0)
        return f"nothing was heard of its host {self.host} for {age:.0f} s" if age > LOST_SECONDS else ""

    async def _is_given_up(self, fence: int) -> bool:
        """Whether the ledger has ended the lease with which a container runs, or the session was started again since: it
        is no session of anybody's any more."""
        return bool(fence) and await asyncio.to_thread(self.ledger.has_ended, self.holder, fence)

    async def _stop_given_up(self) -> None:
        """End the container of a session that was given up and whose host is back, before a new one is made.

        It has saved what it could until now: the new one's number is not in the volume yet.
        """
        self.log.warning("%s was given up and still runs: stopping %s", self._log_name, self.object_id[:12])
        await self._flush()
        await self.docker("stop", self.object_id, timeout=self.stop_grace_seconds)

    async def _adopt(self, container: dict[str, Any]) -> tuple[str, int]:
        """Go on with a container that survived what the hub did not: its variables are still there."""
        environment = dict(item.split("=", 1) for item in container["Config"]["Env"] if "=" in item)
        self.api_token = environment["JUPYTERHUB_API_TOKEN"]
        hold = container_spec.Hold.of(container["Config"]["Labels"])
        self.lease, self.fence = list(hold.uuids), hold.fence
        await self._note_start()
        if self.lease:
            try:
                await asyncio.to_thread(self._write_down, hold)
            except LedgerError as error:
                # It runs, so it stays; the admin must decide who gives way.
                self.log.error(
                    "%s goes on with GPUs that the ledger gave to others: %s", self._log_name, error
                )
        self.log.info("Adopting %s's running container %s", self._log_name, self.object_id[:12])
        self._say(90, "Your session is still running: connecting to it")
        return await self.get_ip_and_port()

    def _write_down(self, hold: container_spec.Hold) -> None:
        """Let the ledger know the lease that the container's labels prove."""
        self.ledger.adopt(
            self.holder,
            self.user.name,
            hold.uuids,
            hold.fence,
            groups=hold.groups or self._groups(),
            preemptible=hold.preemptible,
            share_bytes=hold.share_bytes,
            by="spawner",
        )

    async def _choose_image(self) -> ImageFacts:
        if chosen := self.user_options.get("image"):
            self.image = await self.check_allowed(chosen)
        self._say(10, f"Image {self.image}")
        try:
            await self.pull_image(self.image)
            return await image_facts(self.engine, self.image)
        except APIError as error:
            raise SessionStartError(self._no_image(str(error.explanation)), reason="image") from error

    def _no_image(self, why: str) -> str:
        """Its GPUs are granted and not claimed, so the next try finds them as long as grants are held."""
        if not self.host:
            return (
                f"The image {self.image} is not on the engine and could not be pulled: {why}. "
                "The admin builds or loads it, or changes [image] name."
            )
        return (
            f"The image {self.image} is not on the host {self.host}, and its engine could not pull it: {why}. Tell your "
            "admin: an image that stands in respawner_images of the inventory is brought to every host by "
            "`respawner-hub provision`. GPUs that you have been granted are held for a while, and your session starts by "
            "itself when the image is there."
        )

    async def _granted(self, began: float) -> Lease | None:
        who = Claimant(self.holder, self.user.name, self._groups(), self.gpus, self.max_gpus)
        # of the hub's handlers for starts; others know nothing of it
        without_gpu = getattr(self.handler, "without_gpu", False)
        return await asyncio.to_thread(
            granted,
            self.ledger,
            who,
            self.user_options,
            self.schedule,
            began,
            without_gpu=without_gpu,
        )

    async def _place(self, lease: Lease | None) -> bool:
        """Go to the host of the lease; without one to a host that takes sessions. False: this is where we are already."""
        if not self.hosts:
            return False
        if lease:
            host = await asyncio.to_thread(host_of, self.ledger, lease)
        else:
            candidates = await asyncio.to_thread(open_hosts, self.ledger, list(self.hosts))
            host = choose_host(self.holder, candidates) if candidates else ""
        if host not in self.hosts:
            what = f"of {lease.uuids[0]} ({host or 'unknown'})" if lease else "that takes sessions now"
            raise SessionStartError(
                f"There is no host {what} among {', '.join(self.hosts)}. Tell your admin: "
                "`respawner-hub gpu list` shows the hosts, [cluster] hosts and `provision` make them known.",
                reason="host",
            )
        if host == self.host:
            return False
        self.host, self.object_id = host, ""
        return True

    async def _claim(self, lease: Lease | None) -> None:
        """Take the lease, and the number that the container gets: from here on an older one of the session is none."""
        self.lease, self.fence, self._share, self._preemptible = [], 0, None, True
        if lease is None:
            several = bool(self.hosts)
            self.fence = await asyncio.to_thread(
                fence_without_lease, self.ledger, self.holder, always=several
            )
            await self._note_start()
            return
        lease = await asyncio.to_thread(claim, self.ledger, lease)
        self.lease, self.fence, self._preemptible = list(lease.uuids), lease.fence, lease.preemptible
        await self._note_start()
        if lease.share_bytes:
            devices = await asyncio.to_thread(self.ledger.devices)
            memory = {device.uuid: device.memory_bytes for device in devices}
            self._share = container_spec.Share(lease.share_bytes, memory.get(lease.uuids[0], 0))
        await self._refuse_used(lease)
        self._say(20, f"{len(lease.uuids)} GPU(s) for you")

    async def _note_start(self) -> None:
        if self.fence:
            await asyncio.to_thread(self.ledger.started, self.holder, self.fence, self.host)

    def _groups(self) -> list[str]:
        return [group.name for group in self.user.orm_user.groups]

    async def _refuse_used(self, lease: Lease) -> None:
        """The last look before devices are handed out: no other container of the engine has them, except that shares
        get on with each other.

        The ledger knows that too, unless its database was lost or restored since and nobody has compared them yet.
        """
        for container in await self.docker("containers", filters={"label": container_spec.GPUS_LABEL}):
            labels = container["Labels"]
            if lease.share_bytes and int(labels.get(container_spec.SHARE_LABEL) or 0):
                continue
            used = set(labels[container_spec.GPUS_LABEL].split(",")) & set(lease.uuids)
            if used:
                holder = labels.get(container_spec.HOLDER_LABEL, container["Id"][:12])
                raise SessionStartError(
                    f"{', '.join(sorted(used))} was granted to you, but the container of {holder} still uses it. "
                    "Try again in a minute; if it stays so, tell your admin: `respawner-hub gpu leases`.",
                    reason="gpus",
                )

    async def _start_container(self, image: ImageFacts) -> tuple[str, int]:
        self._say(30, "Creating the container")
        self.object_id = (await self._create(image))["Id"]
        folders = (image.home, contract.STATE_DIR)
        await fill_volumes(self.engine, self.object_id, folders, self._files(), image.uid, image.gid)
        self._say(50, "Starting the container")
        await self.start_object()
        if self.post_start_cmd:
            await self.post_start_exec()
        ip, port = await self.get_ip_and_port()
        self._say(60, "Waiting for your server")
        await wait_until_listening(self.engine, self.object_id, ip, port)
        if not self.internal_ssl:
            url = f"http://{ip}:{port}{self.server.base_url}"
            await refuse_without_kernels(image, url, self.api_token, self.log)
        return ip, port

    async def create_object(self) -> dict[str, Any]:
        return await self._create(await image_facts(self.engine, self.image))

    async def _create(self, image: ImageFacts) -> dict[str, Any]:
        """Create the container: our specification, then the volumes and extras that an admin configured."""
        session = self._session(image)
        create = container_spec.create_arguments(session, self._command(image))
        host = container_spec.host_config(session)
        _deep_merge(create, await self._rendered(self.extra_create_kwargs))
        _deep_merge(host, await self._rendered(self.extra_host_config))
        host["binds"] = {**container_spec.binds(session), **self.volume_binds, **host.get("binds", {})}
        host.setdefault("mounts", self.mount_binds)
        host.setdefault("network_mode", self.network_name)
        if not self.use_internal_ip:
            host["port_bindings"] = {self.port: (self.host_ip,)}
        return await self.docker(
            "create_container",
            name=self.container_name,
            ports=[self.port],
            host_config=self.client.create_host_config(**host),
            **create,
        )

    def _session(self, image: ImageFacts) -> container_spec.Session:
        names = self.template_namespace()
        return container_spec.Session(
            deployment=self.deployment,
            holder=self.holder,
            user=self.user.name,
            server=self.name,
            image=image,
            home_volume=self.home_volume.format(**names),
            snapshot_volume=self.snapshot_volume.format(**names),
            bundle=Path(self.bundle),
            gpus=self.lease,
            share=self._share,
            fence=self.fence,
            fence_file=self._fence_file(),
            groups=self._groups(),
            preemptible=self._preemptible,
            cpu_limit=self.cpu_limit,
            mem_limit=self.mem_limit,
            pids_limit=self.pids_limit,
            shm_bytes=self.shm_size,
            cap_add=self.cap_add,
            stop_grace_seconds=self.stop_grace_seconds,
            environment=self.get_env(),
        )

    def _fence_file(self) -> str:
        """A user's servers share a volume, and each is fenced for itself."""
        name = self.template_namespace()["servername"]
        return f"{contract.FENCE_FILE}-{name}" if name else contract.FENCE_FILE

    def _files(self) -> dict[str, bytes]:
        """What stands in the container before it starts: from here on an older session of this one saves nothing."""
        return {self._fence_file(): str(self.fence).encode()} if self.fence else {}

    def _command(self, image: ImageFacts) -> list[str]:
        """The configured command, the image's, or for an image that names none the server itself."""
        return list(self.cmd or image.command or ("jupyterhub-singleuser",)) + self.get_args()

    async def _rendered(self, option: Any) -> dict[str, Any]:
        value = self._eval_if_callable(option)
        if inspect.isawaitable(value):
            value = await value
        return self._render_templates(value)

    def _explain(self, error: APIError) -> str:
        detail = str(error.explanation or error)
        if "executable file not found" in detail or "no such file or directory" in detail:
            return (
                f"The image {self.image} cannot run the session's server: {detail}. "
                "It needs jupyterhub-singleuser: `pip install jupyterhub jupyterlab` in it."
            )
        if "unknown device" in detail or "could not select device driver" in detail:
            return f"The engine refused the GPU: {detail}. The admin runs `respawner-hub status`."
        return f"Docker could not start the session: {detail}"

    def _say(self, percent: int, message: str) -> None:
        self._said.append({"progress": percent, "message": message})
        self._news.set()
        self._news = asyncio.Event()

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """What happens, for every page that waits; ends when JupyterHub closes it."""
        shown = 0
        while True:
            news = self._news
            for event in self._said[shown:]:
                shown += 1
                yield event
            await news.wait()

    # Running --------------------------------------------------------------------------------------------

    def start_polling(self) -> None:
        """JupyterHub calls this once it counts the session as running."""
        self._confirmed = True
        super().start_polling()

    async def get_object(self) -> dict[str, Any] | None:
        """Docker's inspection of this session's container; None only when the engine says that there is none."""
        if self.host and self.hosts and self.host not in self.hosts:
            raise ConnectionError(f"the settings name no host {self.host}, where {self._log_name} ran")
        try:
            container = await self.docker("inspect_container", self.container_name)
        except NotFound:
            self.object_id = ""
            return None
        self.object_id = container["Id"]
        return container

    async def _look(self) -> dict[str, Any] | None:
        """The same within a moment: one of several hosts may hang, and its users wait for this to start elsewhere."""
        return await asyncio.wait_for(self.get_object(), LOOK_SECONDS if self.hosts else None)

    async def poll(self) -> str | None:
        """None while the session runs, or while nobody can tell; otherwise how it ended."""
        try:
            container = await self._look()
        except CALL_FAILED as error:
            if lost := await self._lost():
                return lost
            if await self._is_given_up(self.fence):
                return "its host does not answer, and an admin gave it up"
            self.log.warning(
                "Cannot ask %s about %s, counted as running: %s", self.engine.host, self._log_name, error
            )
            return None
        if container is None:
            return "the container was removed"
        if container["State"]["Running"]:
            return None
        return Ending.of(container["State"]).describe()

    # Stop -----------------------------------------------------------------------------------------------

    async def stop(self, now: bool = False) -> None:
        """Make the session durable, then stop its container.

        A hub that starts calls this for sessions that it could not reach. These are left alone: the
        container, its lease, its token and its OAuth client stay, and the next start adopts it.
        """
        if not self._confirmed and self.user.name not in self.authenticator.blocked_users:
            self.log.warning(
                "%s could not be reached and is left running; its next start adopts it", self._log_name
            )
            self.will_resume = True
            return
        self._stopped = True
        saved = await self._flush()
        if not saved.durable and self.only_if_durable:
            self.log.warning("%s is not suspended: %s", self._log_name, saved.reason)
            self.will_resume = True
            return
        try:
            await self.docker("stop", self.object_id or self.container_name, timeout=self.stop_grace_seconds)
        except NotFound:
            self.log.info("%s: the container is gone already", self._log_name)

    async def _flush(self) -> Saved:
        """Wait until every kernel of the session has its variables on disk; say so when one has not."""
        saved = await flush(self.engine, self.container_name, self.stop_grace_seconds)
        if saved.durable:
            self.log.info("%s is durable after %.1f s", self._log_name, saved.seconds)
        else:
            self.log.error("%s is not durable: %s", self._log_name, saved.reason)
        return saved

    async def run_post_stop_hook(self) -> None:
        """JupyterHub calls this after every end of a session, expected or not: read, remove, release."""
        if lost := await self._lost():
            self.log.error("%s: its container is left to the reconciler: %s", self._log_name, lost)
            # Else it would keep its GPUs, without a server, until its user comes again.
            await asyncio.to_thread(self.ledger.give_up, self.holder, lost, "spawner")
        elif not self.will_resume:
            try:
                await self._reap()
            except CALL_FAILED as error:
                self.log.error("%s: cleaning up waits for the next start: %s", self._log_name, error)
        hook = super().run_post_stop_hook()
        if inspect.isawaitable(hook):
            await hook

    async def delete_forever(self) -> None:
        """JupyterHub calls this when the named server or the user is deleted, after the stop. Volumes stay."""
        await asyncio.to_thread(deleted, self.ledger, self.holder)

    async def _reap(self) -> None:
        """Remove the ended container and end its lease. One that still runs keeps both."""
        container = await self.get_object()
        if container and container["State"]["Running"]:
            self.log.error("%s still runs in %s and keeps its lease", self._log_name, self.object_id[:12])
            return
        reason, detail = EndReason.LOST, "the container was removed"
        if container:
            ending = await read_ending(self.engine, container)
            level = "info" if ending.exit_code == 0 else "warning"
            getattr(self.log, level)("%s: %s\n%s", self._log_name, ending.describe(), ending.log_tail)
            await self._remove(container["Id"])
            reason = EndReason.RELEASED if ending.exit_code == 0 else EndReason.FAILED
            detail = ending.describe()
        if self._failure:
            reason, detail = EndReason.FAILED, self._failure
        elif self._stopped:
            reason, detail = EndReason.RELEASED, ""  # and the ledger knows whether it was a suspend, and why
        await asyncio.to_thread(self._release, reason, detail)
        await asyncio.to_thread(self.ledger.container_gone, self.holder, self.fence)
        if self._stopped and not self.only_if_durable:
            await asyncio.to_thread(stopped, self.ledger, self.holder)
        self.object_id, self.lease, self.fence = "", [], 0

    def _release(self, reason: EndReason, detail: str) -> None:
        # By its number, where we know it: what comes late must not end a lease that came after.
        self.ledger.release(self.holder, reason, detail=detail[:500], fence=self.fence or None)

    async def _remove(self, container_id: str) -> None:
        with contextlib.suppress(NotFound):
            await self.docker("remove_container", container_id, v=True, force=False)


def _fence_of(container: dict[str, Any]) -> int:
    """Of Docker's inspection of a session's container; 0: it has none."""
    return container_spec.Hold.of(container["Config"]["Labels"]).fence
