"""What each stage did lately: in seconds, and in steps of 15 s."""

import itertools
import math
import sys
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqworker.control.history import COARSE, COARSE_SIZE, COUNTED, FINE_SIZE, LATE, SERIES, History, Ring
from mqworker.ipc.histogram import BUCKETS
from mqworker.ipc.stage_status import ConsumerStatus
from tests.http.operator import stage_status

BEGAN = 1000.0
IDLE = ConsumerStatus(0, 1, "idle", 1, 1, 0, 0.0, "", 100, 0)


class Reports:
    """A History, and a stage that reports to it."""

    def __init__(self) -> None:
        self.history = History(BEGAN, "b007")
        self.values: dict[str, float] = {}

    def report(self, at: float, *, pid: int = 100, later: float = 0.0, **changes) -> None:
        """Report at this second, with the counters as they are now; it is seen `later`."""
        status = stage_status("s", pid=pid, at=BEGAN + at, **({"consumers": (IDLE,)} | changes))
        self.history.feed({"s": status}, lambda _stage: self.values, BEGAN + at + later)

    def passes(self, at: float, status=None) -> None:
        """Let time pass without a report."""
        self.history.feed({"s": status}, lambda _stage: self.values, BEGAN + at)

    def count(self, **counts: float) -> None:
        for name, count in counts.items():
            self.values[name] = self.values.get(name, 0.0) + count

    def work(self, *durations: float) -> None:
        """Count messages that took so long."""
        for duration in durations:
            number = sum(bound < duration for bound in BUCKETS)
            self.count(**{f"process_bucket_{number}": 1})

    def series(self, name: str, every: int = 1) -> list[float]:
        _first, series = self.history.read("s", [name], 0, every)
        return series[name]


@pytest.fixture
def stage() -> Reports:
    return Reports()


def test_a_second_has_what_was_counted_in_it(stage):
    """Also where reports come at their own times: what lies between two of them is shared out by time."""
    for at in (0.4, 1.4, 2.4, 3.4):
        stage.report(at)
        stage.count(received=10)
    assert stage.series("in") == [pytest.approx(6), 10, 10]
    assert stage.history.end("s") == 3


def test_a_late_report_ends_several_seconds(stage):
    """They share what was counted since the report before."""
    stage.report(0.0)
    stage.count(received=30)
    stage.report(3.0)
    assert stage.series("in") == [10, 10, 10]


def test_reports_within_a_second_end_none(stage):
    """However many come; the next one after its end has all."""
    stage.report(1.0)
    for number in range(1, 9):
        stage.count(received=1)
        stage.report(1.0 + number / 10)
        assert stage.history.end("s") == 1
    stage.report(2.0)
    assert stage.series("in")[-1] == 8


def test_a_new_producer_goes_on(stage):
    """Counters go on over its death, and its history stays; the seconds without one are a gap."""
    stage.report(0.0)
    stage.count(received=7)
    stage.report(1.0)
    stage.report(2.0, pid=101)
    assert stage.series("in") == [7, 0]
    for at in range(3, 12):
        stage.passes(at)
    stage.count(received=100)  # while nobody saw
    stage.report(12.2, pid=102)
    stage.count(received=5)
    stage.report(13.2, pid=102)
    known = stage.series("in")
    assert known[:2] == [7, 0]
    assert all(map(math.isnan, known[2:12]))
    assert known[12:] == [pytest.approx(4)]


def test_silence_is_a_gap_after_a_while(stage):
    """A report that is late only in being seen is none; without one, seconds become unknown after LATE of them."""
    stage.report(0.0)
    stage.passes(LATE)
    assert stage.history.end("s") == 0
    stage.count(received=LATE)
    stage.report(LATE - 0.5, later=0.5)
    assert stage.series("in") == [pytest.approx(LATE / (LATE - 0.5), abs=1e-3)] * (LATE - 1)
    stage.passes(100.0)
    assert stage.history.end("s") == 100 - LATE
    assert math.isnan(stage.series("in")[-1])
    stage.report(200.0)
    stage.count(received=3)
    stage.report(201.0)
    assert stage.series("in")[-1] == 3


def test_a_stage_without_a_producer_has_a_gap(stage):
    """From the start of the service on, so that all stages have the same seconds."""
    stage.passes(20.0)
    assert stage.history.end("s") == 20 - LATE
    assert stage.history.read("other", ["in"], 0) == (0, {"in": []})


def test_quantiles_are_those_of_the_messages_that_finished_in_that_second(stage):
    """As if durations were spread evenly in each bucket; none where no message has finished."""
    stage.report(0.0)
    stage.work(*[0.02] * 50, *[0.07] * 49, 3.0)
    stage.report(1.0)
    stage.report(2.0)
    for name, expected in (("p50", 0.025), ("p95", 0.0959), ("p99", 0.1)):
        first, second = stage.series(name)
        assert first == pytest.approx(expected, abs=1e-3)
        assert math.isnan(second)


