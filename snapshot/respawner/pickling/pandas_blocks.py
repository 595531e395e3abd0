"""Copy-on-write bookkeeping of pandas, which its own pickling drops.

A Series taken from a frame shares the frame's memory and copies before the first write, because both blocks
refer to one `BlockValuesRefs`. `numpy_arrays` restores the sharing of memory; without the bookkeeping a write
to the Series would then change the frame. Imported only after the user has imported pandas.
"""

from __future__ import annotations

from typing import Any

import pandas
from pandas._libs import internals
from pandas.core.internals.managers import SingleBlockManager

from .libraries import Reducer
from .regions import Note, RegionTable

Index: Any = pandas.Index
Block: Any = internals.Block
References: Any = getattr(internals, "BlockValuesRefs", None)


def reducer_for(cls: type, regions: RegionTable, note: Note) -> Reducer | None:
    """How to pickle objects of that type, None where pandas' own way is right."""
    if References is None:  # pandas before 2.0, which does not keep these books
        return None
    if cls is References:
        return lambda references: (_references, ())
    if cls is SingleBlockManager:
        # Its own way takes the array out of the block, and the block's references stay behind.
        return lambda manager: (SingleBlockManager, (manager.blocks[0], manager.axes[0]))
    return _reduce_holder if issubclass(cls, Block | Index) else None


def _reduce_holder(holder: Any) -> Any:
    """A block or an index as pandas reduces it, and then its references (memoized, hence shared)."""
    reduced = holder.__reduce__()
    references = holder.refs if isinstance(holder, Block) else vars(holder).get("_references")
    if references is None or any(part is not None for part in reduced[2:]):
        return reduced
    return (*reduced[:2], references, None, None, _refer)


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _references() -> Any:
    return References()


def _refer(holder: Any, references: Any) -> None:
    if isinstance(holder, Block):
        holder.refs = references
        references.add_reference(holder)
    else:
        holder._references = references
        references.add_index_reference(holder)
