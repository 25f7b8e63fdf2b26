"""What answers the requests that come in on the control server's sockets: the app, and a listener for each socket.

Made by the server, in any thread. With this module come Flask, waitress and all routes.
"""

import socket
from collections.abc import Iterable

from mqworker.control.control import Control
from mqworker.http.access import UNIX_HOSTS, Access, tcp_hosts
from mqworker.http.app import make_app
from mqworker.http.routing import Api
from mqworker.http.serving import Listener
from mqworker.http.totals import Totals

SPARE = 8  # threads over TCP that are left when all places are taken
UNIX_SPARE = 4


class Answering:
    """See the module head."""

    def __init__(self, control: Control, totals: Totals) -> None:
        self.api = Api(control, totals)
        self._app = make_app(self.api).wsgi_app
        self._max_body = max(stage.max_body for stage in control.loaded.config.stages.values())

    def over_tcp(self, listening: socket.socket, host: str, hosts: Iterable[str], token: str) -> Listener:
        """Return the listener on the TCP socket, not yet started."""
        names = tcp_hosts(host, listening.getsockname()[1], hosts)
        places = self.api.tcp
        return Listener(Access(self._app, names, token, places), listening, places.threads + SPARE, self._max_body)

    def over_unix(self, listening: socket.socket) -> Listener:
        """Return the listener on the unix socket, not yet started."""
        access = Access(self._app, UNIX_HOSTS, "", self.api.unix)
        return Listener(access, listening, self.api.unix.threads + UNIX_SPARE, self._max_body)
