"""Logs (all, or some) and status events, as a tail or as an endless stream of server-sent events.

Runs in the server's threads.

A stream occupies its thread, so there may be only few (places.py). It ends when the client disconnects, when it
stops reading (serving.py closes such channels), when the server stops, and with the login by a cookie; a browser's also
after ten minutes, because it may have logged out.
"""

import math
import random
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from flask import Response, request

from mqworker.control.views import Snapshot
from mqworker.http.access import refuse_foreign
from mqworker.http.health import status_document
from mqworker.http.log_filter import FILTERS, LogFilter, asked_filter
from mqworker.http.logins import CALLER
from mqworker.http.routing import API, LOOK, Api, Route, client_gone, number

SSE = "text/event-stream"
UNBUFFERED = {"X-Accel-Buffering": "no"}  # nginx, and others that follow it, hold a stream back unless told not to
PAUSE = 0.1  # seconds between batches: a burst of events becomes few large writes
KEEP_ALIVE = 5.0  # seconds between comments on a quiet stream
TAIL = 100
LIFE = 600.0  # seconds of a stream, and up to a tenth more: proxies keep dead ones open
CHECKED = 1.0  # seconds between two checks of the login


def tail(api: Api) -> Any:
    """Return the last lines, or a stream that starts with them."""
    lines = int(number("lines", TAIL, 0, 2000))
    follow = request.args.get("follow", "") not in ("", "0") or SSE in request.headers.get("Accept", "")
    wanted = asked_filter()
    recent = api.control.logs.recent(0, 0.0)
    chosen = [item for item in recent if wanted.fits(item[1])]
    kept = chosen[-lines:] if lines else []
    if not follow:
        return {"lines": [msgspec.Raw(line.encode()) for _number, line in kept]}
    last = kept[0][0] - 1 if kept else recent[-1][0] if recent else 0
    resumed = request.headers.get("Last-Event-ID", "")
    return _stream(api, "logs", _log_lines(api, int(resumed) if resumed.isdecimal() else last, wanted))


def events(api: Api) -> Any:
    """Stream the status whenever it changes."""
    return _stream(api, "events", _statuses(api))


def _log_lines(api: Api, last: int, wanted: LogFilter) -> Iterator[bytes]:
    while True:
        batch = api.control.logs.recent(last, LOOK)
        if batch and batch[0][0] > last + 1:
            yield _event("gap", 0, msgspec.json.encode({"lost": batch[0][0] - last - 1}))
        yield b"".join(_event("log", number, line.encode()) for number, line in batch if wanted.fits(line))
        last = batch[-1][0] if batch else last


def _statuses(api: Api) -> Iterator[bytes]:
    last = None
    while True:
        snapshot = api.control.wait(lambda new, old=last: _timeless(new) != old, LOOK)  # type: ignore[misc]  # mypy cannot infer `old`
        if snapshot is not None:
            last = _timeless(snapshot)
        yield b"" if snapshot is None else _event("status", 0, msgspec.json.encode(status_document(api, snapshot)))


def _timeless(snapshot: Snapshot) -> Snapshot:
    return msgspec.structs.replace(snapshot, time=0.0)


def _event(kind: str, number: int, data: bytes) -> bytes:
    head = f"id: {number}\n" if number else ""
    return f"{head}event: {kind}\ndata: ".encode() + data + b"\n\n"


def _stream(api: Api, kind: str, batches: Iterator[bytes]) -> Response:
    refuse_foreign(request.environ)  # each takes one of few places, also from a page that may not read it
    if request.method == "HEAD":
        return Response(content_type=SSE)
    gone, goes_on, began = client_gone(), api.logins.goes_on(request.environ), time.monotonic()
    caller = request.environ.get(CALLER)
    until = began + lifetime() if caller is not None and caller.session is not None else math.inf

    def living() -> Iterator[bytes]:
        last_sent = checked = began
        yield b": mqworker\n\n"
        for batch in batches:
            now = time.monotonic()
            if api.stopping.is_set() or gone() or now > until:
                return
            if now - checked > CHECKED:
                checked = now
                if not goes_on():
                    return
            if batch or now - last_sent > KEEP_ALIVE:
                last_sent = now
                yield batch or b":\n\n"
            api.stopping.wait(PAUSE)

    return hold_stream(api, kind, living())


def lifetime() -> float:
    """Return for how many seconds a stream may live, so that not all end at once."""
    return LIFE * (1 + random.random() / 10)  # noqa: S311 - no secret


def hold_stream(api: Api, kind: str, body: Iterator[bytes]) -> Response:
    """Answer with a stream, which holds a place until it ends; raises a 503 Problem when there is none."""
    places = api.places
    places.take_stream(kind)
    response = Response(body, headers=UNBUFFERED, content_type=SSE)
    response.call_on_close(lambda: places.give_stream(kind))
    return response


ROUTES = [
    Route("GET", f"{API}/logs", tail, "The last log lines, or a stream of them", ("lines", "follow", *FILTERS)),
    Route("GET", f"{API}/events", events, "A stream of the status, whenever it changes", stream=True),
]
