"""A device whose memory is used up. No GPU here: the error is made by hand, and tensors on the CPU stand for its own."""

from __future__ import annotations

import builtins
import sys
import weakref

import pytest
import torch
from respawner.device_memory import give_back, holders, is_exhausted, told
from respawner.processstate import put_random_state

from tests.snapshot.notebook import Notebook


def test_only_torchs_error_counts() -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    assert is_exhausted(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_exhausted(OutOfMemoryError())
    assert not is_exhausted(MemoryError())
    assert not is_exhausted(None)


def test_variables_are_told_by_what_they_hold_and_shared_memory_counts_once() -> None:
    model = torch.nn.Linear(1000, 1000, bias=False)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 1000)).sum().backward()
    optimizer.step()
    batch = torch.ones(100, 1000)
    variables = {
        "model": model,
        "optimizer": optimizer,
        "weights": list(model.parameters()),
        "train: batch": {"x": [batch]},
        "view": batch[:1],
        "count": 3,
    }
    found = dict(holders(variables, lambda tensor: True))
    assert found == {"model": 8_000_000, "optimizer": 8_000_004, "train: batch": 400_000}
    assert holders(variables) == [], "what is on the CPU is not the device's"


def test_line_names_the_largest_and_what_was_given_back() -> None:
    line = told([(f"x{number}", 10**9 // (number + 1)) for number in range(7)], 5 * 10**8)
    assert "held by x0 (1.0 GB), x1 (500.0 MB)" in line
    assert "and 2 more; 500.0 MB that nothing needs any more were given back" in line
    assert give_back(ValueError()) == 0, "nothing is there to give back without a device"


def test_a_cell_that_uses_the_memory_up_is_told_and_the_kernel_lives(notebook: Notebook) -> None:
    notebook.run(
        "import torch\nkept = torch.ones(3)\n"
        "import weakref\ndef fill(error):\n    global watched\n    batch = torch.ones(2)\n    watched = weakref.ref(batch)\n    raise error\n"
        "def train():\n    try:\n        fill(KeyError())\n    except KeyError:\n"
        "        fill(torch.OutOfMemoryError('CUDA out of memory'))"
    )
    ran = notebook.run("train()")
    assert ran.error == "OutOfMemoryError: CUDA out of memory"
    assert "Respawner: the device's memory is used up: no variable holds any of it" in ran.text
    assert notebook.value("watched()") == "None", "the error that IPython keeps holds nothing"
    notebook.kill()
    assert notebook.manifests()[0].state == "error"
    assert notebook.start().run("print(kept.sum().item())").text.strip().endswith("3.0")


def test_what_only_sleeps_goes_on_and_causes_and_groups_are_let_go_of() -> None:
    """A generator that has met the error and goes on is the notebook's, not a function that has failed."""
    watched = []

    def fill() -> None:
        batch = torch.ones(2)
        watched.append(weakref.ref(batch))
        raise torch.OutOfMemoryError("CUDA out of memory")

    def sizes():
        for size in range(3):
            try:
                fill()
            except torch.OutOfMemoryError as error:
                yield size, error

    tried = sizes()
    _, first = next(tried)
    try:
        try:
            fill()
        except torch.OutOfMemoryError as second:
            raise ValueError from second
    except ValueError as error:
        error.__context__.__cause__ = (
            builtins.ExceptionGroup("both", [first]) if sys.version_info >= (3, 11) else first
        )
        last = error
    del _, first
    assert [found() is not None for found in watched] == [True, True]
    give_back(last)
    assert [found() for found in watched] == [None, None]
    assert [size for size, _ in tried] == [1, 2]


def test_a_devices_state_comes_in_the_place_of_seeds_that_wait_for_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No GPU here: what torch would do at the start of CUDA is looked at."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "_lazy_seed_tracker", type(torch.cuda._lazy_seed_tracker)())
    torch.cuda.manual_seed_all(1)
    assert put_random_state({"torch_devices": {"cuda:0": torch.zeros(16, dtype=torch.uint8)}}) == []
    ours = torch.cuda._lazy_seed_tracker.get_calls()[-1][0]
    assert ours.func.__name__ == "_set_on"
    torch.cuda.manual_seed_all(2)
    theirs = torch.cuda._lazy_seed_tracker.get_calls()[-1][0]
    assert theirs is not ours, "what the notebook sets after the restore counts"
    assert put_random_state({"torch_devices": {"cuda:3": torch.zeros(16)}}) == [
        "random state of torch_devices could not be set: there is no cuda:3 here"
    ]
