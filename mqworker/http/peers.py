"""Other services of a fixed list, as they report themselves: asked while somebody watches, and never changed.

Owns one daemon thread, which begins with the first request and ends when nobody has asked for a while, or the server
stops. It asks each peer for its status, a few at the same time. Whom it asks stands in the configuration alone, and no
redirection is followed: nobody can make it call another address. A peer gets our read-only token, never the other. What
it answers is hostile until it has the form of a status; bounded in time and size, and cut. A peer that fails is shown
with the reason; nothing here raises.
"""

import contextlib
import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mqworker.http.paths import API

EVERY = 5.0  # seconds
LOOKING = 15.0  # seconds without a request after which nobody is looking
PATIENCE = 2.0  # seconds for one peer's answer
LARGEST = 1 << 20  # bytes of it
AT_ONCE = 8  # peers
STAGES = 64  # of one peer that are reported
TEXT = 200  # characters of each text


class _Reason(msgspec.Struct):
    code: str = ""
    level: str = ""
    sentence: str = ""


class _Actual(msgspec.Struct):
    rate: float = 0.0
    backlog: int | None = None


class _Stage(msgspec.Struct):
    name: str
    state: str
    why: _Reason = msgspec.field(default_factory=_Reason)
    actual: _Actual | None = None


class _Status(msgspec.Struct):
    service: str
    version: str
    state: str
    paused: bool
    stages: list[_Stage]


log = logging.getLogger("mqworker.http")

_decoder = msgspec.json.Decoder(_Status)


class PeerStage(msgspec.Struct, frozen=True):
    """One stage of a peer."""

    name: str
    state: str
    why: dict[str, str]
    rate: float
    backlog: int | None


class Peer(msgspec.Struct, frozen=True):
    """What is known of a peer; `problem` says why it is not reached."""

    url: str
    reached: bool | None = None  # None: it has not been asked yet
    problem: str = ""
    as_of: float | None = None  # wall clock, of the answer or of the failure
    service: str = ""
    version: str = ""
    state: str = ""
    paused: bool = False
    stages: tuple[PeerStage, ...] = ()
    more: int = 0  # stages that are left out


class Peers:
    """See the module head. `read_token` is what peers get, and `stopping` the end of the server."""

    def __init__(self, urls: Sequence[str], read_token: str, stopping: threading.Event) -> None:
        self._token = read_token
        self._stopping = stopping
        self._known = {url: Peer(url) for url in urls}
        self._wanted = 0.0  # CLOCK_MONOTONIC, of the last request
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def known(self) -> list[Peer]:
        """Return what is known, and have it kept up to date for a while; never waits."""
        with self._lock:
            self._wanted = time.monotonic()
            if self._known and self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._run, name="peers", daemon=True)
                self._thread.start()
        return list(self._known.values())

    def _run(self) -> None:
        with ThreadPoolExecutor(AT_ONCE, "peer") as pool:
            while self._goes_on():
                for peer in pool.map(lambda url: ask(url, self._token), self._known):
                    self._known[peer.url] = peer
                self._stopping.wait(EVERY)

    def _goes_on(self) -> bool:
        with self._lock:
            looked_at = time.monotonic() - self._wanted < LOOKING and not self._stopping.is_set()
            if not looked_at:
                self._thread = None  # under the lock: the next request begins another one
        return looked_at


def ask(url: str, token: str) -> Peer:
    """Return what a peer reports about itself."""
    try:
        return _peer(url, _decoder.decode(_status(url, token)))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        problem = "what answers there is no mqworker service, or a much older one"
    except _Refused as error:
        problem = str(error)
    except (TimeoutError, ssl.SSLError) as error:
        problem = f"no answer within {PATIENCE:g} s" if isinstance(error, TimeoutError) else "TLS: it is not trusted"
    except (OSError, http.client.HTTPException, ValueError) as error:
        problem = f"it cannot be reached: {getattr(error, 'strerror', None) or type(error).__name__}"
    except Exception:
        log.exception("a peer could not be asked", extra={"event": "http_failed"})
        problem = "an error inside mqworker; the log of the service has the details"
    return Peer(url, reached=False, problem=problem, as_of=time.time())


class _Refused(Exception):  # noqa: N818 - it never leaves this module
    """The peer has answered, with something else than its status."""


def _status(url: str, token: str) -> bytes:
    """Return the body of a peer's status, which came whole within the time and the size."""
    end = time.monotonic() + PATIENCE
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port or (443 if secure else 80), timeout=PATIENCE)
    headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}{API}/status", headers=headers)
        answering = connection.sock
        with _ending(answering, end):
            answer = connection.getresponse()
            if answer.status != 200:
                raise _Refused(_refusal(answer.status))
            data = answer.read(LARGEST + 1)
    finally:
        connection.close()
    if len(data) > LARGEST:
        raise _Refused("its answer is too large")
    if time.monotonic() > end:
        raise TimeoutError
    return data


@contextlib.contextmanager
def _ending(answering: socket.socket, end: float) -> Any:
    """Cut the connection at the end: a peer that sends byte by byte never lets a read time out."""
    timer = threading.Timer(max(0.0, end - time.monotonic()), _shut, (answering,))
    timer.daemon = True
    timer.start()
    try:
        yield
    except (http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= end:
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()


def _shut(answering: socket.socket) -> None:
    with contextlib.suppress(OSError):
        answering.shutdown(socket.SHUT_RDWR)


def _refusal(status: int) -> str:
    match status:
        case 401 | 403:
            return "it wants another token: control.read_token has to be the same there"
        case 421:
            return "it does not know this name of its own: set control.hosts there"
        case 301 | 302 | 303 | 307 | 308:
            return "it leads elsewhere, which is not followed: give the address itself"
    return f"it answers {status}"


def _peer(url: str, status: _Status) -> Peer:
    stages = tuple(
        PeerStage(
            each.name[:TEXT],
            each.state[:TEXT],
            {"code": each.why.code[:TEXT], "level": each.why.level[:TEXT], "sentence": each.why.sentence[:TEXT]},
            each.actual.rate if each.actual is not None else 0.0,
            each.actual.backlog if each.actual is not None else None,
        )
        for each in status.stages[:STAGES]
    )
    names = {key: getattr(status, key)[:TEXT] for key in ("service", "version", "state")}
    more = len(status.stages) - len(stages)
    return Peer(url, reached=True, as_of=time.time(), paused=status.paused, stages=stages, more=more, **names)
