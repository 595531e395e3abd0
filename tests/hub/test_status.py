"""What `respawner-hub status` says about GPUs: the ledger's word, which the agents gave it."""

from __future__ import annotations

from respawner_hub.status import _gpus, describe
from respawner_hub.supervision import PROGRAMS

from tests.spawner.ledgers import GIB, gpus, grant, share


def test_gpus_with_all_holders_cordons_and_causes(ledger):
    found = {"url": "http://hub/", "sessions": [], **dict.fromkeys(PROGRAMS, "RUNNING")}
    assert "GPUs: no agent has been heard of yet" in describe({**found, **_gpus(ledger)})
    ledger.heartbeat("host-a", gpus(2), "the engine does not answer")
    first, second = (device.uuid for device in ledger.devices())
    ledger.share(first, 40 * GIB, "user:boss")
    ledger.cordon(second, "new fans", "user:boss")
    for user in ("ada", "bob"):
        assert grant(ledger, user, first, ask=share(10))
    assert describe({**found, **_gpus(ledger)}).splitlines()[1:] == [
        f"  GPU {first} (NVIDIA H100 80GB HBM3): team/ada/, team/bob/",
        f"  GPU {second} (NVIDIA H100 80GB HBM3): free, takes no new lease: new fans",
        "  GPUs: host-a: the engine does not answer",
    ]
