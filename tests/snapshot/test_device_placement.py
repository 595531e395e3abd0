"""Which device tensors come back to: every case by itself, without torch."""

from __future__ import annotations

import itertools

import pytest
from respawner.device.placement import CPU, Device, place


def cuda(*indices: int, uuids: str = "") -> list[Device]:
    """``uuids``: one letter a device."""
    return [Device("cuda", i, f"GPU-{u}") for i, u in itertools.zip_longest(indices, uuids)]


@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        (cuda(0, uuids="a"), cuda(0, uuids="a"), {"cuda:0": "cuda:0"}),
        (cuda(0, uuids="a"), cuda(0, uuids="b"), {"cuda:0": "cuda:0"}),
        (cuda(0, 1, uuids="ab"), cuda(0, 1, uuids="ba"), {"cuda:0": "cuda:1", "cuda:1": "cuda:0"}),
        (cuda(3, uuids="d"), cuda(0, uuids="x"), {"cuda:3": "cuda:0"}),
        (cuda(0, 1, uuids="ab"), cuda(0, uuids="x"), {"cuda:0": "cuda:0", "cuda:1": "cuda:0"}),
        (cuda(1, 2, uuids="bc"), cuda(0, 1, uuids="xy"), {"cuda:1": "cuda:1", "cuda:2": "cuda:0"}),
        (cuda(0, uuids="a"), [], {"cuda:0": CPU}),
        (cuda(0, uuids="a"), [Device("xpu", 0)], {"cuda:0": CPU}),
        ([Device("xpu", 0), *cuda(0, uuids="a")], cuda(0, uuids="a"), {"xpu:0": CPU, "cuda:0": "cuda:0"}),
        ([], cuda(0, uuids="a"), {}),
    ],
    ids=[
        "the same",
        "other hardware, same index",
        "the same hardware under other indices",
        "an index that is not there",
        "fewer than there were",
        "the own index first, then a free one",
        "none",
        "only of another kind",
        "two kinds",
        "no device tensors",
    ],
)
def test_placement(was: list[Device], now: list[Device], expected: dict[str, str]) -> None:
    assert place(was, now) == expected


def test_the_same_hardware_goes_before_the_same_index() -> None:
    """cuda:0 was hardware b: it goes where b is now, though cuda:1 of then has that index."""
    was = [Device("cuda", 0, "GPU-b"), Device("cuda", 1, "GPU-c")]
    now = [Device("cuda", 0, "GPU-x"), Device("cuda", 1, "GPU-b")]
    assert place(was, now) == {"cuda:0": "cuda:1", "cuda:1": "cuda:0"}


def test_backends_without_uuids_keep_their_indices() -> None:
    devices = [Device("standin", 0), Device("standin", 1)]
    assert place(devices, devices) == {"standin:0": "standin:0", "standin:1": "standin:1"}


@pytest.mark.parametrize("there", [1, 2, 3, 5])
@pytest.mark.parametrize("were", [1, 2, 4, 7])
def test_no_device_gets_two_more_than_another(were: int, there: int) -> None:
    placed = place(
        [Device("cuda", i) for i in range(10, 10 + were)], [Device("cuda", i) for i in range(there)]
    )
    load = [list(placed.values()).count(f"cuda:{i}") for i in range(there)]
    assert sum(load) == were
    assert max(load) - min(load) <= 1


def test_order_of_the_question_does_not_matter() -> None:
    was, now = cuda(0, 1, 2, uuids="abc"), cuda(0, 1, uuids="cx")
    answers = [place(p, q) for p in itertools.permutations(was) for q in itertools.permutations(now)]
    assert all(answer == answers[0] for answer in answers)


def test_a_name_without_an_index_is_refused() -> None:
    assert Device.parse("cuda:11") == Device("cuda", 11)
    with pytest.raises(ValueError, match="invalid literal"):
        Device.parse("cuda")
