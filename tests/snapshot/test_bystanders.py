"""Which cells are thought to leave large memory alone: "no" is always right, "yes" saves a wait."""

from __future__ import annotations

import json
import sys
import types
from functools import partial
from time import sleep
from typing import Any

import numpy as np
import pytest
from respawner.bystanders import stands_by


class Odd(list):
    pass


def of_the_notebook() -> None: ...


of_the_notebook.__module__ = "__main__"
beside_the_notebook = types.ModuleType("helpers")
beside_the_notebook.__file__ = "/home/ada/helpers.py"

NAMESPACE: dict[str, Any] = {
    "loss": 0.25,
    "history": [(0, 0.5), (1, 0.25)],
    "settings": {"rate": 1e-3, "names": {"a", "b"}},
    "np": np,
    "json": json,
    "sys": sys,
    "sleep": sleep,
    "array": np.zeros(3),
    "nested": [1, [np.zeros(3)]],
    "odd": Odd(),
    "long": list(range(20_000)),
    "train": of_the_notebook,
    "later": partial(sleep, 0),
    "helpers": beside_the_notebook,
    "get_ipython": json.JSONDecoder().decode,
}


@pytest.mark.parametrize(
    "code",
    [
        "",
        "pass",
        "x = 1",
        "loss",
        "print(f'{loss:.2f}', history[-1])",
        "for epoch, value in history:\n    print(epoch, value)",
        "import matplotlib.pyplot as plt; plt.plot(history)",
        "json.dumps(settings); np.mean([loss]); sleep(0)",
        "def later_on():\n    return loss",
        "not_yet_defined",
    ],
)
def test_stands_by(code: str) -> None:
    assert stands_by(code, [], NAMESPACE)


@pytest.mark.parametrize(
    "code",
    [
        "array",
        "print(array[0])",
        "del array",
        "array = None",
        "x = lambda: array",
        "nested[0]",
        "odd",
        "long",
        "train()",
        "later()",
        "helpers.step()",
        "get_ipython().run_cell('array += 1')",
        "globals()['array']",
        "exec('array += 1')",
        "%timeit loss",
        "!ls",
        "x = (",
        "\0",
    ],
)
def test_may_change_something(code: str) -> None:
    assert not stands_by(code, [], NAMESPACE)


def test_expressions_of_a_frontend_count() -> None:
    assert stands_by("", ["loss"], NAMESPACE)
    assert not stands_by("pass", ["array.sum()"], NAMESPACE)


def test_endless_container_is_not_plain() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert not stands_by("endless", [], {"endless": endless})
