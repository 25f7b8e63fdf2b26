"""Logs and events: tails, streams, their limit, and their end."""

import asyncio
import http.client
import json
import logging
import threading
import time
from urllib.parse import quote

import pytest

from mqworker.control.desired_state import SetConsumers
from mqworker.http.places import CALLS, SLOW, TCP_STREAMS, UNIX_STREAMS
from mqworker.ipc.records import LogEvent
from tests.support.waiting import AMPLE, wait_for


def log(service, *words: str) -> None:
    for word in words:
        service.writer.put(LogEvent(time.time(), logging.INFO, "test", word, "service", 1))


class Stream:
    """A client that follows a stream: event blocks as they arrive."""

    def __init__(self, connection: http.client.HTTPConnection, path: str, **headers: str) -> None:
        self.connection = connection
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        self.response = connection.getresponse()

    def next(self, kind: str) -> tuple[str, dict]:
        """Return the next event of a kind: its id and data."""
        number = ""
        wanted = False
        while line := self.response.readline():
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "id":
                number = value
            elif field == "event":
                wanted = value == kind
            elif field == "data" and wanted:
                return number, json.loads(value)
        raise AssertionError("the stream ended")

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def test_tail(service):
    """The last lines are returned as logged, oldest first, with control characters escaped."""
    log(service, *(f"line {number}" for number in range(5)), "evil\n\x1b[2J")
    lines = service.ask("GET", "/api/v1/logs?lines=3").json["lines"]
    assert [line["msg"] for line in lines] == ["line 3", "line 4", "evil\n\x1b[2J"]
    assert b"\x1b" not in service.ask("GET", "/api/v1/logs").body
    assert len(service.ask("GET", "/api/v1/logs").json["lines"]) == 6
    assert service.ask("GET", "/api/v1/logs?lines=0").json["lines"] == []
    assert service.ask("GET", "/api/v1/logs?lines=2001").status == 422


@pytest.mark.parametrize(("path", "headers"), [("?follow=1", {}), ("", {"Accept": "text/event-stream"})])
def test_follow(service, path, headers):
    """A follower receives the tail and then every new line, and can resume where it stopped."""
    log(service, "one", "two")
    stream = Stream(service.connect(), f"/api/v1/logs{path}", **headers)
    assert stream.response.headers["Content-Type"].startswith("text/event-stream")
    assert [stream.next("log")[1]["msg"] for _ in range(2)] == ["one", "two"]
    log(service, "three")
    number, record = stream.next("log")
    assert (number, record["msg"]) == ("3", "three")
    stream.close()
    resumed = Stream(service.connect(), "/api/v1/logs?follow=1&lines=0", Last_Event_ID="1")
    assert resumed.next("log")[1]["msg"] == "two"
    resumed.close()


def test_lines_about_one_message(service):
    """`message` and `event` select what has these, whole and in any text, before lines are counted, also followed."""
    odd = 'a"b\\ü message_id": "1'
    for number, about in enumerate(["1", "11", odd, "1", None, "1"]):
        fields = {} if about is None else {"message_id": about}
        service.writer.put(LogEvent(1.0, 20, "test", f'{number} "message_id": "1"', "service", 1, "", fields))

    def told(query: str) -> list[str]:
        return [line["msg"][0] for line in service.ask("GET", f"/api/v1/logs?{query}").json["lines"]]

    assert told("message=1") == ["0", "3", "5"]
    assert told("message=1&lines=2") == ["3", "5"]
    assert told(f"message={quote(odd)}") == ["2"]
    assert told("message=") == list("012345")
    service.writer.put(LogEvent(1.0, 20, "other", '6 "event": "test"', "service", 1, "", {"message_id": "1"}))
    assert (told("message=1&event=other"), told("event=other"), told("event=")) == (["6"], ["6"], list("0123456"))
    assert told("message=1&event=test") == ["0", "3", "5"]
    service.writer.put(LogEvent(1.0, 30, "loud", "7 was Said", "service", 1, "alpha"))
    assert (told("level=warning"), told("stage=alpha&text=said"), told("stage=beta")) == (["7"], ["7"], [])
    assert service.ask("GET", "/api/v1/logs?level=loud").status == 422
    stream = Stream(service.connect(), "/api/v1/logs?follow=1&message=1&event=test&lines=1")
    assert stream.next("log")[1]["msg"][0] == "5"
    for about in ("2", "1"):
        service.writer.put(LogEvent(1.0, 20, "test", f"about {about}", "service", 1, "", {"message_id": about}))
    assert stream.next("log")[1]["msg"] == "about 1"
    stream.close()


def test_lines_that_are_gone(service):
    """A follower that asks for lines no longer kept is told how many it missed."""
    log(service, *map(str, range(2010)))
    stream = Stream(service.connect(), "/api/v1/logs?follow=1", Last_Event_ID="1")
    assert stream.next("gap")[1] == {"lost": 9}
    assert stream.next("log")[1]["msg"] == "10"
    stream.close()


def test_events(service):
    """A follower of events receives the current status, and again whenever something changes."""
    stream = Stream(service.connect_unix(), "/api/v1/events")
    assert stream.next("status")[1]["stages"][0]["desired"]["consumers"] == 2
    service.control.change(SetConsumers("alpha", 9))
    assert stream.next("status")[1]["stages"][0]["desired"]["consumers"] == 9
    stream.close()


