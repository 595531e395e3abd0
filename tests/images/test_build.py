"""What the build says, which client it takes, and what it stops for."""

import pytest
from respawner_hub.images import (
    DiskTooSmallError,
    EngineUnreachableError,
    NoBuilderError,
    docker_cli,
    ensure_image,
)
from respawner_hub.images import build as build_module
from respawner_hub.images.base import debian_mirrors
from respawner_hub.images.build import build_step


def fake_client(folder, script):
    folder.mkdir()
    program = folder / "docker"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def only_clients_in(monkeypatch):
    def only(*folders):
        programs = [str(folder / "docker") for folder in folders]
        monkeypatch.setattr(docker_cli, "_clients_on_path", lambda: programs)

    return only


def test_client_without_buildx_is_passed_over(tmp_path, only_clients_in):
    fake_client(tmp_path / "new", "echo 'ERROR: the buildx component is missing' >&2; exit 1")
    works = fake_client(tmp_path / "old", 'test "$DOCKER_BUILDKIT" = 1')
    only_clients_in(tmp_path / "new", tmp_path / "old")
    assert docker_cli.find_docker_cli("unix:///x").program == str(works)


def test_no_client_that_builds_is_an_error_with_each_clients_reason(tmp_path, only_clients_in):
    fake_client(tmp_path / "new", "echo 'ERROR: the buildx component is missing' >&2; exit 1")
    only_clients_in(tmp_path / "new")
    with pytest.raises(NoBuilderError, match=r"buildx component is missing[\s\S]*apt-get install"):
        docker_cli.find_docker_cli("unix:///x")


def test_engine_that_does_not_answer_is_named(docker, checkout, tmp_path):
    host = f"unix://{tmp_path}/no.sock"
    with pytest.raises(EngineUnreachableError, match=host):
        ensure_image(engine_host=host, image="x:1", state_dir=tmp_path, torch="cpu", log=print)


def test_too_small_a_disk_stops_before_anything_is_made(docker, checkout, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "ROOM_FOR_CPU_BYTES", 10**18)
    with pytest.raises(DiskTooSmallError, match="GB free and the build needs"):
        ensure_image(
            engine_host=docker.engine_host,
            image="respawner/nobody:1",
            state_dir=tmp_path / "state",
            torch="cpu",
            log=print,
        )
    assert not list((tmp_path / "state").rglob("wheels"))


def test_progress_has_one_line_a_finished_step():
    output = """
#1 [internal] load build definition from Dockerfile
#1 DONE 0.0s
#4 [stage-0 1/8] FROM registry.example.org/respawner/base
#4 CACHED
#5 [3/8] RUN --mount=type=bind,source=wheels/torch,target=/wheels     pip3 install x
#5 0.923 Processing /wheels/filelock
#5 DONE 16.5s
#6 [ 4/10] RUN true
#6 CACHED
#7 [stage-0  5/10] COPY a b
#7 DONE 0.1s
#9 exporting to image
#9 DONE 2.0s
"""
    titles: dict[str, str] = {}
    said = [build_step(line, titles) for line in output.splitlines()]
    assert list(filter(None, said)) == [
        "1/8 FROM registry.example.org/respawner/base: unchanged",
        "3/8 RUN with wheels/torch: 16.5 s",
        "4/10 RUN true: unchanged",
        "5/10 COPY a b: 0.1 s",
    ]


def test_the_hosts_own_mirror_is_used_on_debian_and_none_elsewhere():
    debian = "http://m/debian/|Debian|Debian\nhttp://m/security/|Debian|Debian-Security\n"
    assert debian_mirrors(debian) == ("http://m/debian/", "http://m/security/")
    assert debian_mirrors("http://u/ubuntu/|Ubuntu|Ubuntu\n") == (None, None)
    assert debian_mirrors("") == (None, None)
