"""What an agent and its clients say to each other: one JSON object, checked when it is read."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from .. import __version__
from ..devices import Report

FORMAT = 1
"""Grows when a reader of the old format would misunderstand the new one. New fields do not count."""


class NotAnAgent(ValueError):
    """What came is not an answer of an agent, or one of a format that this version does not know."""


@dataclass(frozen=True)
class Answer:
    """GET /v1/inventory."""

    host: str
    boot_id: str
    """Changes when the host boots (/proc/sys/kernel/random/boot_id)."""
    started_at: float
    """When this agent started, in unix seconds: what it knows of Xids begins there."""
    report: Report
    version: str = __version__
    format: int = FORMAT


_answers = TypeAdapter(Answer)


def encode(answer: Answer) -> bytes:
    return _answers.dump_json(answer)


def decode(body: bytes) -> Answer:
    """:raises NotAnAgent: names the first thing that is wrong."""
    try:
        answer = _answers.validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise NotAnAgent(f"not an agent's answer: {where}: {first['msg']}") from error
    if answer.format != FORMAT:
        raise NotAnAgent(
            f"the agent speaks format {answer.format}, this hub {FORMAT}: bring both to one version"
        )
    return answer
