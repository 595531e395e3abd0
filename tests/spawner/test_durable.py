"""What the spawner and the scheduler make of the kernels' answer; the answer itself is tested with real containers."""

import asyncio
import json

import pytest
from docker.errors import APIError
from respawner_spawner.durable import flush


class Engine:
    """Brings one answer, or raises it."""

    def __init__(self, answer):
        self.answer = answer

    async def call(self, method, *args, **kwargs):
        if method == "exec_create":
            return {"Id": "job"}
        if isinstance(self.answer, BaseException):
            raise self.answer
        if callable(self.answer):
            return await self.answer()
        return self.answer


def ask(answer):
    return asyncio.run(flush(Engine(answer), "container", 0.1))


def report(durable, *kernels):
    return json.dumps({"durable": durable, "kernels": kernels}).encode()


def test_kernels_that_are_saved_are_durable():
    saved = ask(report(True, {"state": "saved", "timeline": "a.ipynb"}))
    assert (saved.durable, saved.reason) == (True, "")


def test_the_reason_names_every_notebook():
    saved = ask(
        report(
            False,
            {"state": "dirty", "timeline": "a.ipynb"},
            {"state": "failed", "timeline": "b.ipynb", "error": "the disk is full"},
            {"state": "dirty", "pid": 7},
        )
    )
    assert not saved.durable
    assert "a.ipynb has a running cell" in saved.reason
    assert "b.ipynb could not be saved: the disk is full" in saved.reason
    assert "process 7" in saved.reason


@pytest.mark.parametrize(
    "answer", [b"OCI runtime exec failed: python3: not found", b"", b"[]", b'{"durable": true}']
)
def test_an_image_that_cannot_answer_is_not_durable_and_says_what_it_needs(answer):
    saved = ask(answer)
    assert not saved.durable
    assert "it needs python3" in saved.reason


@pytest.mark.parametrize(
    "error", [APIError("409 container is not running"), ConnectionError("gone"), TimeoutError()]
)
def test_what_cannot_be_asked_is_not_durable(error):
    saved = ask(error)
    assert not saved.durable
    assert saved.reason
