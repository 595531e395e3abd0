"""Who waits, at which position, why and until when: worked out when somebody looks, not at every decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .estimates import Availability
from .model import Request, Suspension, Wait
from .queueing import Walk, least_cost
from .reasons import Holders, find_cause, sentence
from .view import subjects


class Waits(Mapping[int, Wait]):
    """Of every request that a walk did not grant, the next one first. Raises RuntimeError when the view has moved on."""

    def __init__(self, walk: Walk, out: tuple[Suspension, ...]) -> None:
        self._walk = walk
        self._out = out
        self._version = walk.view.version
        self._waits: dict[int, Wait] | None = None

    def __getitem__(self, request_id: int) -> Wait:
        return self._all()[request_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self._all(),)  # copied and pickled as what it says

    def _all(self) -> dict[int, Wait]:
        if self._waits is None:
            if self._version != self._walk.view.version:
                raise RuntimeError(
                    "The view has changed since this decision: read its waits before the view changes."
                )
            with self._walk.applied():
                self._waits = self._explain()
        return self._waits

    def _explain(self) -> dict[int, Wait]:
        walk = self._walk
        causes = {request.id: find_cause(walk, request) for request in self._in_order()}
        order = sorted(causes, key=lambda request_id: causes[request_id].rank)
        availability = Availability(walk, self._out)
        holders, ahead = Holders(walk.view), dict[str, None]()
        waits = {}
        for position, request_id in enumerate(order, start=1):
            request, cause = walk.view.queue[request_id], causes[request_id]
            chance = None if cause.final else availability.book(request)
            reason = sentence(walk, request, position, cause, chance, list(ahead), holders)
            ahead[request.user] = None
            expected = chance.when if chance else None
            waits[request_id] = Wait(request_id, position, reason, expected, cause.impossible)
        return waits

    def _in_order(self) -> list[Request]:
        """As they would be served if GPUs came free one after the other."""
        walk, held = self._walk, self._walk.view.held
        order: list[Request] = []

        def served(request: Request) -> bool:
            order.append(request)
            for subject in subjects(request.user, request.groups):
                held[subject] += least_cost(request.ask)
            return True

        try:
            walk.in_order(served)
        finally:
            for request in order:
                for subject in subjects(request.user, request.groups):
                    held[subject] -= least_cost(request.ask)
                    if not held[subject]:
                        del held[subject]
        overdue = {request.id for request in walk.overdue()}
        return sorted(order, key=lambda request: (-walk.view.priority(request), request.id not in overdue))
