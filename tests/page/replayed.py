"""The page's files beside a Feed that a test writes: events as a service sends them, at the pace that the test wants.

Runs in a thread of the test process. For what no real service shows at will: 64 Consumers, hostile names, a frozen
connection. `test_pure.py` holds these events to the records of http/feed_events.py, so they cannot rot.
"""

import contextlib
import http.server
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

from mqworker.http.ui_files import HEADERS, ui_files

BOOT = "6f2a91c0"
Event = tuple[str, Any]


def hello(n: int, role: str = "control", boot: str = BOOT) -> Event:
    """How a stream begins."""
    names = {"boot": boot, "service": "plant-7", "version": "1.2.3", "n": n, "now": time.time(), "role": role}
    return "hello", names | {"hidden_topics": []}


def summary(name: str, **changes: Any) -> dict[str, Any]:
    """A stage in the overview."""
    why = {
        "code": "working",
        "level": "ok",
        "sentence": "Listening, 4 of 4 Consumers, 123/s, done in 40 s",
        "since": None,
    }
    facts = {
        "state": "running",
        "why": why,
        "consumers": [4, 4],
        "auto": False,
        "rate": 123.4,
        "arrival": 120.0,
        "in": 121.0,
    }
    facts |= {"unfinished": 4932, "seconds_left": 40.0, "growing": False, "held_back_by": "consumers", "backlog": 4920}
    facts |= {"dead_backlog": 12, "dead": 14, "running": True, "listening": True}
    facts |= {"generation": 6, "applied": 7, "change": None}
    return {"name": name} | facts | changes


def overview(n: int, *stages: dict[str, Any], **changes: Any) -> Event:
    """The whole service in one second."""
    service = {"name": "plant-7", "state": "running", "paused": False, "revision": 7, "applied": 7, "started": 1.0}
    service |= {"uptime": 7200.0 + n, "log_level": "info", "stale": None}
    names = [each["name"] for each in stages]
    line = [
        {"name": name, "level": level, "feeds": names[level + 1 : level + 2], "here": True}
        for level, name in enumerate(names)
    ]
    rest = {"n": n, "service": service, "stages": list(stages), "line": line, "bottlenecks": names[:1]}
    return "overview", rest | {"sources": [], "shared": []} | changes


def peer(**changes: Any) -> dict[str, Any]:
    """Another service, with one stage."""
    why = {"code": "working", "level": "ok", "sentence": "Listening, 2 of 2 Consumers, 12/s"}
    stages = [{"name": "results", "state": "running", "why": why, "rate": 12.0, "backlog": 3}]
    known = {"url": "http://plant-8:5002", "reached": True, "problem": "", "as_of": 1.0, "service": "plant-8"}
    return known | {"version": "1.2.3", "state": "running", "paused": False, "stages": stages, "more": 0} | changes


def stage(n: int, name: str, consumers: int = 4, **changes: Any) -> Event:
    """One stage in one second, with what its Consumers do."""
    every = [
        {
            "slot": slot,
            "pid": 4000 + slot,
            "state": "busy" if slot % 4 else "idle",
            "generation": 6,
            "done": 1000 * slot + 31 * n,
            "message_id": f"order-{slot}-{n // 7}" if slot % 4 else None,
            "message_seconds": n % 7 + 0.3 if slot % 4 else None,
            "held_by": None,
            "messages": [],
            "rss": 52_000_000 + 10_000 * ((n * slot) % 97),
            "cpu": 0.8 * n + slot,
            "exit": "ended after 10,000 messages, as asked" if slot == 1 else "",
            "exit_at": 0.0,
            "leaving": False,
            "seq": 31 * n + slot if slot % 4 else 0,
        }
        for slot in range(consumers)
    ]
    actual = {"rate": 123.4, "backlog": 4920, "p95": 0.031, "held": 8, "dispatched": 4, "consumers": every}
    desired = {"running": True, "listening": True, "consumers": consumers, "auto": False, "generation": 6}
    points = {"from": n - 5, "series": series(range(n - 5, n + 1))}
    detail = {"n": n, "name": name, "state": "running", "applied": 7, "unfinished": 4932, "seconds_left": 40.0}
    detail |= {"growing": False, "change": None, "desired": desired, "actual": actual, "points": points, "faults": []}
    return "stage", detail | changes


