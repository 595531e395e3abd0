"""When role swarm makes a host leave a Swarm or join the hub's, by what its engine and the hub say. `docker` is a stand-in; real Swarms are
for `tests/cluster`."""

import json
import sys

import pytest

from .running import run_playbook

HERE = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
PLAY = """
- hosts: gpu2
  gather_facts: false
  roles: [role: respawner, role: swarm]
"""
DOCKER = """#!/bin/sh
case "$*" in
"info --format {{json .Swarm}}") echo "$INFO" ;;
"info --format {{.Swarm.NodeID}}") echo n2 ;;
"swarm join-token --quiet worker") echo token ;;
"node ls --format {{.ID}}") echo "$NODES" ;;
"node inspect"*) echo '{}' ;;
"ps "*|"node update"*) ;;
"swarm leave --force"|"swarm join "*) echo "$2" >> "$CALLS" ;;
*) exit 2 ;;
esac
"""
OURS, OTHER = "10.77.0.1:2377", "10.99.0.1:2377"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the role on a host: `run(state, node, manager, nodes_of_the_hub)`. Its status, words, and what it did with Swarms."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"docker": DOCKER, "sleep": "#!/bin/sh\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    inventory, play, calls = tmp_path / "hosts.yml", tmp_path / "play.yml", tmp_path / "calls"
    hosts = {"gpu1": {**HERE, "ansible_host": "10.77.0.1"}, "gpu2": {**HERE, "ansible_host": "10.77.0.2"}}
    inventory.write_text(
        json.dumps({"all": {"children": {"hub": {"hosts": {"gpu1": None}}, "gpu_hosts": {"hosts": hosts}}}})
    )
    play.write_text(PLAY)
    monkeypatch.setenv("CALLS", str(calls))

    def run(state: str, node: str, manager: str, nodes: str, **variables: str) -> tuple[int, str, list[str]]:
        managers = [{"Addr": manager}] if manager else None
        told = {
            "LocalNodeState": state,
            "NodeID": node,
            "RemoteManagers": managers,
            "ControlAvailable": False,
        }
        monkeypatch.setenv("INFO", json.dumps(told, separators=(",", ":")))
        monkeypatch.setenv("NODES", nodes)
        options = [
            "-i",
            str(inventory),
            "-e",
            json.dumps({"respawner_state_dir": str(tmp_path), **variables}),
        ]
        done = run_playbook(*options, str(play), programs=programs)
        return done.status, " ".join(done.output.split()), calls.read_text().split() if calls.exists() else []

    return run


@pytest.mark.parametrize("state", ["active", "pending"])
def test_a_node_of_the_hubs_swarm_never_leaves_it(run, state):
    status, said, calls = run(state, "n2", OURS, "n1\nn2")
    assert (status, calls) == (0, []), said


def test_a_host_in_no_swarm_joins(run):
    status, said, calls = run("inactive", "", "", "n1")
    assert (status, calls) == (0, ["join"]), said


def test_a_node_that_the_hubs_swarm_does_not_know_joins_anew(run):
    status, said, calls = run("active", "n2", OURS, "n1")
    assert (status, calls) == (0, ["leave", "join"]), said


def test_an_engine_that_does_not_know_its_node_is_left_alone(run):
    status, said, calls = run("error", "", "", "n1\nn2")
    assert (status, calls) == (2, []), said
    assert "gpu2: the engine is in a Swarm and cannot say as which node (state error" in said


@pytest.mark.parametrize("state", ["active", "pending"])
def test_another_swarm_is_left_only_for_a_lost_hub(run, state):
    status, said, calls = run(state, "n2", OTHER, "n1")
    assert (status, calls) == (2, []), said
    assert "gpu2 is in another Swarm, whose managers are 10.99.0.1:2377" in said
    status, said, calls = run(state, "n2", OTHER, "n1", respawner_restore="/backup.tar.gz")
    assert (status, calls) == (0, ["leave", "join"]), said
