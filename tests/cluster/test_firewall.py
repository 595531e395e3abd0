"""The firewall alone, on hosts that have nothing else: who reaches which port. In this order.

Real are the rules, the kernel that keeps them and the packets; what listens is an echo on every port that is asked. `test_postgresql`
has the firewall around a whole hub.
"""

from __future__ import annotations

import socket

import pytest

from .rig import PREFIX, Host, Rig, counts, playbook, run

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

SSH, LISTEN = 2222, 2223
PLAY = """
- name: The firewall alone
  hosts: hub:gpu_hosts
  gather_subset: ["!all", network]
  roles:
    - role: respawner
    - role: firewall
"""
TCP = (SSH, LISTEN, 2049, 2376, 2377, 3000, 3001, 7946, 8000, 8082, 9100)
SESSION = """
set -e
echo 1 > /proc/sys/net/ipv4/ip_forward
ip link add docker_gwbridge type bridge
ip address add 10.213.0.1/24 dev docker_gwbridge
ip link set docker_gwbridge up
ip netns add session
ip link add to-session type veth peer name eth0 netns session
ip link set to-session master docker_gwbridge up
ip -n session address add 10.213.0.2/24 dev eth0
ip -n session link set eth0 up
ip -n session route add default via 10.213.0.1
nft add table ip docker
nft 'add chain ip docker after { type nat hook postrouting priority 100; }'
nft 'add rule ip docker after ip saddr 10.213.0.0/24 oifname != docker_gwbridge masquerade'
"""
"""A session's way out of its host, as Docker makes it."""
UDP = (4789, 5000, 7946)
ECHO = f"""
import asyncio

async def echo_stream(reader, writer):
    writer.write(b"here")
    writer.close()

class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, sender):
        self.transport.sendto(b"here", sender)

async def main():
    loop = asyncio.get_running_loop()
    for port in {TCP[2:]}:
        await asyncio.start_server(echo_stream, "0.0.0.0", port)
    for port in {UDP}:
        await loop.create_datagram_endpoint(Echo, ("0.0.0.0", port))
    await asyncio.Event().wait()

asyncio.run(main())
"""
ASK = f"""
import socket, sys

def answers(kind, port):
    with socket.socket(socket.AF_INET, kind) as asked:
        asked.settimeout(1)
        try:
            asked.connect((sys.argv[1], port))
            if kind == socket.SOCK_DGRAM:
                asked.send(b"?")
            return bool(asked.recv(4))
        except OSError:
            return False

for name, kind, ports in (("tcp", socket.SOCK_STREAM, {TCP}), ("udp", socket.SOCK_DGRAM, {UDP})):
    for port in ports:
        if answers(kind, port):
            print(f"{{name}}/{{port}}")
"""
EVERYBODY = {f"tcp/{SSH}", f"tcp/{LISTEN}", "tcp/3000"}
EVERYTHING = {*(f"tcp/{port}" for port in TCP), *(f"udp/{port}" for port in UDP)}
SETTINGS = {
    "ansible_port": SSH,
    "respawner_firewall": True,
    "respawner_monitoring": True,
    "storage_server": f"{PREFIX}-2",
    "firewall_rules": ["tcp dport 3000 accept"],
}


class Firewalls:
    """Hosts, each with everything listening, and a stranger on their network."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.hub, self.member = rig.hosts
        self.stranger = f"{PREFIX}-stranger"
        for host in rig.hosts:
            self.prepare(host)
        run("docker", "run", "--detach", f"--name={self.stranger}", f"--network={PREFIX}", "--entrypoint=sleep",
            rig.image, "infinity")  # fmt: skip

    def prepare(self, host: Host) -> None:
        sshd = f"Port {SSH}\nListenAddress 0.0.0.0\nListenAddress 0.0.0.0:{LISTEN}\nLoginGraceTime 600\n"
        host.write("/etc/ssh/sshd_config.d/port.conf", sshd.encode())
        host.write("/opt/echo.py", ECHO.encode())
        host.write("/etc/systemd/system/echo.service", b"[Service]\nExecStart=/usr/bin/python3 /opt/echo.py\n"
                   b"[Install]\nWantedBy=multi-user.target\n")  # fmt: skip
        host.shell("systemctl restart ssh && systemctl enable --now --quiet echo.service")

    def changes(self, *arguments: str, **variables: object) -> dict[str, int]:
        """Run the play; host → changes."""
        play = self.rig.folder / "firewall.yml"
        play.write_text(PLAY)
        done = playbook(self.rig.inventory(**{**SETTINGS, **variables}), str(play), *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return {name: host["changed"] for name, host in counts(done.stdout).items()}

    def open_to(self, source: str, target: Host, *inside: str) -> set[str]:
        """Ports of the target that answer the source, a container, or what is inside of it: the beginning of a command."""
        command = ["docker", "exec", "-i", source, *inside, "python3", "-", target.address]
        return set(run(*command, stdin=ASK.encode()).split())

    def open_to_session(self, target: Host) -> set[str]:
        """Ports of the target that answer a session on the hub's host."""
        return self.open_to(self.hub.name, target, "ip", "netns", "exec", "session")


@pytest.fixture(scope="module")
def firewalls():
    with Rig(hosts=2, gpus=0) as rig:
        yield Firewalls(rig)


def test_check_mode_on_a_bare_host_changes_nothing(firewalls):
    assert min(firewalls.changes("--check").values()) >= 3
    for host in firewalls.rig.hosts:
        assert host.shell("command -v nft; ls /etc/respawner", check=False) == ""
    assert firewalls.open_to(firewalls.stranger, firewalls.hub) == EVERYTHING


