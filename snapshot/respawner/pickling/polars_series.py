"""polars: columns as regions, without a copy, where their memory can be had.

polars pickles a frame as one Arrow file, which it writes anew each time. Here a frame is its columns. A column
lends its memory through pyarrow, if the user has imported that, or through numpy if it is of numbers without
gaps; lists, categories and the like go polars' own way, column by column. Imported only after the user has
imported polars.
"""

from __future__ import annotations

import sys
from typing import Any

import polars

from .libraries import Reducer
from .regions import Note, RegionTable

_polars: Any = polars


def reducer_for(cls: type, regions: RegionTable, note: Note) -> Reducer | None:
    if cls is polars.DataFrame:
        return _reduce_frame
    return _reduce_series if cls is polars.Series else None


def _reduce_frame(frame: Any) -> Any:
    return (_frame, (frame.get_columns(),)) if frame.width else frame.__reduce_ex__(5)


def _reduce_series(series: Any) -> Any:
    lent = _lent(series)
    if lent is None:
        return series.__reduce_ex__(5)
    ordered = 1 if series.flags["SORTED_ASC"] else -1 if series.flags["SORTED_DESC"] else 0
    return _series, (series.name, series.dtype, lent, ordered)


def _lent(series: Any) -> Any:
    """A pyarrow or numpy array over the memory of ``series``, None where that cannot be."""
    dtype = series.dtype
    if series.len() == 0 or series.n_chunks() != 1:
        return None
    numbers = dtype.is_integer() or dtype in (polars.Float32, polars.Float64)
    timed = dtype in (polars.Datetime, polars.Duration, polars.Date)
    if "pyarrow" in sys.modules and (numbers or timed or dtype in (polars.String, polars.Binary)):
        return series.to_arrow(compat_level=_polars.CompatLevel.newest())
    if numbers and not series.null_count():
        return series.to_numpy(allow_copy=False)
    return None


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _frame(columns: list[Any]) -> Any:
    return polars.DataFrame(columns)


def _series(name: str, dtype: Any, lent: Any, ordered: int) -> Any:
    series = polars.Series(name, lent)
    series = series if series.dtype == dtype else series.cast(dtype)
    return series.set_sorted(descending=ordered < 0) if ordered else series
