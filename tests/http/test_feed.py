"""The Feed: its events each second, who is sent what, resumption, and its end; and the history by itself."""

import json
import time

import pytest
from msgspec.structs import replace

from mqworker.control.history import COARSE_SIZE, FINE_SIZE, SERIES
from mqworker.http import feed as feeding
from mqworker.http import streams
from mqworker.http.log_filter import LogFilter
from mqworker.ipc.inspection import FaultCount, FaultReport
from mqworker.ipc.records import LogEvent
from tests.http.operator import stage_status
from tests.support.waiting import AMPLE, wait_for

FEED = "/api/v1/feed"


class Events:
    """A client that reads a stream of events."""

    def __init__(self, service, query: str = "", **headers: str) -> None:
        self.connection = service.connect()
        self.connection.request("GET", FEED + query, headers={k.replace("_", "-"): v for k, v in headers.items()})
        self.response = self.connection.getresponse()
        assert self.response.status == 200

    def next(self) -> tuple[str, str, dict]:
        """Return the next event: its kind, its id and its data."""
        kind, number = "", ""
        while line := self.response.readline():
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "id":
                number = value
            elif field == "event":
                kind = value
            elif field == "data":
                return kind, number, json.loads(value)
        raise AssertionError("the stream ended")

    def until_tick(self) -> tuple[list[tuple[str, dict]], str]:
        """Return the events of a second, and the id at its end."""
        events = []
        while True:
            kind, number, data = self.next()
            events.append((kind, data))
            if kind == "tick":
                return events, number

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def once(service, query: str = "") -> tuple[list[tuple[str, dict]], str]:
    """Ask once; returns the events and the id of their end."""
    answer = service.ask("GET", f"{FEED}?once=1{query}")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
    events, number = [], ""
    for block in answer.body.decode().strip("\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        number = fields.get("id", number)
        events.append((fields["event"], json.loads(fields["data"])))
    return events, number


def kinds(events: list[tuple[str, dict]]) -> list[str]:
    return [kind for kind, _data in events]


def report(service, *counts: int) -> None:
    """Have stage alpha count so many messages in each of the last seconds."""
    history, received = service.control.history, 0
    history._began = time.monotonic() - len(counts) - 0.5
    for second, count in enumerate((0, *counts)):
        received += count
        at = history._began + second
        history.feed({"alpha": stage_status(at=at)}, lambda _stage: {"received": float(received)}, at)  # noqa: B023 - used at once


@pytest.fixture
def quiet(service):
    """A service whose history only `report` writes."""
    service.control.on_publish = None
    return service


def test_a_stream_tells_everything_each_second(quiet):
    """First who answers and what was before; then each second what the topics tell, and a tick with its number."""
    report(quiet, 3, 4, 5)
    stream = Events(quiet, "?topics=overview,stage:alpha,logs")
    kind, _id, hello = stream.next()
    assert (kind, hello["service"], hello["role"], hello["hidden_topics"]) == ("hello", "test", "control", [])
    assert hello["boot"] == quiet.control.history.boot
    first, _number = stream.until_tick()
    assert kinds(first) == ["history", "history", "overview", "stage", "logs", "tick"]
    assert first[0][1] == {"stage": "alpha", "every": 1, "from": 0, "series": {"in": [3, 4, 5]}}
    assert (first[1][1]["series"]["in"], set(first[1][1]["series"])) == ([3, 4, 5], set(SERIES))
    overview, stage = first[2][1], first[3][1]
    alpha = overview["stages"][0]
    assert (alpha["name"], alpha["why"]["code"], alpha["consumers"], alpha["in"]) == ("alpha", "working", [1, 2], 5)
    assert (stage["name"], stage["desired"]["consumers"], stage["actual"]["pid"]) == ("alpha", 2, 100)
    assert (stage["points"]["from"], stage["points"]["series"]["in"], stage["faults"]) == (0, [3, 4, 5], [])
    began = time.monotonic()
    following = [stream.until_tick() for _ in range(2)]
    assert 0.9 < time.monotonic() - began < AMPLE
    for number, (events, end) in enumerate(following, 1):
        assert kinds(events) == ["overview", "stage", "logs", "tick"]
        n = first[-1][1]["n"] + number
        assert {data["n"] for kind, data in events if kind != "logs"} == {n}
        assert end.startswith(f"{hello['boot']}.{n}.")
    stream.close()


def test_all_streams_share_the_events_of_a_second(quiet, monkeypatch):
    """Eight clients cost the work of one."""
    made = []
    overview = feeding.topics_of.overview
    monkeypatch.setattr(feeding.topics_of, "overview", lambda api, n: made.append(n) or overview(api, n))
    streams = [Events(quiet) for _ in range(8)]
    told: dict[int, set[str]] = {}
    for events in [stream.until_tick()[0] for _ in range(3) for stream in streams]:
        data = dict(events)
        told.setdefault(data["tick"]["n"], set()).add(json.dumps(data["overview"]))
    assert {len(each) for each in told.values()} == {1}
    assert len(made) <= 2 * len(told), "once for those who are new, once for those who go on"
    for stream in streams:
        stream.close()


def test_who_comes_back_is_sent_what_was_missed(quiet):
    """With the id of the last tick: the points since then, and the log lines behind the last one; else everything."""
    report(quiet, *range(1, 41))
    quiet.writer.put(LogEvent(1.0, 20, "test", "one", "service", 1))
    boot = quiet.control.history.boot
    _events, end = once(quiet, "&topics=stage:alpha,logs")
    assert end == f"{boot}.40.1"
    quiet.writer.put(LogEvent(1.0, 20, "test", "two", "service", 1))
    for after in ({"query": f"&after={boot}.30.1"}, {"Last_Event_ID": f"{boot}.30.1"}):
        answer = quiet.ask("GET", f"{FEED}?once=1&topics=stage:alpha,logs{after.pop('query', '')}", **after)
        events = [json.loads(row[6:]) for row in answer.body.decode().split("\n") if row.startswith("data: ")]
        _hello, history, _stage, logs, _tick = events
        assert history["from"] in range(20, 31)
        assert history["series"]["in"] == list(range(history["from"] + 1, 41))
        assert ([line["msg"] for _number, line in logs["lines"]], logs["gap"]) == (["two"], 0)
    for after in ("0ther000.30.1", f"{boot}.9999.1"):
        events, _end = once(quiet, f"&topics=stage:alpha,logs&after={after}")
        assert (events[1][1]["from"], len(events[1][1]["series"]["in"])) == (0, 40)
        assert [line["msg"] for _number, line in events[3][1]["lines"]] == ["one", "two"]


def test_a_stream_whose_reader_was_slow_gets_the_history_in_between(quiet):
    """As if it had come back with its last tick."""
    report(quiet, *range(1, 11))
    api = quiet.server._answering.api
    asked = feeding._Asked(("stage:alpha",), feeding.ALWAYS, 0, LogFilter())
    stream = feeding._stream(api, asked, b"", lambda: False, lambda: True)
    assert next(stream).count(b"event: history") == 1
    assert next(stream).count(b"event: history") == 0
    report(quiet, *range(1, 21))
    again = next(stream)
    assert again.startswith(b"event: history")
    assert b'"from":5,' in again
    assert b"event: history" not in next(stream)
    stream.close()


def test_a_service_that_hangs_says_so(quiet):
    """When its main thread has not answered for ten seconds, what is told says of when it is."""
    assert dict(once(quiet)[0])["overview"]["service"]["stale"] is None
    with quiet.blocked():
        quiet.publish(time=time.monotonic() - 11)
        quiet.server._answering.api.feed._events.clear()  # those of this second
        told = dict(once(quiet)[0])["overview"]["service"]
    assert 11 <= told["stale"] < 11 + AMPLE


def test_what_changes_now_and_then_is_told_when_it_does(quiet):
    """Operations, records of the audit, peers and groups of failures: all there is at first, then what has changed."""
    operations, records = [{"operation": "a", "done": 1}], [{"n": 1}]
    fault = FaultCount("error", "ValueError", "jobs.py:7 in work", 0, 1, 5.0, 5.0, "no", ("m-1",))
    quiet.control.operations = lambda: list(operations)
    quiet.control.audit = lambda after: [record for record in records if record["n"] > after]
    quiet.control.faults.take("alpha", FaultReport(1, (fault,), 0), 5.0)
    quiet.control.peers = lambda: [{"name": "other"}]
    stream = Events(quiet, "?topics=operations,audit,peers,stage:alpha")
    stream.next()
    first = dict(stream.until_tick()[0])
    assert first["operations"] == {"operations": operations}
    assert (first["audit"], first["peers"]) == ({"records": records}, {"peers": [{"name": "other"}]})
    assert [(each["error_type"], each["dead"]) for each in first["stage"]["faults"]] == [("ValueError", 1)]
    operations.append({"operation": "b", "done": 0})
    records.append({"n": 2})
    quiet.control.faults.take("alpha", FaultReport(1, (replace(fault, dead=2),), 0), 6.0)
    events = []
    while "operations" not in kinds(events):
        events += stream.until_tick()[0]
    told = dict(events)
    assert told["operations"] == {"operations": operations[1:]}
    assert told["audit"] == {"records": records[1:]}
    assert "peers" not in told
    stage = [data for kind, data in events if kind == "stage"][-1]
    assert [each["dead"] for each in stage["faults"]] == [2]
    assert kinds(stream.until_tick()[0]) == ["stage", "tick"]
    stream.close()
    assert kinds(once(quiet, "&topics=operations")[0]) == ["hello", "operations", "tick"]


def test_only_the_lines_that_were_asked_for(quiet):
    """By level, stage, text and message; a line that is gone counts as a gap, one that does not fit does not."""
    for number in range(2010):
        level = 30 if number in (2000, 2005) else 20
        quiet.writer.put(LogEvent(1.0, level, "test", f"line {number}", "service", 1))
    events, end = once(quiet, "&topics=logs&level=warning&text=LINE")
    assert [line["msg"] for _number, line in events[1][1]["lines"]] == ["line 2000", "line 2005"]
    boot, second, number = end.split(".")
    assert number == "2010"
    events, _end = once(quiet, f"&topics=logs&level=warning&after={boot}.{second}.4")
    assert (len(events[1][1]["lines"]), events[1][1]["gap"]) == (2, 6)


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ("?topics=nothing", 422, "topics"),
        (f"?topics={','.join(f'stage:{n}' for n in range(99))}", 422, "topics"),
        ("?topics=stage:nothing", 404, ""),
        ("?after=x", 422, "after"),
        ("?after=x.1.y", 422, "after"),
        ("?level=loud", 422, "level"),
        ("?bogus=1", 422, "bogus"),
    ],
)
def test_what_cannot_be_understood_is_refused(service, query, status, field):
    """With the parameter, and with a sentence that says what is known."""
    answer = service.ask("GET", FEED + query)
    assert answer.status == status
    assert [each["field"] for each in answer.json.get("fields", ())] == [field] * bool(field)


