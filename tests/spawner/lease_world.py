"""A deployment without engines: containers that live and die, hosts that vanish, a ledger that crashes between any two
statements. The rules of `test_leases_model.py` act on it; what must always hold is checked here."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from respawner_spawner.leases.ledger import Ledger
from respawner_spawner.leases.model import Ask, Decision, Device, Grant, Kind, Lease, Limit, Request, Rules
from respawner_spawner.leases.policy import decide
from respawner_spawner.leases.reconcile import Container, Do, carry_out, known, plan
from respawner_spawner.leases.records import HeldByAnother, NoLease, OpenRequest
from sqlalchemy import event

from tests.spawner.ledgers import GIB, START, Clock, holder

USERS = ("alice", "bob", "carol", "dave", "erin")
GROUPS = {"alice": ("vision",), "bob": ("vision", "nlp"), "carol": ("nlp",)}
RULES = Rules(preempt=True, min_run_seconds=300, slice_seconds=600, patience_seconds=1800, pass_seconds=7200)
H100 = "NVIDIA H100 80GB HBM3"
DEVICES = (
    *(Device(f"GPU-a{n}", "host-a", H100, 80 * GIB) for n in range(2)),
    *(Device(f"GPU-b{n}", "host-b", H100, 80 * GIB) for n in range(2)),
    *(Device(f"MIG-b{n}", "host-b", H100, 20 * GIB, Kind.MIG, "GPU-b9", "2g.20gb") for n in range(2)),
)
HOST_OF = {device.uuid: device.host for device in DEVICES}
MEMORY = {device.uuid: device.memory_bytes for device in DEVICES}


class Crash(BaseException):
    """The process dies here. No `except Exception` sees it."""


class Books:
    """One SQLite file with a ledger on it, for all runs: its process can die, the file can be put back.

    A ledger keeps nothing in memory but connections, so that to forget these is to start anew.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.sqlite"
        self.clock = Clock()
        self.fuse: int | None = None
        self.ledger = Ledger(f"sqlite:///{self.path}", self.clock)
        for host in ("host-a", "host-b"):
            self.ledger.heartbeat(host, [device for device in DEVICES if device.host == host])
        event.listen(self.ledger.database.engine, "before_cursor_execute", self._burn)
        event.listen(self.ledger.database.engine, "commit", self._burn)
        self._look()
        self.empty = self.eyes.serialize()

    def _look(self) -> None:
        self.eyes = sqlite3.connect(
            self.path, isolation_level=None
        )  # sees what is committed, by nobody's code

    def _burn(self, *_: object) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                self.fuse = None
                raise Crash

    def forget(self) -> None:
        self.ledger.close()

    def replace(self, content: bytes) -> None:
        """Put a backup back while nothing runs."""
        self.forget()
        self.eyes.close()
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self.path.write_bytes(content)
        self._look()


