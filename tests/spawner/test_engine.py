"""What a call of an engine raises: that it does not answer, or what it answered."""

import pytest
import requests.exceptions
from docker.errors import APIError
from respawner_spawner.engine import UNREACHABLE, Engine, EngineUnreachable


def raising(error: Exception):
    def call():
        raise error

    return call


@pytest.mark.parametrize(
    "error",
    [
        requests.exceptions.ReadTimeout("60 s"),
        requests.exceptions.ChunkedEncodingError("broken off"),
        OSError(113, "No route to host"),
    ],
)
async def test_an_engine_that_does_not_answer_is_unreachable_and_named(error):
    with pytest.raises(EngineUnreachable, match=r"tcp://gpu1:2376: \w+: .*") as caught:
        await Engine("tcp://gpu1:2376").run(raising(error))
    assert isinstance(caught.value, UNREACHABLE)


async def test_an_engine_that_refuses_has_answered():
    with pytest.raises(APIError) as caught:
        await Engine("tcp://gpu1:2376").run(raising(APIError("404", explanation="no such image")))
    assert not isinstance(caught.value, UNREACHABLE)
