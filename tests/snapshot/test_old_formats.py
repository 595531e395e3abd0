"""Stores that earlier versions wrote are read for ever: `fixtures/make.py` made them, once."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from respawner.manifest import Manifest
from respawner.store.archive import import_timeline
from respawner.store.layout import open_store

from tests.snapshot.fixtures.make import NAME
from tests.snapshot.notebook import Notebook
from tests.snapshot.test_cli import cli

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("format-*.tar"))

CHECKS = """
assert text == "the same words again and again " * 9000
assert alias is numbers and numbers == list(range(1000))
assert cycle[1] is cycle
assert type(point) is Point and point.moved(4) == Point(5, 2) and Colour(1) is Colour.RED
assert count == 1 and bump() == 2 and count == 2
assert get() == 1 and up() == 2 and get() == 2
import numpy
expected = numpy.random.default_rng(0).random(20_000)
expected[150] = -1.0
assert (array == expected).all()
assert view.base is array and view[50] == -1.0
assert not zeros.any() and len(zeros) == 40_000
assert structured["b"].tolist() == [2.5, 3.5]
import torch
assert shared.data_ptr() == array.ctypes.data
assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
assert model.weight.grad is not None and optimizer.state[model.weight]["step"] == 1
assert frame["c"].dtype == "category" and frame["b"].sum() == 62375.0
import respawner
assert type(lock) is respawner.pickling.placeholder.Placeholder
print("all as it was")
"""


@pytest.fixture(params=FIXTURES, ids=[path.stem for path in FIXTURES])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Notebook]:
    """A notebook whose timeline an earlier version wrote."""
    notebook = Notebook(tmp_path, NAME)
    import_timeline(open_store(notebook.store, create=True), request.param, None)
    yield notebook
    notebook.shut_down()


def test_there_is_a_fixture_of_every_format() -> None:
    assert "format-1" in [path.stem for path in FIXTURES]


def test_old_store_is_restored_and_goes_on(old: Notebook) -> None:
    ran = old.start().run(CHECKS)
    assert ran.text.endswith("all as it was\n"), ran.error
    assert "damaged" not in ran.text
    old.run("later = array.sum()")
    old.restart_after_kill()
    assert old.run("print(later == array.sum())").text.endswith("True\n")
    assert "restored" in old.run("%restore with a label").text
    assert old.run("print(array[150] > 0)").text.endswith("True\n")


def test_old_store_is_listed_verified_and_exported_as_it_is(old: Notebook, tmp_path: Path) -> None:
    assert "with a label" in cli(old.store, "list")
    assert "DAMAGED" not in cli(old.store, "verify")
    cli(old.store, "export", NAME, str(tmp_path / "again.tar"))
    with tarfile.open(tmp_path / "again.tar") as archive:
        names = archive.getnames()
    assert sum(name.startswith("manifests/") for name in names) == len(old.manifests()) == 8


def test_old_manifest_is_written_as_it_was(old: Notebook) -> None:
    """What an old reader could read stays readable for it: same version, same bytes, same checksum."""
    for manifest in old.manifests():
        content = old.timeline.manifest_path(manifest.sequence).read_bytes()
        assert Manifest.from_bytes(content, "here").to_bytes() == content
