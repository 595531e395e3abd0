"""`up` meets a machine that is not ready, or itself."""

import fcntl
import socket

import pytest
import requests

from .deployment import Deployment

pytestmark = [pytest.mark.docker]


@pytest.fixture
def other():
    """A second deployment that is not up yet, on the same engine."""
    with Deployment() as made:
        yield made


def test_a_taken_port_ends_up_early_with_the_next_step(other):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", other.port))
        taken.listen()
        result = other.run("up", check=False)
    assert result.returncode == 1
    assert f"Port {other.port} on 127.0.0.1 is taken" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_setting_ends_up_at_once(other):
    other.sections["session"]["mem_limit"] = "lots"
    other.write_settings()
    result = other.run("up", check=False)
    assert result.returncode == 1
    assert "session.mem_limit = 'lots'" in result.stderr


def test_a_second_up_at_the_same_time_waits_for_nobody_and_says_so(other):
    state = other.folder / "state"
    state.mkdir()
    with open(state / "up.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = other.run("up", check=False)
    assert result.returncode == 1
    assert "wait until it has finished" in result.stderr


def test_an_opened_hub_speaks_https_with_a_certificate_that_it_made(other):
    """Opened to the sessions' own bridge: an address that is not loopback, and still no network of anybody's."""
    other.up()
    assert requests.get(f"{other.url}hub/health", timeout=120).ok  # on loopback, plain HTTP
    address = (other.folder / "state" / "run" / "gateway").read_text().strip()
    other.sections["hub"]["bind"] = address
    other.sections["tls"] = {"names": [address, "gpu.example.org"]}
    other.write_settings()
    output = other.up()
    assert "self-signed certificate: browsers will warn" in output
    assert f"https://{address}:{other.port}/" in output
    certificate = other.folder / "state" / "tls" / "self-signed.crt"
    assert requests.get(f"https://{address}:{other.port}/hub/health", verify=certificate, timeout=120).ok


def test_a_hub_that_cannot_start_is_told_with_its_log(other):
    (other.folder / "jupyterhub_config.d" / "broken.py").write_text(
        "raise RuntimeError('typo in the hatch')\n"
    )
    result = other.run("up", check=False)
    assert result.returncode == 1
    assert "typo in the hatch" in result.stderr
