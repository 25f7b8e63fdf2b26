"""Logs: from any process to whole lines on stdout."""

import contextlib
import json
import logging
import os
import re
import threading
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.ipc import logs
from mqworker.ipc.logs import ForwardingHandler, LogWriter, escape, line_json, line_text, timestamp
from mqworker.ipc.records import LogEvent
from tests.support.waiting import AMPLE, wait_for

hostile = st.text(max_size=20) | st.text("\n\r\x1b\x00\x7f\x85\x9b\u2028\u2029\u202e\ud800ab\\'\"", max_size=12)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | hostile | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(hostile | st.binary(max_size=3), inner, max_size=2),
    max_leaves=4,
)
events = st.builds(
    LogEvent,
    time=st.floats() | st.floats(0, 4e9),
    level=st.integers(-(1 << 40), 1 << 40) | st.sampled_from([10, 20, 30, 40]),
    event=hostile,
    msg=hostile,
    process=hostile,
    pid=st.integers(0, 1 << 22),
    stage=hostile,
    fields=st.dictionaries(hostile | st.sampled_from(["time", "msg", "traceback"]), anything, max_size=3),
)
EVENT = LogEvent(1.5, 20, "started", "hello", "service", 7, "", {"a": 1})


# --- lines


@given(events)
def test_an_event_is_one_line_of_json(event):
    """Whatever it contains, an event becomes printable ASCII that any JSON parser reads."""
    line = line_json(event, "svc")
    assert re.fullmatch(r"[ -~]+", line)
    assert msgspec.json.decode(line) == json.loads(line)
    record = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["time"])
    assert record["level"] in ("debug", "info", "warning", "error")
    assert (record["service"], record["pid"]) == ("svc", event.pid)
    assert record["msg"] == event.msg.encode("utf-8", "backslashreplace").decode()


@given(events)
def test_an_event_is_told_to_a_person_on_lines_of_ours(event):
    """Nothing from outside starts a line or reaches the terminal as a control character."""
    first, *others = line_text(event, "svc").split("\n")
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} (debug|info|warning|error) ", first)
    assert first.isprintable()
    assert all(row.startswith("    | ") and row.isprintable() for row in others)
    assert not others or "traceback" in event.fields


@given(st.text())
def test_what_is_escaped_is_printable_and_the_rest_untouched(value):
    """Escaping leaves printable text unchanged."""
    assert escape(value).isprintable()
    assert escape(value) == value or not value.isprintable()


def test_fields_of_an_event():
    """The names are those of interfaces.md; None is left out; a field never replaces one of ours."""
    event = LogEvent(1.5, 30, "dead", "words", "s.producer", 7, "s", {"pid": 1, "outcome": "dead", "empty": None})
    assert json.loads(line_json(event, "svc")) == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "warning",
        "event": "dead",
        "msg": "words",
        "service": "svc",
        "stage": "s",
        "process": "s.producer",
        "pid": 7,
        "outcome": "dead",
    }


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.9996, "1970-01-01T00:00:00.999Z"), (-1e300, "1970"), (1e300, "9999")]
)
def test_no_time_is_out_of_range(seconds, shown):
    """Another process's wrong clock does not end the log."""
    assert timestamp(seconds).startswith(shown)


# --- records become events


class Unspeakable:
    def __str__(self):
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.fixture
def told():
    """Yield a logger, and the events that it sends."""
    heard: list[LogEvent] = []
    logger = logging.Logger("mqworker.test", logging.DEBUG)  # noqa: LOG001 - of its own, so that pytest does not listen
    handler = ForwardingHandler(heard.append, "proc", "stage")
    logger.addHandler(handler)
    return logger, heard


def test_a_record_becomes_an_event(told):
    """A record becomes a fixed name, a sentence, fields, process and stage."""
    logger, heard = told
    logs.report(logger, logging.WARNING, "dead", "100 % lost", message_id="m", rate=0.5)
    (event,) = heard
    assert (event.level, event.event, event.msg, event.process, event.stage, event.pid) == (
        30, "dead", "100 % lost", "proc", "stage", os.getpid()
    )  # fmt: skip
    assert event.fields == {"message_id": "m", "rate": 0.5}


