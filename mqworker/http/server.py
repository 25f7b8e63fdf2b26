"""The control server: the API on TCP and on a unix socket.

Each has its own threads, so that a flood on one does not affect the other.
Owned by the Service's main thread, which calls bind, start and stop; everything else here runs in the server's daemon
threads and reaches the main thread only through Control. `bind` raises when a port is in use, before any process is
started. `load` imports Flask and waitress, and makes the app: nearly half of what the Service does until it runs, so it
is done in a thread while the code is checked. If a thread of the server fails, only its request fails.
"""

import contextlib
import errno
import logging
import os
import socket
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mqworker.control.control import Control
from mqworker.control.views import Snapshot
from mqworker.http.reasons import note_reasons
from mqworker.http.totals import Totals
from mqworker.ipc.imports import importing

if TYPE_CHECKING:
    from mqworker.http.answering import Answering
    from mqworker.http.serving import Listener

BACKLOG = 1024
NOTED_EVERY = 1.0  # seconds between two checks why nothing is happening

log = logging.getLogger("mqworker.http")


class HttpServer:
    """See the module head."""

    def __init__(
        self,
        control: Control,
        host: str,
        port: int,
        socket_path: Path,
        token: str,
        hosts: tuple[str, ...],
        read_token: str = "",
    ) -> None:
        self._totals = Totals()
        control.on_publish = self._feed
        self.port = port  # the real one once bound
        self._control = control
        self._answering: Answering | None = None
        self._host = host
        self._path = socket_path
        self._tokens = (token, read_token)
        self._hosts = hosts
        self._sockets: list[socket.socket] = []
        self._listeners: list[Listener] = []
        self._inode = 0  # of our socket file
        self._noted = 0.0  # when reasons were last noted
        self._failed = False  # the history could not be kept, which was logged

    def _feed(self, snapshot: Snapshot) -> None:
        """Receive a snapshot; what is only for display must not end the Service, on whose main thread this runs."""
        self._totals.feed(snapshot)
        try:
            reports = {name: view.actual for name, view in snapshot.stages.items()}
            self._control.history.feed(reports, self._totals.of, snapshot.time)
            if self._answering is not None and snapshot.time - self._noted >= NOTED_EVERY:
                self._noted = snapshot.time
                note_reasons(self._control, self._answering.api.line, snapshot)
        except Exception:
            if not self._failed:
                log.exception("the history cannot be kept", extra={"event": "http_failed"})
            self._failed = True

    def bind(self) -> None:
        """Bind both addresses; raises OSError with a clear text when one is in use. May be called again then."""
        tcp = _listen_tcp(self._host, self.port)
        try:
            unix = _listen_unix(self._path)
        except OSError:
            tcp.close()
            raise
        self.port = tcp.getsockname()[1]
        self._sockets = [tcp, unix]
        self._inode = self._path.stat().st_ino

    def load(self) -> None:
        """Make what answers; may be called in another thread, once, before `start`."""
        with importing():
            from mqworker.http.answering import Answering  # noqa: PLC0415 - see the module head

            self._answering = Answering(self._control, self._totals, *self._tokens)

    def start(self) -> None:
        """Start answering."""
        if self._answering is None:
            self.load()
        assert self._answering is not None
        tcp, unix = self._sockets
        self._listeners = [
            self._answering.over_tcp(tcp, self._host, self._hosts),
            self._answering.over_unix(unix),
        ]
        for listener in self._listeners:
            listener.start()

    def stop(self, deadline: float) -> None:
        """Accept nothing new, finish the requests in progress, close; takes little more than `deadline` seconds."""
        end = time.monotonic() + deadline
        if self._answering is not None:
            self._answering.api.stopping.set()
        for listener in self._listeners:
            listener.stop(deadline)
        for listener in self._listeners:
            listener.join(max(0.1, end + 0.5 - time.monotonic()))
        for listening in self._sockets:
            listening.close()
        self._sockets = []
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()


def _listen_tcp(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, f"no such address: {error.strerror}") from None
    family, kind, proto, _name, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    listening = socket.socket(family, kind, proto)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(BACKLOG)  # at once, because `bind` alone does not refuse a second listener
    except OSError as error:
        listening.close()
        message = "another program listens there" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        raise OSError(error.errno, message) from None
    return listening


def _listen_unix(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
        path.chmod(0o600)  # nobody can connect before `listen`
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, f"{path}: {os.strerror(error.errno or 0)}") from None
    return listening


def _remove_stale(path: Path) -> None:
    """Remove the socket file of a service that is gone; raises OSError when one answers on it, or it is no socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(1.0)
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError as error:
            raise OSError(error.errno or errno.EADDRINUSE, f"{path}: {error}") from None
        else:
            raise OSError(errno.EADDRINUSE, f"another service answers on {path}")
