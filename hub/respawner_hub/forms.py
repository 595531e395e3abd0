"""What pages with forms have in common."""

from __future__ import annotations

from jupyterhub.handlers.base import BaseHandler
from tornado import web


class FormPage(BaseHandler):
    """A page whose form says what to do when it is too old: JupyterHub checks its XSRF token before any method."""

    def check_xsrf_cookie(self) -> None:
        try:
            super().check_xsrf_cookie()
        except web.HTTPError as error:
            self.log.error("XSRF error on %s: %s", self.request.path, error)
            raise web.HTTPError(
                error.status_code, "This form is invalid or too old. Go back, reload the page and try again."
            ) from error
