"""``python -m respawner`` on a store whose kernels are not there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.snapshot.notebook import PYTHON, Notebook, flip_a_byte


def cli(store: Path, *arguments: str, ok: bool = True) -> str:
    done = subprocess.run(
        [PYTHON, "-m", "respawner", "--store", str(store), *arguments], capture_output=True, text=True
    )
    assert (done.returncode == 0) is ok, done
    return done.stdout if ok else done.stdout + done.stderr


@pytest.fixture
def closed(notebook: Notebook) -> Notebook:
    """A notebook with three snapshots and no kernel."""
    notebook.run("import numpy as np, threading; array = np.ones(100_000)")
    notebook.run("%snapshot best")
    notebook.run("lock = threading.Lock()")
    notebook.kill()
    notebook.client.stop_channels()
    return notebook


def test_list_and_show(closed: Notebook) -> None:
    listed = cli(closed.store, "list")
    assert closed.name in listed
    assert "lock = threading.Lock()" in listed
    assert "best" in listed
    objects = [json.loads(line) for line in cli(closed.store, "list", "--json").splitlines()]
    assert [found["labels"] for found in objects] == [[], [], ["best"], []]
    assert objects[0]["skipped"] == 1
    shown = cli(closed.store, "show", closed.name)
    assert "800.1 kB  array  numpy.ndarray" in shown
    assert "lock  _thread.lock" in shown
    assert "lock" not in cli(closed.store, "show", closed.timeline.slug, "best")


def test_verify_finds_damage(closed: Notebook) -> None:
    assert "DAMAGED" not in cli(closed.store, "verify")
    flip_a_byte(closed.timeline.packs / "00000001.pack", 4096 + 10)
    assert "DAMAGED" in cli(closed.store, "verify", closed.name, ok=False)


def test_prune_keeps_the_latest_and_the_labelled(closed: Notebook) -> None:
    cli(closed.store, "prune", "--keep", "1")
    assert [m.labels for m in closed.manifests()] == [[], ["best"]]
    assert "DAMAGED" not in cli(closed.store, "verify")
    assert "at least" in cli(closed.store, "prune", "--keep", "0", ok=False)


def test_forget_deletes_what_a_label_keeps_and_never_what_the_next_start_restores(closed: Notebook) -> None:
    latest, best = closed.manifests()[0], next(m for m in closed.manifests() if m.labels)
    assert "no snapshot 'bset'" in cli(closed.store, "forget", closed.name, "bset", ok=False)
    assert "next start goes on from" in cli(closed.store, "forget", closed.name, latest.id, ok=False)
    assert "fits" in cli(closed.store, "forget", closed.name, latest.id[:2], ok=False)
    before = len(closed.manifests())
    assert f"{best.id} deleted" in cli(closed.store, "forget", closed.name, "best")
    assert len(closed.manifests()) == before - 1
    assert "no snapshot 'best'" in cli(closed.store, "forget", closed.name, "best", ok=False)
    assert "DAMAGED" not in cli(closed.store, "verify")


def test_prune_leaves_a_timeline_with_a_living_kernel_alone(notebook: Notebook) -> None:
    notebook.run("x = 1")
    notebook.run("x = 2")
    assert notebook.settle()["durable"]
    assert f"process {notebook.pid} writes to it" in cli(notebook.store, "prune", "--keep", "1", ok=False)
    assert len(notebook.manifests()) == 2


def test_exported_timeline_is_restored_in_another_store(closed: Notebook, tmp_path: Path) -> None:
    archive = tmp_path / "timeline.tar"
    cli(closed.store, "export", closed.name, str(archive))
    assert "exists" in cli(closed.store, "export", closed.name, str(archive), ok=False)
    elsewhere = Notebook(tmp_path / "elsewhere", "/home/grace/copy.ipynb")
    cli(elsewhere.store, "import", str(archive), "--name", elsewhere.name)
    assert "has a timeline already" in cli(
        elsewhere.store, "import", str(archive), "--name", elsewhere.name, ok=False
    )
    try:
        assert elsewhere.start().run("print(array.sum())").text.endswith("100000.0\n")
    finally:
        elsewhere.shut_down()


def test_import_refuses_what_is_no_export(tmp_path: Path) -> None:
    import io
    import tarfile

    archive = tmp_path / "evil.tar"
    with tarfile.open(archive, "w") as tar:
        description = b'{"format": "respawner-timeline", "version": 1, "name": "x", "uuid": "00"}'
        for name, content in (("timeline.json", description), ("packs/../../escaped", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert "nothing was imported" in cli(tmp_path / "store", "import", str(archive), ok=False)
    assert not list(tmp_path.rglob("escaped"))
    assert cli(tmp_path / "store", "list") == ""


def test_unknown_store_and_timeline_are_named(tmp_path: Path, closed: Notebook) -> None:
    assert "is not a snapshot store" in cli(tmp_path / "nothing", "list", ok=False)
    assert not (tmp_path / "nothing").exists()
    assert "has no timeline 'other'" in cli(closed.store, "show", "other", ok=False)


def test_command_line_never_loads_what_unpickles(closed: Notebook) -> None:
    """Neither the hub nor an admin may come to run a user's pickle by looking at a store."""
    code = (
        "import sys\nfrom respawner.__main__ main\n".replace("__main__ main", "__main__ import main")
        + f"main(['--store', {str(closed.store)!r}, 'verify'])\n"
        "assert not {'pickle', 'cloudpickle', '_pickle'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([PYTHON, "-S", "-c", _with_path(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _with_path(code: str) -> str:
    import respawner
    import xxhash

    folders = {str(Path(module.__file__).parents[1]) for module in (respawner, xxhash)}
    return f"import sys; sys.path += {sorted(folders)!r}\n{code}"
