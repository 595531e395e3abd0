"""``%%resumable``: a cell whose training loops go on, without wrapping them by hand.

The line is taken away before the cell is parsed (an empty one keeps the others' numbers), and the parsed loops are
wrapped, so that the cell runs as any other: ``await``, its last expression and its tracebacks are IPython's own.

Wrapped are the cell's own outermost ``for`` loops, and all in whose bodies training happens, in the functions that the
cell defines too: a step of an optimizer or a backward pass, there or in a function of the notebook that is called. Not
wrapped are the many small ones inside (over parameters, say): a boundary of theirs costs more than they do.
"""

from __future__ import annotations

import ast
import re
from types import CodeType
from typing import Any

from IPython.core.error import InputRejected, UsageError

from .syntax import called_name, calls_resume

_LINE = re.compile(r"%%resumable\b[ \t]*(.*)")
_TRAINS = {"backward", "step"}
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class RejectedCell(InputRejected, UsageError):
    """Shown as one line; the cell does not run."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback, which would be of our own code."""
        return [f"UsageError: {self}"]


class ResumableCells:
    """Registers on construction; `unregister` takes everything back."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._rest: str | None = None
        """What stands behind ``%%resumable`` in the cell that is about to run; None where it is another cell."""
        self._cell_runs = False
        shell.input_transformer_manager.cleanup_transforms.insert(0, self._without_the_line)
        shell.ast_transformers.append(self)
        shell.events.register("pre_run_cell", self._cell_begins)
        shell.events.register("post_run_cell", self._cell_ends)

    def unregister(self) -> None:
        for registered, ours in (
            (self._shell.input_transformer_manager.cleanup_transforms, self._without_the_line),
            (self._shell.ast_transformers, self),
        ):
            if ours in registered:
                registered.remove(ours)
        self._shell.events.unregister("pre_run_cell", self._cell_begins)
        self._shell.events.unregister("post_run_cell", self._cell_ends)

    def _without_the_line(self, lines: list[str]) -> list[str]:
        first = next((number for number, line in enumerate(lines) if line.strip()), None)
        if first is None or not _LINE.match(lines[first].lstrip()) or self._cell_runs:
            return lines  # behind another magic it stays, and says that it cannot be there
        # The comment keeps IPython from taking the line away.
        return [*lines[:first], "# resumable\n", *lines[first + 1 :]]

    def _cell_ends(self, result: Any) -> None:
        self._cell_runs = False
        self._rest = None  # a syntax error ends a cell before it is looked at, and silent ones do not begin

    def _cell_begins(self, info: Any) -> None:
        self._cell_runs = True
        found = _LINE.match(info.raw_cell.lstrip())
        self._rest = found[1].strip() if found else None

    def visit(self, tree: ast.Module) -> ast.Module:
        """IPython calls it with every cell. Raises `RejectedCell` where a loop cannot be made to go on."""
        rest, self._rest = self._rest, None
        if rest is None:
            return tree
        if rest:
            raise RejectedCell(f"%%resumable takes nothing behind it, and there is {rest!r}")
        namespace = self._shell.user_ns
        return resumable(tree, lambda name: _code_of(namespace.get(name)))


def resumable(tree: ast.Module, code_of: Any) -> ast.Module:
    """Wrap the loops of a cell. ``code_of(name)``: of a function that other cells have defined, else None.

    Raises `RejectedCell`.
    """
    training = _Training(tree, code_of)
    wrapped = 0
    impossible: list[str] = []
    called = _called_in_loops(tree)
    for node, outermost, around in _loops(tree):
        if not (outermost and isinstance(node, ast.For)) and not training.is_in(node.body):
            continue
        if isinstance(node, ast.For):
            wrapped += 1
            if not any(calls_resume(part) for part in ast.walk(node.iter)):
                node.iter = _wrapped(node.iter)
        elif isinstance(node, ast.AsyncFor):
            impossible.append(f"`async for` in line {node.lineno}: what it runs over cannot be passed over")
        elif not _is_between_boundaries(node, around, called, training):
            impossible.append(
                f"`while` in line {node.lineno}: it has no items to count, so nothing tells where one round ends; write "
                f"`for step in itertools.count():` with `if not ({ast.unparse(node.test)}): break` at its beginning"
            )
    if impossible:
        raise RejectedCell(f"%%resumable cannot make this go on: {'; '.join(impossible)}")
    if not wrapped:
        raise RejectedCell(
            "%%resumable found no `for` loop in this cell that could go on. Put it into the cell that has the loop, or "
            "the function with the loop, or write `for … in respawner.resume(…)` there"
        )
    return ast.fix_missing_locations(tree)


def _loops(tree: ast.Module) -> list[tuple[Any, bool, list[ast.AST]]]:
    """Every loop statement of the cell and its functions, whether it is one of the cell's own outermost, and what is
    around it."""
    found: list[tuple[Any, bool, list[ast.AST]]] = []

    def look(node: ast.AST, outermost: bool, around: list[ast.AST]) -> None:
        for child in ast.iter_child_nodes(node):
            is_loop = isinstance(child, _LOOPS)
            if is_loop:
                found.append((child, outermost, around))
            own = outermost and not is_loop and not isinstance(child, (*_FUNCTIONS, ast.ClassDef))
            look(child, own, [*around, child])

    look(tree, True, [])
    return found


def _is_between_boundaries(
    node: ast.While, around: list[ast.AST], called: set[str], training: _Training
) -> bool:
    """Whether a loop that is wrapped is in it, or around it: there, or where its function is called."""
    inside = any(isinstance(part, ast.For) and training.is_in(part.body) for part in _inside(node))
    function = next((part for part in reversed(around) if isinstance(part, _FUNCTIONS)), None)
    own = around[around.index(function) :] if function is not None else around
    return inside or any(isinstance(part, ast.For) for part in own) or getattr(function, "name", "") in called


def _called_in_loops(tree: ast.Module) -> set[str]:
    """Names that are called in the bodies of ``for`` loops, and in the cell's functions that are called there."""
    defined = {node.name: node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)}
    bodies: list[ast.stmt] = [
        part for node in ast.walk(tree) if isinstance(node, ast.For) for part in node.body
    ]
    called: set[str] = set()
    while bodies:
        calls = [node for node in ast.walk(bodies.pop()) if isinstance(node, ast.Call)]
        new = {called_name(call) for call in calls} - called
        called |= new
        bodies += [part for name in new & defined.keys() for part in defined[name].body]
    return called