def test_streams_and_calls_have_places_of_their_own(service, caplog):
    """With all streams of both listeners running, each further one is refused, and no call is; places come back."""
    api = service.server._answering.api
    paths = ("/api/v1/feed", "/api/v1/events", "/api/v1/logs?follow=1")
    streams = [Stream(service.connect(), paths[number % 3]) for number in range(TCP_STREAMS)]
    streams += [Stream(service.connect_unix(), paths[number % 3]) for number in range(UNIX_STREAMS)]
    for ask in (service.ask, service.ask_unix):
        for path in paths:
            refused = ask("GET", path)
            assert (refused.status, refused.headers["retry-after"]) == (503, "2")
        assert ask("GET", "/api/v1/feed?once=1&topics=overview,logs").status == 200
        assert ask("PUT", "/api/v1/stages/alpha/consumers?wait=5", {"count": 3}).status == 200
    assert (api.tcp.refused, api.unix.refused) == (3, 3)
    told = [record for record in caplog.records if getattr(record, "event", "") == "stream_refused"]
    assert len(told) == 2, "once a minute for each listener"
    metrics = service.ask("GET", "/metrics").body.decode()
    assert 'mqworker_streams{kind="logs"} 5.0' in metrics
    assert "mqworker_stream_refusals_total 6.0" in metrics
    for stream in streams:
        stream.close()
    wait_for(lambda: [api.tcp.free, api.unix.free] == [(CALLS, TCP_STREAMS), (CALLS, UNIX_STREAMS)], AMPLE, "places")


def test_few_calls_wait_at_a_time(service):
    """On each listener eight calls may wait; others answer, and waiting over TCP keeps nobody waiting on the socket."""
    service.applying = False
    api, path = service.server._answering.api, "/api/v1/stages/alpha/consumers"
    calls = [threading.Thread(target=service.ask, args=("PUT", f"{path}?wait=30", {"count": 3})) for _ in range(CALLS)]
    for call in calls:
        call.start()
    wait_for(lambda: api.tcp.free[0] == 0, AMPLE, "all of them to wait")
    for refused in (
        service.ask("PUT", f"{path}?wait=1", {"count": 4}),
        service.ask("POST", "/api/v1/stages/alpha/messages?wait=1", {}),
    ):
        assert (refused.status, refused.headers["retry-after"]) == (503, "2")
    assert service.ask("PUT", path, {"count": 3}).status == 202
    assert service.ask_unix("PUT", f"{path}?wait=0.1", {"count": 3}).status == 202, "it has waited"
    service.applied = 1000
    service.publish()
    for call in calls:
        call.join(AMPLE)
    assert service.ask("PUT", f"{path}?wait=1", {"count": 3}).status == 200
    wait_for(lambda: api.tcp.free == (CALLS, TCP_STREAMS), AMPLE, "all places to be free again")


def test_slow_calls_leave_threads_for_others(service):
    """However many ask for looks while the broker does not answer: a few of them wait, and commands are obeyed."""
    answer: asyncio.Future[dict] = asyncio.run_coroutine_threadsafe(_future(), service.loop).result(AMPLE)

    async def later() -> dict:
        return await answer

    service.admin["dlq_list"] = lambda _arguments: later()
    statuses: list[int] = []

    def look() -> None:
        statuses.append(service.ask("GET", "/api/v1/stages/alpha/dlq?fresh=0").status)

    looks = [threading.Thread(target=look) for _ in range(2 * (CALLS + TCP_STREAMS + SLOW))]
    for each in looks:
        each.start()
    wait_for(lambda: len(service.asked) == SLOW and len(statuses) == len(looks) - SLOW, AMPLE, "those that wait")
    assert set(statuses) == {503}
    assert service.ask("PUT", "/api/v1/stages/alpha/listening?wait=5", {"enabled": False}).status == 200
    refused = service.ask("PATCH", "/api/v1/stages/alpha/params", {"particles": 11})
    assert (refused.status, refused.headers["retry-after"]) == (503, "2")
    service.loop.call_soon_threadsafe(answer.set_result, {"dead_letters": []})
    for each in looks:
        each.join(AMPLE)
    assert statuses.count(200) == SLOW
    assert service.ask("PATCH", "/api/v1/stages/alpha/params", {"particles": 11}).status == 202


async def _future() -> asyncio.Future:
    return asyncio.get_running_loop().create_future()


def test_a_wait_without_a_client_ends(service):
    """A caller that disconnects while waiting gives its place back long before the wait would be over."""
    service.applying = False
    places = service.server._answering.api.tcp
    connection = service.connect()
    body = '{"count": 3}'
    connection.request("PUT", "/api/v1/stages/alpha/consumers?wait=30", body, {"Content-Type": "application/json"})
    wait_for(lambda: service.changes and places.free[0] == CALLS - 1, 5, "the wait")
    connection.close()
    wait_for(lambda: places.free[0] == CALLS, 5, "the place is free again")


def test_head_of_a_stream(service):
    """HEAD of a stream ends at once and takes no place."""
    for path in ("/api/v1/events", "/api/v1/feed"):
        assert service.ask("HEAD", path).status == 200
    assert service.server._answering.api.tcp.free == (CALLS, TCP_STREAMS)


def test_streams_end_with_the_server(service):
    """A stop of the server ends its streams."""
    stream = Stream(service.connect(), "/api/v1/logs?follow=1")
    began = time.monotonic()
    service.server.stop(AMPLE)
    assert time.monotonic() - began < AMPLE / 3
    with pytest.raises((AssertionError, http.client.IncompleteRead, ConnectionError)):
        stream.next("log")
    stream.close()
