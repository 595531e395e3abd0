"""Who is at the other end of a request."""

from __future__ import annotations

from tornado.httputil import HTTPServerRequest


def client_address(request: HTTPServerRequest) -> str:
    """The address that the nearest proxy we do not trust saw.

    Like tornado's `remote_ip`, of which it differs in ignoring `X-Real-Ip`: tornado prefers that header, and
    configurable-http-proxy passes on whatever a client writes into it, so an attacker could be somebody else
    at every attempt. More proxies of your own go into `c.JupyterHub.trusted_downstream_ips`.
    """
    context = request.connection.context  # type: ignore[union-attr]
    forwarded = request.headers.get("X-Forwarded-For", "")
    hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()]
    trusted = getattr(context, "trusted_downstream", ())
    for hop in reversed(hops):
        if hop not in trusted:
            return hop
    return str(getattr(context, "_orig_remote_ip", None) or request.remote_ip)
