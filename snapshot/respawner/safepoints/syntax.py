"""What one node of a syntax tree says, for those who look at the notebook's code: `edits`, `frames`, `refusals`, `resumable`."""

from __future__ import annotations

import ast


def header_of(loop: ast.For | ast.AsyncFor) -> str:
    """``for x in loader``, without its body."""
    bare = type(loop)(
        target=loop.target, iter=loop.iter, body=[ast.Pass()], orelse=[], lineno=1, col_offset=0
    )
    return ast.unparse(bare).partition(":\n    pass")[0]


def called_name(call: ast.Call) -> str:
    """``step`` of ``self.optimizer.step(…)``; empty where what is called has no name."""
    return str(getattr(call.func, "attr", None) or getattr(call.func, "id", ""))


def calls_resume(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and called_name(node) == "resume"
