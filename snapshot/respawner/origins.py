"""Which cell made a variable, so that a person can run it again. Nothing is ever run from here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from .pickling.placeholder import Placeholder
from .pickling.where import paths_from

_MOST_SHOWN = 60
_WITH_CODE = ("time", "timeit", "capture", "prun")
"""Cell magics whose body is code of the notebook."""


def tell_origins(lost: list[Placeholder], variables: dict[str, Any], outputs: Any, inputs: list[str]) -> None:
    """Give each placeholder its full path and the cell that assigned its variable, where they are found."""
    targets = [(placeholder, placeholder.__dict__["respawner_path"]) for placeholder in lost]
    for placeholder, path in zip(lost, paths_from(targets, {**variables, "Out": outputs}), strict=True):
        placeholder.__dict__["respawner_path"] = path
        placeholder.__dict__["respawner_origin"] = origin_of(path, inputs)


def origin_of(path: str, inputs: list[str]) -> str:
    """``cell [7]: `f = open(…)```, or "" where no cell assigns the variable. ``inputs`` is ``In``."""
    if output := re.match(r"Out\[(\d+)\]", path):
        return f"cell [{output[1]}]"
    found = re.match(r"\w+", path)
    name = found[0] if found else path
    for number in range(len(inputs) - 1, -1, -1):
        if name in inputs[number] and (statement := _assignment(name, inputs[number])):
            return f"cell [{number}]: `{statement}`"
    return ""


def _assignment(name: str, cell: str) -> str | None:
    """The first line of the last statement of a cell that assigns ``name``, or an attribute or item of it."""
    try:
        tree = ast.parse(cell)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    last = None
    for statement in ast.walk(tree):
        if isinstance(statement, ast.stmt) and name in _assigned(statement):
            source = ast.get_source_segment(cell, statement) or ""
            line = source.strip().partition("\n")[0]
            last = line if len(line) <= _MOST_SHOWN else line[: _MOST_SHOWN - 1] + "…"
        elif isinstance(statement, ast.Call) and (body := _body_of_magic(statement)) is not None:
            last = _assignment(name, body) or last
    return last


def _assigned(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement itself binds, without those that are bound by statements inside it."""
    match statement:
        case ast.Assign(targets=targets):
            parts: list[ast.expr] = list(targets)
        case ast.AugAssign(target=target) | ast.AnnAssign(target=target) | ast.For(target=target):
            parts = [target]
        case ast.AsyncFor(target=target):
            parts = [target]
        case ast.With(items=items) | ast.AsyncWith(items=items):
            parts = [item.optional_vars for item in items if item.optional_vars is not None]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
            return
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in names)
            return
        case ast.Expr(value=value):
            parts = [node.target for node in ast.walk(value) if isinstance(node, ast.NamedExpr)]
        case _:
            return
    for part in parts:
        yield from _roots(part)


def _roots(target: ast.expr) -> Iterator[str]:
    match target:
        case ast.Name(id=name):
            yield name
        case ast.Attribute(value=value) | ast.Subscript(value=value) | ast.Starred(value=value):
            yield from _roots(value)
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            for part in parts:
                yield from _roots(part)


def _body_of_magic(call: ast.Call) -> str | None:
    """The cell below ``%%time``, as IPython has transformed it."""
    match call:
        case ast.Call(
            func=ast.Attribute(attr="run_cell_magic"),
            args=[ast.Constant(value=magic), _, ast.Constant(value=str(body))],
        ) if magic in _WITH_CODE:
            return body
    return None
