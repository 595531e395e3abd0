"""Figures that pyplot knows by number: under the same number, and the current one current again.

matplotlib's own unpickling gives them the next free numbers. A figure that nothing in the namespace refers to
is not in the snapshot. Imported only after the user has imported matplotlib.
"""

from __future__ import annotations

import sys
from typing import Any

from matplotlib.figure import Figure

from .libraries import Reducer
from .regions import Note, RegionTable

_PYPLOT_FLAG = "_restore_to_pylab"


def reducer_for(cls: type, regions: RegionTable, note: Note) -> Reducer | None:
    return (lambda figure: _reduce_figure(figure, note)) if issubclass(cls, Figure) else None


def _reduce_figure(figure: Any, note: Note) -> Any:
    if _has_own_handlers(figure):
        note("its event handlers are not kept: connect them again")
    function, arguments, state, *rest = figure.__reduce_ex__(5)
    if rest[2:] or not isinstance(state, dict) or not state.get(_PYPLOT_FLAG):
        return (function, arguments, state, *rest)
    state = {key: value for key, value in state.items() if key != _PYPLOT_FLAG}
    managers = sys.modules["matplotlib._pylab_helpers"].Gcf
    number = next(n for n, manager in managers.figs.items() if manager.canvas.figure is figure)
    is_current = number == next(reversed(managers.figs))
    return function, arguments, (state, number, is_current), None, None, _set_figure


def _has_own_handlers(figure: Any) -> bool:
    """Whether the canvas calls functions that are not matplotlib's own."""
    handlers = getattr(figure.canvas.callbacks, "callbacks", {})
    for by_id in handlers.values():
        for reference in by_id.values():
            function = reference()
            if function is not None:
                owner = getattr(function, "__self__", None)
                module = function.__module__ if owner is None else type(owner).__module__
                if not str(module).startswith(("matplotlib", "mpl_toolkits", "ipympl", "functools")):
                    return True
    return False


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _set_figure(figure: Any, saved: tuple[dict[str, Any], int, bool]) -> None:
    import matplotlib.pyplot as plt

    state, number, is_current = saved
    figure.__setstate__(state)
    managers: Any = sys.modules["matplotlib._pylab_helpers"].Gcf
    managers.figs.pop(number, None)
    backend: Any = plt._get_backend_mod()
    current = managers.get_active()
    managers._set_new_active_manager(backend.new_figure_manager_given_figure(number, figure))
    if not is_current and current is not None:
        managers.set_active(current)
