"""`provision_local`: quick when all is there, plain about what failed."""

import shutil
import subprocess

import pytest
from respawner_hub import provision
from respawner_hub.provision import NEEDED, NeedsRootError, ProvisionError, missing_programs, provision_local

from .running import ANSIBLE


@pytest.fixture
def programs(tmp_path):
    """A folder with every needed program, each answering."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in NEEDED:
        (folder / name).write_text("#!/bin/sh\necho 1.0\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def fake_project(tmp_path, monkeypatch):
    """A checkout whose local.yml the test writes."""
    root = tmp_path / "checkout"
    (root / "images" / "notebook").mkdir(parents=True)
    (root / "images" / "notebook" / "Dockerfile").touch()
    (root / "ansible").mkdir()
    shutil.copy(ANSIBLE / "ansible.cfg", root / "ansible")
    shutil.copytree(ANSIBLE / "inventory", root / "ansible" / "inventory")
    monkeypatch.setenv("RESPAWNER_ROOT", str(root))
    monkeypatch.setattr(provision, "_check_root", lambda *, check: None)
    monkeypatch.setattr(provision, "missing_programs", list)

    def write(tasks):
        (root / "ansible" / "local.yml").write_text(
            f"- name: Fake\n  hosts: localhost\n  gather_facts: false\n  tasks:\n{tasks}"
        )

    return write


def test_programs_that_answer_are_not_missing(programs):
    assert missing_programs(str(programs)) == []


def test_program_that_is_not_there_is_missing(programs):
    (programs / "debootstrap").unlink()
    assert missing_programs(str(programs)) == ["debootstrap"]


def test_program_that_dies_at_once_is_missing(programs):
    """As Debian's proxy does under another Node.js."""
    (programs / "configurable-http-proxy").write_text("#!/bin/sh\nexit 1\n")
    assert missing_programs(str(programs)) == ["configurable-http-proxy"]


def test_machine_that_has_everything_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(provision, "missing_programs", list)
    said: list[str] = []
    result = provision_local(tmp_path, said.append)
    assert (result.ran, result.changed) == (False, ())
    assert said == ["provision: already there: " + ", ".join(NEEDED)]
    assert list(tmp_path.iterdir()) == []


def test_changes_are_told_one_line_each_and_none_the_second_time(fake_project, tmp_path):
    fake_project(
        f"    - name: Ensure a folder\n      ansible.builtin.file: {{path: {tmp_path}/made, state: directory, mode: '0755'}}\n"
    )
    said: list[str] = []
    first = provision_local(tmp_path / "state", said.append, force=True)
    assert first.changed == ("Ensure a folder",)
    assert "provision: Ensure a folder: changed" in said
    assert (tmp_path / "made").is_dir()
    assert provision_local(tmp_path / "state", said.append, force=True).changed == ()


def test_check_changes_nothing(fake_project, tmp_path):
    fake_project(
        f"    - name: Ensure a folder\n      ansible.builtin.file: {{path: {tmp_path}/made, state: directory, mode: '0755'}}\n"
    )
    said: list[str] = []
    assert provision_local(tmp_path / "state", said.append, check=True).changed == ("Ensure a folder",)
    assert "provision: Ensure a folder: would change" in said
    assert not (tmp_path / "made").exists()


def test_failure_names_task_message_and_log(fake_project, tmp_path):
    fake_project("    - name: Ensure the moon\n      ansible.builtin.fail: {msg: It is too far.}\n")
    with pytest.raises(ProvisionError, match=r"Ensure the moon: It is too far\.\n.*artifacts/.*/stdout"):
        provision_local(tmp_path / "state", print, force=True)


def test_failed_command_tells_what_it_wrote(fake_project, tmp_path):
    fake_project(
        "    - name: Ensure a loop\n      ansible.builtin.shell: echo no {{ item }} >&2; exit 1\n      loop: [way]\n"
    )
    with pytest.raises(ProvisionError, match="no way"):
        provision_local(tmp_path / "state", print, force=True)


def test_program_still_missing_after_a_good_run_is_an_error(fake_project, tmp_path, monkeypatch):
    fake_project("    - name: Ensure nothing\n      ansible.builtin.debug: {msg: x}\n")
    monkeypatch.setattr(provision, "missing_programs", lambda: ["dockerd"])
    with pytest.raises(ProvisionError, match="dockerd cannot be run"):
        provision_local(tmp_path / "state", print)


def test_only_the_last_runs_are_kept(fake_project, tmp_path, monkeypatch):
    monkeypatch.setattr(provision, "KEEP_RUNS", 2)
    fake_project("    - name: Ensure nothing\n      ansible.builtin.debug: {msg: x}\n")
    for _ in range(4):
        provision_local(tmp_path / "state", print, force=True)
    assert len(list((tmp_path / "state" / "ansible" / "artifacts").iterdir())) == 2


def test_ordinary_user_whose_sudo_asks_is_told_what_to_type(monkeypatch, tmp_path):
    monkeypatch.setattr(provision.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(provision.shutil, "which", lambda name, **_: f"/usr/bin/{name}")
    refusal = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(provision.subprocess, "run", lambda *_, **__: refusal)
    with pytest.raises(NeedsRootError, match=r"Run once: sudo \S+/respawner-hub provision"):
        provision_local(tmp_path, print, force=True)
