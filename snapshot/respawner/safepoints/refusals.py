"""Code around a loop in which it could not go on exactly: refused when the loop begins for the first time.

When a loop goes on, all variables are put in place; what an expression has evaluated before it called the function with
the loop (``losses.append`` of ``losses.append(train())``) is no variable, and neither is where a plain ``for`` stands. Told
by the syntax and the instruction that each frame is at, so from Python 3.11 on; nothing is refused where there is no source.
"""

from __future__ import annotations

import ast
import builtins
import copy
import functools
import inspect
import itertools
import sys
import textwrap
import types
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

from ..errors import ResumeError
from .frames import is_function, locals_of, plain_targets, source_tree
from .syntax import called_name, calls_resume, header_of

LoopPlace = tuple[CodeType, int]
"""A ``for`` statement: its function or cell, and its line."""

_MOST_TEXT = 70
_SPAN = ("lineno", "end_lineno", "col_offset", "end_col_offset")
"""In the order of `CodeType.co_positions`."""
_NEW_SCOPE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_FOR = (ast.For, ast.AsyncFor)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_COLLECT = {
    "list",
    "tuple",
    "set",
    "frozenset",
    "dict",
    "sum",
    "sorted",
    "max",
    "min",
    "any",
    "all",
    "reduce",
}
"""They keep what they were given in C until the last item has come."""
_COUNT = {
    "enumerate": "count by `respawner.resume(…, counted=True)`",
    "zip": "write `respawner.resume(zip(…))`",
    "islice": "write `respawner.resume(itertools.islice(…))`",
}
_HOLD_NOTHING = (ast.BoolOp, ast.IfExp, ast.NamedExpr, ast.AnnAssign, ast.comprehension)
"""What they have evaluated before is no operand any more."""
_CODE = (types.FunctionType, types.BuiltinFunctionType, type, types.ModuleType)


def refuse_what_cannot_go_on(frames: list[FrameType], running: set[LoopPlace]) -> None:
    """``frames``: as of `frames.notebook_frames`, at the moment at which a loop begins. ``running``: loops around it that go
    on. Raises `ResumeError`, which says how to write it."""
    for number, frame in enumerate(frames):
        path = _path_to(frame.f_code, frame.f_lasti)
        if not path:
            continue
        follows = frames[number + 1] if number + 1 < len(frames) else None
        _refuse_counting(path, frame, follows, running)
        _refuse_collecting(path)
        _refuse_operands(path, frame)
        _refuse_plain_loops(path, frame, running)


def places_of(frames: list[FrameType]) -> set[LoopPlace]:
    """The ``for`` statements whose next item is being fetched."""
    found = set()
    for frame in frames:
        statement = _statement(_path_to(frame.f_code, frame.f_lasti))
        if isinstance(statement, _FOR):
            found.add((frame.f_code, statement.lineno))
    return found


