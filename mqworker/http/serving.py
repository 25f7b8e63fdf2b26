"""One waitress server on a listening socket, with what waitress lacks.

Runs in one thread (all input and output of the listener) and in waitress's task threads (the app). Added here: health
has a separate task thread, so that it never waits behind other requests; what sends has a few of its own, started when
they are needed, and queues for them, so that nothing else waits behind a broker that does not confirm; the size limit
of a body depends on its path and is enforced while it is received; a request that does not arrive completely within
30 s, or an answer that is not read, ends its connection; idle connections are closed sooner when there are too many; a
client whose body is refused can read why; stopping takes bounded time.
"""

import contextlib
import copy
import logging
import math
import re
import resource
import socket
import threading
import time
from typing import Any
from urllib.parse import parse_qsl

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer, UnixWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher

from mqworker.http.access import HEADERS, Wsgi
from mqworker.http.places import Places
from mqworker.http.problems import CONTENT_TYPE, Problem
from mqworker.http.routing import API, SMALL_BODY

CONNECTIONS = 1000
ACCEPTED = 64  # connections in one iteration of the loop
IDLE = 30.0  # seconds that a connection may be silent
IDLE_CROWDED = 1.0  # the same while new connections have to wait
ARRIVAL = 30.0  # seconds for a request to arrive whole
UNREAD = 30.0  # seconds that a client may leave its answer unread
LINGER = 10.0  # seconds in which the rest of a refused body is thrown away
HEALTH = frozenset(f"{at}/{name}" for at in ("", API) for name in ("livez", "readyz"))
SENDS = re.compile(rf"{API}/stages/[^/]+/messages")
MESSAGES = "/messages"  # the end of the paths that take large bodies
LINES_BODY = 4 << 20  # bytes of a body whose lines are messages, also where each of them must be smaller

log = logging.getLogger("mqworker.http")


class _Parser(HTTPRequestParser):  # type: ignore[misc]  # waitress has no types
    """A request that is being received; its path decides how large a body it may have."""

    adj: Any

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        if not self.path.endswith(MESSAGES):
            self.adj = self.adj.small
        elif "each=" in self.query:
            self.adj = self.adj.lines


class _ErrorTask(ErrorTask):  # type: ignore[misc]  # as above
    """Answers a request that waitress refuses."""

    def execute(self) -> None:
        error = self.request.error
        most = self.request.adj.max_request_body_size - 1
        message = f"the body is larger than {most} bytes" if error.code == 413 else error.body
        if error.code == 413 and self.request.path.endswith(MESSAGES):
            message += "; max_body of the stage says how large a message may be"
        data = Problem(error.code, message).document()
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(data))), *HEADERS]
        self.set_close_on_finish()
        self.channel.refused = True
        self.content_length = len(data)
        self.write(data)


class _Channel(HTTPChannel):  # type: ignore[misc]  # as above
    """One connection."""

    parser_class = _Parser
    error_task_class = _ErrorTask
    seen: tuple[Any, float] = (None, 0.0)  # what it was last seen waiting for, and since when
    will_close: bool  # waitress's: the next write closes it
    refused = False  # a request was refused, perhaps before all of it had come
    lingering = False  # the answer is sent; what still comes is thrown away

    def handle_close(self) -> None:
        """Close it; after a refusal only our side, until the client has closed its own.

        Closed with unread input, the connection is reset: the client, which is still sending, never sees the answer
        (a proxy makes a 502 of it).
        """
        if self.refused and self.will_close and self.connected:
            self.refused, self.will_close, self.lingering = False, False, True
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
                return
        super().handle_close()

    def received(self, data: bytes) -> bool:
        return False if self.lingering else bool(super().received(data))

    def overdue(self, now: float, idle: float) -> bool:
        """Return whether this connection should be closed; called about once a second."""
        what: tuple[str, object]
        if self.lingering:
            what, limit = ("lingering", None), min(LINGER, idle)
        elif self.total_outbufs_len:
            what, limit = ("unread", self.last_activity), UNREAD
        elif self.requests:
            what, limit = ("being answered", None), math.inf
        elif self.request is not None:  # kept, not its id: a later request may be at the same address
            what, limit = ("arriving", self.request), ARRIVAL
        else:
            what, limit = ("idle", self.last_activity), idle
        if self.seen[0] != what:
            self.seen = (what, now)
        return now - self.seen[1] > limit


