"""Large states are mapped: there at once, private, verified beside the kernel's work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.snapshot.notebook import Notebook, flip_a_byte

BIG = """
import numpy as np, torch
a = np.arange(16_000_000)          # 128 MB
b = a.reshape(4000, 4000)[::2]     # shares it
t = torch.from_numpy(a)            # too
w = torch.ones(5_000_000); v = w.view(1000, -1)
f = np.asfortranarray(np.random.rand(600, 700))
"""


def packs(notebook: Notebook) -> list[Path]:
    return sorted(notebook.timeline.packs.glob("*.pack"))


def is_mapped(notebook: Notebook) -> bool:
    return ".pack" in Path(f"/proc/{notebook.pid}/maps").read_text()


def test_mapped_state_is_whole_shared_and_private(notebook: Notebook) -> None:
    notebook.run(BIG + "total = (int(a.sum()), float(w.sum()), float(f.sum()))")
    notebook.settle()
    before = [path.read_bytes() for path in packs(notebook)]
    notebook.restart_after_kill()
    notebook.run("again = (int(a.sum()), float(w.sum()), float(f.sum()))")
    assert is_mapped(notebook)
    assert notebook.value("again == total") == "True"
    assert notebook.value("f.flags.f_contiguous") == "True"
    notebook.run("a[5] = -1; w[7] = 3")
    assert notebook.value("(int(b.ravel()[5]), int(t[5]), float(v[0, 7]))") == "(-1, -1, 3.0)"
    notebook.settle()
    after = [path.read_bytes() for path in packs(notebook)]
    assert all(new.startswith(old.rstrip(b"\0")) for old, new in zip(before, after, strict=False))


def test_changes_after_a_mapped_restore_are_saved_and_restored_again(notebook: Notebook) -> None:
    """Several generations, each mapped from what the one before has written."""
    notebook.run(BIG)
    for generation in range(3):
        notebook.settle()
        notebook.restart_after_kill()
        notebook.run(f"a[{generation} * 100_000] = 7_000_000_{generation}; w[{generation}] = 0")
    notebook.settle()
    notebook.restart_after_kill()
    notebook.run("x = 1")
    expected = "[70000000, 70000001, 70000002]".replace("7000000", "7_000_000_").replace("_", "")
    assert notebook.value("[int(t[g * 100_000]) for g in range(3)]") == expected
    assert notebook.value("float(v.sum())") == str(5_000_000.0 - 3)
    assert notebook.value("b.base is a or b.base is a.base") == "True"


def test_packs_that_retention_deletes_stay_mapped(notebook: Notebook) -> None:
    notebook.run(BIG + "total = int(a.sum())")
    notebook.settle()
    notebook.restart_after_kill()
    notebook.run("x = 1")
    assert is_mapped(notebook)
    for path in packs(notebook):
        path.unlink()
    notebook.run("again = int(a.sum())")
    assert notebook.value("again == total") == "True"


def test_damage_found_behind_the_restore_falls_back_and_names_the_variable(notebook: Notebook) -> None:
    notebook.run(BIG + "state = 'first'")
    notebook.run("a += 1; state = 'second'")
    notebook.settle()
    notebook.kill()
    newest = notebook.manifests()[0]
    stream = max((payload.stream for payload in newest.payloads), key=lambda s: s.length)
    extent = stream.extents[-1]
    flip_a_byte(notebook.timeline.packs / f"{extent.pack:08d}.pack", extent.offset + extent.length // 2)
    notebook.start()
    notebook.run("built_on_damage = 1")
    notebook.value("__import__('respawner').startup.active_engine()._verification.is_good()")
    ran = notebook.run("print(state)")
    assert ran.text.endswith("first\n")
    assert f"snapshot {newest.sequence}" in ran.text
    assert "does not have the digest" in ran.text
    assert notebook.value("'built_on_damage' in dir()") == "False"
    notebook.run("b2 = int(a[1])")
    notebook.settle()
    notebook.restart_after_kill()
    assert notebook.run("print(state, b2)").text.endswith("first 1\n")


@pytest.mark.parametrize("cut", ["tail", "all"])
def test_shortened_pack_is_seen_before_it_is_mapped(open_notebook: Callable[..., Notebook], cut: str) -> None:
    notebook = open_notebook().start()
    notebook.run("state = 'small'")
    notebook.run(BIG + "state = 'big'")
    notebook.settle()
    notebook.kill()
    [pack] = packs(notebook)
    extent = max(notebook.manifests()[0].payloads, key=lambda p: p.stream.length).stream.extents[-1]
    with open(pack, "r+b") as file:
        file.truncate(extent.offset + (extent.length - 5000 if cut == "tail" else 0))
    notebook.start()
    ran = notebook.run("print(state)")
    assert ran.text.endswith("small\n")
    assert "too early" in ran.text
