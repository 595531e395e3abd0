"""Whether the server in a container that was just started can be used: it listens, and there is a kernel to start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging

from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest

from .engine import Engine
from .failure import SessionStartError, next_step, read_ending
from .image_facts import ImageFacts

LOOK_EVERY_SECONDS = 0.1
_images_with_kernels: set[str] = set()


async def wait_until_listening(engine: Engine, container_id: str, ip: str, port: int) -> None:
    """Return when the server accepts connections.

    JupyterHub alone would wait for `http_timeout` and then say "didn't respond", also where the container has exited.

    :raises SessionStartError: as soon as it has, with its exit code and log.
    """
    while True:
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            _, writer = await asyncio.wait_for(asyncio.open_connection(ip, port), timeout=2)
            writer.close()
            return
        container = await engine.call("inspect_container", container_id)
        if not container["State"]["Running"]:
            ending = await read_ending(engine, container)
            raise SessionStartError(
                f"The session ended while it started: {ending.describe()}. {next_step(ending)}",
                reason="container",
                log_tail=ending.log_tail,
            )
        await asyncio.sleep(LOOK_EVERY_SECONDS)


async def refuse_without_kernels(image: ImageFacts, server_url: str, token: str, log: logging.Logger) -> None:
    """Once an image: that it has no kernel is told now, not by a launcher page with nothing on it.

    :raises SessionStartError: it has none. Not where its server does not answer, which is logged.
    """
    if image.image_id in _images_with_kernels:
        return
    headers = {"Authorization": f"token {token}"}
    request = HTTPRequest(f"{server_url}api/kernelspecs", headers=headers, request_timeout=60)
    try:
        answer = json.loads((await AsyncHTTPClient().fetch(request)).body)
    except (HTTPError, OSError, ValueError) as error:
        log.warning("Cannot ask %s for its kernels: %s", server_url, error)
        return
    if not answer["kernelspecs"]:
        raise SessionStartError(
            f"The image {image.name} has no Jupyter kernel, so nothing could run in it. "
            "It needs one: `pip install ipykernel` in it.",
            reason="image",
        )
    _images_with_kernels.add(image.image_id)
