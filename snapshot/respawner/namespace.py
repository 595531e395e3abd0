"""Which names are the user's, and IPython's history around them.

The user's are what ``%who`` shows, plus names with an underscore that IPython has not made. ``In``, ``Out``,
``_``, ``_3``, ``_i3`` are rebuilt from the two histories.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from typing import Any

_IPYTHONS_OWN = re.compile(
    r"_+|_i{1,3}|_i?\d+|_ih|_oh|_dh|_exit_code|_i00|__\w+__|In|Out|get_ipython|exit|quit"
)
_MISSING = object()


def user_names(shell: Any, excluded: Collection[str] = ()) -> list[str]:
    """Names of the user's variables in the order in which they were made."""
    hidden = shell.user_ns_hidden
    left_out = {*excluded, *_compilers_own(shell.user_ns)}
    return [
        name
        for name, value in list(shell.user_ns.items())
        if name not in left_out
        and isinstance(name, str)
        and value is not hidden.get(name, _MISSING)
        and not (_IPYTHONS_OWN.fullmatch(name) and _is_ipythons(shell, name, value))
    ]


def _compilers_own(namespace: dict[str, Any]) -> set[str]:
    """Names that ``torch.compile`` put among the globals of what it compiled; a new process makes its own.

    They are numbered from one in every process, and torch refuses to overwrite them.
    """
    manager = getattr(sys.modules.get("torch._dynamo.utils"), "CleanupManager", None)
    made_by_code = getattr(getattr(manager, "instance", None), "values", {})
    hooks = [hook for hooks in list(made_by_code.values()) for hook in hooks]
    return {hook.name for hook in hooks if getattr(hook, "scope", None) is namespace}


def _is_ipythons(shell: Any, name: str, value: Any) -> bool:
    """``_`` and ``In`` are the user's own once they have assigned them."""
    if name in ("_", "__", "___"):
        return value is getattr(shell.displayhook, name, _MISSING)
    if name in ("In", "Out"):
        history = shell.history_manager
        return value is (history.input_hist_parsed if name == "In" else history.output_hist)
    return True


def history_of(shell: Any, next_count: int) -> dict[str, Any]:
    """In, Out and what hangs on them; ``next_count`` is the number that the next cell will get."""
    history = shell.history_manager
    hook = shell.displayhook
    return {
        "next_count": next_count,
        "In": list(history.input_hist_parsed)[:next_count],
        "In_raw": list(history.input_hist_raw)[:next_count],
        "Out": dict(history.output_hist),
        "dirs": list(history.dir_hist),
        "last": {name: getattr(hook, name, "") for name in ("_", "__", "___")},
    }


def put_history(shell: Any, saved: dict[str, Any]) -> None:
    """Make the fresh kernel's histories those of the snapshot, in place: people hold references to them."""
    history = shell.history_manager
    count = saved["next_count"]
    for live, old in ((history.input_hist_parsed, saved["In"]), (history.input_hist_raw, saved["In_raw"])):
        live[:] = (old + [""] * count)[:count]  # In[n] is the cell with prompt n, so the length must fit
    history.output_hist.clear()
    history.output_hist.update(saved["Out"])
    history.dir_hist[:] = saved["dirs"]
    raw = history.input_hist_raw
    recent = ([""] * 4 + raw)[-1:-4:-1]
    history._i00, history._i, history._ii = recent
    names = {f"_i{number}": text for number, text in enumerate(raw) if number}
    names |= {"_i": recent[0], "_ii": recent[1], "_iii": recent[2]}
    names |= {f"_{number}": value for number, value in saved["Out"].items()}
    names |= saved["last"]
    for name, value in saved["last"].items():
        setattr(shell.displayhook, name, value)
    shell.push(names, interactive=False)
    shell.execution_count = max(shell.execution_count, count)


def put_variables(shell: Any, variables: dict[str, Any], *, replace: bool) -> list[str]:
    """Put the snapshot's variables into the namespace; returns names whose fresh value gave way.

    ``replace`` also removes the user's variables that the snapshot does not have.
    """
    existing = set(user_names(shell))
    hidden_now = {name for name in variables if name in shell.user_ns and name in shell.user_ns_hidden}
    overwritten = sorted((existing | hidden_now) & variables.keys())
    if replace:
        for name in existing - variables.keys():
            del shell.user_ns[name]
    shell.push(variables, interactive=True)
    return [name for name in overwritten if not replace]
