"""Timelines follow their notebooks, with a real Jupyter Server."""

from __future__ import annotations

from respawner.flush import wait_until_durable
from respawner.store.moves import undelete
from respawner.store.timeline import Timeline

from tests.snapshot.notebook import PATIENCE_SECONDS
from tests.snapshot.test_jupyter_server import Server, server  # noqa: F401 - a fixture


def make(server: Server, name: str) -> None:  # noqa: F811
    content = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    server.request("PUT", f"contents/{name}", {"type": "notebook", "content": content})


def names(server: Server) -> list[str]:  # noqa: F811
    work = f"{server.folder / 'work'}/"
    return sorted(t.name.removeprefix(work) for t in Timeline.all_in(server.folder / "store"))


def test_rename_copy_and_delete_are_followed(server: Server) -> None:  # noqa: F811
    make(server, "a.ipynb")
    kernel = server.open_notebook("a.ipynb")
    server.run(kernel, "x = [1]")
    assert wait_until_durable(server.folder / "runtime", PATIENCE_SECONDS)["durable"]
    server.request("PATCH", "contents/a.ipynb", {"path": "b.ipynb"})
    server._wait(lambda: names(server) == ["b.ipynb"], "the timeline follows")
    server.run(kernel, "x.append(2)")
    assert wait_until_durable(server.folder / "runtime", PATIENCE_SECONDS)["durable"]
    server.request("POST", f"kernels/{kernel}/restart")
    assert server.run(kernel, "print(x)").text.endswith("[1, 2]\n")
    assert wait_until_durable(server.folder / "runtime", PATIENCE_SECONDS)["durable"]
    assert names(server) == ["b.ipynb"]
    copied = server.request("POST", "contents", {"copy_from": "b.ipynb"})["path"]
    server._wait(lambda: copied in names(server), "the copy has a timeline")
    other = server.open_notebook(copied)
    assert server.run(other, "x.append(3); print(x)").text.endswith("[1, 2, 3]\n")
    server.request("DELETE", f"kernels/{other}")
    server.request("DELETE", f"kernels/{kernel}")
    server.request("DELETE", "contents/b.ipynb")
    server._wait(lambda: names(server) == [copied], "the deleted one is in the trash")
    found = undelete(server.folder / "store", str(server.folder / "work" / "b.ipynb"))
    assert found.target() is not None
    assert names(server) == sorted([copied, "b.ipynb"])