def test_every_event_carries_the_labels(told):
    """What is said of the message in hand is in every event, also in one that cannot be formatted."""
    logger, heard = told
    logger.handlers[0].labels = lambda: {"message_id": "m", "attempt": 2}
    logs.report(logger, logging.WARNING, "dead", "lost", message_id="other", rate=0.5)
    logger.info("%d", "x")
    assert heard[0].fields == {"message_id": "m", "attempt": 2, "rate": 0.5}
    assert heard[1].fields == {"message_id": "m", "attempt": 2}


def test_a_traceback_is_a_field(told):
    """An exception is sent with the event."""
    logger, heard = told
    logger.error("failed", exc_info=ValueError("bad\nnews"))
    assert heard[0].fields["traceback"].endswith("ValueError: bad\nnews\n")


@pytest.mark.parametrize(
    "call",
    [
        lambda logger: logger.info("%d", "x"),
        lambda logger: logger.info("%s", Unspeakable()),
        lambda logger: logger.info(Unspeakable()),
        lambda logger: logger.info("x", extra={"fields": 7}),
        lambda logger: logger.info("x", extra={"fields": {"a": Unspeakable()}}),
        lambda logger: logger.info("x", extra={"event": Unspeakable()}),
    ],
)
def test_what_cannot_be_formatted_is_told_as_such(told, call):
    """A log call in user code never raises; a bad one is reported with its place."""
    logger, heard = told
    call(logger)
    (event,) = heard
    assert "could not be formatted" in event.msg
    assert "test_logs.py:" in event.msg


@given(hostile, st.dictionaries(st.text(max_size=3), anything, max_size=3))
def test_every_event_can_be_sent(message, fields):
    """Surrogates, odd numbers, containers: MessagePack can carry all of it."""
    heard: list[LogEvent] = []
    record = logging.LogRecord("user.code", 20, __file__, 1, "%s", (message,), None)
    record.fields = fields
    ForwardingHandler(heard.append, "p").emit(record)
    packed = msgspec.msgpack.encode(heard[0])
    assert msgspec.msgpack.decode(packed, type=LogEvent) == heard[0]
    assert heard[0].fields["logger"] == "user.code"


def test_long_messages_are_cut(told):
    """The size of one event is bounded."""
    logger, heard = told
    logs.report(logger, logging.INFO, "long", "x" * 100_000, field="y" * 100_000)
    assert len(heard[0].msg) == len(heard[0].fields["field"]) == logs.LINE_MAX


def test_a_closed_pipe_does_not_disturb_the_work():
    """Even when the parent is gone, the log call returns."""

    def closed(_event):
        raise BrokenPipeError

    ForwardingHandler(closed, "p").emit(logging.LogRecord("mqworker", 20, __file__, 1, "x", (), None))


# --- the writer


class Pipe:
    """A pipe and what is written to it."""

    def __init__(self):
        self.near, self.far = os.pipe()
        self.writer = LogWriter("svc", self.far)

    def read_all(self):
        """Return everything until the writing end is closed."""
        chunks = []
        while data := os.read(self.near, 1 << 16):
            chunks.append(data)
        return b"".join(chunks).decode().splitlines()

    def close(self):
        """End the writer's thread before its descriptor is closed: another file may soon get the same number."""
        os.set_blocking(self.near, False)
        self.writer.close(0.0)
        wait_for(self._ended, 10, "the writer's end")
        for fd in (self.near, self.far):
            with contextlib.suppress(OSError):
                os.close(fd)

    def _ended(self):
        with contextlib.suppress(OSError):
            os.read(self.near, 1 << 16)
        return not self.writer._thread.is_alive()


@pytest.fixture
def pipe():
    found = Pipe()
    yield found
    found.close()


def test_lines_come_whole_and_in_order(pipe):
    """Each event is one line; `close` writes what is queued."""
    for number in range(200):
        pipe.writer.put(msgspec.structs.replace(EVENT, msg=str(number)))
    pipe.writer.close(AMPLE)
    os.close(pipe.far)
    assert [json.loads(line)["msg"] for line in pipe.read_all()] == [str(number) for number in range(200)]


