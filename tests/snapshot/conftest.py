"""Notebooks with real kernels, in a temporary store; every kernel is gone when its test ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from tests.snapshot.libraries import needs_what_is_lacking, skip_where_lacking
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


@pytest.fixture(scope="module")
def shell() -> Iterator[InteractiveShell]:
    """IPython's in the tests' own process, which has its own ``__main__`` again afterwards. No history beside the user's."""
    main = sys.modules["__main__"]
    yield InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    InteractiveShell.clear_instance()
    sys.modules["__main__"] = main


@pytest.fixture(autouse=True)
def working_folder() -> Iterator[None]:
    """A restore in this process goes to the folder of the state; the tests behind it start where they always do."""
    before = Path.cwd()
    yield
    os.chdir(before)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if is_test and needs_what_is_lacking(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_where_lacking(items)