class _Lane(ThreadedTaskDispatcher):  # type: ignore[misc]  # as above
    """Task threads that are started when they are needed, up to `most`."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._starting = threading.Lock()

    def add_task(self, task: Any) -> None:
        with self._starting:
            threads = len(self.threads)
            if len(self.queue) >= threads - self.active_count and threads < self._most:
                self.set_thread_count(threads + 1)
        super().add_task(task)


class _Rules:
    """What both kinds of server add to waitress's."""

    channel_class = _Channel
    health: ThreadedTaskDispatcher
    sends: _Lane
    lines: _Lane

    def add_task(self: Any, channel: Any) -> None:
        """Queue a request for a task thread; called by the input thread and by task threads."""
        request = channel.requests[0]
        path = getattr(request, "path", "")  # one whose head cannot be parsed has none
        lane = self.health if path in HEALTH else self.task_dispatcher
        if SENDS.fullmatch(path) and request.command == "POST":
            given = {name for name, _ in parse_qsl(request.query, keep_blank_values=True)}
            if "wait" not in given:
                lane = self.lines if "each" in given else self.sends
        lane.add_task(channel)

    def handle_accept(self: Any) -> None:
        """Accept all waiting connections, up to a bound: each iteration of the loop examines every connection."""
        for _ in range(ACCEPTED):
            before = len(self._map)
            if before >= self.adj.connection_limit:
                return
            super().handle_accept()  # type: ignore[misc]  # a mixin: waitress's server comes after it
            if len(self._map) == before:
                return

    def maintenance(self: Any, now: float) -> None:
        """Close overdue connections; called about once a second by the input thread."""
        idle = IDLE_CROWDED if self.in_connection_overflow else IDLE
        for channel in list(self.active_channels.values()):
            if channel.overdue(now, idle):
                channel.handle_close()


class _TcpServer(_Rules, TcpWSGIServer):  # type: ignore[misc]  # as above
    pass


class _UnixServer(_Rules, UnixWSGIServer):  # type: ignore[misc]  # as above
    pass


class Listener:
    """A server and its thread; `app` answers the requests."""

    def __init__(self, app: Wsgi, listening: socket.socket, places: Places, spare: int, max_body: int) -> None:
        """`spare` threads are left for other calls when all places are taken."""
        self._map: dict[int, Any] = {}
        adjustments = _adjustments(max_body)
        kind = _UnixServer if listening.family == socket.AF_UNIX else _TcpServer
        dispatcher, health = ThreadedTaskDispatcher(), ThreadedTaskDispatcher()
        sends, lines = _Lane(places.sends.threads), _Lane(places.lines.threads)
        self._dispatchers = (dispatcher, health, sends, lines)
        self._server = kind(
            app,
            self._map,
            _sock=listening,
            dispatcher=dispatcher,
            adj=adjustments,
            bind_socket=False,
            sockinfo=(listening.family, listening.type, listening.proto, listening.getsockname()),
        )
        self._server.health, self._server.sends, self._server.lines = health, sends, lines
        dispatcher.set_thread_count(places.threads + spare)
        health.set_thread_count(1)
        self._over = threading.Event()
        self._end = 0.0  # when stop gives up
        self._thread = threading.Thread(target=self._run, name=f"http-{listening.family.name}", daemon=True)

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def stop(self, deadline: float) -> None:
        """Begin to stop: accept nothing new, finish the requests in progress within `deadline` seconds."""
        if self._over.is_set():
            return
        self._end = time.monotonic() + deadline
        self._over.set()
        self._server.pull_trigger()

    def join(self, deadline: float) -> None:
        """Wait at most `deadline` seconds for the thread to end."""
        self._thread.join(deadline)
        if not self._thread.is_alive():  # nothing will wake it any more
            _quietly(self._server.trigger.close)

    def _run(self) -> None:
        while not self._over.is_set():
            self._turn(1.0)
        self._server.accepting = False
        self._server.del_channel()
        self._server.socket.close()
        while self._busy() and time.monotonic() < self._end:
            self._turn(0.05)
        for dispatcher in self._dispatchers:  # not sooner: they also answer what has queued for them
            dispatcher.set_thread_count(0)
        for channel in list(self._server.active_channels.values()):
            _quietly(channel.handle_close)

    def _busy(self) -> bool:
        return any(channel.requests or channel.total_outbufs_len for channel in self._server.active_channels.values())

    def _turn(self, timeout: float) -> None:
        try:
            wasyncore.loop(timeout, use_poll=True, map=self._map, count=1)
        except Exception:
            log.exception("an error in the control server's loop", extra={"event": "http_failed"})
            self._over.wait(0.1)


def _quietly(close: Any) -> None:
    try:
        close()
    except OSError as error:
        log.debug("closing: %s", error)


def _adjustments(max_body: int) -> Any:
    files, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    adjustments = Adjustments(
        ident=None,
        connection_limit=min(CONNECTIONS, files // 2),
        cleanup_interval=1,
        max_request_header_size=32_768,
        max_request_body_size=max(max_body, SMALL_BODY) + 1,  # waitress refuses a body of exactly this size
        outbuf_high_watermark=1 << 20,
        channel_request_lookahead=1,  # so that a client's disconnect is noticed while it is being answered
        log_socket_errors=False,
        clear_untrusted_proxy_headers=False,  # the audit notes X-Forwarded-For; nothing here believes it
    )
    adjustments.small, adjustments.lines = copy.copy(adjustments), copy.copy(adjustments)
    adjustments.small.max_request_body_size = SMALL_BODY + 1
    adjustments.lines.max_request_body_size = max(max_body, LINES_BODY) + 1
    return adjustments
