"""Memory by variable, on CPU tensors: the same storages, only elsewhere."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import pytest
import torch
from respawner.gpu import tensors
from respawner.gpu.tensors import held

KIB = 1024


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "SECONDS", 600.0)


def kib(count: int) -> torch.Tensor:
    return torch.zeros(count * KIB, dtype=torch.uint8)


def sizes(namespace: dict[str, Any], inside: str | None = None) -> dict[str, int]:
    return {row.name: row.own_bytes // KIB for row in held(namespace, {}, inside).rows}


def test_variables_are_listed_largest_first() -> None:
    assert list(sizes({"small": kib(1), "large": kib(9), "number": 7}).items()) == [
        ("large", 9),
        ("small", 1),
    ]


def test_shared_storages_are_counted_once_at_the_first_name() -> None:
    base = kib(8)
    found = held({"base": base, "view": base[: 2 * KIB], "pair": [base, kib(1)]}, {})
    assert [(row.name, row.own_bytes // KIB, row.shares_with) for row in found.rows] == [
        ("base", 8, []),
        ("pair", 1, ["base"]),
        ("view", 0, ["base"]),
    ]
    assert found.bytes_on("cpu") == 9 * KIB


def test_optimizer_owns_its_state_and_not_the_parameters() -> None:
    model = torch.nn.Linear(64, 64, bias=False)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    found = {row.name: row for row in held({"model": model, "optimizer": optimizer}, {}).rows}
    assert found["model"].own_bytes == 2 * 64 * 64 * 4  # weight and gradient
    assert found["optimizer"].own_bytes == 2 * 64 * 64 * 4 + 4  # two moments and the step
    assert found["optimizer"].shares_with == ["model"]


def test_one_variable_is_listed_tensor_by_tensor() -> None:
    @dataclasses.dataclass
    class Batch:
        images: torch.Tensor
        extra: dict[str, Any]

    shared = kib(4)
    batch = Batch(kib(2), {"mask": [shared, kib(1)], 3: kib(3)})
    assert sizes({"first": shared, "batch": batch}, "batch") == {
        "batch.images": 2,
        "batch.extra['mask'][0]": 0,
        "batch.extra['mask'][1]": 1,
        "batch.extra[3]": 3,
    }


def test_outputs_come_after_names_and_only_where_they_hold_something() -> None:
    named, shown = kib(2), kib(5)
    namespace = {"Out": {3: named, 4: shown}, "_": shown, "_4": shown, "named": named}
    rows = held(namespace, hidden={"Out": None}).rows
    assert {row.name: row.own_bytes // KIB for row in rows} == {"Out[4]": 5, "named": 2}


def test_what_the_last_error_keeps_alive_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def train() -> None:
        activations = kib(7)
        raise RuntimeError(activations.shape)

    with pytest.raises(RuntimeError) as raised:
        train()
    monkeypatch.setattr(sys, "last_value", raised.value, raising=False)
    assert sizes({})["last error, train: activations"] == 7


def test_sparse_meta_and_cyclic_things_are_looked_through() -> None:
    ring: list[Any] = [kib(1)]
    ring.append(ring)
    sparse = torch.eye(8).to_sparse()
    found = sizes({"ring": ring, "sparse": sparse, "meta": torch.empty(10**6, device="meta")})
    assert found["ring"] == 1
    assert found["meta"] == 0
    assert held({"sparse": sparse}, {}).rows[0].own_bytes == 8 * 2 * 8 + 8 * 4


def test_users_code_is_not_called() -> None:
    class Proxy:
        @property
        def __class__(self) -> type:  # type: ignore[override]
            raise AssertionError("called")

        def __getattr__(self, name: str) -> Any:
            raise AssertionError("called")

        def __iter__(self) -> Any:
            raise AssertionError("called")

    assert held({"proxy": Proxy(), "x": kib(1)}, {}).rows[0].name == "x"


def test_looking_ends_in_time_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "SECONDS", 0.0)
    assert held({"many": [[number] for number in range(1000)]}, {}).cut_short


def test_without_torch_there_is_nothing_to_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    assert held({"x": [1]}, {}).rows == []
    assert "torch" not in sys.modules
