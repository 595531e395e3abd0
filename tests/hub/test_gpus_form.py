"""The spawn page's choices, from a cluster to what a person reads. Pure."""

import dataclasses

import pytest
from respawner_hub.gpus import words
from respawner_hub.gpus.desk import Session
from respawner_hub.gpus.form import choices, options_from_form
from respawner_hub.gpus.rounds import policy_of, with_default_limit
from respawner_hub.settings import GpuSettings
from respawner_spawner.leases.model import Ask, Cluster, Device, Kind, Lease, Limit, Rules, Wait
from respawner_spawner.leases.reasons import ordinal

GIB = 1 << 30
A100 = Device("GPU-a", "h", "NVIDIA A100", 80 * GIB)
L4 = Device("GPU-b", "h", "NVIDIA L4", 24 * GIB)
MIG = Device("MIG-c", "h", "NVIDIA H100", 10 * GIB, Kind.MIG, "GPU-c", "1g.10gb")
SHARED = Device("GPU-d", "h", "NVIDIA L4", 24 * GIB, shareable_bytes=20 * GIB)
ADA = Session("test/ada/", "ada")


def lease(device: Device) -> Lease:
    return Lease(1, 1, "test/bob/", "bob", Ask(Kind.GPU), (device.uuid,), since=0)


def offered(cluster: Cluster, most: int = 2) -> dict[str, tuple[bool, bool]]:
    """Form value → (free, possible)."""
    return {c.value: (c.free, c.possible) for c in choices(cluster, ADA, most, now=1000)}


def test_without_devices_there_is_nothing_to_choose():
    assert list(offered(Cluster())) == ["gpus=0"]


def test_every_kind_that_is_there_is_offered():
    found = offered(Cluster(devices=(A100, L4, MIG, SHARED)))
    assert list(found) == [
        "gpus=0",
        "gpus=1",
        "gpus=2",
        "gpus=1&gpu_model=NVIDIA+A100",
        "gpus=1&gpu_model=NVIDIA+L4",
        "gpus=1&mig=1g.10gb",
        f"share={5 * GIB}",
        f"share={10 * GIB}",
    ]
    assert all(free for free, _ in found.values())


def test_what_is_held_waits_and_what_can_never_be_is_not_offered_for_choice():
    found = offered(Cluster(devices=(A100, L4), leases=(lease(A100),)))
    assert found["gpus=1"] == (True, True)
    assert found["gpus=2"] == (False, True)
    limited = Cluster(devices=(A100, L4), limits=(Limit("user:ada", most=1),))
    assert offered(limited)["gpus=2"] == (False, False)


def test_a_form_field_and_plain_options_become_user_options():
    assert options_from_form({"gpu": ["gpus=1&gpu_model=NVIDIA+L4"], "image": ["a:1"]}) == {
        "gpus": "1",
        "gpu_model": "NVIDIA L4",
        "image": "a:1",
    }
    assert options_from_form({"gpus": ["2"], "environment": ["x"]}) == {"gpus": "2"}


def test_the_settings_limit_holds_for_who_has_none_unless_an_admin_set_everyones():
    assert with_default_limit(Cluster(), None).limits == ()
    assert with_default_limit(Cluster(), 2).limits == (Limit("everyone", 2),)
    set_by_admin = Cluster(limits=(Limit("everyone", 5),))
    assert with_default_limit(set_by_admin, 2).limits == (Limit("everyone", 5),)


def test_every_rule_of_the_policy_is_a_setting():
    minutes = dict.fromkeys(("min_run", "slice", "slot_held", "patience", "pass", "booking_lead"), 7.0)
    settings = GpuSettings(
        preempt=True,
        interrupt_cells=True,
        suspend_cost_seconds=7 * 60,
        **{f"{name}_minutes": value for name, value in minutes.items()},
    )
    rules = dataclasses.asdict(policy_of(settings).rules)
    assert {value for value in rules.values() if not isinstance(value, bool)} == {420}
    assert (rules["preempt"], rules["interrupt_cells"]) == (True, True)


def test_the_rules_as_delivered_are_those_that_were_measured():
    assert policy_of(GpuSettings()).rules == Rules()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (61, "1 min"), (3600, "1 h"), (7800, "2 h 10 min"), (200_000, "2 days")],
)
def test_durations_read_well(seconds, text):
    assert words.duration(seconds) == text


def test_a_wait_reads_well():
    wait = Wait(1, 2, "2nd in the queue: needs 1 GPU; ada has it", expected=1000 + 1200)
    assert words.reason(wait) == "Needs 1 GPU; ada has it"
    assert words.expected(wait, 1000).startswith("in about 20 min (")
    assert words.expected(Wait(1, 1, "", expected=1001), 1000) == "any moment"
    assert " ".join(map(ordinal, (1, 2, 3, 4, 11, 12, 21, 112))) == "1st 2nd 3rd 4th 11th 12th 21st 112th"


def test_each_choice_says_what_keeps_the_session_to_it():
    found = choices(Cluster(devices=(A100, MIG, SHARED)), ADA, 1, now=1000)
    notes = {choice.ask.kind: choice.note for choice in found}
    assert notes[Kind.SHARE].startswith("advisory")
    assert notes[Kind.MIG] == "separated by hardware"
    assert notes[Kind.GPU] == notes[Kind.NONE] == ""
