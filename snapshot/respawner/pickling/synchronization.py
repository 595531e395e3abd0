"""Objects around a lock whose contents are known without it: queues, events, handlers of logging, finished futures.

They get new locks, for nobody holds or waits for those of a process that is gone. Locks themselves, conditions
and semaphores are another matter (see `unpicklable`): whether they are free is what they are for.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def reducer_for(cls: type) -> Callable[[Any], Any] | None:
    """How to pickle objects of that type, None where it is none of these."""
    if cls is threading.Event:
        return _reduce_event
    if cls in (queue.Queue, queue.LifoQueue, queue.PriorityQueue):
        return _reduce_queue
    if cls is threading.local:
        return _reduce_local
    if cls is Future:
        return _reduce_future
    if issubclass(cls, logging.Handler) and cls.__reduce_ex__ is object.__reduce_ex__:
        return _reduce_handler
    return None


def _reduce_event(event: threading.Event) -> tuple[Any, ...]:
    return threading.Event, (), event.is_set(), None, None, _set_event


def _reduce_queue(waiting: Any) -> tuple[Any, ...]:
    state = (list(waiting.queue), waiting.unfinished_tasks)
    return type(waiting), (waiting.maxsize,), state, None, None, _fill_queue


def _reduce_local(local: Any) -> tuple[Any, ...]:
    """What the main thread, where cells run, has in it; those of other threads end with their threads."""
    if threading.current_thread() is not threading.main_thread():  # for deep nesting, see `deep_stack`
        raise TypeError("cannot pickle '_thread._local' object")
    return threading.local, (), dict(vars(local)), None, None, _set_local


def _reduce_future(future: Future[Any]) -> tuple[Any, ...]:
    if not future.done():
        raise TypeError("what computes it ends with its process")
    outcome = {name: vars(future)[name] for name in ("_state", "_result", "_exception")}
    return Future, (), outcome, None, None, _set_local


def _reduce_handler(handler: logging.Handler) -> tuple[Any, ...]:
    state = {name: value for name, value in vars(handler).items() if name != "lock"}
    return _handler, (type(handler),), state, None, None, _set_handler


# The way back: these names stand in pickles, so they keep their meaning for as long as version 1 is read.


def _set_local(obj: Any, attributes: dict[str, Any]) -> None:
    vars(obj).update(attributes)


def _set_event(event: threading.Event, is_set: bool) -> None:
    if is_set:
        event.set()


def _fill_queue(waiting: Any, state: tuple[list[Any], int]) -> None:
    items, waiting.unfinished_tasks = state
    waiting.queue.extend(items)


def _handler(cls: Any) -> Any:
    return cls.__new__(cls)


def _set_handler(handler: Any, state: dict[str, Any]) -> None:
    vars(handler).update(state)
    handler.createLock()
    logging._addHandlerRef(handler)  # type: ignore[attr-defined]  # so that it is flushed in the end
