"""Ledger and policy under anything that can happen, in any order, cut short anywhere.

hypothesis chooses what happens: people ask and leave, two schedulers act on old decisions, the process dies at any
statement, containers die unseen, hosts vanish and come back, admins change their minds, a backup is restored. Checked
after every step: `World.check_*`; at the end everybody is served and every lease ends. RESPAWNER_MODEL_STEPS sets how
many steps there are (10,000; a million in `make test-long`), RESPAWNER_MODEL_SEED which ones: the same in every
`make test`, others each time in `make test-long`.
"""

import os
import secrets
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from respawner_spawner.leases.admin import host_target
from respawner_spawner.leases.model import Ask, Decision, Kind
from respawner_spawner.leases.records import EndReason, Use

from tests.spawner.lease_world import DEVICES, RULES, USERS, Books, World
from tests.spawner.ledgers import GIB, holder, in_memory

LONG = os.environ.get("RESPAWNER_LONG") == "1"
STEPS = int(os.environ.get("RESPAWNER_MODEL_STEPS", 1_000_000 if LONG else 10_000))
STEPS_A_RUN = 50
SEED = int(os.environ.get("RESPAWNER_MODEL_SEED", secrets.randbelow(1 << 32) if LONG else 1))

users = st.sampled_from(USERS)
crashes = st.one_of(st.none(), st.none(), st.none(), st.integers(0, 14))
"""After how many statements and commits the process dies in this step; mostly it does not."""
numbers = st.integers(0, 9)
uuids = st.sampled_from([device.uuid for device in DEVICES])
asks = st.one_of(
    st.builds(Ask, st.just(Kind.GPU), st.sampled_from([1, 1, 1, 2, 2, 3])),
    st.builds(Ask, st.just(Kind.MIG), st.sampled_from([1, 1, 2])),
    st.builds(Ask, st.just(Kind.SHARE), share_bytes=st.sampled_from([8 * GIB, 30 * GIB, 60 * GIB])),
)

targets = st.one_of(uuids, st.just(host_target("host-a")))
changes = st.one_of(
    st.tuples(st.just("cordon"), targets, st.sampled_from("xy")),
    st.tuples(st.just("uncordon"), targets),
    st.tuples(st.just("uncordon"), targets),
    st.tuples(
        st.just("share"), uuids.filter(lambda uuid: uuid.startswith("GPU")), st.sampled_from([0, 40, 80, 80])
    ),
    st.tuples(
        st.just("limit"),
        st.sampled_from(["everyone", "user:alice", "group:vision", "group:nlp"]),
        st.sampled_from([None, None, 0, 1, 2, 4]),
        st.sampled_from([0, 1, 2]),
    ),
    st.tuples(
        st.just("reserve"),
        st.sampled_from(["vision", "nlp"]),
        st.integers(1, 4),
        st.integers(0, 4000),
        st.integers(1, 8000),
    ),
    st.tuples(st.just("cancel_reservation")),
)

books: Books
counted: Counter[str] = Counter()


