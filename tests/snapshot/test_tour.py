"""The tour that newcomers read does what it says. The kernel is really killed halfway, by the notebook itself."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.snapshot.tour import TOUR, run_tour, text_of


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is below each code cell, by the cell's source."""
    tour = run_tour(tmp_path_factory.mktemp("tour"))
    return {cell.source: text_of(cell) for cell in tour.cells if cell.cell_type == "code"}


def below(shown: dict[str, str], part: str) -> str:
    """What the one cell shows that has this in its source."""
    [text] = [text for source, text in shown.items() if part in source]
    return text


def test_the_cell_after_the_kill_begins_with_the_report(shown: dict[str, str]) -> None:
    text = below(shown, 'remember("linus", 7)')
    assert text.startswith("Respawner: restored ")
    assert "lock (_thread.lock)" in text
    assert "numbers (generator)" in text


def test_aliases_functions_and_views_are_as_they_were(shown: dict[str, str]) -> None:
    text = below(shown, 'remember("linus", 7)')
    assert "{'ada': [3, 5], 'grace': [8, 9], 'linus': [7]} 2\n" in text
    assert "one list under two names: True" in text
    assert "the view writes to the table: [0.0, 0.0, 0.0]" in text


def test_training_goes_on(shown: dict[str, str]) -> None:
    before, after = below(shown, "class Net"), below(shown, "same = all(")
    assert "the optimizer trains this model: True" in after
    assert before.startswith("step 200: loss ")
    assert "step 400: loss " in after
    assert float(after.rsplit(" ", 1)[1]) < float(before.rsplit(" ", 1)[1])


def test_training_after_the_kill_is_training_without_it(shown: dict[str, str], tmp_path: Path) -> None:
    """The same cells in one process, nothing killed, no Respawner: bit for bit the same loss."""
    cells = [c.source for c in nbformat.read(TOUR, as_version=4).cells if c.cell_type == "code"]
    [definition] = [cell for cell in cells if cell.startswith("import torch\n")]
    printed: list[str] = []
    namespace = {"print": lambda *values: printed.append(" ".join(map(str, values)))}
    exec(definition, namespace)
    exec("train(200)", namespace)
    assert printed[-1] in below(shown, "same = all(")


def test_a_placeholder_says_what_it_was(shown: dict[str, str]) -> None:
    text = below(shown, "with lock:")
    assert "_thread.lock" in text
    assert "lock" in text


def test_going_back_to_a_label_undoes_the_experiment(shown: dict[str, str]) -> None:
    assert "Snapshot " in below(shown, "%snapshot before")
    assert "restored" in below(shown, "%restore before")
    text = below(shown, 'print(scores["grace"])')
    assert text.startswith("[8, 9]\n")
    assert "step 401: loss 0." in text
    assert "before-experiment" in below(shown, "%snapshots")


def test_what_a_failing_cell_made_is_kept(shown: dict[str, str]) -> None:
    assert "ZeroDivisionError" in below(shown, "found = [")
    assert below(shown, "len(found)") == "14\n"


def test_the_excluded_name_and_the_status_are_told(shown: dict[str, str]) -> None:
    text = below(shown, "left out")
    assert "left out: ['cache']\n" in text
    assert text.endswith("error: None\n")


def test_the_store_is_looked_after_without_a_kernel(shown: dict[str, str]) -> None:
    text = below(shown, "respawner list")
    assert "/home/ada/tour.ipynb" in text
    assert "DAMAGED" not in text
    assert "  ok" in text


def test_the_notebook_in_the_docs_has_its_outputs() -> None:
    """Readers see it on a web page, where nothing runs. `make tour` writes them."""
    tour = nbformat.read(TOUR, as_version=4)
    report = next(c for c in tour.cells if c.source.startswith('remember("linus"'))
    assert "Respawner: restored" in text_of(report)
    assert str(Path.home()) not in TOUR.read_text()