def test_what_is_measured(stage):
    """As the report has it; what is not known is unknown."""
    busy = ConsumerStatus(1, 2, "busy", 1, 1, 0, 0.0, "", 50, 0)
    both = {"consumers": (IDLE, busy), "backlog": 12, "held": 4, "dispatched": 3, "settling": 1, "utilisation": 0.25}
    stage.report(0.0)
    stage.report(1.0, **both)
    stage.report(2.0, backlog=None)
    _first, series = stage.history.read("s", SERIES, 0)
    told = {name: series[name][0] for name in ("backlog", "unfinished", "busy", "consumers", "rss", "held")}
    assert told == {"backlog": 12, "unfinished": 20, "busy": 0.25, "consumers": 2, "rss": 150, "held": 4}
    assert all(math.isnan(series[name][1]) for name in ("backlog", "unfinished", "busy"))


def test_fifteen_seconds(stage):
    """Rates are the mean, quantiles those of all its messages, and of what is measured the last is kept."""
    stage.report(0.0)
    for second in range(1, 31):
        stage.count(result=second)
        stage.work(*[0.02] * second)
        stage.report(float(second), backlog=second)
    assert stage.series("result", COARSE) == [sum(range(1, 16)) / 15, sum(range(16, 31)) / 15]
    assert stage.series("backlog", COARSE) == [15, 30]
    assert stage.series("p50", COARSE) == pytest.approx([0.0175, 0.0175])


# Steps whose sums are exact, so that a second is over when the test thinks so.
STEP = st.tuples(st.integers(2, 128).map(lambda number: number / 32), st.integers(0, 1000), st.booleans())


@settings(max_examples=60)
@given(st.lists(STEP, min_size=1, max_size=80))
def test_steps_of_both_lengths_have_together_what_was_counted(steps):
    """Whenever reports come, at most LATE seconds apart: the seconds sum up to the counts, and so do 15 of them."""
    stage, at, received, passed = Reports(), 0.0, 0.0, [(0.0, 0.0)]
    stage.report(at)
    for step, count, new in steps:
        at, received = at + step, received + count
        stage.count(received=count)
        before = stage.history.end("s")
        stage.report(at, pid=100 + new)
        if stage.history.end("s") > before:  # a report that ends no second is not looked at
            passed.append((at, received))
    fine, coarse = stage.series("in"), stage.series("in", COARSE)
    end = len(fine)
    assert end == int(at)
    level = 0.0
    for (before, low), (then, high) in itertools.pairwise(passed):
        if before <= end <= then:
            level = low + (high - low) * (end - before) / (then - before)
    assert sum(fine) == pytest.approx(level, rel=1e-2, abs=1)  # each is rounded to four digits
    for number, mean in enumerate(coarse):
        assert mean * COARSE == pytest.approx(sum(fine[number * COARSE : (number + 1) * COARSE]), rel=1e-2, abs=1)


def test_a_ring_keeps_the_newest_steps():
    """Whoever asks for older ones gets those that are kept, with their number."""
    ring = Ring(1, 10)
    for number in range(25):
        ring.push({"in": number})
    assert ring.read(["in"], 0) == (15, {"in": list(range(15, 25))})
    assert ring.read(["in"], 23) == (23, {"in": [23, 24]})
    assert ring.read(["in"], 99) == (25, {"in": []})
    ring.skip(1_000_000)
    first, series = ring.read(["in"], 0)
    assert (first, len(series["in"])) == (999_990, 10)
    assert all(map(math.isnan, series["in"]))


def test_numbers_have_four_digits_and_all_those_before_the_point():
    """A backlog of a million is exact, a rate is not longer than it is worth."""
    ring = Ring(1, 10)
    for value in (1_234_567.8, 0.123456, 12.34567):
        ring.push({"in": value})
    assert ring.read(["in"], 0)[1]["in"] == [1_234_568, 0.1235, 12.35]


def test_a_stage_takes_300_kilobytes(stage):
    """However long it runs."""
    stage.report(0.0)
    known = stage.history._stages["s"]
    arrays = [*known.fine._values.values(), *known.coarse._values.values()]
    assert {type(each) for each in arrays} == {array}
    assert sum(map(sys.getsizeof, arrays)) < 305_000
    assert len(SERIES) * (FINE_SIZE + COARSE_SIZE) * 8 < 300_000
    stage.passes(1e7)
    assert sum(map(sys.getsizeof, arrays)) < 305_000
    assert set(COUNTED) < set(SERIES)