class World:
    """Reality (`containers`, `away`) and the process that keeps the ledger of it."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.clock = books.clock
        self.clock.now = START
        self.containers: list[Container] = []
        self.away: set[str] = set()
        """Hosts that do not answer; what runs there goes on."""
        self.strangers: dict[str, str] = {}
        self.decisions: list[Decision] = []
        """Made and not yet applied, some long ago: in the memory of one scheduler or another."""
        self.backup: bytes | None = None
        self.fences: list[int] = []
        """Every one that a grant got, restored databases' too."""
        self.ids = itertools.count()
        self.happened: Counter[str] = Counter()
        books.replace(books.empty)

    # The process ----------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        return self.books.ledger

    @property
    def eyes(self) -> sqlite3.Connection:
        return self.books.eyes

    @contextlib.contextmanager
    def may_crash(self, statements: int | None) -> Iterator[None]:
        """The process dies after so many statements and commits of what is done in here, and starts again."""
        self.books.fuse = statements
        try:
            yield
        except Crash:
            self.happened["crash"] += 1
            self.decisions.clear()
            self.books.forget()
        finally:
            self.books.fuse = None

    # What a deployment does -----------------------------------------------------------------------------

    def inventory(self) -> list[Device]:
        """As the scheduler sees it: a host that does not answer has silent agents."""
        return [
            dataclasses.replace(device, cordon="silent") if device.host in self.away else device
            for device in DEVICES
        ]

    def look(self) -> Decision:
        cluster = self.ledger.cluster(self.inventory(), self.clock.now, RULES)
        decision = decide(cluster, self.clock.now)
        answered = {grant.request_id for grant in decision.grants}
        for request in cluster.queue:
            if request.id not in answered:
                wait = decision.waits[request.id]
                assert wait.reason.strip(), f"{request} waits without a reason"
                assert wait.position >= 1
        return decision

    def any_grant(self, request: Request, at: int) -> Grant:
        """Devices of the kind that is asked for, on one host, and nothing else looked at."""
        kind = Kind.GPU if request.ask.kind is Kind.SHARE else request.ask.kind
        host = ("host-a", "host-b")[at % 2]
        fit = [d.uuid for d in DEVICES if d.kind is kind and d.host == host] or [DEVICES[0].uuid]
        return Grant(request.id, tuple(fit[(at + n) % len(fit)] for n in range(request.ask.count)))

    def apply(self, decision: Decision) -> list[Lease]:
        leases = self.ledger.apply(decision, self.clock.now)
        self.happened["granted"] += len(leases)
        return leases

    def submit(self, user: str, ask: Ask, **more: Any) -> None:
        try:
            self.ledger.submit(holder(user), user, ask, groups=GROUPS.get(user, ()), **more)
            self.happened["submitted"] += 1
        except OpenRequest:
            self.happened["refused"] += 1

    def running(self, name: str, reachable: bool = True) -> Container | None:
        found = [c for c in self.containers if c.holder == name and c.running]
        return next((c for c in found if not reachable or c.host not in self.away), None)

    def start(self, user: str) -> None:
        """The spawner's start: adopt what runs, or claim and make a container."""
        name = holder(user)
        if existing := self.running(name):
            with contextlib.suppress(HeldByAnother):
                self.ledger.adopt(
                    name, user, existing.uuids, existing.fence, share_bytes=existing.share_bytes
                )
            return
        self.forget([c for c in self.containers if c.holder == name and c.host not in self.away])
        try:
            lease = self.ledger.claim(name)
        except NoLease:
            return
        host = HOST_OF[lease.uuids[0]]
        if host not in self.away:
            self.happened["started"] += 1
            self.containers.append(
                Container(
                    f"c{next(self.ids)}", host, True, name, user, lease.uuids, lease.fence, lease.share_bytes
                )
            )

    def suspending(self) -> list[Container]:
        """Containers that run, within reach, and whose lease is on its way out."""
        query = (
            "SELECT holder FROM respawner_requests WHERE suspending_since IS NOT NULL AND state = 'running'"
        )
        holders = {name for (name,) in self.eyes.execute(query)}
        return [c for c in self.containers if c.running and c.holder in holders and c.host not in self.away]

    def lost_sight_of(self) -> list[Container]:
        """Containers on hosts that do not answer."""
        return [container for container in self.containers if container.host in self.away]

    def start_granted(self) -> None:
        """The users for whom something is held come."""
        query = "SELECT user FROM respawner_requests WHERE state = 'granted'"
        for (user,) in self.eyes.execute(query).fetchall():
            self.start(user)

    def stop(self, container: Container, **how: Any) -> None:
        """The spawner's stop hook: the container goes first."""
        self.forget([container])
        self.ledger.release(container.holder, fence=container.fence, **how)

    def die(self, container: Container) -> None:
        """It ends, and nobody notices for now."""
        self.containers.remove(container)
        self.containers.append(dataclasses.replace(container, running=False))

    def forget(self, containers: list[Container]) -> None:
        self.containers = [c for c in self.containers if c not in containers]

    def reconcile(self, grace_seconds: float) -> None:
        visible = [c for c in self.containers if c.host not in self.away]
        made = plan(
            known(self.ledger, visible),
            visible,
            DEVICES,
            self.clock.now,
            unreachable=sorted(self.away),
            strangers=self.strangers,
            grace_seconds=grace_seconds,
        )
        assert len(made.explain()) == len(made.actions)
        for action in carry_out(self.ledger, made):
            self.happened[f"reconcile: {action.do}"] += 1
            if action.do is Do.FENCE_OFF and action.container:
                self.forget([action.container])

    def save_backup(self) -> None:
        self.backup = self.eyes.serialize()

    def restore_backup(self) -> None:
        """Everything is stopped but the sessions, the file is put back, and the first thing done is to reconcile.

        That takes longer than there were grants before: fences are seconds, which is what keeps them rising when
        the host that could tell of the newest one is away.
        """
        if self.backup is None:
            return
        self.decisions.clear()
        self.clock.now += 600
        self.books.replace(self.backup)
        self.happened["restored"] += 1
        self.reconcile(0)

    # What admins do -------------------------------------------------------------------------------------

    def cordon(self, target: str, reason: str) -> None:
        self.ledger.cordon(target, reason, "user:root")

    def uncordon(self, target: str) -> None:
        for reason in "xy":  # its own only: whoever takes "holder unknown" away has looked
            self.ledger.uncordon(target, "user:root", reason)

    def share(self, uuid: str, gib: int) -> None:
        self.ledger.share(uuid, gib * GIB, "user:root")

    def limit(self, subject: str, most: int | None, guarantee: int) -> None:
        if most is None and not guarantee:
            self.ledger.remove_limit(subject, "user:root")
        else:
            guarantee = guarantee if most is None else min(guarantee, most)
            self.ledger.set_limit(Limit(subject, most, guarantee), "user:root")

    def reserve(self, group: str, count: int, wait: int, length: int) -> None:
        if len(self.ledger.reservations()) < 3:
            start = self.clock.now + wait
            self.ledger.reserve(group, count, start, start + length, "user:root")

    def cancel_reservation(self) -> None:
        for reservation in self.ledger.reservations()[:1]:
            self.ledger.cancel_reservation(reservation.id, "user:root")

    # What must hold -------------------------------------------------------------------------------------

    def check_reality(self) -> None:
        """No device is used by two sessions as a whole, by shares beside a whole one, or beyond its memory."""
        used: dict[str, list[int]] = {}
        for container in self.containers:
            for uuid in container.uuids if container.running else ():
                used.setdefault(uuid, []).append(container.share_bytes)
        for uuid, shares in used.items():
            _check_device(uuid, shares, self.containers)

    def check_ledger(self) -> None:
        """The same in the books, and what else their rows must be like."""
        held: dict[str, list[int]] = {}
        query = (
            "SELECT h.uuid, h.share_bytes, r.state, r.fence FROM respawner_holdings h "
            "JOIN respawner_requests r ON r.id = h.request_id WHERE h.until IS NULL"
        )
        for uuid, share_bytes, state, fence in self.eyes.execute(query):
            held.setdefault(uuid, []).append(share_bytes)
            assert state in ("granted", "running"), f"{uuid} is held by a request that is {state}"
            assert fence
        for uuid, shares in held.items():
            _check_device(uuid, shares, self.containers)
        without = (
            "SELECT count(*) FROM respawner_requests r WHERE state IN ('granted', 'running') AND NOT EXISTS "
            "(SELECT 1 FROM respawner_holdings h WHERE h.request_id = r.id AND h.until IS NULL)"
        )
        assert self.eyes.execute(without).fetchone() == (0,), "a lease without devices"

    def check_fences(self, leases: list[Lease]) -> None:
        for lease in leases:
            assert lease.fence > max(self.fences, default=0), "a fence that is not newer than all before"
            self.fences.append(lease.fence)

    def state(self) -> dict[str, Any]:
        """All that counts as a change when it differs."""
        return {
            name: self.eyes.execute(query).fetchall()
            for name, query in {
                "requests": "SELECT id, holder, state, fence, end_reason, suspending_since, warned_at, snoozes, flag, waits_for_cell, "
                "suspend_failure FROM respawner_requests ORDER BY id",
                "held": "SELECT request_id, uuid, slot, until FROM respawner_holdings ORDER BY id",
                "cordons": "SELECT target, reason FROM respawner_cordons ORDER BY id",
                "sharing": "SELECT * FROM respawner_sharing ORDER BY uuid",
                "limits": "SELECT * FROM respawner_limits ORDER BY subject",
                "reservations": "SELECT * FROM respawner_reservations ORDER BY id",
                "fence": "SELECT last_fence FROM respawner_ledger",
            }.items()
        }

    def audited(self) -> int:
        return self.eyes.execute("SELECT coalesce(max(id), 0) FROM respawner_audit").fetchone()[0]

    @contextlib.contextmanager
    def every_change_is_audited(self) -> Iterator[None]:
        """Each request that changes has an entry of its own, and so has any other change."""
        before, last = self.state(), self.audited()
        yield
        after = self.state()
        query = "SELECT action, subject FROM respawner_audit WHERE id > ?"
        entries = self.eyes.execute(query, (last,)).fetchall()
        changed = set(after["requests"]) - set(before["requests"])
        missing = {row[1] for row in changed} - {subject for _, subject in entries}
        assert not missing, f"changed without an entry in the audit log: {missing}, {entries}"
        others = [name for name in after if name != "requests" and before[name] != after[name]]
        assert entries or not others, f"changed without an entry in the audit log: {others}"

    # The end --------------------------------------------------------------------------------------------

    def wind_down(self) -> None:
        """Everybody comes back, admins take away what they set, time passes: all are served, every lease ends."""
        self.away.clear()
        self.strangers.clear()
        self.decisions.clear()
        for container in [c for c in self.containers if c.running]:
            self.die(container)
        self.reconcile(0)
        for cordon in self.ledger.cordons():
            self.ledger.uncordon(cordon.target, "user:root")
        for reservation in self.ledger.reservations():
            self.ledger.cancel_reservation(reservation.id, "user:root")
        for limit in self.ledger.limits():
            self.ledger.remove_limit(limit.subject, "user:root")
        for standing in self.ledger.waiting_for_cells():
            assert self.ledger.offer_again(standing.request.holder, "its cell has ended")
        for _ in range(2 * len(USERS) + 2):
            self.clock.now += RULES.slot_held_seconds
            self.ledger.expire(self.clock.now, RULES.slot_held_seconds)
            self.check_fences(self.apply(self.look()))
            self.start_granted()
            self.check_reality()
            for container in list(self.containers):
                self.stop(container)
            left = self.ledger.queue()
            if all(standing.wait and standing.wait.impossible for standing in left):
                break
        for standing in left:
            assert standing.wait is not None
            assert standing.wait.impossible, f"starved: {standing}"
            assert not self._could_be(standing.request.ask), f"not impossible: {standing}"
            self.ledger.cancel(standing.request.holder)
        assert self.ledger.leases() == []
        open_rows = self.eyes.execute(
            "SELECT count(*) FROM respawner_requests WHERE state <> 'ended'"
        ).fetchone()
        assert open_rows == (0,), "a request that does not end"

    def _could_be(self, ask: Ask) -> bool:
        """Whether the devices, all free, could fulfil it: by trying."""
        shared = self.ledger.sharing()
        for host in {device.host for device in DEVICES}:
            fits = 0
            for device in DEVICES:
                if device.host != host or ask.model.lower() not in device.model.lower():
                    continue
                if ask.kind is Kind.SHARE:
                    fits += shared.get(device.uuid, 0) >= ask.share_bytes
                elif device.kind is ask.kind and not shared.get(device.uuid):
                    fits += device.memory_bytes >= ask.min_memory_bytes
            if fits >= ask.count:
                return True
        return False


def _check_device(uuid: str, shares: list[int], containers: list[Container]) -> None:
    if 0 in shares:
        assert len(shares) == 1, f"{uuid} has {len(shares)} holders: {containers}"
    assert sum(shares) <= MEMORY[uuid], f"{uuid}: shares take more than there is: {containers}"
