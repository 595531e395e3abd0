"""What role firewall asks before it changes anything, on this machine: whose way in it is to leave open, and settings that are wrong.
`ip` is a stand-in. The rules themselves are for `tests/cluster/test_firewall.py`."""

import json
import sys

import pytest

from .running import ANSIBLE, run_playbook

HERE = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
PLAY = f"""
- hosts: gpu1
  gather_facts: false
  roles: [role: respawner]
  tasks:
    - ansible.builtin.include_role: {{name: firewall, tasks_from: check.yml}}
- hosts: gpu1
  gather_facts: false
  vars_files: ["{ANSIBLE}/roles/firewall/vars/main.yml"]
  tasks:
    - ansible.builtin.debug: {{msg: "open for SSH: {{{{ firewall_ssh_ports | join(' ') }}}}."}}
"""
IP = """#!/bin/sh
case "$*" in
"-json route get 10.77.0.2") echo '[{"dst": "10.77.0.2", "dev": "way0", "prefsrc": "10.77.0.1"}]' ;;
"-json -details link show dev way0") echo '[{"ifname": "way0", "link_type": "'"$LINK_TYPE"'", "linkinfo": {"info_kind": "'"$LINK_KIND"'"}}]' ;;
*) exit 2 ;;
esac
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Run the checks, and say what SSH would have open: `check(link_type, link_kind, **variables)`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ip").write_text(IP)
    (programs / "ip").chmod(0o755)
    inventory, play = tmp_path / "hosts.yml", tmp_path / "check.yml"
    hosts = {"gpu1": {**HERE, "ansible_host": "10.77.0.1"}, "gpu2": {"ansible_host": "10.77.0.3"}}
    groups = {"hub": {"hosts": {"gpu1": None}}, "gpu_hosts": {"hosts": hosts}}
    inventory.write_text(json.dumps({"all": {"children": groups}}))
    play.write_text(PLAY)
    monkeypatch.setenv("SSH_CONNECTION", "10.77.0.2 50000 10.77.0.1 2200")

    def check(link_type: str = "ether", link_kind: str = "veth", **variables: object) -> tuple[int, str]:
        monkeypatch.setenv("LINK_TYPE", link_type)
        monkeypatch.setenv("LINK_KIND", link_kind)
        options = ["-i", str(inventory), "-e", json.dumps(variables)]
        run = run_playbook(*options, str(play), programs=programs)
        return run.status, " ".join(run.output.split())

    return check


def test_every_port_of_sshd_stays_open_and_the_one_by_which_ansible_is_here(check):
    status, said = check(
        firewall_sshd={
            "stdout": "port 22\naddressfamily any\nlistenaddress [::]:22\nlistenaddress 10.77.0.1:2222\n"
        },
        firewall_ssh_socket={
            "stdout": "0.0.0.0:2022 ssh.socket ssh.service\n[::]:2022 ssh.socket ssh.service\n"
        },
    )
    assert status == 0, said
    assert "open for SSH: 22 2022 2200 2222." in said


def test_where_sshd_says_nothing_the_port_by_which_ansible_is_here_stays_open(check):
    failed = {"rc": 255, "stdout": ""}
    status, said = check(firewall_sshd=failed, firewall_ssh_socket=failed)
    assert status == 0, said
    assert "open for SSH: 2200." in said


@pytest.mark.parametrize(
    ("link_type", "link_kind"), [("none", "wireguard"), ("ether", "tun"), ("ppp", "ppp")]
)
def test_a_tunnel_that_ends_on_the_host_is_not_cut(check, link_type, link_kind):
    status, said = check(link_type, link_kind)
    assert status != 0
    assert "Ansible reaches gpu1 by way0, a tunnel that ends there." in said


def test_a_tunnel_whose_port_is_named_is_let_in(check):
    status, said = check("none", "wireguard", firewall_rules=["udp dport 51820 accept"])
    assert status == 0, said


@pytest.mark.parametrize("rules", ["tcp dport 3000 accept", None, [3000]])
def test_rules_that_are_no_list_of_lines_are_named(check, rules):
    status, said = check(firewall_rules=rules)
    assert status != 0
    assert f"firewall_rules is {json.dumps(rules)}, and is to be a list of lines" in said


def test_a_name_where_an_address_belongs_is_named(check):
    status, said = check(storage_clients=["10.77.0.0/24", "nas.example.org"])
    assert status != 0
    assert "nas.example.org: the firewall is loaded at boot, before anybody can resolve a name." in said
