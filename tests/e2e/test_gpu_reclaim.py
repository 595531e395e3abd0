"""A session with a trained model gives up its GPU and comes back on another one, with everything: the real image."""

from __future__ import annotations

import asyncio

import pytest
from respawner_hub.settings import Settings
from respawner_spawner.engine import Engine
from respawner_spawner.suspend import suspend

from . import training
from .gpu_deployment import deployment_with_gpus, whole_gpu
from .kernels import UserServer
from .test_gpu_engine import Server

pytestmark = [pytest.mark.docker]

FIRST, SECOND = "GPU-11111111", "GPU-22222222"
SEEN = "__import__('subprocess').run(['nvidia-smi', '-L'], capture_output=True, text=True).stdout"


@pytest.fixture
def deployment():
    image = Settings().image.name
    with deployment_with_gpus(
        [whole_gpu(FIRST), whole_gpu(SECOND)], image, session={"stop_grace_seconds": 60}
    ) as deployment:
        yield deployment


def test_a_reclaimed_model_comes_back_on_another_gpu(deployment):
    with deployment.person("ada") as ada, deployment.person("bob") as bob:
        deployment.start_server(ada, {"gpus": 1, "gpu_uuids": [FIRST]})
        kernel = UserServer(deployment, ada).open_notebook("digits.ipynb")
        for source in (training.SETUP, training.TRAIN):
            outcome = kernel.run(source)
            assert outcome.status == "ok", outcome.error
        before = kernel.value(training.FINGERPRINT)
        assert FIRST in kernel.value(SEEN)

        outcome = asyncio.run(
            suspend(
                deployment.ledger,
                Engine(deployment.gpu_engine.url),
                Server(deployment, ada),
                deployment.holder(ada),
                reason="bob needs it",
            )
        )
        assert outcome.done, outcome
        print(f"suspended in {outcome.seconds:.1f} s")
        deployment.start_server(bob, {"gpus": 1, "gpu_uuids": [FIRST]})
        assert deployment.seen(bob) == [FIRST]

        deployment.start_server(ada, {"gpus": 1})
        kernel = UserServer(deployment, ada).open_notebook("digits.ipynb")
        assert kernel.value(training.FINGERPRINT) == before
        assert SECOND in kernel.value(SEEN)
        assert FIRST not in kernel.value(SEEN)
        assert kernel.run(training.MORE).status == "ok"
        assert deployment.lease(ada).uuids == (SECOND,)
