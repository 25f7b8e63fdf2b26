"""What answers the requests that come in on the control server's sockets: the app, and a listener for each socket.

Made by the server, in any thread. With this module come Flask, waitress and all routes.
"""

import socket
from collections.abc import Iterable
from typing import Any

from mqworker.control.control import Control
from mqworker.http.access import EVERYWHERE, UNIX_HOSTS, Access, tcp_hosts
from mqworker.http.app import make_app
from mqworker.http.logins import CALLER, SOCKET, Logins
from mqworker.http.routing import Api
from mqworker.http.serving import Listener
from mqworker.http.totals import Totals

SPARE = 4  # threads over TCP that are left when all places are taken
UNIX_SPARE = 4


class Answering:
    """See the module head."""

    def __init__(self, control: Control, totals: Totals, token: str, read_token: str) -> None:
        self._logins = Logins(control.loaded.state_dir, token, read_token)
        self.api = Api(control, totals, self._logins)
        if urls := control.loaded.config.control.peers:
            from mqworker.http.peers import Peers  # noqa: PLC0415 - with Python's HTTP client, which few services need

            control.peers = Peers(urls, read_token, self.api.stopping).known
        self._app = make_app(self.api).wsgi_app
        self._max_body = max(stage.max_body for stage in control.loaded.config.stages.values())

    def over_tcp(self, listening: socket.socket, host: str, hosts: Iterable[str]) -> Listener:
        """Return the listener on the TCP socket, not yet started."""
        port = listening.getsockname()[1]
        names = tcp_hosts(host, port, hosts)
        self._logins.url = _url(host, port)
        places = self.api.tcp
        access = Access(self._app, names, self._identify, places)
        return Listener(access, listening, places, SPARE, self._max_body)

    def over_unix(self, listening: socket.socket) -> Listener:
        """Return the listener on the unix socket, not yet started."""
        places = self.api.unix
        access = Access(self._app, UNIX_HOSTS, _is_owner, places)
        return Listener(access, listening, places, UNIX_SPARE, self._max_body)

    def _identify(self, environ: dict[str, Any]) -> list[tuple[str, str]]:
        environ[CALLER] = caller = self._logins.identify(environ)
        return self._logins.renewal(caller)


def _url(host: str, port: int) -> str:
    host = "127.0.0.1" if host.strip("[]") in EVERYWHERE else host
    return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{port}/"


def _is_owner(environ: dict[str, Any]) -> list[tuple[str, str]]:
    environ[CALLER] = SOCKET
    return []
