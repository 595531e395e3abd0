"""tqdm's bars: where they stand and what they write to, with the printing function made anew.

That function and the wrapper around the file are closures over each other and cannot be pickled as they are.
Only bars of text: those of notebooks are widgets. Imported only after the user has imported tqdm.
"""

from __future__ import annotations

from typing import Any

from tqdm import std
from tqdm.utils import DisableOnWriteError, ObjectWrapper

from .libraries import Reducer
from .regions import Note, RegionTable


def reducer_for(cls: type, regions: RegionTable, note: Note) -> Reducer | None:
    if issubclass(cls, DisableOnWriteError):
        return lambda wrapper: (_unwrapped, (wrapper._wrapped,))
    if issubclass(cls, std.tqdm) and cls.__module__ in ("tqdm.std", "tqdm.asyncio", "__main__"):
        return _reduce_bar
    return None


def _reduce_bar(bar: Any) -> Any:
    state = dict(vars(bar))
    state.pop("sp", None)
    file = state.pop("fp", None)
    while isinstance(file, ObjectWrapper):
        file = file._wrapped
    return _bar, (type(bar),), (state, file), None, None, _set_bar


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _unwrapped(file: Any) -> Any:
    return file


def _bar(cls: Any) -> Any:
    cls.get_lock()  # a class has its lock once a bar was made the usual way
    bar = object.__new__(cls)
    bar.disable = True  # until its state is there, for the sake of its __del__
    return bar


def _set_bar(bar: Any, saved: tuple[dict[str, Any], Any]) -> None:
    state, file = saved
    bar.__dict__.update(state)
    if file is not None:
        bar.fp = DisableOnWriteError(file, tqdm_instance=bar)
        bar.sp = bar.status_printer(bar.fp)
    if not bar.disable:
        type(bar)._instances.add(bar)
