"""Cells that have nothing to do with the large memory that is being written: a look at a number, a plot of a list.

For them the next cell need not wait until that memory is copied away. Nothing sound hangs on the answer: what is
written is hashed on the way, so a cell that was judged wrongly costs the one snapshot that it changed under the
writer's hands, and the state at its own end is captured as always. So it is asked of names only, and answers
"no" wherever a name could lead to the notebook's large objects.
"""

from __future__ import annotations

import ast
import builtins
import re
import site
import sys
import sysconfig
import types
from collections.abc import Iterable, Mapping
from typing import Any

_PLAIN = (int, float, complex, bool, str, bytes, range, slice, types.NoneType, types.EllipsisType)
_CONTAINERS = (list, tuple, set, frozenset, dict)
_MOST_ITEMS = 10_000
_REACH_EVERYTHING = frozenset({"eval", "exec", "globals", "locals", "vars", "__import__", "breakpoint"})
_INSTALLED = (
    *{sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")},
    site.getusersitepackages(),
)
_PACKAGES = re.compile(r"/(site|dist)-packages/")


def stands_by(code: str, expressions: Iterable[str], namespace: Mapping[str, Any]) -> bool:
    """Whether ``code`` and ``expressions`` name nothing but plain values, built-ins and libraries."""
    try:
        trees = [ast.parse(source) for source in (code, *expressions)]
    except (SyntaxError, ValueError, RecursionError):  # a magic, a shell command, a mistake
        return False
    names = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return not names & _REACH_EVERYTHING and all(
        is_plain(namespace[name]) or _is_of_a_library(namespace[name]) for name in names if name in namespace
    )


def is_plain(value: Any) -> bool:
    """Numbers, text, and containers of such, of the exact types: a subclass may do anything."""
    left = [value]
    seen = 0
    while left:
        each = left.pop()
        if type(each) in _CONTAINERS:
            seen += len(each)
            if seen > _MOST_ITEMS:
                return False
            left += [*each, *each.values()] if type(each) is dict else each
        elif type(each) not in _PLAIN:
            return False
    return True


def _is_of_a_library(value: Any) -> bool:
    """A module, or a function or class of one, that is installed: what lies beside the notebook may hold its objects."""
    if isinstance(value, types.ModuleType):
        module: Any = value
    elif isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        module = sys.modules.get(getattr(value, "__module__", None) or "")
    else:
        return False
    if module is None or module.__name__ == "__main__":
        return False
    if module is builtins or module.__name__ in sys.builtin_module_names:
        return True
    return is_installed(str(getattr(module, "__file__", None) or ""))


def is_installed(file: str) -> bool:
    """Whether a file is Python's or a library's, of this environment, of the user's or of the system's Python."""
    return file.startswith(_INSTALLED) or _PACKAGES.search(file) is not None