@functools.lru_cache(maxsize=256)
def _path_to(code: CodeType, instruction: int) -> tuple[ast.AST, ...]:
    """The syntax that an instruction belongs to, innermost last, from the function's first level on."""
    tree = source_tree(code)
    if tree is None or sys.version_info < (3, 11) or instruction < 0:
        return ()
    span = next(itertools.islice(code.co_positions(), instruction // 2, None), None)
    if span is None or None in span:
        return ()
    first, last, column, end = span
    found: tuple[ast.AST, ...] = ()
    left: list[tuple[ast.AST, ...]] = [(tree,)]
    while left:
        path = left.pop()
        node = path[-1]
        place = tuple(getattr(node, name, None) for name in _SPAN)
        if place == (first, last, column, end) and len(path) > len(found):
            found = path
        left += [(*path, child) for child in ast.iter_child_nodes(node)]
    scopes = [number for number, node in enumerate(found[:-1]) if isinstance(node, _NEW_SCOPE)]
    return found[scopes[-1] + 1 if scopes else 1 :]


def _statement(path: tuple[ast.AST, ...]) -> ast.stmt | None:
    return next((node for node in reversed(path) if isinstance(node, ast.stmt)), None)


def _in_expression(path: tuple[ast.AST, ...]) -> tuple[ast.AST, ...]:
    """The innermost statement, and what of it leads to the end of the path."""
    start = max((number for number, node in enumerate(path) if isinstance(node, ast.stmt)), default=0)
    return path[start:]


def _refuse_counting(
    path: tuple[ast.AST, ...], frame: FrameType, follows: FrameType | None, running: set[LoopPlace]
) -> None:
    statement = _statement(path)
    looped = isinstance(statement, _FOR) and (frame.f_code, statement.lineno) in running
    generates = follows is not None and bool(follows.f_code.co_flags & inspect.CO_GENERATOR)
    if looped or not (follows is None or generates):
        return
    looked_at = statement.iter if isinstance(statement, _FOR) else path[-1]
    for node in _around_generator(looked_at) if generates else ast.walk(looked_at):
        if not isinstance(node, ast.Call) or called_name(node) not in _COUNT:
            continue
        inside = (part for argument in node.args for part in ast.walk(argument))
        if generates or any(calls_resume(part) for part in inside):
            raise ResumeError(
                f"`{_short(node)}` would begin at 0 where the loop inside it goes on; {_COUNT[called_name(node)]}"
            )


def _around_generator(node: ast.AST) -> Iterator[ast.AST]:
    """``tqdm(…)`` and ``enumerate(…)`` of ``tqdm(enumerate(generate()))``."""
    while isinstance(node, ast.Call) and called_name(node) in {*_COUNT, "tqdm"} and node.args:
        yield node
        node = node.args[0]


def _refuse_collecting(path: tuple[ast.AST, ...]) -> None:
    parts = _in_expression(path)
    node = path[-1]
    if isinstance(node, ast.Call) and called_name(node) in _COLLECT:
        raise ResumeError(
            f"`{_short(node)}` in line {node.lineno} holds what the loop inside it has given, and would hold only what "
            "still comes where the loop goes on. Write a `for` loop that appends to a list"
        )
    for before, part in itertools.pairwise((None, *parts)):
        lazily = isinstance(part, ast.GeneratorExp) and isinstance(before, _FOR)
        if isinstance(part, _COMPREHENSIONS) and not lazily:
            raise ResumeError(
                f"`{_short(part)}` in line {part.lineno} is a comprehension around a loop that goes on: it would lose "
                "what it has made. Write it as `for … in respawner.resume(…):` that appends to a list"
            )


def _refuse_operands(path: tuple[ast.AST, ...], frame: FrameType) -> None:
    parts = _in_expression(path)
    statement, call = parts[0], parts[-1]
    if not isinstance(call, ast.expr) or isinstance(statement, _FOR):
        return
    for parent, child in itertools.pairwise(parts):
        for operand in _evaluated_before(parent, child):
            if not _is_code(operand, frame):
                raise ResumeError(
                    f"`{_short(statement)}` in line {call.lineno} takes `{_short(operand)}` before it calls "
                    f"`{_short(call)}`, and where the loop in there goes on, that is not as it was. Write "
                    f"`value = {_short(call)}` and then `{_short(_with_value(statement, call))}`"
                )


def _evaluated_before(parent: ast.AST, child: ast.AST) -> Iterator[ast.expr]:
    """Operands of ``parent`` that wait while ``child`` is evaluated."""
    if isinstance(parent, ast.Assign):
        if child is not parent.value:
            yield parent.value
    elif not isinstance(parent, _HOLD_NOTHING) and (
        isinstance(parent, ast.AugAssign) or not isinstance(parent, ast.stmt)
    ):
        for node in itertools.takewhile(lambda node: node is not child, ast.iter_child_nodes(parent)):
            operand = node.value if isinstance(node, ast.keyword) else node
            if isinstance(operand, ast.expr):
                yield operand


def _is_code(operand: ast.expr, frame: FrameType) -> bool:
    """Whether it is a constant, or a name of a function, class or module: nothing that a state puts in place."""
    if isinstance(operand, ast.Constant | ast.Lambda):
        return True
    if isinstance(operand, ast.UnaryOp):
        return _is_code(operand.operand, frame)
    return isinstance(_value_of(operand, frame), _CODE)


def _value_of(operand: ast.expr, frame: FrameType) -> Any:
    """Of a name, or of something in a module; None for everything else."""
    if isinstance(operand, ast.Attribute):
        owner = _value_of(operand.value, frame)
        return vars(owner).get(operand.attr) if isinstance(owner, types.ModuleType) else None
    if not isinstance(operand, ast.Name):
        return None
    own = locals_of(frame) if is_function(frame) else {}
    for names in (own, frame.f_globals, vars(builtins)):
        if operand.id in names:
            value = names[operand.id]
            # A method that a variable holds is bound to an object that the state puts in place.
            bound = getattr(value, "__self__", None) if isinstance(value, types.BuiltinFunctionType) else None
            return value if bound is None or isinstance(bound, types.ModuleType) else None
    return None


def _with_value(statement: ast.AST, call: ast.AST) -> ast.AST:
    """The statement with ``value`` instead of the call."""

    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return ast.Name("value", ast.Load()) if _same_span(node, call) else self.generic_visit(node)

    bare: Any = copy.copy(statement)
    if hasattr(bare, "body"):
        bare.body = bare.orelse = []
    replaced: ast.AST = Replace().generic_visit(copy.deepcopy(bare))
    return replaced


def _same_span(node: ast.AST, other: ast.AST) -> bool:
    return isinstance(node, type(other)) and all(
        getattr(node, name, None) == getattr(other, name, None) for name in _SPAN
    )


def _refuse_plain_loops(path: tuple[ast.AST, ...], frame: FrameType, running: set[LoopPlace]) -> None:
    """Those whose variables say where they are wait until a loop goes on: they may be there already."""
    for node, inside in itertools.pairwise(path):
        if (
            isinstance(node, _FOR)
            and inside in node.body
            and (frame.f_code, node.lineno) not in running
            and not plain_targets(frame, node)
        ):
            raise ResumeError(
                f"`{_short(header_of(node))}` in line {node.lineno} is around a loop that goes on, and begins anew itself: "
                f"nothing tells where it was. Write `for {ast.unparse(node.target)} in "
                f"respawner.resume({_short(node.iter)}):`"
            )


def _short(node: ast.AST | str) -> str:
    text = node if isinstance(node, str) else ast.unparse(node).partition("\n")[0]
    return textwrap.shorten(text, _MOST_TEXT, placeholder="…")
