"""One host with everything that is optional: PostgreSQL, the firewall around the hub. In this order; the firewall's rules themselves
are `test_firewall`'s."""

from __future__ import annotations

import os

import docker
import pytest

from tests.standins import stub_session

from .deployed import Cluster, sessions_on, wait_for
from .rig import Rig, playbook

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

PASSFILE = "/var/lib/respawner/secrets/postgresql-passfile"
AS_HUB = "psql --no-password --host=/var/run/postgresql --username=respawner --command='SELECT 1'"
PLAY = """
- name: PostgreSQL alone
  hosts: hub
  gather_facts: false
  roles:
    - role: respawner
    - role: postgresql
"""


@pytest.fixture(scope="module")
def cluster():
    stub_session.build(docker.APIClient(base_url=os.environ["DOCKER_HOST"], version="auto"))
    with Rig(hosts=1) as rig:
        made = Cluster(rig, "postgresql", [stub_session.IMAGE])
        made.variables |= {"respawner_postgresql": True, "respawner_firewall": True}
        yield made


def alone(cluster: Cluster, *arguments: str) -> tuple[int, str]:
    """Run the role alone; its exit code and what it said."""
    play = cluster.rig.folder / "postgresql.yml"
    play.write_text(PLAY)
    done = playbook(cluster.inventory(), str(play), *arguments)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def query(cluster: Cluster, sql: str, database: str = "respawner") -> str:
    """What the server answers to its superuser."""
    program = f"runuser -u postgres -- psql --tuples-only --no-align --dbname={database}"
    return cluster.hub.shell(f"cd / && {program}", stdin=sql.encode()).strip()


def test_accounts_elsewhere_are_not_left_behind_however_often_it_is_run(cluster):
    """Of files and settings `tests/ansible/test_postgresql.py` has more."""
    make = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('CREATE TABLE users (name)'); "
    make += "d.execute('INSERT INTO users VALUES (1)'); d.commit()"
    cluster.hub.write("/etc/respawner/respawner.toml", b'[hub]\nstate_dir = "/srv/hub"\n')
    cluster.hub.shell(f'mkdir /srv/hub; python3 -c "{make}" /srv/hub/jupyterhub.sqlite')
    for _ in range(2):
        status, said = alone(cluster)
        assert status != 0
        assert "history in /srv/hub/jupyterhub.sqlite with 1 in its table users. They do not move." in said
    assert cluster.hub.shell("command -v psql", check=False) == ""
    cluster.hub.shell("rm -r /etc/respawner/respawner.toml /srv/hub")


def test_a_database_that_was_lost_is_not_made_anew_and_empty_while_its_password_is_there(cluster):
    cluster.hub.write(PASSFILE, b"*:*:respawner:respawner:x\n", "0600")
    for _ in range(2):
        status, said = alone(cluster)
        assert status != 0
        assert f"{PASSFILE} says that this hub's accounts, leases and history are in a database that" in said
    assert query(cluster, "SELECT datname FROM pg_database WHERE datname = 'respawner'", "postgres") == ""
    cluster.hub.shell("rm -r /var/lib/respawner")


def test_the_hub_keeps_accounts_leases_and_users_in_postgresql(cluster):
    cluster.provision("1-first-run")
    cluster.hub.shell("respawner-hub user add ada")
    cluster.start("ada", gpus=1)
    assert query(cluster, "SELECT name FROM respawner_accounts") == "ada"
    assert query(cluster, "SELECT name FROM users") == "ada"  # JupyterHub's
    assert query(cluster, "SELECT uuid FROM respawner_holdings WHERE until IS NULL") in cluster.hub.gpus
    assert cluster.hub.shell("find /etc/respawner /var/lib/respawner -name '*.sqlite'") == ""


