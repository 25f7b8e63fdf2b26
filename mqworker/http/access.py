"""Who may call: the checks made before anything else in a request is read.

Runs in the server's threads, around the Flask app, one instance for each listener, which is told how callers are
identified (login.py). Anybody may ask for /livez, which reveals nothing else, for the page's files, which reveal what
everybody can install, and to log in. /livez and /readyz answer whatever the Host header says, because an orchestrator
restarts a service that refuses its probe. A browser's requests from other sites are refused where they would have
effects (`refuse_foreign`). What an answer says itself of its headers stands in the place of ours.
"""

import ipaddress
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from mqworker.http.paths import API
from mqworker.http.places import PLACES, Places
from mqworker.http.problems import CONTENT_TYPE, Problem

HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]
ALIVE = ("/livez", f"{API}/livez")
HEALTH = (*ALIVE, "/readyz", f"{API}/readyz")  # a probe calls by address, by a service's name or without a Host
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound
LOCAL = ("localhost", "127.0.0.1", "[::1]")
HOSTS = "mqworker.hosts"  # in the environ: the Hosts of this listener
_PORT = re.compile(r":[1-9]\d{0,4}$")

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Identify = Callable[[dict[str, Any]], list[tuple[str, str]]]  # notes who calls; returns headers for him, or raises


class Hosts(NamedTuple):
    """The Host headers of one listener.

    The name decides, because that is what a page of another site cannot choose (DNS rebinding); its port is whatever a
    proxy or a container's port mapping makes of it.
    """

    names: frozenset[str]  # accepted with any port and without one
    exact: frozenset[str]  # host and port, as the configuration gives them, or as our own address
    addresses: bool = False  # every IP address is accepted: we listen on all of the machine's

    def accept(self, host: str) -> bool:
        """Return whether a Host header is ours."""
        host = host.lower()
        name = _PORT.sub("", host)
        return host in self.exact or name in self.names or (self.addresses and _is_address(name))

    def accept_origin(self, origin: str, host: str) -> bool:
        """Return whether an Origin is that of our own page, which was asked for under this Host header."""
        scheme, _, where = origin.lower().partition("://")
        return scheme in ("http", "https") and (where == host.lower() or where in self.exact)


def tcp_hosts(host: str, port: int, extra: Iterable[str]) -> Hosts:
    """Return the Hosts of our TCP address; a name in `extra` that has a port is accepted with that port only."""
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    with_port = {name for name in map(str.lower, extra) if _PORT.search(name) and not name.endswith("]")}
    others = {name for name in map(str.lower, extra) if name not in with_port}
    names = {*LOCAL, bracketed.lower(), *others}
    exact = {f"{name}:{port}" for name in names} | others | with_port
    return Hosts(frozenset(names), frozenset(exact), addresses=host.strip("[]") in EVERYWHERE)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return ":" not in name or name.startswith("[")


UNIX_HOSTS = Hosts(frozenset({"localhost", "mqworker"}), frozenset())


class FailedLogins:
    """A leaky bucket of failures for each peer: 10 at once, then one every 6 seconds; at most 1,000 peers."""

    BURST = 10
    REFILL = 6.0
    PEERS = 1000

    def __init__(self) -> None:
        self._peers: OrderedDict[str, tuple[float, float]] = (
            OrderedDict()
        )  # failures not yet leaked away, and as of when
        self._lock = threading.Lock()

    def too_many(self, peer: str, now: float) -> bool:
        """Return whether a request of this peer must be refused for now."""
        with self._lock:
            return self._level(peer, now) > self.BURST - 1

    def failed(self, peer: str, now: float) -> None:
        """Count one failure."""
        with self._lock:
            self._peers[peer] = (self._level(peer, now) + 1, now)
            self._peers.move_to_end(peer)
            while len(self._peers) > self.PEERS:
                self._peers.popitem(last=False)

    def _level(self, peer: str, now: float) -> float:
        level, since = self._peers.get(peer, (0.0, now))
        return max(0.0, level - (now - since) / self.REFILL)


class Access:
    """See the module head; a WSGI application that wraps another."""

    def __init__(self, app: Wsgi, hosts: Hosts, identify: Identify, places: Places) -> None:
        self._app = app
        self._places = places
        self._hosts = hosts
        self._identify = identify

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Refuse the request or pass it on; either way with the headers that every answer has."""

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            own = {name.lower() for name, _ in headers}
            ours = [(name, value) for name, value in (*HEADERS, *more) if name.lower() not in own]
            return start_response(status, [*headers, *ours], *rest)

        environ[HOSTS] = self._hosts
        more: list[tuple[str, str]] = []
        environ[PLACES] = self._places
        try:
            if environ["PATH_INFO"] not in HEALTH:
                self._check_host(environ.get("HTTP_HOST", ""))
            if not is_open(environ):
                more = self._identify(environ)
        except Problem as problem:
            data = problem.document()
            headers = [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(data))), *problem.headers.items()]
            start(f"{problem.status} {problem.title}", headers)
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [data]
        return self._app(environ, start)

    def _check_host(self, host: str) -> None:
        if not self._hosts.accept(host):
            raise Problem(421, "the Host header is not one of ours; control.hosts allows others")


def is_open(environ: Mapping[str, Any]) -> bool:
    """Return whether a request needs no login: the liveness check, the files of the page, and logging in."""
    path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
    if path in ALIVE or path == "/ui" or path.startswith("/ui/"):
        return True
    if path == "/":
        return "text/html" in environ.get("HTTP_ACCEPT", "")
    return bool(path == f"{API}/session" and method == "POST")


def foreign(environ: Mapping[str, Any]) -> str:
    """Return why this comes from a page of another site, by its Fetch Metadata or its Origin; "": it does not."""
    if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
        return "a browser sent this from another site"
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and not environ[HOSTS].accept_origin(origin, environ.get("HTTP_HOST", "")):
        return "the Origin header is not ours; control.hosts allows others, such as the name of a proxy"
    return ""


def refuse_foreign(environ: Mapping[str, Any]) -> None:
    """Refuse a browser's request from another site."""
    if why := foreign(environ):
        raise Problem(403, why)
