"""Brings an iterable to where it was: the items that are done are passed over, and what comes next is the same.

What an iterable draws at random, it mostly draws when its iteration begins (a DataLoader: the seeds of its workers and
of its sampler). So the random states of that moment are kept; they are set again, the items passed over, and then the
states of the safe point are set by the caller. Of a DataLoader without workers only indices are passed over; one with
workers loads what is passed over, because what its workers draw cannot be told otherwise.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import Any, cast

from ..errors import ResumeError
from ..pickling.placeholder import Placeholder
from ..processstate import put_random_state, random_state


class Zipped:
    """``zip`` that begins its parts when it is iterated: a DataLoader draws its order then."""

    def __init__(self, *parts: Iterable[Any], strict: bool = False) -> None:
        self.parts = parts
        self.strict = strict

    def __iter__(self) -> Iterator[Any]:
        return zip(*self.parts, strict=self.strict)


def start_of(iterable: Any) -> dict[str, Any]:
    """The random states that its iteration may draw from, before it begins."""
    return {
        "random": random_state(),
        "generators": [generator.get_state() for generator in _generators_of(iterable)],
        "reused": _has_workers(iterable),
    }


def in_order(iterable: Any) -> Any:
    """A set's items as a list: another process would go through them in another order."""
    return list(iterable) if isinstance(iterable, set | frozenset) else iterable


def _has_workers(loader: Any) -> bool:
    """Whether a DataLoader's persistent workers run already: then its iteration draws one number less."""
    return getattr(loader, "persistent_workers", False) is True and loader._iterator is not None


def reuses_workers(start: dict[str, Any]) -> bool:
    return bool(start.get("reused"))


def refuse_begun_loaders(iterable: Any) -> None:
    """Raises `ResumeError` for an ``enumerate`` or ``zip`` of what has drawn its order when that was made."""
    if type(iterable) not in (enumerate, zip):
        return
    module = sys.modules.get("torch.utils.data.dataloader")
    base: Any = getattr(module, "_BaseDataLoaderIter", None)
    _, parts, *_ = cast("tuple[Any, ...]", iterable.__reduce__())
    for part in parts if base is not None else ():
        # Without workers it draws from the global generators, at its first item.
        if isinstance(part, base) and (part._num_workers or _generators_of(part._index_sampler)):
            instead = (
                "respawner.resume(loader, counted=True)"
                if type(iterable) is enumerate
                else "a generator, `def pairs(): yield from zip(…)`, and respawner.resume(pairs())"
            )
            raise ResumeError(
                f"{type(iterable).__name__}(…) has begun the DataLoader before the loop begins, so its order could not come "
                f"again; write {instead}"
            )


def worth_saving(iterable: Any) -> bool:
    """Not an iterator, whose position is its own; not a progress bar, which belongs to the cell's output."""
    if isinstance(iterable, Zipped):
        return all(map(worth_saving, iterable.parts))
    return not hasattr(type(iterable), "__next__") and not is_bar(iterable)


def is_longer_or_shorter(now: Any, saved: Any) -> bool:
    """Whether a ``range`` begins as it did and has another end: somebody wants more epochs, or fewer."""
    return (
        isinstance(now, range)
        and isinstance(saved, range)
        and (now.start, now.step) == (saved.start, saved.step)
    )


def at_position(iterable: Iterable[Any], count: int, start: dict[str, Any]) -> Iterator[Any]:
    """An iterator whose next item is number ``count`` (from 0) of an iteration that began at ``start``.

    Leaves the global random states as passing over made them; the iterable's own generators are as before.
    Raises `ResumeError` where there are not so many items.
    """
    if reuses_workers(start) and not _has_workers(iterable):
        iter(iterable)  # starts its workers
    generators = _generators_of(iterable)
    now = [generator.get_state() for generator in generators]
    put_random_state(start["random"])
    for generator, state in zip(generators, start["generators"], strict=False):
        generator.set_state(state)
    try:
        return _passed_over(iterable, count)
    finally:
        for generator, state in zip(generators, now, strict=True):
            generator.set_state(state)


def _passed_over(iterable: Any, count: int) -> Iterator[Any]:
    if isinstance(iterable, range):
        _check(len(iterable), count)
        return iter(iterable[count:])
    if type(iterable) is enumerate:
        _, (inner, first, *_) = cast("tuple[Any, tuple[Any, ...]]", iterable.__reduce__())
        return enumerate(_advanced(inner, count), first + count)
    return _advanced(iter(iterable), count)


def _advanced(iterator: Any, count: int) -> Iterator[Any]:
    if _only_indices(iterator):
        done = _pass_over(iterator._sampler_iter, count)
        iterator._num_yielded += done
    else:
        done = _pass_over(iterator, count)
    _check(done, count)
    return cast("Iterator[Any]", iterator)


def _pass_over(iterator: Iterator[Any], count: int) -> int:
    """How many items there were, at most ``count``."""
    return sum(1 for _ in itertools.islice(iterator, count))


def _check(there: int, count: int) -> None:
    if there < count:
        raise ResumeError(
            f"the loop stopped after {count} items, and now there are only {there}: it runs over something else. "
            "respawner.start_over() lets it begin anew, with the variables as they are"
        )


def _only_indices(iterator: Any) -> bool:
    """Whether it is a DataLoader's that loads in this process, by index."""
    module = sys.modules.get("torch.utils.data.dataloader")
    single = getattr(module, "_SingleProcessDataLoaderIter", None)
    if single is None or type(iterator) is not single:
        return False
    return getattr(iterator, "_dataset_kind", None) == module._DatasetKind.Map  # type: ignore[union-attr]


def _generators_of(iterable: Any) -> list[Any]:
    """torch generators that a DataLoader and its samplers draw from."""
    torch = sys.modules.get("torch")
    generator_class = getattr(torch, "Generator", None)
    if generator_class is None or isinstance(iterable, Placeholder):
        return []
    if isinstance(iterable, Zipped):
        every = [generator for part in iterable.parts for generator in _generators_of(part)]
        return list({id(g): g for g in every}.values())
    batches = getattr(iterable, "batch_sampler", None)
    owners = (iterable, getattr(iterable, "sampler", None), batches, getattr(batches, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in found if isinstance(g, generator_class)}.values())


def is_bar(iterable: Any) -> bool:
    """Whether it is one of tqdm's progress bars."""
    return any(cls.__module__.partition(".")[0] == "tqdm" for cls in type(iterable).__mro__)
