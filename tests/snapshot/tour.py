"""Runs `docs/tour.ipynb` as a reader does: cell by cell, with a server that starts a dead kernel again.

``python -m tests.snapshot.tour`` writes the outputs into the notebook (`make tour`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import output_from_msg

from tests.snapshot.notebook import Notebook

TOUR = Path(__file__).parents[2] / "docs" / "tour.ipynb"
KILLS = "kills-the-kernel"
FAILS = "raises-exception"
_OUTPUTS = ("stream", "display_data", "execute_result", "error")


def run_tour(folder: Path) -> nbformat.NotebookNode:
    """The tour with the outputs of this run. Raises AssertionError where a cell fails that should not."""
    tour = nbformat.read(TOUR, as_version=4)
    notebook = Notebook(folder, name="/home/ada/tour.ipynb", PYTHONDONTWRITEBYTECODE="1").start()
    try:
        for cell in tour.cells:
            if cell.cell_type == "code":
                _run(notebook, cell)
    finally:
        notebook.shut_down()
    return tour


def _run(notebook: Notebook, cell: nbformat.NotebookNode) -> None:
    tags = cell.metadata.get("tags", [])
    cell.outputs = []
    if KILLS in tags:
        notebook.client.execute(cell.source)
        notebook.manager.provisioner.process.wait()
        notebook.start()
        return
    ran = notebook.run(cell.source)
    assert (ran.error is not None) == (FAILS in tags), f"{cell.source}\n{ran.error}"
    cell.execution_count = ran.prompt
    cell.outputs = _outputs_of(ran.messages)


def _outputs_of(messages: list[dict[str, Any]]) -> list[nbformat.NotebookNode]:
    """As a frontend shows them in the end: displays with their last contents, and without those that were emptied."""
    outputs: list[nbformat.NotebookNode] = []
    displays: dict[str, nbformat.NotebookNode] = {}
    for message in messages:
        display = message["content"].get("transient", {}).get("display_id")
        if message["msg_type"] == "update_display_data" and display in displays:
            displays[display].data = nbformat.from_dict(message["content"]["data"])
        elif message["msg_type"] in _OUTPUTS:
            output = output_from_msg(message)
            _append(outputs, output)
            if display:
                displays[display] = output
    return [output for output in outputs if any(output.get("data", {"": "more"}).values())]


def _append(outputs: list[nbformat.NotebookNode], output: nbformat.NotebookNode) -> None:
    """Pieces of one stream belong together, as frontends show them."""
    last = outputs[-1] if outputs else None
    if last and output.output_type == last.output_type == "stream" and last.name == output.name:
        last.text += output.text
    else:
        outputs.append(output)


def text_of(cell: nbformat.NotebookNode) -> str:
    """Everything that a reader sees below a cell, as plain text."""
    parts = []
    for output in cell.outputs:
        if output.output_type == "stream":
            parts.append(output.text)
        elif output.output_type == "error":
            parts.append(f"{output.ename}: {output.evalue}\n")
        else:
            parts.append(output.data["text/plain"] + "\n")
    return "".join(parts)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        tour = run_tour(Path(folder))
    nbformat.write(tour, TOUR)


if __name__ == "__main__":
    main()
