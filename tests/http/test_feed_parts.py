"""What the Feed is made of: what has changed since when, and which log lines fit."""

import json

import msgspec
import pytest

from mqworker.control.why_since import WhySince
from mqworker.http.feed_logs import MOST, TAIL, new_lines
from mqworker.http.feed_state import FeedState
from mqworker.http.log_filter import LogFilter


def things(*names: int, value: int = 0) -> list[tuple[int, dict]]:
    return [(name, {"n": name, "value": value}) for name in names]


def told(raws: list[msgspec.Raw]) -> list[tuple[int, int]]:
    return [(each["n"], each["value"]) for each in map(json.loads, map(bytes, raws))]


def test_a_client_is_told_what_changed_after_the_second_that_it_has():
    """Everything at first; what stays the same is not told again, though it is looked at each second."""
    state = FeedState()
    assert told(state.changed("t", 5, -1, things(1, 2), 9)) == [(1, 0), (2, 0)]
    assert told(state.changed("t", 6, 5, things(1, 2), 9)) == []
    assert told(state.changed("t", 7, 6, things(1) + things(2, value=1), 9)) == [(2, 1)]
    assert told(state.changed("t", 8, 6, things(2, value=1), 9)) == [(2, 1)], "for one who was away"
    assert state.newest("t") == 2
    assert state.newest("other") == 0


def test_nobody_misses_what_changes_within_a_second():
    """Who was told in this second already hears of it in the next."""
    state = FeedState()
    state.changed("t", 5, -1, things(1), 9)
    assert told(state.changed("t", 5, 4, things(1, value=1), 9)) == [(1, 0)], "as it was when the second was taken in"
    assert told(state.changed("t", 6, 5, things(1, value=1), 9)) == [(1, 1)]


def test_only_so_many_things_are_kept():
    """Those that changed last."""
    state = FeedState()
    for second in range(10):
        state.changed("t", second, -1, things(second), 3)
    assert told(state.changed("t", 10, -1, [], 3)) == [(7, 0), (8, 0), (9, 0)]


def test_an_event_is_made_once_a_second():
    """All streams get the same bytes; after some seconds it is forgotten."""
    state, made = FeedState(), []

    def make() -> bytes:
        made.append(1)
        return bytes(len(made))

    first = state.event(7, "overview", make)
    assert state.event(7, "overview", make) is first
    assert state.event(7, "stage", make) != first
    for second in range(8, 30):
        state.event(second, "overview", make)
    assert len(state._events) <= 3


def line(number: int, level: str = "info", msg: str = "x", **fields) -> tuple[int, str]:
    record = {"time": "t", "level": level, "event": "log", "msg": msg, "service": "s", "process": "p", "pid": 1}
    return number, json.dumps(record | fields)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (LogFilter(), True),
        (LogFilter(level="warning"), True),
        (LogFilter(level="error"), False),
        (LogFilter(stage="alpha"), True),
        (LogFilter(stage="alph"), False),
        (LogFilter(stage="beta"), True),
        (LogFilter(event="log"), True),
        (LogFilter(event="error"), False),
        (LogFilter(message="m-1"), True),
        (LogFilter(message="m-"), False),
        (LogFilter(text="GRÜN"), True),
        (LogFilter(text="why not"), True),
        (LogFilter(text="alpha"), False),
        (LogFilter(text="service"), False),
        (LogFilter("info", "alpha", "grün", "m-1"), True),
        (LogFilter("info", "alpha", "red", "m-1"), False),
    ],
)
def test_a_line_fits_all_filters(wanted, fits):
    """A level and all above it, a stage, an id as a whole, and text in the message or in any field of its own."""
    fields = {"stage": "alpha", "stage_name": "beta", "message_id": "m-1", "reason": "Why not"}
    _number, text = line(1, "warning", 'es ist grün "level": "error"', **fields)
    assert wanted.fits(text) is fits


def test_a_new_stream_begins_with_the_tail():
    """What came before that is no gap."""
    found, last = new_lines([line(number) for number in range(1000, 2000)], 0, LogFilter())
    assert ([number for number, _ in found.lines], found.gap, last) == (list(range(2000 - TAIL, 2000)), 0, 1999)


def test_what_is_not_sent_is_told_as_a_gap():
    """Lines that are no longer kept, and those beyond what fits into a second, of which the newest are sent."""
    kept = [line(number, "info" if number % 2 else "debug") for number in range(1000, 1000 + 4 * MOST)]
    found, last = new_lines(kept, 989, LogFilter(level="info"))
    assert (len(found.lines), found.gap, last) == (MOST, 10 + MOST, 999 + 4 * MOST)
    assert found.lines[-1][0] == last
    assert new_lines(kept, last, LogFilter())[0].lines == []
    assert new_lines([], 7, LogFilter()) == (new_lines(kept, last, LogFilter())[0], 7)


def test_since_when_an_answer_holds():
    """From when its code came; whoever has another code is not told."""
    since = WhySince()
    assert since.since("s", "idle") is None
    for second, code in enumerate(["idle", "idle", "broker", "broker"]):
        since.note("s", code, float(second))
    assert (since.since("s", "broker"), since.since("s", "idle"), since.since("t", "broker")) == (2.0, None, None)