class Model(RuleBasedStateMachine):
    @initialize(shared=st.booleans(), wishes=st.dictionaries(users, asks, min_size=3), present=st.booleans())
    def begin(self, shared, wishes, present):
        """Every run begins with people at work, and a backup from before they came."""
        self.world = World(books)
        self.world.save_backup()
        if shared:
            self.an_admin_changes_something(("share", "GPU-a0", 80), None)
        for user, ask in wishes.items():
            self.submit(user, ask, 0, True, False, None)
        self.life_goes_on(None, 1, present)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.wind_down()
        counted.update(self.world.happened)

    def step(self, crash, action) -> None:
        """One thing happens; the process may die within it."""
        counted["steps"] += 1
        with self.world.every_change_is_audited(), self.world.may_crash(crash):
            action(self.world, self.world.ledger)

    @invariant()
    def nothing_is_held_twice(self) -> None:
        if hasattr(self, "world"):
            self.world.check_reality()
            self.world.check_ledger()

    # People -------------------------------------------------------------------------------------------

    @rule(
        user=users,
        ask=asks,
        priority=st.sampled_from([0, 0, 0, 1]),
        preemptible=st.booleans(),
        resumes=st.booleans(),
        crash=crashes,
    )
    def submit(self, user, ask, priority, preemptible, resumes, crash):
        more = {"priority": priority, "preemptible": preemptible, "resumes": resumes}
        self.step(crash, lambda world, ledger: world.submit(user, ask, **more))

    @rule(wishes=st.dictionaries(users, asks, min_size=3), backup=st.booleans(), crash=crashes)
    def many_come(self, wishes, backup, crash):
        for user, ask in wishes.items():
            self.step(crash, lambda world, ledger, user=user, ask=ask: world.submit(user, ask))
        self.schedule(None)
        if backup:
            self.save_a_backup()
        self.step(None, lambda world, ledger: world.start_granted())

    @rule(crash=crashes, seconds=st.sampled_from([1, 60, 700]), present=st.booleans())
    def life_goes_on(self, crash, seconds, present):
        """What a scheduler does all day, and the users whom it serves."""
        self.world.clock.now += seconds
        self.expire(None)
        self.schedule(crash)
        if present:
            self.step(None, lambda world, ledger: world.start_granted())

    @rule(user=users, crash=crashes)
    def cancel(self, user, crash):
        self.step(crash, lambda world, ledger: ledger.cancel(holder(user)))

    @rule(user=users, crash=crashes)
    def start(self, user, crash):
        self.step(crash, lambda world, ledger: world.start(user))

    @rule(user=users)
    def start_and_die_before_the_container_is_made(self, user):
        def action(world, ledger):
            standing = ledger.request_of(holder(user))
            if standing and standing.lease:
                ledger.claim(holder(user))

        self.step(None, action)

    @precondition(lambda self: self.world.containers)
    @rule(which=numbers, crash=crashes)
    def stop(self, which, crash):
        container = self.world.containers[which % len(self.world.containers)]
        if container.host not in self.world.away:
            self.step(crash, lambda world, ledger: world.stop(container))

    # Schedulers -----------------------------------------------------------------------------------------

    @rule(crash=crashes)
    def decide(self, crash):
        self.step(crash, lambda world, ledger: world.decisions.append(world.look()))

    @precondition(lambda self: self.world.decisions)
    @rule(number=numbers, again=st.booleans(), crash=crashes)
    def apply_a_decision_old_or_new(self, number, again, crash):
        def action(world, ledger):
            at = number % len(world.decisions)
            decision = world.decisions[at] if again else world.decisions.pop(at)
            world.check_fences(world.apply(decision))

        self.step(crash, action)

    @rule(crash=crashes)
    def schedule(self, crash):
        """Look, grant, and begin to suspend whom the policy names."""

        def action(world, ledger):
            decision = world.look()
            world.check_fences(world.apply(decision))
            leases = {lease.id: lease for lease in ledger.leases()}
            for suspension in decision.suspensions:
                lease = leases.get(suspension.lease_id)
                if lease and ledger.begin_suspend(lease.holder, suspension.reason, comes_back=lease.ask):
                    world.happened["preempted"] += 1

        self.step(crash, action)

    @rule(at=numbers, crash=crashes)
    def apply_grants_that_nobody_should_make(self, at, crash):
        """As from a scheduler with a view from long ago: devices of the right kind, taken or not."""

        def action(world, ledger):
            grants = [world.any_grant(standing.request, at) for standing in ledger.queue()]
            world.check_fences(world.apply(Decision(tuple(grants))))

        self.step(crash, action)

    @rule(crash=crashes)
    def expire(self, crash):
        def action(world, ledger):
            world.happened["expired"] += len(ledger.expire(world.clock.now, RULES.slot_held_seconds))

        self.step(crash, action)

    @rule(user=users, until_cell_ends=st.booleans(), crash=crashes)
    def a_grant_is_taken_back(self, user, until_cell_ends, crash):
        """Its device has fallen ill, or a cell keeps its session from changing to it."""

        def action(world, ledger):
            standing = ledger.request_of(holder(user))
            if standing and standing.lease:
                fence = standing.lease.fence
                if ledger.revoke(holder(user), fence, "ill", "scheduler", until_cell_ends=until_cell_ends):
                    world.happened["taken back"] += 1

        self.step(crash, action)

    @rule(user=users, crash=crashes)
    def a_cell_ends(self, user, crash):
        self.step(crash, lambda world, ledger: ledger.offer_again(holder(user), "its cell has ended"))

    @precondition(lambda self: self.world.containers)
    @rule(which=numbers, comes_back=st.one_of(st.none(), asks), crash=crashes)
    def begin_suspend(self, which, comes_back, crash):
        name = self.world.containers[which % len(self.world.containers)].holder
        self.step(crash, lambda world, ledger: ledger.begin_suspend(name, "idle", comes_back))

    @precondition(lambda self: self.world.suspending())
    @rule(which=numbers, crash=crashes)
    def end_suspend(self, which, crash):
        suspending = self.world.suspending()
        container = suspending[which % len(suspending)]

        def action(world, ledger):
            world.stop(container)
            world.happened["suspended"] += 1

        self.step(crash, action)

    @rule(
        user=users,
        what=st.sampled_from(["abort", "warn", "snooze", "withdraw", "read"]),
        number=numbers,
        crash=crashes,
    )
    def a_session_is_watched(self, user, what, number, crash):
        def action(world, ledger):
            match what:
                case "abort":
                    ledger.abort_suspend(holder(user), "not durable")
                case "warn":
                    ledger.warn(holder(user), "told", world.clock.now + 300, for_others=number % 2 == 1)
                case "snooze":
                    ledger.snooze(holder(user), world.clock.now + 3600, f"user:{user}")
                case "withdraw":
                    ledger.withdraw_warning(holder(user), "works again")
                case "read":
                    ledger.note_activity(holder(user), number * 500, number % 2 == 1)
                    ledger.note_use([Use(holder(user), device.uuid, number / 9) for device in DEVICES])

        self.step(crash, action)

    # Admins ---------------------------------------------------------------------------------------------

    @rule(change=changes, crash=crashes)
    def an_admin_changes_something(self, change, crash):
        what, *values = change
        self.step(crash, lambda world, ledger: getattr(world, what)(*values))

    @precondition(lambda self: self.world.lost_sight_of())
    @rule(which=numbers, crash=crashes)
    def an_admin_gives_a_session_up(self, which, crash):
        lost = self.world.lost_sight_of()
        name = lost[which % len(lost)].holder
        self.step(crash, lambda world, ledger: ledger.give_up(name, "its host is gone", "user:root"))

    # Fate -----------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 30, 300, 700, 4000, 50_000]))
    def time_passes(self, seconds):
        self.world.clock.now += seconds
        counted["steps"] += 1

    @precondition(lambda self: self.world.containers)
    @rule(which=numbers)
    def a_container_dies_unseen(self, which):
        counted["steps"] += 1
        container = self.world.containers[which % len(self.world.containers)]
        if container.running:
            self.world.die(container)
            self.world.happened["died"] += 1

    @precondition(lambda self: any(not container.running for container in self.world.containers))
    @rule(user=users, crash=crashes)
    def the_hub_sees_that_a_container_died(self, user, crash):
        def action(world, ledger):
            for container in [c for c in world.containers if c.holder == holder(user) and not c.running]:
                if container.host not in world.away:
                    world.stop(container, reason=EndReason.FAILED)

        self.step(crash, action)

    @rule(host=st.sampled_from(["host-a", "host-b"]), grace=st.sampled_from([0, 600]), crash=crashes)
    def a_host_vanishes_or_is_back(self, host, grace, crash):
        """Whoever hands out devices reconciles before a host that is back gets sessions again."""

        def action(world, ledger):
            if host not in world.away:
                world.away.add(host)
            else:
                world.away.remove(host)
                world.reconcile(grace)

        self.step(crash, action)
        if host not in self.world.away:
            self.step(None, lambda world, ledger: world.reconcile(grace))  # where it was cut short

    @rule(uuid=uuids)
    def a_stranger_comes_or_goes(self, uuid):
        counted["steps"] += 1
        if self.world.strangers.pop(uuid, None) is None:
            self.world.strangers[uuid] = "python (pid 4711 of root)"

    @precondition(lambda self: self.world.containers and not self.world.away)
    @rule(which=numbers, crash=crashes)
    def a_host_is_lost_and_its_sessions_are_given_up(self, which, crash):
        host = self.world.containers[which % len(self.world.containers)].host
        self.a_host_vanishes_or_is_back(host, 600, None)
        self.reconcile(600, crash)
        for number in range(len(self.world.lost_sight_of())):
            self.an_admin_gives_a_session_up(number, crash)

    @rule(grace=st.sampled_from([0, 600]), crash=crashes)
    def reconcile(self, grace, crash):
        self.step(crash, lambda world, ledger: world.reconcile(grace))

    @rule()
    def save_a_backup(self):
        counted["steps"] += 1
        self.world.save_backup()

    @rule(number=numbers)
    def restore_the_backup(self, number):
        counted["steps"] += 1
        if number < 5:  # not too often: what came since is gone
            self.world.restore_backup()
            self.life_goes_on(None, 1, True)

    @rule()
    def the_process_is_started_again(self):
        counted["steps"] += 1
        with self.world.may_crash(0):
            self.world.ledger.last_fence()


@pytest.mark.timeout(24 * 3600 if LONG else 1800)
def test_nothing_is_granted_twice_nobody_starves_and_every_lease_ends(capsys):
    global books
    counted.clear()
    with in_memory() as folder:
        books = Books(folder)
        while counted["steps"] < STEPS:
            left = STEPS - counted["steps"]
            seed(SEED + counted["steps"])(Model)
            run_state_machine_as_test(
                Model,
                settings=settings(
                    max_examples=max(20, left // STEPS_A_RUN),
                    stateful_step_count=STEPS_A_RUN,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    print_blob=True,
                    phases=[Phase.reuse, Phase.generate, Phase.shrink],
                ),
            )
    with capsys.disabled():
        print(f"\nseed {SEED}, {counted['steps']} steps: {dict(counted.most_common())}")
    assert counted["steps"] >= STEPS
    for what in (
        "granted",
        "started",
        "crash",
        "restored",
        "suspended",
        "preempted",
        "taken back",
        "reconcile: adopt",
        "reconcile: fence off",
        "expired",
    ):
        assert counted[what], f"the model never came to: {what}"
