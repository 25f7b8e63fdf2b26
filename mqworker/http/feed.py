"""The Feed: everything that a page shows, in one stream of server-sent events, at 1 Hz.

Runs in the server's threads: a stream occupies one and a place (places.py). What happens in a second is put together
once, by the first stream that wants it, and shared by all of them, so that many tabs cost little more than one. Each
second ends with a `tick`, whose id says how much the client has received: a client that comes back with it, as `after`
or as Last-Event-ID, is sent what it has missed. With `once=1` the same events come as one answer that ends, for whoever
asks now and then instead of listening; it takes no place.

`hello` comes first, then the history of each stage that was asked for, then each second what the topics tell:

    overview    the service, all stages with why nothing is happening, sources, shared objects
    stage:NAME  a stage, what it did in the newest seconds, and its groups of failures
    logs        lines that fit `level`, `stage`, `text`, `message` and `event`
    operations, audit, peers   what has changed

It fails as any request does. A stream ends with its client, with the server or with the login, and after ten minutes;
the client receives `bye`.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import msgspec
from flask import Response, request

from mqworker import __version__
from mqworker.control.history import COARSE, COARSE_SIZE, FINE, FINE_SIZE, LATE, SERIES
from mqworker.http import feed_topics as topics_of
from mqworker.http.access import refuse_foreign
from mqworker.http.feed_events import FeedBye, FeedHello, FeedTick
from mqworker.http.feed_logs import new_lines
from mqworker.http.feed_topics import ALWAYS
from mqworker.http.log_filter import FILTERS, LogFilter, asked_filter
from mqworker.http.problems import Problem
from mqworker.http.routing import API, Api, Route, client_gone, number
from mqworker.http.streams import SSE, UNBUFFERED, hold_stream, lifetime

SPARKLINE = 60  # seconds of the overview's history
PADDING = 2048  # bytes before the first event: some proxies hold back what is less
OVERVIEW, LOGS, STAGE = "overview", "logs", "stage:"
CHANGING: dict[str, Callable[[Api, int, int], Any]] = {
    "operations": topics_of.operations,
    "audit": topics_of.audit,
    "peers": topics_of.peers,
}
MOST = 64  # topics in one stream


class _Asked(NamedTuple):
    """What a client wants."""

    topics: tuple[str, ...]
    since: int  # the last second that it has; ALWAYS: none
    line: int  # the last log line that it has; 0: none
    filter: LogFilter


def feed(api: Api) -> Any:
    """Stream what the topics report, each second."""
    refuse_foreign(request.environ)  # each takes one of few places, also from a page that may not read it
    asked = _asked(api)
    hello = _hello(api)
    if request.method == "HEAD":
        return Response(content_type=SSE)
    if request.args.get("once", "") not in ("", "0"):
        n = _second(api)
        second, _line = _events(api, asked, n, asked.since, asked.line)
        return Response(hello + _histories(api, asked, asked.since) + second, headers=UNBUFFERED, content_type=SSE)
    padding = b":" + b" " * PADDING + b"\n\n"
    goes_on = api.logins.goes_on(request.environ)
    return hold_stream(api, "feed", _stream(api, asked, padding + hello, client_gone(), goes_on))


def _asked(api: Api) -> _Asked:
    """Return what is asked for; raises a Problem."""
    topics = tuple(dict.fromkeys(filter(None, request.args.get("topics", OVERVIEW).split(","))))
    if len(topics) > MOST:
        raise _wrong("topics", f"are {len(topics)}, more than {MOST}")
    for topic in topics:
        if topic.startswith(STAGE):
            api.stage(topic.removeprefix(STAGE))
        elif topic not in (OVERVIEW, LOGS, *CHANGING):
            known = ", ".join((OVERVIEW, f"{STAGE}NAME", LOGS, *CHANGING))
            raise _wrong("topics", f"has {topic!r}; known: {known}")
    since, line = _after(api)
    return _Asked(topics, since, line, asked_filter())


def _after(api: Api) -> tuple[int, int]:
    """Return the second and the log line that a client has, if they are of this life of the Service."""
    after = request.args.get("after") or request.headers.get("Last-Event-ID", "")
    if not after:
        return ALWAYS, 0
    boot, *numbers = after.split(".")
    if len(numbers) != 2 or not all(number.isdecimal() and len(number) < 16 for number in numbers):
        raise _wrong("after", "must be the id of an event: BOOT.SECOND.LINE")
    if boot != api.control.history.boot or int(numbers[0]) > _second(api):
        return ALWAYS, 0
    return int(numbers[0]) or ALWAYS, int(numbers[1])  # 0: whoever asks for other topics has nothing of them


def _wrong(name: str, reason: str) -> Problem:
    return Problem(422, f"{name} {reason}", fields=[(name, reason)])


def _second(api: Api) -> int:
    return int(api.control.history.second(time.monotonic()))


def _hello(api: Api) -> bytes:
    caller = request.environ.get("mqworker.caller")
    hello = FeedHello(
        boot=api.control.history.boot,
        n=_second(api),
        now=time.time(),
        service=api.snapshot().service,
        version=__version__,
        role=getattr(caller, "role", "control"),
        hidden_topics=[],
    )
    return _encoded("hello", hello)


def _stream(
    api: Api, asked: _Asked, head: bytes, gone: Callable[[], bool], goes_on: Callable[[], bool]
) -> Iterator[bytes]:
    """Yield the events of each second until the client, the server or the login (`goes_on`) ends."""
    history, until = api.control.history, time.monotonic() + lifetime()
    since, line = asked.since, asked.line
    yield head + _histories(api, asked, since)
    while True:
        n = _second(api)
        # A reader that was slow for longer than `points` reach back is sent the history in between.
        missed = _histories(api, asked, since) if ALWAYS != since < n - 1 else b""
        second, line = _events(api, asked, n, since, line)
        yield missed + second
        since = n
        api.stopping.wait(max(0.01, n + 1 - history.second(time.monotonic())))
        if gone():
            return
        if api.stopping.is_set() or time.monotonic() > until or not goes_on():
            yield _encoded("bye", FeedBye("draining" if api.stopping.is_set() else "renew"))
            return


def _histories(api: Api, asked: _Asked, since: int) -> bytes:
    """Return the history of the stages that is not yet known to whoever has everything up to this second."""
    events = []
    for topic in asked.topics:
        if topic == OVERVIEW:
            for name in api.snapshot().stages:
                first = max(since - LATE, api.control.history.end(name) - SPARKLINE)
                events.append(topics_of.history(api, name, ("in",), first))
        elif topic.startswith(STAGE):
            name = topic.removeprefix(STAGE)
            first = max(since - LATE, api.control.history.end(name) - FINE_SIZE)
            events.append(topics_of.history(api, name, SERIES, first))
    return b"".join(_encoded("history", event) for event in events if any(event.series.values()))


def _events(api: Api, asked: _Asked, n: int, since: int, line: int) -> tuple[bytes, int]:
    """Return the events of second `n` for a client that has everything up to `since`; and the last log line."""
    parts = []
    for topic in asked.topics:
        if topic == LOGS:
            lines, line = new_lines(api.control.logs.recent(line, 0.0), line, asked.filter)
            parts.append(_encoded(LOGS, lines))
        else:
            parts.append(api.feed.event(n, (topic, since), partial(_topic, api, topic, n, since)))
    parts.append(_encoded("tick", FeedTick(n, time.time()), f"{api.control.history.boot}.{n}.{line}"))
    return b"".join(parts), line


def _topic(api: Api, topic: str, n: int, since: int) -> bytes:
    """Return the event of a topic; nothing, where nothing has changed."""
    if topic == OVERVIEW:
        return _encoded(topic, topics_of.overview(api, n))
    if topic.startswith(STAGE):
        return _encoded("stage", topics_of.stage(api, topic.removeprefix(STAGE), n, since))
    event = CHANGING[topic](api, n, since)
    return b"" if event is None else _encoded(topic, event)


def _encoded(kind: str, event: Any, number: str = "") -> bytes:
    head = f"id: {number}\n" if number else ""
    return f"{head}event: {kind}\ndata: ".encode() + msgspec.json.encode(event) + b"\n\n"


def past(api: Api, stage: str) -> Any:
    """Return what a stage did lately, in steps of 1 s or 15 s."""
    history, name = api.control.history, api.stage(stage).name
    seconds = int(number("seconds", FINE * FINE_SIZE, 1, COARSE * COARSE_SIZE))
    every = FINE if seconds <= FINE * FINE_SIZE else COARSE
    names = tuple(filter(None, request.args.get("series", "").split(","))) or SERIES
    if unknown := [each for each in names if each not in SERIES]:
        raise _wrong("series", f"has {unknown[0]!r}; known: {', '.join(SERIES)}")
    end = history.end(name, every)
    first, series = history.read(name, names, max(0, end - seconds // every), every)
    until = time.time() - history.second(time.monotonic()) + (first + len(series[names[0]])) * every
    return {"boot": history.boot, "every": every, "from": first, "until": round(until, 3), "series": series}


ROUTES = [
    Route(
        "GET",
        f"{API}/stages/<stage>/history",
        past,
        "What a stage did in the last 15 minutes, or 6 hours",
        ("seconds", "series"),
    ),
    Route(
        "GET",
        f"{API}/feed",
        feed,
        "What a page shows, as a stream of events each second",
        ("topics", "after", "once", *FILTERS),
        headers=("Last-Event-ID",),
        stream=True,
    ),
]
