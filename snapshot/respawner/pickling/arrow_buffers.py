"""pyarrow: buffers as regions, so that tables share them and nothing is copied into the pickle.

Arrays, tables and what builds on them (pandas' Arrow columns) reduce to their buffers by themselves. Imported
only after the user has imported pyarrow.
"""

from __future__ import annotations

from typing import Any

import pyarrow

from . import memory
from .libraries import Reducer
from .regions import Note, RegionTable

_BUFFERS = (pyarrow.Buffer, pyarrow.ResizableBuffer)


def reducer_for(cls: type, regions: RegionTable, note: Note) -> Reducer | None:
    if cls not in _BUFFERS:
        return None

    def reduce_buffer(buffer: Any) -> Any:
        if buffer.size == 0 or not buffer.is_cpu:
            return buffer.__reduce_ex__(5)
        region = regions.add(buffer.address, buffer.size, "arrow", "buffer", buffer)
        return _buffer, (region, buffer.is_mutable)

    return reduce_buffer


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _buffer(region: int, mutable: bool) -> Any:
    array = memory.current().array(region)
    array.flags.writeable = mutable
    return pyarrow.py_buffer(array)
