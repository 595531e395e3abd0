"""Copy-on-write bookkeeping of pandas, which its own pickling drops.

A Series taken from a frame shares the frame's memory and copies before the first write, because both blocks
refer to one `BlockValuesRefs`. `numpy_arrays` restores the sharing of memory; without the bookkeeping a write
to the Series would then change the frame. Imported only after the user has imported pandas.
"""

from __future__ import annotations

from typing import Any

from pandas import Index
from pandas._libs import internals

Block = internals.Block
References = getattr(internals, "BlockValuesRefs", None)


def reduce_references(references: Any) -> Any:
    return _references, ()


def reduce_holder(holder: Block | Index) -> Any:
    """A block or an index as pandas reduces it, and then its references (memoized, hence shared)."""
    reduced = holder.__reduce__()
    references = holder.refs if isinstance(holder, Block) else vars(holder).get("_references")
    if references is None or any(part is not None for part in reduced[2:]):
        return reduced
    return (*reduced[:2], references, None, None, _refer)


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _references() -> Any:
    return References()  # type: ignore[misc]


def _refer(holder: Block | Index, references: Any) -> None:
    if isinstance(holder, Block):
        holder.refs = references
        references.add_reference(holder)
    else:
        holder._references = references
        references.add_index_reference(holder)