def test_every_port_is_open_to_those_who_need_it_and_to_nobody_else(firewalls):
    hub, member = firewalls.hub, firewalls.member
    for host in firewalls.rig.hosts:
        host.shell("mkdir -p /etc/respawner")  # role base's
    with socket.create_connection((hub.address, SSH), 10) as held:
        said = held.makefile("rb")
        assert said.readline().startswith(b"SSH-2.0-")
        firewalls.changes()
        held.sendall(b"SSH-2.0-held\r\n")
        assert said.read(1) != b"", "the connection that was there is cut"
    everybody = EVERYBODY
    swarm = {"tcp/7946", "udp/7946", "udp/4789"}
    assert firewalls.open_to(firewalls.stranger, hub) == everybody | {"tcp/8000"}
    assert firewalls.open_to(firewalls.stranger, member) == everybody
    assert firewalls.open_to(member.name, hub) == everybody | swarm | {"tcp/8000", "tcp/2377"}
    from_hub = {"tcp/2376", "tcp/8082", "tcp/9100", "tcp/2049"}
    assert firewalls.open_to(hub.name, member) == everybody | swarm | from_hub
    assert firewalls.open_to(hub.name, hub) == EVERYTHING
    run("docker", "exec", firewalls.stranger, "python3", "-c",
        "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)", hub.address, str(SSH))  # fmt: skip


def test_the_second_run_changes_nothing_and_rules_of_others_stay(firewalls):
    firewalls.hub.shell(
        "nft add table inet others && nft 'add chain inet others mine { type filter hook input priority 10; }'"
    )
    before = firewalls.hub.shell("nft --stateless list ruleset 2>/dev/null")
    assert set(firewalls.changes().values()) == {0}
    assert firewalls.hub.shell("nft --stateless list ruleset 2>/dev/null") == before
    assert set(firewalls.changes("--check").values()) == {0}


def test_sessions_reach_neither_the_storage_nor_the_swarm_of_hosts_though_they_come_by_their_address(
    firewalls,
):
    hub, member = firewalls.hub, firewalls.member
    hub.shell(SESSION)
    hub.shell("nft flush chain inet respawner forward")
    assert {"tcp/2049", "tcp/7946", "udp/7946", "udp/4789"} < firewalls.open_to_session(member)
    assert firewalls.changes() == {hub.name: 1, member.name: 0}
    of_the_hub = {"tcp/2376", "tcp/8082", "tcp/9100"}  # which ask for a certificate or a token
    assert firewalls.open_to_session(member) == EVERYBODY | of_the_hub
    firewalls.changes(storage_server=hub.name, storage_clients=["10.0.0.0/8", f"{member.address}/32"])
    assert "tcp/2049" in firewalls.open_to(member.name, hub)
    assert firewalls.open_to_session(hub) == EVERYBODY | {"tcp/8000", "tcp/2376", "tcp/8082"}
    firewalls.changes()


@pytest.mark.parametrize(
    "by_hand",
    [
        "nft delete table inet respawner",
        "nft insert rule inet respawner input accept",
        "systemctl stop respawner-firewall.service",
    ],
)
def test_what_was_changed_by_hand_is_repaired(firewalls, by_hand):
    hub = firewalls.hub
    hub.shell(by_hand)
    assert firewalls.open_to(firewalls.stranger, hub) == EVERYTHING
    assert firewalls.changes() == {hub.name: 1, firewalls.member.name: 0}
    assert "tcp/2376" not in firewalls.open_to(firewalls.stranger, hub)
    assert "table inet others" in hub.shell("nft list tables 2>/dev/null")


def test_the_rules_hold_after_a_reboot(firewalls):
    firewalls.hub.restart()
    assert "tcp/2376" not in firewalls.open_to(firewalls.stranger, firewalls.hub)
    assert set(firewalls.changes().values()) == {0}


def test_a_host_that_joins_is_let_in_by_those_beyond_the_limit_and_one_that_is_away_stops_nothing(firewalls):
    third = firewalls.rig.add(gpus=0)
    firewalls.prepare(third)
    third.shell("mkdir -p /etc/respawner")
    assert "tcp/7946" not in firewalls.open_to(third.name, firewalls.member)
    limit = f"--limit=hub:{third.name}"
    firewalls.member.pause()
    try:
        firewalls.changes(limit)
    finally:
        firewalls.member.unpause()
    assert "tcp/7946" in firewalls.open_to(third.name, firewalls.hub)
    assert "tcp/7946" not in firewalls.open_to(third.name, firewalls.member)
    firewalls.changes(limit)
    assert "tcp/7946" in firewalls.open_to(third.name, firewalls.member)
    # As where a run was cut off between the file and its rules.
    firewalls.member.shell("nft insert rule inet respawner input accept")
    firewalls.changes(limit)
    assert "tcp/2376" not in firewalls.open_to(firewalls.stranger, firewalls.member)
    assert set(firewalls.changes(limit).values()) == {0}
    assert set(firewalls.changes().values()) == {0}


def test_it_is_taken_away_again(firewalls):
    firewalls.changes(respawner_firewall=False)
    for host in firewalls.rig.hosts:
        assert "respawner" not in host.shell("nft list tables 2>/dev/null")
        assert host.shell("find /etc/respawner /etc/systemd/system -name '*firewall*'") == ""
    assert firewalls.open_to(firewalls.stranger, firewalls.hub) == EVERYTHING
    assert set(firewalls.changes(respawner_firewall=False).values()) == {0}
