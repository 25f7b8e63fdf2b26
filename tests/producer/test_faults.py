"""The fault table of a Producer, and what the Service makes of it across Producers."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mqworker.control import faults as merged
from mqworker.control.faults import MINUTES, Faults
from mqworker.ipc.admin_messages import fault_key
from mqworker.ipc.consumer_messages import Failure
from mqworker.ipc.inspection import FaultReport
from mqworker.producer import faults
from mqworker.producer.faults import FaultTable


def failure(line: int, text: str = "", reason: str = "error") -> Failure:
    return Failure(reason, "ValueError", text, place=f"jobs.py:{line} in handle")


def test_texts_do_not_split_a_fault():
    """Reason, type and place make one; the newest text and messages are its examples."""
    table = FaultTable()
    new = [table.note(failure(1, f"no frame {n}"), "retried", f"m{n}", float(n)) for n in range(5)]
    new.append(table.note(failure(1, reason="timeout"), "dead", "m9", 9.0))
    assert new == [True, False, False, False, False, True]
    told = {each.reason: each for each in table.news()}
    assert (told["error"].retried, told["error"].dead, told["timeout"].dead) == (5, 0, 1)
    assert (told["error"].first, told["error"].last, told["error"].text) == (0.0, 4.0, "no frame 4")
    assert told["error"].examples == ("m4", "m3", "m2")


def test_only_what_has_changed_is_told():
    """Each report has the whole count of what it names."""
    table = FaultTable()
    table.note(failure(1), "retried", "a", 1.0)
    table.note(failure(2), "retried", "a", 1.0)
    assert len(table.news()) == 2
    assert table.news() is None
    table.note(failure(2), "dead", "b", 2.0)
    (told,) = table.news()
    assert (told.place, told.retried, told.dead) == ("jobs.py:2 in handle", 1, 1)


lives = st.lists(st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["retried", "dead"])), max_size=30), max_size=4)


@given(lives, st.integers(1, 4), st.integers(1, 8))
def test_every_failure_is_counted_once(numbers, most, kept):
    """Over several Producers, however many kinds there are, and whatever the Service has room for."""
    service, expected = Faults(), Counter()
    for pid, notes in enumerate(numbers, 1):
        table = FaultTable()
        for at, (line, outcome) in enumerate(notes):
            with_bounds(lambda t=table, n=line, o=outcome, a=at: t.note(failure(n), o, "m", a + 0.0), most, kept)
            expected[outcome] += 1
            if at % 3 == 0 and (news := table.news()) is not None:
                with_bounds(
                    lambda p=pid, n=news, t=table: service.take("s", FaultReport(p, n, t.other), 60.0), most, kept
                )
        if (news := table.news()) is not None:
            with_bounds(lambda p=pid, n=news, t=table: service.take("s", FaultReport(p, n, t.other), 60.0), most, kept)
    told = service.of("s")
    assert len(told.faults) <= kept
    assert sum(each.retried + each.dead for each in told.faults) + told.other == expected.total()
    assert all(each.retried >= 0 and each.dead >= 0 for each in told.faults)


def with_bounds(call, most, kept):
    """Call it with these numbers of faults that the two tables have room for."""
    before = faults.MOST, merged.MOST
    faults.MOST, merged.MOST = most, kept
    try:
        call()
    finally:
        faults.MOST, merged.MOST = before


def test_a_fault_goes_on_in_the_next_producer():
    """Its first failure is the first of all, its trend that of the last hour; the one that failed last comes first."""
    service = Faults()
    for pid, minute in ((1, 10), (2, 12)):
        table = FaultTable()
        table.note(failure(1), "retried", "a", minute * 60.0)
        if pid == 1:
            table.note(failure(2), "dead", "b", minute * 60.0 + 1)
        service.take("s", FaultReport(pid, table.news(), 0), minute * 60.0)
    first, second = service.of("s").faults
    assert (first.place, first.retried, first.first, first.last) == ("jobs.py:1 in handle", 2, 600.0, 720.0)
    assert (second.place, second.dead) == ("jobs.py:2 in handle", 1)
    assert first.key == fault_key("error", "ValueError", "jobs.py:1 in handle")
    assert first.trend(12 * 60.0 + 59) == [0] * (MINUTES - 3) + [1, 0, 1]
    assert first.trend(90 * 60.0) == [0] * MINUTES
    assert service.of("other").faults == ()
