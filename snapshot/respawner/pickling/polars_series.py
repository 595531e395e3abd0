"""polars: columns of numbers and times as regions, without a copy.

polars pickles a frame as one Arrow file, which it writes anew each time. Here a frame is its columns, and a
column in one piece is its memory and its validity; texts, lists and the like go polars' own way, column by
column. Imported only after the user has imported polars.
"""

from __future__ import annotations

from typing import Any

import polars

from . import memory
from .libraries import Reducer
from .regions import Note, RegionTable

_polars: Any = polars
_CAN_LEND = all(hasattr(polars.Series, name) for name in ("_get_buffers", "_get_buffer_info", "_from_buffer"))
"""These are polars' own, and not promised: without them its own way is taken."""


def reducer_for(cls: type, regions: RegionTable, note: Note) -> Reducer | None:
    if cls is polars.DataFrame:
        return _reduce_frame
    if cls is polars.Series and _CAN_LEND:
        return lambda series: _reduce_series(series, regions)
    return None


def _reduce_frame(frame: Any) -> Any:
    return (_frame, (frame.get_columns(),)) if frame.width else frame.__reduce_ex__(5)


def _reduce_series(series: Any, regions: RegionTable) -> Any:
    dtype = series.dtype
    flat = dtype.is_temporal() or dtype.is_integer() or dtype in (polars.Float32, polars.Float64)
    if not flat or series.len() == 0 or series.n_chunks() != 1:
        return series.__reduce_ex__(5)
    buffers = series._get_buffers()
    values = buffers["values"]
    address, offset, length = values._get_buffer_info()
    item_bytes = values.to_numpy(allow_copy=False).itemsize
    region = regions.add(
        address + offset * item_bytes, length * item_bytes, "polars", f"{dtype} [{length}]", values
    )
    ordered = 1 if series.flags["SORTED_ASC"] else -1 if series.flags["SORTED_DESC"] else 0
    return _series, (series.name, dtype, values.dtype, region, length, buffers["validity"], ordered)


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _frame(columns: list[Any]) -> Any:
    return polars.DataFrame(columns)


def _series(
    name: str, dtype: Any, physical: Any, region: int, length: int, validity: Any, ordered: int
) -> Any:
    array = memory.current().array(region)
    address = array.__array_interface__["data"][0]
    values = _polars.Series._from_buffer(physical, (address, 0, length), array)
    series = _polars.Series._from_buffers(dtype, [values], validity).alias(name)
    return series.set_sorted(descending=ordered < 0) if ordered else series
