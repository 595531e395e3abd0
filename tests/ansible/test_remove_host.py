"""`remove_host.yml` as the hub carries it out, on this machine: docker, systemctl and respawner-hub are stand-ins that write
down how they are called. What the leaving host itself does is for the cluster's tests."""

import json
import sys

import pytest

from .running import run_playbook

HERE = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
DOCKER = """
[ "$1 $2" = "node ls" ] && cat "$STANDIN/nodes"
[ "$1 $2 $3" = "node rm --force" ] && sed -i "/^$4 /d" "$STANDIN/nodes"
[ "$1" = ps ] && cat "$STANDIN/sessions" && sed -i 1d "$STANDIN/sessions"
exit 0
"""
HUB = """
case "$2" in
forget)
    [ -e "$STANDIN/forgotten" ] && echo "respawner-hub gpu forget: host = 'gpu2': no such host. Known: gpu1." >&2 && exit 1
    [ -e "$STANDIN/hub-restarted" ] || exit 1
    touch "$STANDIN/forgotten";;
esac
"""
SYSTEMCTL = """
[ "$1" = show ] && printf 'LoadState=loaded\nActiveState=active\n'
[ "$1" = restart ] && touch "$STANDIN/hub-restarted"
exit 0
"""


@pytest.fixture
def remove(tmp_path, monkeypatch):
    """Remove gpu2: `remove(sessions, retries)`, with one session fewer at every look. It left the Swarm once and joined it
    again, and has left it now, as when an earlier run ended too soon."""
    standin, programs = tmp_path / "standin", tmp_path / "bin"
    standin.mkdir()
    programs.mkdir()
    for name, script in (("docker", DOCKER), ("respawner-hub", HUB), ("systemctl", SYSTEMCTL)):
        file = programs / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >> "$STANDIN/calls"\n{script}')
        file.chmod(0o755)
    monkeypatch.setenv("STANDIN", str(standin))
    (standin / "nodes").write_text("node1 gpu1\nnode5 gpu2\nnode7 gpu2\nnode8 gpu20\n")
    settings = tmp_path / "respawner.toml"
    settings.write_text('[cluster.hosts]\ngpu1 = "10.0.0.11"\ngpu2 = "10.0.0.12"\n')
    inventory = tmp_path / "hosts.yml"
    groups = {"gpu_hosts": {"hosts": {"gpu1": HERE, "gpu2": HERE}}, "hub": {"hosts": {"gpu1": None}}}
    inventory.write_text(json.dumps({"all": {"children": groups}}))

    def remove(sessions: str, wait_seconds: int = 60):
        (standin / "sessions").write_text(sessions)
        (standin / "calls").unlink(missing_ok=True)
        values = {
            "host": "gpu2",
            "respawner_config_dir": str(tmp_path),
            "drain_wait_seconds": wait_seconds,
            "remove_host_swarm": {"stdout": "inactive gpu2"},  # what gpu2 has said of itself
        }
        options = ["-i", str(inventory), "--limit=gpu1", "-e", json.dumps(values)]
        run = run_playbook(*options, "remove_host.yml", programs=programs)
        said = standin / "calls"
        calls = said.read_text().splitlines() if said.exists() else []
        return run, [call for call in calls if not call.startswith("systemctl show")]

    remove.settings = settings
    return remove


def test_it_waits_for_every_session_and_the_ledger_forgets_the_host(remove):
    run, calls = remove("team/ada/\nteam/bob/\n", wait_seconds=60)
    assert run.status == 0, run.output
    assert "gpu2" not in remove.settings.read_text()
    assert calls[0] == "respawner-hub gpu drain gpu2 --reason it leaves the cluster"
    assert [call.split()[0:2] for call in calls[1:4]] == [["docker", "ps"]] * 3
    assert [call for call in calls if "node rm" in call] == [
        "docker node rm --force node5",
        "docker node rm --force node7",
    ]
    assert calls[-2:] == ["systemctl restart respawner-hub.service", "respawner-hub gpu forget gpu2"]
    again, calls = remove("")
    assert again.status == 0, again.output
    assert not any("node rm" in call for call in calls)
    assert not any("drain" in call for call in calls), "the hub does not know it any more"


def test_who_cannot_be_saved_is_named_and_the_host_stays(remove):
    run, calls = remove("team/ada/\n" * 9, wait_seconds=20)
    assert run.status != 0
    assert "team/ada/" in run.output
    assert "not saved yet, so gpu2 stays as it is, and drained" in " ".join(run.output.split())
    assert not any("node rm" in call or "forget" in call for call in calls)
    assert "gpu2" in remove.settings.read_text()
