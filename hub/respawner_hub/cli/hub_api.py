"""The hub's API about GPUs, as the command line asks it: with a token that `up` keeps in the secrets."""

from __future__ import annotations

from typing import Any

import requests

from .. import gateway, secrets
from ..settings import Settings

REQUEST_SECONDS = 60


class GpuError(Exception):
    """It could not be done; the message says why."""


class HubDown(GpuError):
    """The hub does not answer."""


class Hub:
    """The hub's API, on the address on which sessions reach it."""

    def __init__(self, settings: Settings) -> None:
        address, hub = gateway.remembered(settings), settings.hub
        self._url = f"http://{address}:{hub.hub_api_port}{hub.base_url}hub/api/respawner"
        self._headers = {"Authorization": f"token {secrets.gpu_token(settings.state_dir)}"}

    def get(self, path: str, **query: Any) -> requests.Response:
        return self._ask("GET", path, params=query)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", path, json=body).json()

    def _ask(self, method: str, path: str, **how: Any) -> requests.Response:
        session = requests.Session()
        session.trust_env = False  # a proxy of the machine's is not on the way to the hub
        try:
            answer = session.request(
                method, f"{self._url}/{path}", headers=self._headers, timeout=REQUEST_SECONDS, **how
            )
        except requests.ConnectionError as error:
            raise HubDown("The hub does not answer: `respawner-hub up` starts it.") from error
        except requests.Timeout as error:
            raise GpuError(f"The hub has not answered within {REQUEST_SECONDS} s: see its log.") from error
        if not answer.ok:
            raise GpuError(_message(answer))
        return answer


def _message(answer: requests.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"the hub answered {answer.status_code} {answer.reason}"
