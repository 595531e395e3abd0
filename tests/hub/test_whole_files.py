"""`whole_file`, which is killed in fresh processes; and the secrets, of which the first one that is written counts."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from respawner_hub import secrets
from respawner_hub.whole_files import whole_file

OLD, NEW = b"what was there before", b"all of what is new"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(OLD)
    return file


def beside(path: Path) -> list[Path]:
    return [file for file in path.parent.iterdir() if file != path]


KILLED = """
import os, signal, sys
from pathlib import Path
from respawner_hub.whole_files import whole_file

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

moment, path = sys.argv[1], Path(sys.argv[2])
if moment == "fsync":
    os.fsync = die
if moment == "rename":
    Path.replace = die
if moment == "renamed":
    replace = Path.replace
    Path.replace = lambda *paths: (replace(*paths), die())
with whole_file(path, 0o600) as file:
    file.write(b"all of ")
    file.flush()
    if moment == "writing":
        die()
    file.write(b"what is new")
"""


@pytest.mark.parametrize(
    ("moment", "found"), [("writing", OLD), ("fsync", OLD), ("rename", OLD), ("renamed", NEW)]
)
def test_a_writer_that_is_killed_leaves_the_old_file_or_the_new_one_and_hinders_no_other(path, moment, found):
    done = subprocess.run([sys.executable, "-c", KILLED, moment, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == found
    assert all(rest.name.startswith(".file.") for rest in beside(path))
    with whole_file(path, 0o600) as file:
        file.write(b"the next one")
    assert path.read_bytes() == b"the next one"


def test_it_is_on_the_disk_before_it_has_its_name_and_the_name_before_it_returns(path, monkeypatch):
    """In another order a power cut could leave an empty file, or the old one after the caller went on."""
    steps = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor):
        found = os.fstat(descriptor)
        steps.append("folder" if stat.S_ISDIR(found.st_mode) else f"{found.st_size} bytes")
        fsync(descriptor)

    def note_replace(source, target):
        steps.append("rename")
        return replace(source, target)

    monkeypatch.setattr("os.fsync", note_fsync)
    monkeypatch.setattr("pathlib.Path.replace", note_replace)
    with whole_file(path, 0o600) as file:
        file.write(NEW)
    assert steps == [f"{len(NEW)} bytes", "rename", "folder"]


def write(path: Path, rest: Path, *, full: bool = False) -> None:
    with whole_file(path, 0o600, stale=[rest]) as file:
        file.write(NEW)
        if full:
            raise OSError("No space left")


@pytest.mark.parametrize("fails", ["block", "fsync"])
def test_what_fails_changes_nothing(path, monkeypatch, fails):
    rest = path.with_name("file-wal")
    rest.write_bytes(b"of the old one")
    if fails == "fsync":
        monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("No space left")))
    with pytest.raises(OSError, match="No space left"):
        write(path, rest, full=fails == "block")
    assert path.read_bytes() == OLD
    assert beside(path) == [rest]
    monkeypatch.undo()
    write(path, rest)
    assert path.read_bytes() == NEW
    assert beside(path) == []


def test_readers_see_the_old_file_until_all_of_the_new_one_is_there(path):
    with path.open("rb") as opened_before:
        with whole_file(path, 0o600) as file:
            file.write(NEW[:4])
            file.flush()
            assert path.read_bytes() == OLD
            file.write(NEW[4:])
        assert path.read_bytes() == NEW
        assert opened_before.read() == OLD


def test_two_writers_at_once_do_not_mix(path):
    with whole_file(path, 0o600) as slow:
        slow.write(b"the slow ")
        slow.flush()
        with whole_file(path, 0o600) as quick:
            quick.write(b"the quick one")
        assert path.read_bytes() == b"the quick one"
        slow.write(b"one")
    assert path.read_bytes() == b"the slow one"
    assert beside(path) == []


@pytest.mark.parametrize("umask", [0, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_mode_is_as_told_whatever_the_umask_and_nobody_reads_before(path, umask, mode):
    path.chmod(0o666)
    before = os.umask(umask)
    try:
        with whole_file(path, mode) as file:
            file.write(NEW)
            file.flush()
            (unfinished,) = beside(path)
            assert unfinished.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_keeps_the_owner_of_the_file_or_else_of_the_folder_where_it_is_asked_to(path):
    os.chown(path.parent, 1234, 2345)
    os.chown(path, 3456, 4567)
    new = path.with_name("new")
    for file, keep_owner, owner in (
        (path, True, (3456, 4567)),
        (new, True, (1234, 2345)),
        (path, False, (0, os.getegid())),
    ):
        with whole_file(file, 0o640, keep_owner=keep_owner):
            (unfinished,) = set(path.parent.glob(".*"))
            assert unfinished.stat().st_uid == 0
        found = file.stat()
        assert (found.st_uid, found.st_gid) == owner
        assert found.st_mode & 0o777 == 0o640


def test_where_the_first_one_counts_a_later_one_is_refused(path):
    with pytest.raises(FileExistsError), whole_file(path, 0o600, replace=False) as file:
        file.write(NEW)
    assert path.read_bytes() == OLD
    assert beside(path) == []
    path.unlink()
    with whole_file(path, 0o600, replace=False) as file:
        file.write(NEW)
    assert path.read_bytes() == NEW
    assert path.stat().st_mode & 0o777 == 0o600
    assert beside(path) == []


def test_processes_that_ask_for_a_secret_at_once_get_the_same_one(tmp_path, monkeypatch):
    """As a cluster's proxy and hub do: each finds none, makes one, and only then may see the other's."""
    both = threading.Barrier(2, timeout=60)
    token_hex = secrets.secrets.token_hex

    def made(size):
        both.wait()
        return token_hex(size)

    monkeypatch.setattr("secrets.token_hex", made)
    found = []
    ask = [threading.Thread(target=lambda: found.append(secrets.proxy_token(tmp_path))) for _ in range(2)]
    for thread in ask:
        thread.start()
    for thread in ask:
        thread.join()
    assert len(found) == 2
    assert len(set(found)) == 1
    assert len(found[0]) == 64
