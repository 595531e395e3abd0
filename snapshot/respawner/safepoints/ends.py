"""What a loop had made by its end, for the code between it and the next one.

When a cell goes on, loops that had ended are passed over, and the code behind them (``mean = total / n``) runs on the way to
the loop in which the cell stopped. It gets the values that it had then, where they are plain; the state takes the place of
all of them a moment later. Tensors and models are not kept twice, so what they are until then is as the cell has made it.
"""

from __future__ import annotations

import ast
import copy
import functools
import sys
from types import CodeType, FrameType
from typing import Any

from ..bystanders import is_plain
from .frames import is_function, locals_of, loop_at, put_locals, source_tree


def values_at_end(frame: FrameType) -> dict[str, Any]:
    """Plain variables of a function or cell that its loop, at whose header it is, uses."""
    used, _ = _names_of(frame.f_code, frame.f_lineno)
    live = locals_of(frame) if is_function(frame) else frame.f_globals
    return {name: _copied(live[name]) for name in used if name in live and _is_kept(live[name])}


def put_end(frame: FrameType, values: dict[str, Any]) -> list[str]:
    """Assign them. Returns names that the code behind the loop reads and that could not be kept."""
    if is_function(frame):
        put_locals(frame, copy.deepcopy(values))
    else:
        frame.f_globals.update(copy.deepcopy(values))
    _, read_later = _names_of(frame.f_code, frame.f_lineno)
    return sorted(read_later - values.keys())


@functools.lru_cache(maxsize=256)
def _names_of(code: CodeType, line: int) -> tuple[frozenset[str], frozenset[str]]:
    """Those in the loop; and those that it assigns and that are read between it and the next loop beside it."""
    loop = loop_at(code, line)
    tree = source_tree(code)
    if loop is None or tree is None:
        return frozenset(), frozenset()
    inside = [node for node in ast.walk(loop) if isinstance(node, ast.Name)]
    assigned = {node.id for node in inside if isinstance(node.ctx, ast.Store)}
    blocks = (
        block
        for node in ast.walk(tree)
        for part in ("body", "orelse", "finalbody")
        if isinstance(block := getattr(node, part, None), list) and loop in block
    )
    behind: list[ast.stmt] = next((block[block.index(loop) + 1 :] for block in blocks), [])
    read = set()
    for statement in behind:
        if isinstance(statement, ast.For | ast.AsyncFor | ast.While):
            break
        names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
        read |= {node.id for node in names if isinstance(node.ctx, ast.Load)} & assigned
    return frozenset(node.id for node in inside), frozenset(read)


def _is_kept(value: Any) -> bool:
    return is_plain(value) or _is_number_of_a_library(value)


def _is_number_of_a_library(value: Any) -> bool:
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    generic = getattr(sys.modules.get("numpy"), "generic", None)
    if tensor is not None and type(value) is tensor:
        return bool(value.dim() == 0 and value.device.type == "cpu")
    return generic is not None and isinstance(value, generic)


def _copied(value: Any) -> Any:
    return value.detach().clone() if hasattr(value, "detach") else copy.deepcopy(value)