def test_the_password_is_roots_alone_and_nowhere_else(cluster):
    hub = cluster.hub
    assert hub.shell(f"stat --format='%a %U' {PASSFILE}").strip() == "600 root"
    password = hub.shell(f"cat {PASSFILE}").strip().rpartition(":")[2]
    assert len(password) == 64
    said = hub.shell("journalctl --no-pager; cat /proc/[0-9]*/cmdline /var/log/postgresql/*.log")
    assert password not in said
    assert hub.shell(f"grep --recursive --files-with-matches {password} /etc", check=False) == ""
    files = [path for path in cluster.artifacts.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert [path for path in files if password in path.read_text(errors="replace")] == []


def test_nobody_reaches_the_server_from_outside(cluster):
    listening = cluster.hub.shell("ss -Hltn 'sport = :5432'").splitlines()
    assert listening
    assert all("127.0.0.1:5432" in line or "[::1]:5432" in line for line in listening)


def test_nobody_on_the_host_comes_in_without_the_password(cluster):
    assert "no password supplied" in cluster.hub.shell(f"cd / && ! runuser -u nobody -- {AS_HUB} 2>&1")


def test_the_second_run_changes_nothing(cluster):
    assert cluster.changed(cluster.provision("2-again")) == []
    assert alone(cluster, "--check")[0] == 0


def test_a_lost_password_and_a_lost_line_are_made_anew_and_the_hub_goes_on(cluster):
    before = sessions_on(cluster.hub)
    assert "ada" in before
    query(cluster, "ALTER SYSTEM SET log_statement = 'all'")
    cluster.hub.shell(f"rm {PASSFILE}; sed -i '/^local *respawner/d' /etc/postgresql/*/main/pg_hba.conf")
    status, said = alone(cluster)
    assert status == 0, said
    password = cluster.hub.shell(f"cat {PASSFILE}").strip().rpartition(":")[2]
    log = cluster.hub.shell("cat /var/log/postgresql/*.log")
    assert "ALTER ROLE respawner PASSWORD 'SCRAM-SHA-256$4096:" in log
    assert password not in log
    cluster.hub.shell("systemctl restart postgresql")  # as an update of its package does
    wait_for(lambda: cluster.is_ready("ada"), 180, lambda: cluster.log("hub"))
    assert sessions_on(cluster.hub) == before
    status, said = alone(cluster)
    assert " changed=0 " in said, said


def test_a_password_that_others_may_read_and_a_reload_that_is_owed_are_repaired(cluster):
    hub = cluster.hub
    password = hub.shell(f"cat {PASSFILE}; chmod 644 {PASSFILE}")
    in_file = "cd /etc/postgresql/*/main"
    hub.shell(f"{in_file} && cp -p pg_hba.conf /root/ && sed -i '/^local *respawner/d' pg_hba.conf")
    query(cluster, "SELECT pg_reload_conf()")
    wait_for(lambda: "Peer" in hub.shell(f"{AS_HUB} 2>&1", check=False), 20)
    hub.shell(f"{in_file} && cat /root/pg_hba.conf > pg_hba.conf")  # and the run ended before the server knew
    status, said = alone(cluster)
    assert status == 0, said
    assert " changed=1 " in said, said
    assert hub.shell(f"stat --format='%a %U' {PASSFILE}; cat {PASSFILE}") == f"600 root\n{password}"


def test_behind_the_firewall_hub_and_sessions_reach_each_other(cluster):
    """And the hub, from its network namespace, reaches engine and agent of its own host."""
    assert "table inet respawner" in cluster.hub.shell("nft list tables 2>/dev/null")
    cluster.start("grace", gpus=1)
    said = cluster.hub.docker(
        "exec", sessions_on(cluster.hub)["grace"], "python3", "-c",
        "import os, urllib.request as r; print(r.urlopen(os.environ['JUPYTERHUB_API_URL'], timeout=10).read())",
    )  # fmt: skip
    assert "version" in said
    done = playbook(cluster.inventory(), "verify_cluster.yml")
    assert done.returncode == 0, done.stdout + done.stderr
