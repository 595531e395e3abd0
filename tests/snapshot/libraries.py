"""Leaves out tests whose libraries this Python lacks: for `tests.snapshot.pythons`, which tries many Pythons.

Never in the ordinary run, where a missing library must fail: `RESPAWNER_TEST_LACKING` names what may lack.
"""

from __future__ import annotations

import inspect
import os
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

LACKING_ENV = "RESPAWNER_TEST_LACKING"
"""Comma-separated names of libraries that may be missing; each one that is takes its tests along."""

_ALIASES = {"numpy": "np", "pandas": "pd", "matplotlib": "plt"}


def lacking() -> list[str]:
    allowed = [name for name in os.environ.get(LACKING_ENV, "").split(",") if name]
    return [name for name in allowed if find_spec(name) is None]


def lacks(error: str | None) -> bool:
    """Whether a cell failed only because of that: the import failed, or a name that an import would have made."""
    missing = lacking()
    names = [*missing, *(_ALIASES[name] for name in missing if name in _ALIASES)]
    return (
        bool(names)
        and re.search(rf"No module named '(?:{'|'.join(names)})\b|name '(?:{'|'.join(names)})'", error or "")
        is not None
    )


def needs_what_is_lacking(path: Path) -> bool:
    """Whether the module cannot even be imported."""
    names = "|".join(lacking())
    return (
        bool(names)
        and re.search(rf"^(?:import|from) (?:{names})\b", path.read_text(), re.MULTILINE) is not None
    )


def skip_where_lacking(items: list[pytest.Item]) -> None:
    """Skip tests that name such a library: in their code and their fixtures', their parameters, or strings that they use."""
    names = lacking()
    if not names:
        return
    words = re.compile(rf"\b(?:{'|'.join([*names, *(_ALIASES[n] + '[.]' for n in names if n in _ALIASES)])})")
    for item in items:
        if isinstance(item, pytest.Function) and (found := words.search(_text_of(item))):
            item.add_marker(pytest.mark.skip(reason=f"no {found.group()} here"))


def _text_of(item: pytest.Function) -> str:
    code = item.function.__code__
    used = [item.function.__globals__.get(name) for name in code.co_names]
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    fixtures = [made[-1].func for made in item._fixtureinfo.name2fixturedefs.values() if made]
    sources = [
        inspect.getsource(f) for f in (item.function, *fixtures) if f.__module__ == item.module.__name__
    ]
    return "\n".join([*sources, *map(repr, parameters), *(v for v in used if isinstance(v, str))])
