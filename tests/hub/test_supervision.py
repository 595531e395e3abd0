"""A real supervisord with stand-ins for its programs."""

import os
import signal
import time

import pytest
from respawner_hub import supervision
from respawner_hub.supervision import ProcessError, Supervisor

SLEEPER = "import time; print('ready', flush=True); time.sleep(600)"


@pytest.fixture
def supervisor(tmp_path, monkeypatch):
    """All programs sleep; `crash` in the folder makes them fail at once."""
    program = tmp_path / "program.py"
    program.write_text(
        f"import pathlib, sys\nif pathlib.Path('crash').exists(): sys.exit('no licence')\n{SLEEPER}"
    )
    command = f"command = {{python}} {program}\ndirectory"
    template = supervision._PROGRAM.replace(
        "command = {python} -m respawner_hub.cli run {name}\ndirectory", command
    )
    monkeypatch.setattr(supervision, "_PROGRAM", template.replace("startretries = 5", "startretries = 0"))
    supervisor = Supervisor(tmp_path / "state", tmp_path, None)
    yield supervisor
    supervisor.stop()


def pid(supervisor, name: str) -> int:
    return supervisor._rpc.getProcessInfo(name)["pid"]


def test_a_program_runs_until_its_fingerprint_changes(supervisor):
    assert supervisor.start()
    assert not supervisor.start()
    assert supervisor.ensure("hub", "1") == "started"
    first = pid(supervisor, "hub")
    assert supervisor.ensure("hub", "1") == "running"
    assert pid(supervisor, "hub") == first
    assert supervisor.ensure("hub", "2") == "restarted"
    assert pid(supervisor, "hub") != first


def test_a_killed_program_is_started_again(supervisor):
    supervisor.start()
    supervisor.ensure("proxy", "1")
    first = pid(supervisor, "proxy")
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 120
    while pid(supervisor, "proxy") in (0, first):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_program_that_fails_is_told_with_the_end_of_its_log(supervisor, tmp_path, monkeypatch):
    # However long it takes to fail: who has lived so long counts as started.
    monkeypatch.setattr(
        supervision, "_PROGRAM", supervision._PROGRAM.replace("startsecs = 2", "startsecs = 99")
    )
    (tmp_path / "crash").write_text("")
    supervisor.start()
    with pytest.raises(ProcessError, match=r"(?s)hub did not start.*no licence"):
        supervisor.ensure("hub", "1")


def test_stop_ends_everything_and_may_be_repeated(supervisor):
    supervisor.start()
    supervisor.ensure("hub", "1")
    running = pid(supervisor, "hub")
    assert supervisor.stop()
    assert not supervisor.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(running, 0)
    assert supervisor.states() == dict.fromkeys(("proxy", "agent", "hub"), "STOPPED")


def test_a_socket_left_over_from_a_crash_is_no_obstacle(supervisor):
    supervisor.start()
    daemon = supervisor._rpc.getPID()
    os.kill(daemon, signal.SIGKILL)
    deadline = time.monotonic() + 120
    while supervisor.is_running():
        assert time.monotonic() < deadline
    assert supervisor.socket.exists()
    assert supervisor.start()


def test_a_supervisor_that_an_older_version_started_learns_new_programs(supervisor, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(supervision, "PROGRAMS", ("proxy", "hub"))
        supervisor.start()
    supervisor.ensure("hub", "1")
    hub = pid(supervisor, "hub")
    assert supervisor.states()["agent"] == "STOPPED"
    assert not supervisor.start()
    assert supervisor.ensure("agent", "1") == "started"
    assert supervisor.states() == {"proxy": "STOPPED", "agent": "RUNNING", "hub": "RUNNING"}
    assert pid(supervisor, "hub") == hub


def test_a_long_path_gets_a_socket_that_fits(tmp_path):
    deep = tmp_path / ("x" * 120)
    assert len(str(Supervisor(deep, tmp_path, None).socket)) < 100


def test_the_next_supervisor_may_start_right_after_the_last(supervisor):
    for _ in range(3):
        assert supervisor.start()
        supervisor.ensure("hub", "1")
        assert supervisor.stop()