def test_a_reader_that_stops_costs_lines_and_no_time(pipe, monkeypatch):
    """`put` returns at once; when the reader resumes, every line arrives or is counted as dropped."""
    monkeypatch.setattr(pipe.writer._queue, "maxsize", 100)
    long = msgspec.structs.replace(EVENT, msg="x" * 1000)
    slowest = 0.0
    for _ in range(2_000):
        began = time.monotonic()
        pipe.writer.put(long)
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 5  # nobody reads yet
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(pipe.read_all()))
    reader.start()
    pipe.writer.close(AMPLE)
    os.close(pipe.far)
    reader.join(AMPLE)
    records = [json.loads(line) for line in lines]
    dropped = [int(record["msg"].split()[0]) for record in records if record["event"] == "logs_dropped"]
    assert sum(dropped) > 1_000
    assert sum(record["event"] == "started" for record in records) + sum(dropped) == 2_000
    assert len(pipe.writer.recent(0, 0.0)) == min(2_000, logs.KEPT)


def test_close_is_bounded_when_nobody_reads(pipe):
    """A service can end although nobody reads its stdout."""
    for _ in range(300):
        pipe.writer.put(msgspec.structs.replace(EVENT, msg="x" * 1000))
    began = time.monotonic()
    pipe.writer.close(0.3)
    assert time.monotonic() - began < AMPLE / 3


def test_a_reader_that_is_gone_does_not_end_the_writer():
    """Broken pipes are counted; the lines stay available to /logs."""
    near, far = os.pipe()
    writer = LogWriter("svc", far)
    os.close(near)
    writer.put(EVENT)
    wait_for(lambda: writer._dropped == 1, 5, "the line counted as dropped")
    writer.put(EVENT)
    assert [number for number, _ in writer.recent(0, 0.0)] == [1, 2]
    writer.close(AMPLE)
    os.close(far)


def test_a_line_cut_short_does_not_spoil_the_next(tmp_path):
    """After a full disk the next line begins on a new line."""
    import resource  # noqa: PLC0415 - of this test alone

    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = LogWriter("svc", fd)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
    try:
        writer.put(EVENT)
        wait_for(lambda: writer._dropped == 1, 5, "the line counted as dropped")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    writer.put(msgspec.structs.replace(EVENT, msg="after"))
    writer.close(AMPLE)
    os.close(fd)
    torn, after, told = path.read_text().splitlines()
    assert len(torn) == 50
    assert json.loads(after)["msg"] == "after"
    assert json.loads(told)["msg"].startswith("1 log lines were dropped")


def test_a_non_blocking_stdout_loses_nothing(pipe):
    """Nothing is lost when another program has made a shared terminal or pipe non-blocking."""
    os.set_blocking(pipe.far, False)
    for _ in range(500):
        pipe.writer.put(msgspec.structs.replace(EVENT, msg="x" * 1000))
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(pipe.read_all()))
    reader.start()
    pipe.writer.close(AMPLE)
    os.close(pipe.far)
    reader.join(AMPLE)
    assert [json.loads(line)["event"] for line in lines] == ["started"] * 500


def test_lines_can_be_followed(pipe):
    """`recent` returns what is new, waits for the first line, and ends at its deadline."""
    pipe.writer.put(EVENT)
    ((number, line),) = pipe.writer.recent(0, 0.0)
    assert json.loads(line)["msg"] == "hello"
    assert pipe.writer.recent(number, 0.05) == []
    threading.Timer(0.05, pipe.writer.put, [EVENT]).start()
    assert [found for found, _ in pipe.writer.recent(number, AMPLE)] == [number + 1]


def test_text_for_a_terminal_json_for_all_else(pipe):
    """`auto` depends on the descriptor; both formats can be chosen explicitly."""
    near, far = os.openpty()
    try:
        forms = [LogWriter("svc", fd, name) for fd, name in ((far, "auto"), (far, "json"), (pipe.far, "text"))]
        assert [writer._line for writer in (*forms, pipe.writer)] == [line_text, line_json, line_text, line_json]
        for writer in forms:
            writer.close(AMPLE)
    finally:
        os.close(near)
        os.close(far)
