"""Fixtures: a checkout and a package index of tiny wheels."""

from __future__ import annotations

import os

import pytest

from .engine import base_image, docker, user_image  # noqa: F401  # fixtures
from .tiny_wheels import make_checkout, make_index


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of its own, which `project_root()` finds."""
    root = make_checkout(tmp_path / "checkout")
    monkeypatch.setenv("RESPAWNER_ROOT", str(root))
    return root


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels that is all that pip knows."""
    folder = make_index(tmp_path / "index")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder
