"""One consistent state, pickled in memory: the first half of a capture.

Three ways, each only when the one before fails: the main thread's own stack; a deep stack; a deep stack
after every variable that fails by itself has been given up. The second is for deep nesting, the third for
failures that `NamespacePickler` cannot foresee (those that it can cost only the object, and no second try).
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import types
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from .activity import notes_of_activity
from .errors import CaptureError
from .live import live_names, live_objects
from .manifest import Skipped
from .namespace import history_of, user_names
from .pickling.deep_stack import run_deep
from .pickling.limits import OVERDONE, Again, TakesTooLong
from .pickling.pickler import Entry, NamespacePickler
from .pickling.placeholder import Placeholder
from .pickling.segments import SegmentFile, Sizes
from .pickling.unpicklable import one_line_reason, type_name
from .pickling.watch import Abandoned, Watch
from .pickling.where import paths_from
from .processstate import Baseline, random_state, surroundings
from .quiet import warnings_are_no_errors
from .safepoints.stopped import Stopped
from .settings import changed_settings

_MOST_PASSES = 50
_NEEDED_BY_CODE = (types.ModuleType, types.FunctionType, type)
"""These come first, because a notebook's ``__setstate__`` that runs at a restore may need them."""


@dataclass
class Pickled:
    """The pieces of the skeleton, and what the pickler found on the way."""

    pieces: list[Any]
    pickler: NamespacePickler
    live: list[str]
    entries: list[Entry]
    outputs: dict[int, Any]
    inside: list[Entry]
    """Of a cell that has not ended: variables of its functions, and what its loops run over."""

    def skipped(self) -> list[Skipped]:
        """One entry for each lost object, with the way to it from its variable."""
        roots: dict[str, Any] = {item.name: item.value for item in (*self.entries, *self.inside)}
        roots["Out"] = self.outputs
        failures = self.pickler.failures
        paths = paths_from([(failure.obj, failure.name) for failure in failures], roots)
        found = [
            Skipped(path, type_name(type(failure.obj)), failure.reason)
            for failure, path in zip(failures, paths, strict=True)
        ]
        for root in [*roots.values(), *self.outputs.values()]:
            if type(root) is Placeholder:
                known = root.__dict__
                lost = Skipped(known["respawner_path"], known["respawner_type"], known["respawner_reason"])
                found += [] if lost in found else [lost]
        return found


def pickle_namespace(
    shell: Any,
    next_count: int,
    baseline: Baseline,
    excluded: Collection[str],
    stopped: Stopped | None = None,
    *,
    inside_cell: bool = False,
) -> Pickled:
    """Pickle the user's variables, the history and the process's state. Raises `CaptureError`.

    ``stopped`` comes into the same pickle, so that a function's variable and a global one stay one object.
    ``inside_cell``: what a ``with`` block of the cell has set is not the user's setting for later.
    """
    names = live_names(shell)
    live = live_objects(shell, names)
    prelude = surroundings(baseline, shell.history_manager.input_hist_parsed)
    prelude["excluded"] = sorted(excluded)
    history = history_of(shell, next_count)
    entries = [Entry(name, shell.user_ns[name]) for name in user_names(shell, excluded)]
    ordered = sorted(entries, key=lambda item: not issubclass(type(item.value), _NEEDED_BY_CODE))
    where = stopped.to_pickle() if stopped is not None else None
    body = {
        "entries": ordered,
        "history": Entry("Out", history),
        "random": random_state(),
        "settings": Entry("(settings)", changed_settings(shell, baseline.settings, inside_cell=inside_cell)),
        "stopped": where,
    }
    attempt = functools.partial(_attempt, shell, live, Sizes())
    memory = OVERDONE.for_now() if inside_cell else contextlib.nullcontext()
    with memory, warnings_are_no_errors(), Watch({NamespacePickler.reducer_override.__code__}):
        pieces, pickler = _attempt_all_ways(attempt, prelude, body)
    pickler.notes.update(dict.fromkeys(notes_of_activity(shell)))
    return Pickled(pieces, pickler, names, entries, history["Out"], _inside(where))


def _inside(where: dict[str, Any] | None) -> list[Entry]:
    return [] if where is None else [*where["functions"], *(loop["iterable"] for loop in where["loops"])]


def _attempt_all_ways(attempt: Callable[..., Any], prelude: Any, body: dict[str, Any]) -> Any:
    try:
        return attempt(prelude, body, deep=False)
    except MemoryError:
        raise
    except Exception as error:
        first = error
    deeply = functools.partial(attempt, prelude, body, deep=True)
    if isinstance(first, RecursionError):
        try:
            return _run_deep(deeply)
        except MemoryError:
            raise
        except Exception:  # noqa: S110
            pass  # deeper than any stack, or another failure behind this one
    _give_up_what_fails(attempt, body)
    try:
        return _run_deep(deeply)
    except Exception as error:
        raise CaptureError(f"the namespace cannot be pickled: {one_line_reason(error)}") from error


def _run_deep(function: Callable[[], Any]) -> Any:
    """`run_deep`, and again where the thread got stuck in an object's own code."""
    for _ in range(_MOST_PASSES):
        try:
            return run_deep(function)
        except Again:
            continue
    raise _too_many_passes()


def _attempt(
    shell: Any, live: list[Any], sizes: Sizes, *parts: Any, deep: bool
) -> tuple[list[Any], NamespacePickler]:
    """A pass over everything, and others after it for as long as objects are found that overdo it."""
    careful = deep
    for _ in range(_MOST_PASSES):
        try:
            return _one_pass(shell, live, sizes, *parts, deep=deep, careful=careful or bool(sizes.large))
        except Abandoned:
            raise
        except (Again, TakesTooLong):
            careful = True
    raise _too_many_passes()


def _one_pass(
    shell: Any, live: list[Any], sizes: Sizes, *parts: Any, deep: bool, careful: bool
) -> tuple[list[Any], NamespacePickler]:
    """Each part is one pickle, and all share the memo."""
    file = SegmentFile(sizes)
    pickler = NamespacePickler(file, sizes, live, shell.user_ns)
    pickler.deep, pickler.careful = deep, careful
    for part in parts:
        # Not cloudpickle's dump(), which hides the RecursionError that tells us to go deeper.
        pickle.Pickler.dump(pickler, part)
    pickler.count_bytes()
    return file.finish(), pickler


def _too_many_passes() -> CaptureError:
    return CaptureError(
        f"more than {_MOST_PASSES} objects take too long or too much memory to be saved; "
        "respawner.exclude() leaves variables out"
    )


def _give_up_what_fails(attempt: Callable[..., Any], body: dict[str, Any]) -> None:
    """Put placeholders for the variables and outputs that cannot be pickled by themselves."""

    def tried(path: str, value: Any) -> Any:
        try:
            _run_deep(functools.partial(attempt, Entry(path, value), deep=True))
        except MemoryError:
            raise
        except Exception as error:
            return Placeholder(path, type_name(type(value)), one_line_reason(error))
        return value

    for item in _inside(body["stopped"]):
        if isinstance(item.value, dict):
            item.value = {name: tried(f"{item.name}: {name}", value) for name, value in item.value.items()}
        else:
            item.value = tried(item.name, item.value)
    for item in body["entries"]:
        item.value = tried(item.name, item.value)
    outputs = body["history"].value["Out"]
    for number, value in outputs.items():
        outputs[number] = tried(f"Out[{number}]", value)