class _Training:
    """Whether statements train: by themselves, or in functions that they call."""

    def __init__(self, tree: ast.Module, code_of: Any) -> None:
        self._code_of = code_of
        self._defined = {node.name: node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS)}
        self._known: dict[str, bool] = {}

    def is_in(self, body: list[ast.stmt]) -> bool:
        calls = [node for part in body for node in ast.walk(part) if isinstance(node, ast.Call)]
        names = {called_name(call) for call in calls}
        return bool(names & _TRAINS) or any(self._trains(name) for name in names)

    def _trains(self, name: str) -> bool:
        if name not in self._known:
            self._known[name] = False  # where it calls itself
            if name in self._defined:
                self._known[name] = self.is_in(self._defined[name].body)
            elif (code := self._code_of(name)) is not None:
                self._known[name] = bool(_TRAINS & set(code.co_names)) or any(
                    map(self._trains, code.co_names)
                )
        return self._known[name]


def _code_of(value: Any) -> CodeType | None:
    """Of a notebook's function; libraries' are not looked into."""
    code = getattr(value, "__code__", None)
    return code if isinstance(code, CodeType) and getattr(value, "__module__", None) == "__main__" else None


def _inside(node: ast.While) -> list[ast.AST]:
    return [part for statement in node.body for part in ast.walk(statement)]


def _wrapped(iterable: ast.expr, count_from: ast.expr | None = None) -> ast.expr:
    """``respawner.resume(iterable)``, whatever the notebook calls ``respawner``; inside of a progress bar.

    Instead of ``enumerate`` and ``zip``, which begin what they are given too early: it counts, and `positions.Zipped`.
    """
    if isinstance(iterable, ast.Call) and iterable.args and not _has_stars(iterable):
        if called_name(iterable) == "tqdm":
            iterable.args[0] = _wrapped(iterable.args[0], count_from)
            return iterable
        options = {keyword.arg: keyword.value for keyword in iterable.keywords}
        if _is_builtin(iterable, "enumerate") and count_from is None and options.keys() <= {"start"}:
            start = [*iterable.args[1:], *options.values(), ast.Constant(0)][0]
            return _wrapped(iterable.args[0], start)
        if _is_builtin(iterable, "zip"):
            iterable.func = _expression(
                "__import__('respawner.safepoints.positions', fromlist=['Zipped']).Zipped", iterable
            )
    counted = []
    if count_from is not None:
        counted = [ast.keyword("counted", ast.Constant(True)), ast.keyword("start", count_from)]
    resume = _expression("__import__('respawner').resume", iterable)
    return ast.copy_location(ast.Call(resume, [iterable], counted), iterable)


def _is_builtin(call: ast.Call, name: str) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == name


def _has_stars(call: ast.Call) -> bool:
    return any(isinstance(argument, ast.Starred) for argument in call.args) or any(
        keyword.arg is None for keyword in call.keywords
    )


def _expression(text: str, place: ast.expr) -> ast.expr:
    found = ast.parse(text, mode="eval").body
    for part in ast.walk(found):
        ast.copy_location(part, place)
    return found
