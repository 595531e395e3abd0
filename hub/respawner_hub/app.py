"""JupyterHub with our handlers before its own, the only way to ask the ledger before a server is started.

`extra_handlers` come after JupyterHub's own, and an admin may set another authenticator (`get_handlers`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from jupyterhub.app import JupyterHub
from respawner_spawner.engine import Engine
from respawner_spawner.leases.ledger import Ledger
from traitlets import Callable, Instance, Integer, Unicode

from .gpus import api, handlers, pages
from .gpus.agents import Agents, strangers_of, tell, unwatched
from .gpus.containers import Reconciler, withhold
from .gpus.desk import Desk
from .gpus.rounds import idle_rules_of, policy_of
from .settings import GpuSettings

FIRST_LOOK_SECONDS = 5.0
"""What the start waits for an engine that hangs; the scheduler goes on trying. Those that answer are looked at meanwhile."""


class RespawnerHub(JupyterHub):
    """Configured as `c.RespawnerHub`; what is set for `c.JupyterHub` holds as well."""

    deployment = Unicode(
        "respawner",
        help="Name of the deployment, as the spawner's. Example: ``c.RespawnerHub.deployment = 'ml-team'``",
    ).tag(config=True)
    ledger_url = Unicode(
        help="SQLAlchemy URL of the leases. Example: ``c.RespawnerHub.ledger_url = 'sqlite:////srv/leases.sqlite'``"
    ).tag(config=True)
    engines = Callable(
        dict,
        help="Returns the engines of the sessions by host, which are compared with the leases before any GPU is granted; none: by nobody. Example: ``c.RespawnerHub.engines = partial(engines_of, settings)``",
    ).tag(config=True)
    gpus = Instance(
        GpuSettings,
        args=(),
        help="The section [gpus] of the settings. Example: ``c.RespawnerHub.gpus = GpuSettings(idle_minutes=60)``",
    ).tag(config=True)
    max_gpus = Integer(
        1, min=0, help="The most GPUs one session may ask for. Example: ``c.RespawnerHub.max_gpus = 2``"
    ).tag(config=True)
    default_gpus = Integer(
        0,
        min=0,
        help="GPUs of a session whose user chooses nothing. Example: ``c.RespawnerHub.default_gpus = 1``",
    ).tag(config=True)

    agents = Instance(
        Agents,
        args=((),),
        help="The agents of the hosts. Example: ``c.RespawnerHub.agents = agents_of(settings)``",
    ).tag(config=True)

    async def initialize(self, argv: list[str] | None = None) -> None:
        """Devices are known before the first page is asked for, and who has them; from then on the scheduler listens."""
        await super().initialize(argv)
        if "gpu_desk" not in self.tornado_settings:  # a subcommand
            return
        seen = await self.agents.ask()
        engines = self.engines()
        if engines:
            known = {device.host for device in self._ledger.devices()}
            hosts = known | {host.host for host in seen if host.answer}
            await asyncio.to_thread(withhold, self._ledger, sorted(hosts), "hub")
        await asyncio.to_thread(tell, self._ledger, seen)
        if engines:
            await self._look_at_the_containers(engines)

    async def _look_at_the_containers(self, engines: Mapping[str, Engine]) -> None:
        """The database may be older than they are. What cannot be seen now stays withheld until the scheduler sees it."""
        reconciler = Reconciler(self._ledger, engines, self.deployment)
        seen = self.agents.seen
        strangers = strangers_of(seen, self.deployment)
        try:
            for sentence in await reconciler.compare_promptly(
                strangers, partial(unwatched, seen), FIRST_LOOK_SECONDS
            ):
                self.log.info("reconciled: %s", sentence)
        except Exception as error:
            self.log.error("No GPU is granted before the engine was looked at: %r", error)

    def init_tornado_settings(self) -> None:
        super().init_tornado_settings()
        self._ledger = Ledger(self.ledger_url)
        self.template_vars["gpu_pages"] = True
        self.tornado_settings.update(
            deployment=self.deployment,
            gpu_agents=self.agents,
            gpu_desk=Desk(
                self._ledger,
                policy_of(self.gpus),
                idle_rules_of(self.gpus),
                max_gpus=self.max_gpus,
                default_gpus=self.default_gpus,
                hosts=list(self.engines()),
            ),
        )

    def init_handlers(self) -> None:
        super().init_handlers()
        ours = [*handlers.HANDLERS, *pages.HANDLERS, *api.HANDLERS]
        self.handlers[:0] = self.add_url_prefix(self.hub_prefix, ours)


main = RespawnerHub.launch_instance

if __name__ == "__main__":
    main()
