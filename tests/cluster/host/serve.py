"""TEST STAND-IN for the servers of packages: serves /vendor/pages by HTTPS."""

import functools
import http.server
import ssl


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # one that closes after each answer, as 1.0, does not say goodbye in TLS, and apt wants that


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/vendor/server.crt", "/vendor/server.key")
handler = functools.partial(Handler, directory="/vendor/pages")
server = http.server.ThreadingHTTPServer(("", 443), handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
