"""Notebooks with real kernels, in a temporary store; every kernel is gone when its test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.snapshot.notebook import Notebook


@pytest.fixture
def open_notebook(tmp_path: Path) -> Iterator[Callable[..., Notebook]]:
    """Make notebooks that share one store; keyword arguments become environment variables."""
    opened: list[Notebook] = []

    def make(name: str = "/home/ada/training.ipynb", **environment: str) -> Notebook:
        opened.append(Notebook(tmp_path, name, **environment))
        return opened[-1]

    yield make
    for notebook in opened:
        notebook.shut_down()


@pytest.fixture
def notebook(open_notebook: Callable[..., Notebook]) -> Notebook:
    """One notebook with a running kernel."""
    return open_notebook().start()
