"""The notebook's own functions on the stack: their names, variables and loops.

A function is the notebook's own if it was defined in it or in a file that is not installed beside Python. What runs in
between (a library that calls back) is passed over: its variables are not anybody's state.
"""

from __future__ import annotations

import ast
import copy
import ctypes
import functools
import inspect
import linecache
import re
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from ..bystanders import is_installed
from .syntax import header_of

_OURS = str(Path(__file__).parents[1])
_PLAIN = (int, float, str, bool, type(None))
_MOST_TEXT = 60
_COUNTERS = re.compile(
    r"(global_?|total_?|current_?|cur_?|n_?|num_?)?(epochs?|steps?|iter(ation)?s?|batch(_?idx)?|it)(_?(idx|no|num|number))?|epoch_?\w{0,5}"
)
"""What people call the variables that say how far a loop without a loop variable is."""


def notebook_frames(namespace: dict[str, Any]) -> list[FrameType]:
    """The cell and the notebook's functions that run in it, outermost first.

    What runs the cell (IPython, the kernel, a test's own functions) is no part of it, wherever it is installed.
    """
    stack = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    while stack and stack[-1].f_globals is not namespace:
        stack.pop()
    return [frame for frame in reversed(stack) if is_notebooks(frame, namespace)]


def is_notebooks(frame: FrameType, namespace: dict[str, Any]) -> bool:
    code = frame.f_code
    if is_function(frame) and code.co_name.startswith("<"):  # comprehensions; lambdas hold no state
        return False
    if frame.f_globals is namespace:
        return True
    place = code.co_filename
    return is_function(frame) and not place.startswith((_OURS, "<")) and not is_installed(place)


def is_function(frame: FrameType) -> bool:
    return bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)


def parameters_of(frame: FrameType) -> list[str]:
    """Names of a function's, in order; not those of ``*args`` and ``**kwargs``."""
    code = frame.f_code
    return [*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]


def name_of(frame: FrameType) -> str:
    """``Trainer.fit``; only ``fit`` before Python 3.11."""
    return str(getattr(frame.f_code, "co_qualname", frame.f_code.co_name)).rpartition("<locals>.")[2]


def site_of(frames: list[FrameType]) -> str:
    """Through which lines of which functions the innermost is reached, as text to compare."""
    return " > ".join(f"{name_of(f)}:{f.f_lineno - _first_line(f)}" for f in frames)


def _first_line(frame: FrameType) -> int:
    return frame.f_code.co_firstlineno if is_function(frame) else 0


def path_of(frames: list[FrameType]) -> str:
    """The functions through which the innermost is reached; `site_of` without the lines, which an edit moves."""
    return " > ".join(name_of(frame) for frame in frames)


def text_of(frame: FrameType) -> str:
    """A function's source without its layout and comments; empty where nobody knows it."""
    return _text_of(frame.f_code)


@functools.lru_cache(maxsize=64)
def _text_of(code: CodeType) -> str:
    tree = source_tree(code)
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first == code.co_firstlineno:
                bare = copy.copy(node)
                bare.decorator_list = []
                return ast.unparse(bare)
    return ""


def header_around(frame: FrameType) -> str:
    """``for x in loader`` of the loop statement whose iterable is being evaluated; empty where it is none."""
    return _header_at(frame.f_code, frame.f_lineno)


@functools.lru_cache(maxsize=256)
def _header_at(code: CodeType, line: int) -> str:
    loop = loop_at(code, line)
    return header_of(loop) if loop is not None else ""


def loop_at(code: CodeType, line: int) -> ast.For | ast.AsyncFor | None:
    """The ``for`` statement whose header is at that line of a function or cell."""
    tree = source_tree(code)
    first, last = _lines_of(code)
    for node in ast.walk(tree) if tree is not None else ():
        if (
            isinstance(node, ast.For | ast.AsyncFor)
            and first <= node.lineno <= last
            and node.lineno <= line <= (node.iter.end_lineno or 0)
        ):
            return node
    return None


