"""A folder of static files on this machine's own address, from which browsers give pages a microphone."""

import functools
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from pscodec.utils.errors import UserError


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Say nothing of every request."""


def server(folder, port):
    """A server of `folder` on localhost, to be started by `serve_forever`; port 0: any that is free.

    Raises UserError where the port is taken."""
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Quiet, directory=str(folder)))
    except OSError as error:
        raise UserError(f"port {port}: {error.strerror}") from None