def test_another_site_cannot_take_a_place(service):
    """A page of another site is refused before it gets anything."""
    assert service.ask("GET", FEED, Origin="http://evil.example").status == 403
    assert service.ask("GET", f"{FEED}?once=1", Sec_Fetch_Site="same-site").status == 403


def test_a_stream_that_the_service_ends_says_so(service, monkeypatch):
    """An old one has to come back; one that the end of the service ends learns that."""
    monkeypatch.setattr(streams, "LIFE", 0.0)
    old = Events(service)
    assert old.next()[0] == "hello"
    old.until_tick()
    assert old.next()[::2] == ("bye", {"reason": "renew"})
    assert old.response.read().strip() == b""
    old.close()
    monkeypatch.setattr(streams, "LIFE", AMPLE)
    last = Events(service)
    last.until_tick()
    service.server.stop(AMPLE)
    told = ""
    while told != "bye":
        told, _id, data = last.next()
    assert data == {"reason": "draining"}
    last.close()


def test_a_client_that_is_gone_gives_its_place_back(service):
    """Within a second or two, although nothing is said to the server."""
    places = service.server._answering.api.tcp
    stream = Events(service)
    assert places.running["feed"] == 1
    stream.close()
    wait_for(lambda: places.running["feed"] == 0, AMPLE, "the place")


