"""The playbooks for one machine, on this machine: `local.yml` is run for real."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from .running import ANSIBLE, TOOLS, needs_root, run_playbook


@pytest.fixture(scope="module")
def provisioned():
    """This machine after a real run."""
    if os.geteuid() != 0:
        pytest.skip("installs packages, so it needs root")
    first = run_playbook("local.yml")
    assert first.status == 0, first.output


def test_ansible_lint_has_nothing_to_say_in_its_strictest_profile():
    done = subprocess.run(
        [str(TOOLS / "ansible-lint"), "--offline", "--profile", "production", "--nocolor"],
        cwd=ANSIBLE,
        env={**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


PLAYBOOKS = ["local.yml", "verify.yml", "site.yml", "upgrade.yml", "verify_cluster.yml", "remove_host.yml"]


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_syntax_is_right(name):
    assert run_playbook("--syntax-check", name).status == 0


def test_a_host_is_let_in_by_the_firewalls_before_it_joins_the_swarm_and_mounts_the_storage():
    plays = yaml.safe_load((ANSIBLE / "site.yml").read_text())
    roles = [role["role"] for play in plays for role in play.get("roles", [])]
    assert roles.index("firewall") < min(roles.index("swarm"), roles.index("storage"))


RELEASE = f"""
- hosts: hub:gpu_hosts
  gather_facts: false
  roles: [role: respawner]
  vars_files: ["{ANSIBLE}/roles/code/vars/main.yml"]
  tasks:
    - ansible.builtin.debug: {{msg: "{{{{ inventory_hostname }}}} has {{{{ code_release }}}}."}}
"""


def test_a_release_is_another_one_where_code_or_packages_differ(tmp_path):
    """A release that is there is not installed again: one without psycopg would stay so."""
    groups = {
        "hub": {"hosts": {"gpu1": None}},
        "gpu_hosts": {"hosts": {"gpu1": None, "gpu2": None, "gpu3": None}},
    }
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(json.dumps({"all": {"children": groups}}))
    play = tmp_path / "release.yml"
    play.write_text(RELEASE)

    def releases(digest: str, **variables: object) -> dict[str, str]:
        values = {"code_archive": {"stdout_lines": ["/tmp/archive", digest]}, **variables}
        run = run_playbook("-i", str(inventory), "-e", json.dumps(values), str(play))
        assert run.status == 0, run.output
        return dict(re.findall(r"(gpu\d) has (/opt/respawner/releases/[0-9a-f]{12})[.]", run.output))

    first = releases("abc")
    assert first["gpu2"] == first["gpu3"] != first["gpu1"]
    assert releases("abc") == first
    assert set(releases("abd").values()).isdisjoint(first.values())
    assert releases("abc", respawner_packages=["snapshot", "spawner"])["gpu1"] == first["gpu2"]


def test_second_run_changes_nothing(provisioned):
    again = run_playbook("local.yml")
    assert again.status == 0, again.output
    assert again.counts["changed"] == 0


def test_check_mode_says_the_same(provisioned):
    checked = run_playbook("--check", "local.yml")
    assert checked.status == 0, checked.output
    assert checked.counts["changed"] == 0


def test_verify_finds_every_program_answering(provisioned):
    verified = run_playbook("verify.yml")
    assert verified.status == 0, verified.output
    assert verified.counts["changed"] == 0


def test_verify_fails_where_a_program_does_not_answer(provisioned, tmp_path):
    broken = tmp_path / "dockerd"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    verified = run_playbook("verify.yml", "-e", f"verify_path={tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin")
    assert verified.status != 0
    assert "Ask the programs for their versions" in verified.output


def test_unknown_system_is_refused_with_a_sentence_that_names_it():
    refused = run_playbook("local.yml", "-e", '{"base_check_releases": ["Plan 9"], "ansible_become": false}')
    assert refused.status != 0
    assert "Respawner provisions Plan 9. On another system, install a Docker" in " ".join(
        refused.output.split()
    )
    assert refused.counts["changed"] == 0


def test_too_small_a_disk_is_refused_with_the_numbers():
    refused = run_playbook("local.yml", "-e", '{"base_check_free_gb": 1000000, "ansible_become": false}')
    assert refused.status != 0
    assert "GB free and an image needs 1000000 GB" in " ".join(refused.output.split())


@needs_root
@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="would restart the engine of this machine")
class TestDaemonSettings:
    """daemon.json, in a file of our own: the machine's stays as it is."""

    @pytest.fixture
    def apply(self, provisioned, tmp_path):
        self.file = tmp_path / "docker" / "daemon.json"

        def apply(settings):
            values = {"docker_engine_daemon_file": str(self.file), "docker_engine_daemon": settings}
            return run_playbook("local.yml", "-e", json.dumps(values))

        return apply

    def test_keys_of_others_stay(self, apply):
        self.file.parent.mkdir()
        self.file.write_text('{"data-root": "/big", "log-opts": {"tag": "x"}, "features": {"cdi": true}}')
        run = apply({"log-opts": {"max-size": "50m"}, "features": {"cdi": False}})
        assert run.status == 0, run.output
        assert json.loads(self.file.read_text()) == {
            "data-root": "/big",
            "log-opts": {"tag": "x", "max-size": "50m"},
            "features": {"cdi": False},
        }

    def test_file_is_made_once_and_then_left_in_the_form_that_somebody_gave_it(self, apply):
        assert apply({"debug": True}).counts["changed"] == 2  # folder and file
        self.file.write_text('{ "debug" :   true }')
        assert apply({"debug": True}).counts["changed"] == 0
        assert self.file.read_text() == '{ "debug" :   true }'

    def test_file_that_is_no_json_is_named_and_not_overwritten(self, apply):
        self.file.parent.mkdir()
        self.file.write_text('{"data-root": ')
        run = apply({"debug": True})
        assert run.status != 0
        assert f"{self.file} is not valid JSON" in " ".join(run.output.split())
        assert self.file.read_text() == '{"data-root": '

    def test_engine_without_systemd_is_left_running_and_the_admin_is_told(self, apply):
        run = apply({"debug": True})
        assert run.status == 0, run.output
        assert "Restart it when nobody works" in " ".join(run.output.split())
