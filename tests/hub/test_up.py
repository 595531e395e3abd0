import socket
import threading

import pytest
from respawner_hub import images, up
from respawner_hub.settings import Settings


@pytest.mark.parametrize("name", ["no-such/image:1", "respawner/pytorch-cuda:9", "respawner/notebok:0.1.0"])
def test_a_foreign_image_name_is_never_built_over(monkeypatch, name):
    built = []
    monkeypatch.setattr(images, "ensure_image", lambda **arguments: built.append(arguments["image"]))
    said = []
    up._ensure_image(Settings.model_validate({"image": {"name": name}}), said.append)
    assert built == []
    assert "not in images/versions.toml" in said[0]


def test_program_that_speaks_no_http_at_the_hubs_port_is_no_hub() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        answering = threading.Thread(target=greet)
        answering.start()
        settings = Settings.model_validate({"hub": {"port": server.getsockname()[1]}})
        with pytest.raises(OSError, match="does not speak HTTP"):
            up.ask_hub(settings)
        answering.join()
