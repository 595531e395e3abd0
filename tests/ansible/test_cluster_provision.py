"""`provision_cluster`: what an admin sees of a run, with a site.yml of the test's on connections to this machine."""

import json
import re
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from respawner_hub import cli
from respawner_hub.backup import ABOUT, FORMAT, BackupError
from respawner_hub.cluster import hosts_of, provision_cluster
from respawner_hub.provision import ProvisionError

from .running import ANSIBLE

SITE = """
- name: Roles
  hosts: all
  gather_facts: false
  roles:
    - role: first
    - role: second
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout whose roles the test writes: `checkout(first=…, second=…)`, tasks as YAML in one line each."""
    root = tmp_path / "checkout"
    (root / "images" / "notebook").mkdir(parents=True)
    (root / "images" / "notebook" / "Dockerfile").touch()
    (root / "ansible" / "inventory").mkdir(parents=True)
    shutil.copy(ANSIBLE / "ansible.cfg", root / "ansible")
    (root / "ansible" / "site.yml").write_text(SITE)
    monkeypatch.setenv("RESPAWNER_ROOT", str(root))

    def write(**roles):
        for name in ("first", "second"):
            folder = root / "ansible" / "roles" / name / "tasks"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "main.yml").write_text(f"- {roles.get(name, '{ansible.builtin.debug: {msg: x}}')}\n")
        return root

    return write


HERE = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
NOWHERE = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}


def write_inventory(file: Path, **hosts) -> Path:
    groups = {"gpu_hosts": {"hosts": hosts}, "hub": {"hosts": {"gpu1": None}}}
    file.write_text(json.dumps({"all": {"children": groups}}))
    return file


@pytest.fixture
def inventory(tmp_path):
    return write_inventory(tmp_path / "hosts.yml", gpu1=HERE, gpu2=HERE)


def test_roles_hosts_changes_and_a_summary_are_told(checkout, inventory, tmp_path):
    checkout(
        second="{name: Ensure it, ansible.builtin.command: 'true', changed_when: inventory_hostname == 'gpu2'}"
    )
    said: list[str] = []
    outcome = provision_cluster(inventory, tmp_path / "state", said.append)
    assert said[:3] == ["▸ first", "▸ second", "    gpu2: Ensure it: changed"]
    table = [line.split() for line in said[3:]]
    assert ["gpu1", "2", "0", "0"] in table
    assert ["gpu2", "2", "1", "0"] in table
    assert ["second", "1"] in [[row[0], row[-1]] for row in table if row]
    assert (outcome.folder / "stdout").is_file()
    assert str(outcome.folder / "stdout") in said[-1]


def test_a_host_that_fails_is_named_with_what_it_said_and_the_others_go_on(checkout, inventory, tmp_path):
    checkout(
        first="{name: Ensure it, ansible.builtin.fail: {msg: No disk.}, when: inventory_hostname == 'gpu2'}"
    )
    said: list[str] = []
    with pytest.raises(
        ProvisionError, match=r"gpu2: first : Ensure it: No disk\.\nCorrect it and run the same"
    ):
        provision_cluster(inventory, tmp_path / "state", said.append)
    assert "    gpu2: Ensure it: FAILED: No disk." in said
    assert ["gpu1", "1", "0", "0"] in [line.split() for line in said]


def test_a_host_that_cannot_be_reached_is_named(checkout, inventory, tmp_path):
    checkout(first="{name: Look, ansible.builtin.ping: {}}")
    write_inventory(inventory, gpu1=HERE, gpu2=NOWHERE)
    said: list[str] = []
    with pytest.raises(ProvisionError, match=r"gpu2: .*(refused|ssh)"):
        provision_cluster(inventory, tmp_path / "state", said.append)
    assert any(re.match(r"gpu2 +0 +0 +unreachable", line) for line in said)


def test_one_host_is_added_with_the_hub(checkout, inventory, tmp_path):
    checkout()
    write_inventory(inventory, gpu1=HERE, gpu2=HERE, gpu3=HERE)
    outcome = provision_cluster(inventory, tmp_path / "state", print, add="gpu3")
    assert set(outcome.hosts) == {"gpu1", "gpu3"}


def test_a_host_that_is_not_in_the_inventory_cannot_be_added(checkout, inventory, tmp_path):
    checkout()
    with pytest.raises(ProvisionError, match=r"gpu9 is not in .*hosts\.yml \(there are gpu1, gpu2\)"):
        provision_cluster(inventory, tmp_path / "state", print, add="gpu9")


