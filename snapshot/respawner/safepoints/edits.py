"""What a person has edited between the run of a cell that stopped and the one that goes on, told by the source alone.

The state of a safe point takes the place of what the cell makes anew on its way to the loop. Edits must not be undone
by that: a name whose binding statement was edited (``lr = 1e-4``, ``def augment(x)``) keeps what the new statement gave
it, where that is plain data or code. Anything else (a model, an optimizer) is what the state is about, and so is what a
loop binds itself (``step += 1``).
"""

from __future__ import annotations

import ast
import functools
import re
import types
from collections.abc import Iterator
from typing import Any

from ..bystanders import is_plain
from .syntax import called_name, header_of

_CODE = (types.FunctionType, type, types.ModuleType)
_WRAPPERS = {"range", "resume", "respawner", "tqdm", "enumerate"}
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_MUTATE = {
    *("append", "appendleft", "extend", "insert", "pop", "popleft", "remove", "clear", "sort", "reverse"),
    *("add", "discard", "update", "setdefault", "popitem"),
}
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def tree_of(source: str) -> ast.Module | None:
    """The syntax of a cell as it was typed; None where it has none (another language's cell magic)."""
    from IPython.core.inputtransformer2 import TransformerManager

    source = re.sub(r"\A\s*%%resumable.*", "", source)
    try:
        return ast.parse(TransformerManager().transform_cell(source))
    except (SyntaxError, ValueError, RecursionError):
        return None


def edited_names(before: str, now: str) -> set[str]:
    """Names that a statement of ``now`` binds, outside loops, and that ``before`` bound otherwise or not at all."""
    old, new = _bindings(before), _bindings(now)
    in_loops = {
        name
        for loop in _statements(_body(now))
        if isinstance(loop, _LOOPS)
        for node in (loop, *_statements(loop.body))
        for name, _ in _bound_by(node)
    }
    return {name for name, texts in new.items() if texts != old.get(name)} - in_loops


def mutated_in_loops(source: str) -> set[str]:
    """Names whose value a loop changes: ``history.append(…)``, ``counts[key] = …``."""
    found: set[str] = set()
    loops = [node for node in _statements(_body(source)) if isinstance(node, _LOOPS)]
    for node in (part for loop in loops for part in ast.walk(loop)):
        owner: ast.AST | None = None
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in _MUTATE:
            owner = getattr(node.func, "value", None)
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            owner = node.value
        while isinstance(owner, ast.Subscript):
            owner = owner.value
        if isinstance(owner, ast.Name):
            found.add(owner.id)
    return found


def arguments_of(source: str, function: str) -> list[tuple[list[str], dict[str, str]]]:
    """Of every call of something of that name in a cell or function: the positional ones, and those by name."""
    tree = tree_of(source)
    return [
        (
            [ast.unparse(argument) for argument in node.args],
            {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg},
        )
        for node in (ast.walk(tree) if tree is not None else ())
        if isinstance(node, ast.Call) and called_name(node) == function
    ]


def bound_names(source: str) -> set[str]:
    """Names that a function's statements bind; those of its parameters that keep what they were called with are not."""
    return set(_bindings(source))


def edited_defaults(before: str, now: str) -> set[str]:
    """Parameters whose default was edited."""
    old, new = _defaults(before), _defaults(now)
    return {name for name, text in new.items() if text != old.get(name)}


def keeps_edit(value: Any) -> bool:
    """Whether a value that an edited statement gave stays: plain data or code, no part of the state that it would tear.

    An empty container is there to be filled, and what it was filled with is part of the state.
    """
    return isinstance(value, _CODE) or (is_plain(value) and not (is_container(value) and not value))


def is_container(value: Any) -> bool:
    return isinstance(value, list | set | dict)


def loop_headers(source: str) -> list[str]:
    """``for x in loader`` of every loop of a function or cell, in order; not those of functions inside it."""
    return [
        header_of(node) for node in _statements(_body(source)) if isinstance(node, ast.For | ast.AsyncFor)
    ]


def names_in_header(header: str) -> tuple[set[str], bool]:
    """Names that a loop's iterable is made of, and whether it calls more than wrappers (``len(queue)``)."""
    tree = tree_of(f"{header}:\n    pass")
    iterables = [node.iter for node in tree.body if isinstance(node, ast.For)] if tree is not None else []
    names: set[str] = set()
    computes = False
    for part in (part for iterable in iterables for part in ast.walk(iterable)):
        if isinstance(part, ast.Call):
            computes = computes or called_name(part) not in _WRAPPERS
        elif isinstance(part, ast.Name):
            names.add(part.id)
    return names - _WRAPPERS, computes


@functools.lru_cache(maxsize=32)
def _bindings(source: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node in _statements(_body(source)):
        for name, text in _bound_by(node):
            found.setdefault(name, []).append(text)
    return found


def _body(source: str) -> list[ast.stmt]:
    """Of a cell; of a function where the source is one function's definition and nothing else."""
    tree = tree_of(source)
    if tree is None:
        return []
    if len(tree.body) == 1 and isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef):
        return tree.body[0].body
    return tree.body


def _defaults(source: str) -> dict[str, str]:
    tree = tree_of(source)
    if tree is None or not tree.body or not isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef):
        return {}
    arguments = tree.body[0].args
    positional = [*arguments.posonlyargs, *arguments.args]
    with_default = positional[len(positional) - len(arguments.defaults) :]
    pairs = [*zip(with_default, arguments.defaults, strict=True)]
    pairs += [
        (a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None
    ]
    return {argument.arg: ast.unparse(default) for argument, default in pairs}


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """In order, those inside ``if``, ``for``, ``with`` and ``try`` too; not those of functions and classes."""
    for node in body:
        yield node
        if not isinstance(node, _DEFINITIONS):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _statements(handler.body)


def _bound_by(node: ast.stmt) -> Iterator[tuple[str, str]]:
    if isinstance(node, _DEFINITIONS):
        yield node.name, ast.unparse(node)
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield (alias.asname or alias.name.partition(".")[0]), ast.unparse(node)
    elif isinstance(node, ast.For | ast.AsyncFor):
        yield from ((name, header_of(node)) for name in _stored(node.target))
    elif isinstance(node, ast.With | ast.AsyncWith):
        for item in node.items:
            yield from ((name, ast.unparse(item)) for name in _stored(item.optional_vars))
    elif not hasattr(node, "body"):
        yield from ((name, ast.unparse(node)) for name in _stored(node))


def _stored(node: ast.AST | None) -> list[str]:
    parts = ast.walk(node) if node is not None else ()
    return [part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