def test_the_history_of_a_stage(quiet):
    """In seconds up to 15 minutes, then in steps of 15 s; only the series that were asked for."""
    path = "/api/v1/stages/alpha/history"
    report(quiet, *range(1, 41))
    told = quiet.ask("GET", path).json
    assert (told["boot"], told["every"], told["from"]) == (quiet.control.history.boot, 1, 0)
    assert set(told["series"]) == set(SERIES)
    assert told["series"]["in"] == list(range(1, 41))
    assert told["series"]["p95"] == [None] * 40
    assert abs(told["until"] - time.time()) < 2
    short = quiet.ask("GET", f"{path}?seconds=5&series=in,dead").json
    assert (short["from"], short["series"]) == (35, {"in": [36, 37, 38, 39, 40], "dead": [0] * 5})
    coarse = quiet.ask("GET", f"{path}?seconds=21600&series=in").json
    assert (coarse["every"], coarse["from"], coarse["series"]["in"]) == (15, 0, [8, 23])
    assert quiet.ask("GET", "/api/v1/stages/beta/history").json["series"]["in"] == []
    assert quiet.ask("GET", f"{path}?series=in,out").status == 422
    assert quiet.ask("GET", f"{path}?seconds={15 * COARSE_SIZE + 1}").status == 422
    assert quiet.ask("GET", "/api/v1/stages/gamma/history").status == 404
    assert FINE_SIZE == 900


def test_the_history_is_kept_by_what_the_service_publishes(service):
    """Each report of a Producer, and that there is none; since when a stage has had its answer."""
    service.tell("alpha", stage_status(at=time.monotonic()))
    history = service.control.history
    wait_for(lambda: (service.tell("alpha", stage_status(at=time.monotonic())), history.end("alpha"))[1], AMPLE, "one")
    told = service.ask("GET", "/api/v1/stages/alpha").json
    assert told["why"]["code"] == "working"
    assert abs(told["why"]["since"] - time.time()) < AMPLE


def test_a_fault_of_the_history_does_not_end_the_service(service, monkeypatch, caplog):
    """It is logged once, and snapshots are published all the same."""
    monkeypatch.setattr(service.control.history, "feed", lambda *_: 1 / 0)
    service.publish()
    service.publish()
    assert service.ask("GET", "/api/v1/status").json["age"] < AMPLE
    assert sum("history cannot be kept" in record.getMessage() for record in caplog.records) == 1
