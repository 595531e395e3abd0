"""Any graph of plain objects, with any sharing, comes back as the same graph."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from respawner.processstate import Baseline
from respawner.restoring import load
from respawner.store.layout import open_store
from respawner.store.timeline import Timeline

from tests.snapshot.bare_shell import save_once


class Node:
    """A plain instance, which the pickler treats in a way of its own."""


class Hashed(Node):
    """One whose hash is made of its state, so that it cannot be hashed before it has that."""

    number = 0
    """An empty one answers wrongly; an empty `Exact` one fails."""

    def __hash__(self) -> int:
        return hash(self.number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hashed) and self.number == other.number


class Exact(Hashed):
    def __hash__(self) -> int:
        return hash(("exact", self.__dict__["number"]))


@st.composite
def graphs(draw: st.DrawFn) -> list[Any]:
    """Objects of which later ones hold any earlier ones, and containers any others, cycles included."""
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(max_size=5),
        st.binary(max_size=5),
        st.builds(lambda n: b"q" * n, st.sampled_from([131_071, 131_072, 300_000])),
        st.builds(lambda n: bytearray(n), st.sampled_from([3, 200_000])),
    )
    objects: list[Any] = draw(st.lists(leaves, min_size=1, max_size=5))
    for kind in draw(
        st.lists(
            st.sampled_from(["list", "dict", "tuple", "set", "node", "hashed", "exact", "array", "view"]),
            max_size=12,
        )
    ):
        parts = [objects[i] for i in draw(st.lists(st.integers(0, len(objects) - 1), max_size=4))]
        objects.append(_make(kind, parts, objects))
    hashed = [o for o in objects if isinstance(o, Hashed)]
    for node in hashed:
        members = [hashed[i] for i in draw(st.lists(st.integers(0, len(hashed) - 1), max_size=4))]
        node.near = draw(st.sampled_from([set, frozenset]))(members)  # type: ignore[attr-defined]
        node.by = {(m, m.number): m for m in members} | dict.fromkeys(members)  # type: ignore[attr-defined]
    for container in [o for o in objects if isinstance(o, list | Node)]:
        other = objects[draw(st.integers(0, len(objects) - 1))]
        container.append(other) if isinstance(container, list) else setattr(container, "link", other)
    return objects


def _make(kind: str, parts: list[Any], objects: list[Any]) -> Any:
    match kind:
        case "list":
            return list(parts)
        case "tuple":
            return tuple(parts)
        case "dict":
            return dict(enumerate(parts))
        case "set":
            return {part for part in parts if isinstance(part, int | str | bytes)}
        case "node":
            node = Node()
            node.parts = parts  # type: ignore[attr-defined]
            return node
        case "hashed" | "exact":
            node = Hashed() if kind == "hashed" else Exact()
            node.number = len(objects)
            return node
        case "array":
            return np.arange(len(parts) * 5000, dtype="i4")
        case _:
            arrays = [o for o in objects if isinstance(o, np.ndarray)]
            return arrays[-1][1::2] if arrays else None


LONG = os.environ.get("RESPAWNER_LONG") == "1"
# What is tested is the graph; a disk would only make it slow.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.mark.timeout(2 * 3600 if LONG else 600)
@settings(
    max_examples=3000 if LONG else 60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(graph=graphs())
def test_graph_is_isomorphic_after_a_round_trip(shell: Any, graph: list[Any]) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        timeline = Timeline.create(open_store(Path(folder), create=True), "/graph.ipynb")
        shell.user_ns["graph"] = graph
        try:
            manifest = save_once(shell, timeline, Baseline())
        finally:
            del shell.user_ns["graph"]
        assert manifest.skipped == []
        _assert_same(graph, load(shell, timeline, manifest).variables["graph"])


def _assert_same(old: Any, new: Any) -> None:
    """Walk both graphs at once; each old object must always meet the same new one, and the reverse."""
    met: dict[int, Any] = {}
    met_back: dict[int, int] = {}
    queue = [(old, new)]
    while queue:
        a, b = queue.pop()
        assert type(a) is type(b)
        if isinstance(a, list | dict | tuple | set | Node | np.ndarray | bytearray) and not (
            isinstance(a, tuple) and not a
        ):
            if id(a) in met:
                assert met[id(a)] is b
                continue
            met[id(a)] = b
            assert met_back.setdefault(id(b), id(a)) == id(a)
        queue += _compare(a, b)
        if isinstance(a, np.ndarray) and a.base is not None and a.size:
            assert np.shares_memory(b, b.base)
            queue.append((a.base, b.base))


def _compare(a: Any, b: Any) -> list[tuple[Any, Any]]:
    """Compare one object by itself, and return the pairs of its parts."""
    if isinstance(a, Node):
        assert a.__dict__.keys() == b.__dict__.keys()
        return [(a.__dict__[key], b.__dict__[key]) for key in a.__dict__]
    if isinstance(a, set | frozenset) and any(isinstance(part, Hashed) for part in a):
        assert len(a) == len(b)
        found = {part.number: part for part in b}
        assert all(part in b for part in found.values())
        return [(part, found[part.number]) for part in a]
    if isinstance(a, dict) and any(isinstance(key, Hashed | tuple) for key in a):
        assert all(key in b for key in b)
        return [*zip(a, b, strict=True), *zip(a.values(), b.values(), strict=True)]
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        return list(zip(a, b, strict=True))
    if isinstance(a, dict):
        assert list(a) == list(b)
        return [(a[key], b[key]) for key in a]
    assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
    return []
