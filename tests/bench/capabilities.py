"""`make capabilities`: what comes back after the kernel was killed, ours beside the peers; writes docs/capabilities.md.

Every case and tool gets two fresh kernels in a folder of its own: one that runs the cells and is killed, and one
that comes back and is asked. Each tool is used as its documentation says, and saves after the last cell where it
does not save by itself. ONLY="torch" restricts the cases to those whose name or group has it (and writes nothing).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import state
from .capability_cases import GROUPS, Case
from .kernel import ELASTIC, ROOT, CellFailed, Kernel, KernelDied
from .peers import Peers, ensure_peers
from .table import progress, scratch_parent, table

PAGE = ROOT / "docs" / "capabilities.md"
AT_ONCE = 2
GRACE_SECONDS = 120
PATIENCE_SECONDS = 300
"""For each step of a case. What takes longer counts as not done: every case is small."""


class Tool:
    """How one tool saves and comes back. This one has to be called by hand for both."""

    name = ""
    saves = "by hand"

    def __init__(self, peers: Peers) -> None:
        self.python = peers.python

    def kernel(self, folder: Path) -> Kernel:
        return Kernel(folder, self.python)

    def attach(self, kernel: Kernel) -> None:
        """Before the first cell."""

    def save(self, kernel: Kernel) -> None:
        """After the last cell."""

    def end(self, kernel: Kernel) -> None:
        kernel.kill()

    def come_back(self, kernel: Kernel) -> None:
        """What the user does in the next kernel."""


class Respawner(Tool):
    name = "respawner"
    saves = "every cell"

    def kernel(self, folder: Path) -> Kernel:
        return Kernel(folder, sys.executable, saving=True)

    def save(self, kernel: Kernel) -> None:
        """Nothing to do but to wait: the kill of the test comes sooner than any real one."""
        kernel.flush()

    def come_back(self, kernel: Kernel) -> None:
        """Nothing to do."""


class Dill(Tool):
    name = "dill"

    def save(self, kernel: Kernel) -> None:
        kernel.run(f"import dill; dill.dump_module({self._file(kernel)!r})", hidden=True)

    def come_back(self, kernel: Kernel) -> None:
        kernel.run(f"import dill; dill.load_module({self._file(kernel)!r})", hidden=True)

    def _file(self, kernel: Kernel) -> str:
        return str(kernel.folder / "state")


class Cloudpickle(Dill):
    name = "cloudpickle"
    dump = "import cloudpickle; cloudpickle.dump(what, file)"
    load = "import cloudpickle; globals().update(cloudpickle.load(open({path!r}, 'rb')))"

    def save(self, kernel: Kernel) -> None:
        kernel.run(state.dump_cell(self.dump, self._file(kernel)), hidden=True)

    def come_back(self, kernel: Kernel) -> None:
        kernel.run(self.load.format(path=self._file(kernel)), hidden=True)


class TorchSave(Cloudpickle):
    name = "torch.save"
    dump = "import torch; torch.save(what, file)"
    load = "import torch; globals().update(torch.load({path!r}, weights_only=False))"


class ElasticKernel(Tool):
    """Gets a graceful shutdown with all the time it wants: it saves at no other moment."""

    name = "elastic-kernel"
    saves = "at shutdown"

    def kernel(self, folder: Path) -> Kernel:
        return Kernel(folder, self.python, module=ELASTIC)

    def end(self, kernel: Kernel) -> None:
        kernel.stop(GRACE_SECONDS)


class Kishu(Tool):
    name = "kishu"
    saves = "every cell"

    def kernel(self, folder: Path) -> Kernel:
        return Kernel(folder, self.python, ENV_KISHU_TEST_MODE="1")

    def attach(self, kernel: Kernel) -> None:
        kernel.run(
            f"from kishu.jupyterint import init_kishu; init_kishu({str(kernel.notebook)!r})", hidden=True
        )

    def save(self, kernel: Kernel) -> None:
        """It has committed by itself; the commit is noted, as its user would look it up in its panel."""
        commit = kernel.value("_kishu._kishu_branch.get_head().commit_id")
        if commit is None:
            raise CellFailed("kishu made no commit")
        (kernel.folder / "commit").write_text(commit)

    def come_back(self, kernel: Kernel) -> None:
        self.attach(kernel)
        kernel.run(f"_kishu.checkout({(kernel.folder / 'commit').read_text()!r})", hidden=True)


TOOLS = (Respawner, Kishu, ElasticKernel, Dill, Cloudpickle, TorchSave)


@dataclass(frozen=True)
class Outcome:
    """``why`` is empty where the case holds."""

    holds: bool
    why: str = ""


def main() -> int:
    only = os.environ.get("ONLY", "")
    peers = ensure_peers()
    tools = [tool(peers) for tool in TOOLS if tool.name not in peers.missing]
    cases = [(group, case) for group, case in all_cases() if only in f"{group} {case.name}"]
    with tempfile.TemporaryDirectory(prefix="capabilities-", dir=scratch_parent()) as folder:
        outcomes = try_all(tools, [case for _, case in cases], Path(folder))
    page = page_of(cases, [tool.name for tool in tools], outcomes, peers.missing)
    if only:
        progress(page)
    else:
        PAGE.write_text(page)
    held = {tool.name: sum(outcomes[tool.name, case.name].holds for _, case in cases) for tool in tools}
    print(json.dumps({"cases": len(cases), "hold": held, "left_out": peers.missing}))
    return 0


def all_cases() -> Iterator[tuple[str, Case]]:
    for group, cases in GROUPS.items():
        for case in cases:
            yield group, case


def try_all(tools: list[Tool], cases: list[Case], folder: Path) -> dict[tuple[str, str], Outcome]:
    """By tool and case. Two at a time: most of it is waiting for kernels to start."""
    outcomes: dict[tuple[str, str], Outcome] = {}

    def run(number: int, case: Case, tool: Tool) -> None:
        place = folder / f"{number}-{tool.name}"
        place.mkdir()
        outcome = try_case(tool, case, place)
        outcome = Outcome(outcome.holds, outcome.why.replace(str(place), "…"))
        outcomes[tool.name, case.name] = outcome
        progress(f"{'✓' if outcome.holds else '✗'} {tool.name}: {case.name}  {outcome.why}")

    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = [pool.submit(run, n, case, tool) for n, case in enumerate(cases) for tool in tools]
        broken = [error for one in waiting if (error := one.exception())]
    if broken:  # ours to mend, and no tool's failure; told only now, for the others took half an hour
        raise broken[0]
    return outcomes


def try_case(tool: Tool, case: Case, folder: Path) -> Outcome:
    """Run the cells, end the kernel, come back, ask."""
    (folder / "lib").mkdir(exist_ok=True)
    try:
        _first_life(tool, case, folder)
    except (CellFailed, KernelDied) as error:
        return Outcome(False, f"not saved: {error}")
    kernel = _patient(tool.kernel(folder))
    try:
        kernel.start()
        if not case.by_itself:
            tool.come_back(kernel)
    except (CellFailed, KernelDied, OSError) as error:
        kernel.stop()
        return Outcome(False, f"not restored: {error}")
    try:
        kernel.run(_in(case.check, folder))
        holds = kernel.value("bool(ok)") is True  # a check may end in numpy's own bool
        return Outcome(holds, "" if holds else "not the same")
    except (CellFailed, KernelDied) as error:
        return Outcome(False, str(error))
    finally:
        kernel.stop()


def _first_life(tool: Tool, case: Case, folder: Path) -> None:
    kernel = _patient(tool.kernel(folder)).start()
    try:
        tool.attach(kernel)
        *before, last = case.cells
        for cell in before:
            kernel.run(_in(cell, folder))
        try:
            kernel.run(_in(last, folder))
        except CellFailed:
            if not case.fails:
                raise
        tool.save(kernel)
        if case.dies_in:
            kernel.run_to_death(case.dies_in)
        else:
            tool.end(kernel)
    finally:
        kernel.stop()


def _patient(kernel: Kernel) -> Kernel:
    kernel.patience_seconds = PATIENCE_SECONDS
    return kernel


def _in(cell: str, folder: Path) -> str:
    return cell.replace("{folder}", str(folder))


def page_of(
    cases: list[tuple[str, Case]],
    tools: list[str],
    outcomes: dict[tuple[str, str], Outcome],
    missing: dict[str, str],
) -> str:
    """docs/capabilities.md."""
    held = [sum(outcomes[tool, case.name].holds for _, case in cases) for tool in tools]
    saves = {tool.name: tool.saves for tool in TOOLS}
    parts = [
        _INTRODUCTION,
        table(["", *tools], [["saves", *(saves[t] for t in tools)], [f"of {len(cases)} cases", *held]]),
    ]
    for group in dict.fromkeys(group for group, _ in cases):
        rows = [
            [case.name, *("✓" if outcomes[tool, case.name].holds else "✗" for tool in tools)]
            for its_group, case in cases
            if its_group == group
        ]
        parts += [f"## {group}", table(["", *tools], rows)]
    ours = [(case, outcomes["respawner", case.name]) for _, case in cases]
    failing = [f"- {case.name}: {outcome.why}" for case, outcome in ours if not outcome.holds]
    parts += ["## Where Respawner fails", "\n".join(failing) or "In none of these cases."]
    if missing:
        parts += ["## Left out", "\n".join(f"- {name}: {why}" for name, why in missing.items())]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """\
# What comes back

Made by `make capabilities` from `tests/bench/capability_cases.py`; do not edit. Every case runs in fresh kernels: cells,
then `kill -9`, then a new kernel that is asked. Every tool is used as its documentation says; those that save by hand are
called after the last cell, and come back by hand. elastic-kernel gets a graceful shutdown with all the time it wants, for
after `kill -9` it has nothing; kishu re-runs cells where it cannot save. ✗ is wrong, lost, or an error. What an interrupted cell made is not what Respawner
comes back with, on purpose (a shutdown interrupts first): `%restore interrupted` brings it."""


if __name__ == "__main__":
    sys.exit(main())