def point(n: int) -> dict[str, float]:
    """The series of one second: a calm wave."""
    wave = (n * 37 % 41) / 41
    rates = {
        "in": 110 + 30 * wave,
        "result": 108 + 20 * (n * 11 % 29) / 29,
        "dropped": 3 * wave,
        "retried": float(n % 60 < 4),
    }
    times = {"p50": 0.012 + 0.002 * wave, "p95": 0.031 + 0.006 * wave, "p99": 0.06 + 0.05 * wave}
    depths = {
        "backlog": 4000 + 2 * n + 40 * wave,
        "unfinished": 4040 + 2 * n,
        "dead": float(n % 300 == 7),
        "busy": 0.7 + 0.2 * wave,
    }
    return rates | times | depths


def history(n: int, name: str, seconds: int = 900, hole: range = range(0)) -> Event:
    """What was before second `n`; nobody has seen what is in the hole."""
    since = n - seconds + 1
    return "history", {"stage": name, "every": 1, "from": since, "series": series(range(since, n + 1), hole)}


def series(seconds: range, hole: range = range(0)) -> dict[str, list[float | None]]:
    """All series of these seconds."""
    points = [point(each) for each in seconds]
    return {
        key: [None if second in hole else each[key] for second, each in zip(seconds, points, strict=True)]
        for key in point(0)
    }


def written(n: int, *events: Event) -> bytes:
    """These events on the wire, and the tick that ends the second."""
    lines = [f"event: {kind}\ndata: {json.dumps(data)}\n\n" for kind, data in events]
    tick = f'id: {BOOT}.{n}.0\nevent: tick\ndata: {{"n": {n}, "now": {time.time()}}}\n\n'
    return "".join([*lines, tick]).encode()


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


class Replayed:
    """See the module head. `events(n)` are those of second `n`; `answers` are bodies by "METHOD path"."""

    def __init__(
        self, events: Callable[[int], list[Event]], answers: dict[str, Any] | None = None, first: int = 2000
    ) -> None:
        self.events = events
        self.answers = {"GET session": {"role": "control", "instance": BOOT}} | (answers or {})
        self.asked: list[tuple[str, bytes]] = []
        self.first = first
        self.pause = 1.0
        self.full = False  # no place for a stream is left
        self.streaming = threading.Event()
        self.streaming.set()
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                owner.answer(self)

        for method in ("POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.do_GET)
        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/ui/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.streaming.clear()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Answer one request of the page."""
        path, _, query = request.path.partition("?")
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if path.startswith("/ui/"):
            found = ui_files().get(path.removeprefix("/ui/") or "index.html")
            data, kind, status = (found.data, found.kind, 200) if found else (b"", "text/plain", 404)
            return self._send(request, status, kind, data, HEADERS)
        name = path.removeprefix("/api/v1/")
        if name == "feed":
            return self._feed(request, "once=1" in query)
        asked = f"{request.command} {name}"
        self.asked.append((asked, body))
        status, told = 200, self.answers.get(asked)
        if told is None:
            status, told = 404, {"status": 404, "detail": "there is no such path"}
        return self._send(request, status, "application/json", json.dumps(told).encode(), {})

    def _feed(self, request: http.server.BaseHTTPRequestHandler, once: bool) -> None:
        if once:
            n = self.first
            return self._send(request, 200, "text/event-stream", written(n, hello(n), *self.events(n)), {})
        if self.full:
            return self._send(request, 503, "application/problem+json", b"{}", {"Retry-After": "1"})
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.send_header("Connection", "close")
        request.end_headers()
        with contextlib.suppress(OSError):
            for piece in self._seconds():
                request.wfile.write(piece)
        request.close_connection = True
        return None

    def _seconds(self) -> Iterator[bytes]:
        n = self.first
        yield written(n, hello(n), *self.events(n))
        while self.streaming.is_set():
            time.sleep(self.pause)
            n += 1
            yield written(n, *self.events(n))

    @staticmethod
    def _send(request: Any, status: int, kind: str, data: bytes, headers: dict[str, str]) -> None:
        request.send_response(status)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(data))} | headers).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)
