"""``%%gpu``: memory before a cell, after it and at its highest."""

from __future__ import annotations

import ast
import html
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from IPython.core.error import UsageError

from ..readable import readable_memory
from . import look
from .facts import Use


class Meter:
    """Sees PyTorch's counters before and after. To know the cell's own peak, PyTorch's counter of it begins anew."""

    def __init__(self) -> None:
        self._before = {use.index: use for use in look.uses()}
        if self._before:
            for index in self._before:
                sys.modules["torch.cuda"].reset_peak_memory_stats(index)

    def read(self) -> list[tuple[Use, int]]:
        """For each device: the use now, with the cell's peak, and the bytes in tensors before."""
        return [
            (use, self._before[use.index].allocated if use.index in self._before else 0)
            for use in look.uses()
        ]


def report(readings: Sequence[tuple[Use, int]]) -> dict[str, str]:
    """What IPython displays after the cell."""
    lines = list(_lines(readings)) or ["the cell did not use CUDA (`%gpu` says what there is)"]
    text = (
        [f"GPU memory of this cell: {lines[0]}"] if len(lines) == 1 else ["GPU memory of this cell:", *lines]
    )
    inside = "".join(f"<div>{html.escape(line)}</div>" for line in text)
    return {
        "text/plain": "\n  ".join(text),
        "text/html": f'<div style="border-left:3px solid #4a90a4;padding:2px 10px;font-size:90%">{inside}</div>',
    }


def _lines(readings: Sequence[tuple[Use, int]]) -> Iterator[str]:
    for use, before in readings:
        change = use.allocated - before
        sign = "+" if change >= 0 else "−"
        yield (
            f"cuda:{use.index}: {readable_memory(before)} before, {readable_memory(use.allocated)} after "
            f"({sign}{readable_memory(abs(change))}), {readable_memory(use.peak_allocated)} at its peak, "
            f"{readable_memory(use.reserved)} reserved of {readable_memory(use.total)}"
        )


def run(shell: Any, cell: str) -> None:
    """Run a cell's code as IPython does: in the user's namespace, its last expression displayed, errors raised.

    :raises UsageError: it awaits at the top level, which only IPython itself can run.
    """
    __tracebackhide__ = True  # the user's frames are what a traceback should show
    code = shell.transform_cell(cell)
    name = shell.compile.cache(code, len(shell.user_ns["In"]) - 1, raw_code=cell)
    tree = shell.transform_ast(shell.compile.ast_parse(code, filename=name))
    last = tree.body[-1:] if tree.body and isinstance(tree.body[-1], ast.Expr) else []
    first = tree.body[: len(tree.body) - len(last)]
    try:
        compiled = [
            shell.compile(ast.Module(first, []), name, "exec"),
            shell.compile(ast.Interactive(last), name, "single"),
        ]
    except SyntaxError as error:
        if "outside" in error.msg and ("await" in error.msg or "async" in error.msg):
            raise UsageError("%%gpu cannot run a top-level await: put `%gpu` before and after it") from None
        raise
    for one in compiled:
        exec(one, shell.user_global_ns, shell.user_ns)  # noqa: S102  # it is the user's cell