def locals_of(frame: FrameType) -> dict[str, Any]:
    """A function's variables as they are now."""
    live = frame.f_locals
    found = {name: value for name, value in live.items() if not name.startswith(".")}
    _let_go(live)
    return found


def put_locals(frame: FrameType, values: dict[str, Any]) -> None:
    """Assign a running function's variables, those that it has; cells that closures share are assigned too."""
    code = frame.f_code
    own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    live = frame.f_locals
    live.update({name: value for name, value in values.items() if name in own})
    if sys.version_info < (3, 13):  # before PEP 667 a copy, which this writes back (as pdb does)
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
    _let_go(live)


_ITS_OWN_REFERENCES = 4
"""The frame's, the caller's variable, `_let_go`'s parameter, and `getrefcount`'s."""


def _let_go(live: Any) -> None:
    """Empty the copy that a frame keeps of its variables before Python 3.13: it would hold tensors that the function lets
    go of. Where the function has called ``locals()``, that is the very dict that it got, and stays."""
    if sys.version_info < (3, 13) and sys.getrefcount(live) <= _ITS_OWN_REFERENCES:
        live.clear()


def loop_variables(frames: list[FrameType]) -> dict[str, Any]:
    """The variables of the ``for`` loops that run, where they are plain: ``{"epoch": 3, "train: step": 17}``."""
    found: dict[str, Any] = {}
    for frame in frames:
        names = _targets_around(frame.f_code, frame.f_lineno)
        found |= _plain(frame, names)
    return found


def counters(frames: list[FrameType]) -> dict[str, Any]:
    """Variables of the same frames whose names say that they count steps or epochs."""
    found: dict[str, Any] = {}
    for frame in frames:
        code = frame.f_code
        own = (*code.co_varnames, *code.co_cellvars) if is_function(frame) else code.co_names
        found |= _plain(frame, [name for name in own if _COUNTERS.fullmatch(name)], only=(int,))
    return found


def _plain(frame: FrameType, names: list[str], only: tuple[type, ...] = _PLAIN) -> dict[str, Any]:
    if not names:
        return {}
    values = locals_of(frame) if is_function(frame) else frame.f_globals
    where = f"{name_of(frame)}: " if is_function(frame) else ""
    return {
        where + name: values[name]
        for name in names
        if type(values.get(name)) in only and len(str(values[name])) <= _MOST_TEXT and name in values
    }


def plain_targets(frame: FrameType, loop: ast.For | ast.AsyncFor) -> dict[str, Any]:
    """Variables of that loop that are plain, and so tell one iteration from another."""
    return _plain(frame, _names_in(loop.target))


def _names_in(target: ast.expr) -> list[str]:
    return [part.id for part in ast.walk(target) if isinstance(part, ast.Name)]


@functools.lru_cache(maxsize=64)
def _targets_around(code: CodeType, line: int) -> list[str]:
    """Names that the ``for`` statements around that line assign, outermost first."""
    tree = source_tree(code)
    if tree is None:
        return []
    first, last = _lines_of(code)
    loops = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.For | ast.AsyncFor)
        and node.lineno < line
        and node.body[0].lineno <= line <= (node.body[-1].end_lineno or 0)
        and first <= node.lineno <= last
    ]
    names = []
    for node in sorted(loops, key=lambda node: node.lineno):
        names += _names_in(node.target)
    return names


def _lines_of(code: CodeType) -> tuple[int, int]:
    """First and last line of a function; a cell's statements are all of its file's."""
    if not code.co_flags & inspect.CO_OPTIMIZED:
        return 0, sys.maxsize
    lines = [line for _, _, line in code.co_lines() if line]
    return code.co_firstlineno, max(lines, default=code.co_firstlineno)


def source_tree(code: CodeType) -> ast.Module | None:
    """The syntax of the cell or file that a function is in; None where nobody knows it."""
    return _parsed("".join(linecache.getlines(code.co_filename)))


@functools.lru_cache(maxsize=16)
def _parsed(source: str) -> ast.Module | None:
    try:
        return ast.parse(source) if source else None
    except (SyntaxError, ValueError, RecursionError):
        return None