def test_an_upgrade_is_another_playbook_that_may_reboot_only_if_told(checkout, inventory, tmp_path):
    root = checkout()
    upgrade = "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Say\n      ansible.builtin.fail: {msg: 'reboot: {{ upgrade_reboot | default(false) }}'}\n"
    (root / "ansible" / "upgrade.yml").write_text(upgrade)
    with pytest.raises(ProvisionError, match="reboot: False"):
        provision_cluster(inventory, tmp_path / "state", print, upgrade=True)
    with pytest.raises(ProvisionError, match="reboot: true"):
        provision_cluster(inventory, tmp_path / "state", print, upgrade=True, reboot=True)
    with pytest.raises(ProvisionError, match="--reboot goes with --upgrade"):
        provision_cluster(inventory, tmp_path / "state", print, reboot=True)


def write_backup(file: Path, *names: str) -> None:
    about = file.with_name(ABOUT)
    about.write_text(json.dumps({"format": FORMAT}))
    with tarfile.open(file, "w:gz") as archive:
        archive.add(about, ABOUT)
        for name in names:
            archive.addfile(tarfile.TarInfo(name))


def test_a_lost_hub_is_brought_back_from_a_backup_on_all_hosts_at_once(checkout, inventory, tmp_path):
    checkout(first="{name: Say, ansible.builtin.fail: {msg: 'from {{ respawner_restore }}'}}")
    backup = tmp_path / "a backup.tar.gz"
    with pytest.raises(ProvisionError, match=r"a backup\.tar\.gz: no such backup"):
        provision_cluster(inventory, tmp_path / "state", print, restore=backup)
    tarfile.open(backup, "w:gz").close()
    with pytest.raises(BackupError, match=r"a backup\.tar\.gz is no backup"):
        provision_cluster(inventory, tmp_path / "state", print, restore=backup)
    write_backup(backup, "home/ada/respawner.toml")
    with pytest.raises(ProvisionError, match="the authority of a cluster is not in it"):
        provision_cluster(inventory, tmp_path / "state", print, restore=backup)
    write_backup(backup, "etc/respawner/tls/ca.key")
    with pytest.raises(ProvisionError, match=rf"from {backup}"):
        provision_cluster(inventory, tmp_path / "state", print, restore=backup)
    for others in ({"limit": "gpu2"}, {"add": "gpu2"}, {"upgrade": True}, {"check": True}):
        with pytest.raises(ProvisionError, match="--restore goes with no"):
            provision_cluster(inventory, tmp_path / "state", print, restore=backup, **others)


def test_check_says_what_would_change(checkout, inventory, tmp_path):
    checkout(
        first=f"{{name: Ensure a folder, ansible.builtin.file: {{path: {tmp_path}/made, state: directory, mode: '0755'}}}}"
    )
    said: list[str] = []
    provision_cluster(inventory, tmp_path / "state", said.append, check=True, limit="gpu1")
    assert "    gpu1: Ensure a folder: would change" in said
    assert not (tmp_path / "made").exists()


def test_what_a_task_hides_is_in_no_log(checkout, inventory, tmp_path, monkeypatch):
    """It comes from a file or the environment: what stands in a playbook, Ansible shows."""
    monkeypatch.setenv("HIDDEN", "s3cr3t")
    secret = "{{ lookup('ansible.builtin.env', 'HIDDEN') }}"
    checkout(
        first=f"""{{name: Hide it, ansible.builtin.command: "echo {secret}", no_log: true, changed_when: true}}""",
        second=f"""{{name: Fail with it, ansible.builtin.command: "ls /{secret}", no_log: true, changed_when: true}}""",
    )
    said: list[str] = []
    with pytest.raises(ProvisionError) as error:
        provision_cluster(inventory, tmp_path / "state", said.append)
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if "s3cr3t" in path.read_text(errors="replace")] == []
    assert "s3cr3t" not in f"{said} {error.value}"


def test_the_password_of_sudo_is_written_nowhere(checkout, inventory, tmp_path):
    checkout()
    provision_cluster(inventory, tmp_path / "state", print, become_password="s3cr3t")
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert not any("s3cr3t" in path.read_text(errors="replace") for path in files)


def test_the_command_ends_with_1_and_a_sentence_where_there_is_no_inventory(
    checkout, tmp_path, capsys, monkeypatch
):
    checkout()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["provision", "--inventory", "hosts.yml"]) == 1
    assert (
        "hosts.yml: no such inventory. Start from ansible/inventory/hosts.example.yml"
        in capsys.readouterr().err
    )


def test_the_example_inventory_has_one_hub_and_two_hosts():
    assert hosts_of(ANSIBLE / "inventory" / "hosts.example.yml") == ["gpu1", "gpu2"]
