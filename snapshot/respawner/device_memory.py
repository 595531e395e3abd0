"""What is done and told when an accelerator has no memory left: which variables hold it, and what was given back.

Imports nothing of its own: a notebook without torch has no such error.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from .device.hardware import is_exhausted as is_exhausted
from .gpu.tensors import held
from .readable import readable_size
from .safepoints.frames import is_function, is_notebooks, locals_of, name_of

_SHOWN = 5
_MAY_GO_ON = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
"""Frames of such functions may be suspended and not at their end: to clear them would end them."""


def variables_of(error: BaseException, namespace: dict[str, Any]) -> dict[str, Any]:
    """The notebook's variables, and those of its functions in which the error came up, as ``train: batch``."""
    found: dict[str, Any] = dict(namespace)
    for frame in _frames_of(error):
        if is_function(frame) and is_notebooks(frame, namespace):
            found |= {f"{name_of(frame)}: {name}": value for name, value in locals_of(frame).items()}
    return found


def on_a_device(device: str) -> bool:
    return device not in ("cpu", "meta")


def holders(
    variables: Mapping[str, Any], counts: Callable[[str], bool] = on_a_device
) -> list[tuple[str, int]]:
    """Variables and the bytes that their tensors take on devices that count, most first; what two reach counts for the
    first. Names with an underscore are not told."""
    own = {name: value for name, value in variables.items() if not name.startswith("_")}
    found: Counter[str] = Counter()
    for row in held(own, {}).rows:
        if row.name in own and row.own_bytes and counts(row.device):
            found[row.name] += row.own_bytes
    return found.most_common()


def give_back(error: BaseException) -> int:
    """Return memory that no variable of the notebook uses to the devices; how many bytes that were.

    The functions in which the error came up have ended, and IPython keeps the error (`%debug`), with it their variables:
    these are let go of, or the memory would stay used up until another error.
    """
    torch: Any = sys.modules["torch"]
    for frame in _frames_of(error):
        if not frame.f_code.co_flags & _MAY_GO_ON:
            with contextlib.suppress(RuntimeError):  # it runs
                frame.clear()
                frame.f_locals  # noqa: B018  before Python 3.13 a copy, which looking brings up to date
    gc.collect()
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0
    devices = range(torch.cuda.device_count())
    before = sum(torch.cuda.memory_reserved(device) for device in devices)
    torch.cuda.empty_cache()
    return int(before - sum(torch.cuda.memory_reserved(device) for device in devices))


def _frames_of(error: BaseException) -> Iterator[FrameType]:
    """Of the error, of those that it came up in or because of, and of a group's."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield from (frame for frame, _ in traceback.walk_tb(one.__traceback__))
        left += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


def told(found: list[tuple[str, int]], given_back: int) -> str:
    """One line for the person."""
    shown = [f"{name} ({readable_size(size)})" for name, size in found[:_SHOWN]]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    held = f"held by {', '.join(shown)}{more}" if found else "no variable holds any of it"
    return (
        f"the device's memory is used up: {held}; {readable_size(given_back)} that nothing needs any more were given back. "
        "The kernel and its variables live; `del` what is not needed, or make batches smaller"
    )
