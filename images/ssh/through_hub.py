#!/usr/bin/env python3
"""ssh's way to a session: the bytes of ssh, as a WebSocket through the hub. For people's own machines.

In ~/.ssh/config (docs/ssh.md):

    ProxyCommand python3 ~/.ssh/through_hub.py https://hub.example.org/user/ada/

Needs Python 3.8 and `pip install websocket-client`. The hub's token (the hub's page Token) is read from the
file ~/.ssh/respawner-token, or where RESPAWNER_SSH_TOKEN_FILE says.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import websocket

TOKEN_FILE = "~/.ssh/respawner-token"
PIECE_BYTES = 1 << 16


def main() -> int:
    if len(sys.argv) != 2:
        return fail(
            "Name the session: through_hub.py https://HUB/user/NAME/ (…/NAME/SERVER/ for a named one)."
        )
    file = Path(os.environ.get("RESPAWNER_SSH_TOKEN_FILE", TOKEN_FILE)).expanduser()
    try:
        token = file.read_text().strip()
    except OSError as error:
        return fail(f"{error}: put a token of the hub (its page Token) into {file}, readable by you only.")
    url = sys.argv[1].rstrip("/").replace("http", "ws", 1) + "/sshd/"
    try:
        line = websocket.create_connection(
            url,
            header=[f"Authorization: token {token}"],
            enable_multithread=True,
            timeout=60,
            redirect_limit=0,  # the hub would send a browser to its pages
        )
    except websocket.WebSocketBadStatusException as error:
        return fail(f"{url} answers {error.status_code}: {meaning(error.status_code)}")
    except (websocket.WebSocketException, OSError) as error:
        away = "redirect" in str(error).lower()  # websocket-client has no class of its own for it
        return fail(f"{url} cannot be reached: {meaning(302) if away else error}")
    line.settimeout(None)
    threading.Thread(target=send, args=(line,), daemon=True).start()
    try:
        while piece := line.recv():
            os.write(sys.stdout.fileno(), piece if isinstance(piece, bytes) else piece.encode())
    except (websocket.WebSocketConnectionClosedException, OSError):
        pass  # the other end of ssh, or ssh itself, has ended; it says why
    return 0


def send(line: websocket.WebSocket) -> None:
    """What ssh writes, until it ends."""
    while piece := os.read(sys.stdin.fileno(), PIECE_BYTES):
        line.send_binary(piece)
    line.close()


def meaning(status: int) -> str:
    if status in (401, 403):
        return "the token is not valid (any more), or the session is another user's. Make one on the hub's page Token."
    if status in (302, 424, 503):
        return "the session does not run: start it on the hub."
    if status == 404:
        return "the session's image has no jupyter-sshd-proxy, or the address is wrong."
    return "see the session's log."


def fail(words: str) -> int:
    print(words, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
