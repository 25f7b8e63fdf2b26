"""The figures of a stage, on simulated queues whose truth is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.producer.flow import ENOUGH, EVERY, WINDOW, Flow, Sample
from mqworker.producer.pacing import ServiceTime


def run(
    arrivals: float, service_time: float, consumers: int, seconds: float, *, read_every: float = 4.0, begin: int = 0
) -> tuple[Flow, ServiceTime, float]:
    """Simulate a stage of identical messages; returns its figures, and the messages that are unsettled at the end."""
    flow, times = Flow(), ServiceTime()
    unsettled, settled, busy, depth, read = float(begin), 0.0, 0.0, 0, -1.0
    most = consumers / service_time
    for step in range(int(seconds / EVERY) + 1):
        now = step * EVERY
        in_flight = min(unsettled, 2 * consumers)
        if now - read >= read_every or read < 0:
            depth, read = int(unsettled - in_flight), now
        flow.observe(Sample(now, int(settled), int(in_flight), depth, busy, consumers * now))
        done = min(most * EVERY, unsettled + arrivals * EVERY)
        for _ in range(int(settled + done) - int(settled)):
            times.observe(service_time)
        settled += done
        busy += done * service_time
        unsettled += arrivals * EVERY - done
    return flow, times, unsettled


@pytest.mark.parametrize(
    ("arrivals", "service_time", "consumers", "begin"),
    [
        *((10, 0.05, 1, 0), (10, 0.05, 4, 0)),
        *((0, 0.01, 2, 20_000), (30, 0.01, 1, 5_000)),
        *((50, 0.1, 4, 0), (500, 0.01, 2, 0)),
        *((1, 10.0, 20, 0), (0.5, 30.0, 10, 60)),
    ],
    ids=["half", "eighth", "drain", "drain and come", "growing", "growing fast", "long", "long and growing"],
)
def test_the_figures_are_those_of_the_queue(arrivals, service_time, consumers, begin):
    """Arrivals, settled and utilisation follow the truth, and the utilisation law holds; draining, steady, growing."""
    flow, times, _ = run(arrivals, service_time, consumers, 60, begin=begin)
    rate = min(arrivals, consumers / service_time) if begin == 0 else consumers / service_time
    assert flow.arrival_rate == pytest.approx(arrivals, abs=0.1 + 0.02 * arrivals)
    assert flow.utilisation == pytest.approx(rate * service_time / consumers, rel=0.02)
    assert flow.rate == pytest.approx(rate, abs=0.4, rel=0.05)
    assert times.mean == pytest.approx(service_time)
    assert flow.capacity(consumers, times.mean) == pytest.approx(consumers / service_time, rel=0.05)


def test_a_message_that_runs_for_an_hour_counts_from_its_begin():
    """A Consumer with one endless message is wholly utilised, although nothing has been settled."""
    flow = Flow()
    for step in range(int(WINDOW / EVERY)):
        flow.observe(Sample(step * EVERY, 0, 1, 0, step * EVERY, 2 * step * EVERY))
    assert flow.utilisation == pytest.approx(0.5)
    assert (flow.rate, flow.arrival_rate, flow.capacity(2, None)) == (0.0, 0.0, None)
    assert flow.capacity(2, 3600.0) == pytest.approx(2 / 3600)


def test_what_the_way_to_a_consumer_costs_counts_for_what_it_can_do():
    """A handler of 0.1 ms in a lane that takes 0.2 ms a message: the stage can do 5,000 a second, not 10,000."""
    flow = Flow()
    flow.observe(Sample(0.0, 0, 0, 0, 0.0, 0.0))
    flow.observe(Sample(1.0, ENOUGH * 10, 0, 0, ENOUGH * 10 * 0.0002, 1.0))
    assert flow.capacity(1, 0.0001) == pytest.approx(5_000)


def test_nothing_is_said_of_what_is_not_known():
    """At the start, without a broker and without Consumers there is no figure instead of a wrong one."""
    flow = Flow()
    assert (flow.rate, flow.arrival_rate, flow.utilisation, flow.capacity(1, None)) == (0.0, None, None, None)
    for second in range(10):
        flow.observe(Sample(second, second, 1, 5 if second < 8 else None, 0.0, 0.0))
    assert (flow.arrival_rate, flow.utilisation) == (None, None)
    flow.observe(Sample(10.0, 10, 1, 5, 0.0, 0.0))
    assert flow.arrival_rate is None, "what came while the broker was away is not known"
    flow.observe(Sample(12.0, 14, 1, 6, 0.0, 0.0))
    assert flow.arrival_rate == pytest.approx(2.5)


def test_without_consumers_that_share_the_work_there_is_no_capacity():
    """While a change of code is on, those that are busy may all be of the code of before."""
    flow, times, _ = run(10, 0.05, 1, 60)
    assert flow.capacity(0, times.mean) is None
    assert Flow().capacity(0, 0.05) is None


def test_what_is_long_ago_is_forgotten():
    """After a busy minute, half a minute without messages leaves nothing of it."""
    flow, _, _ = run(50, 0.01, 1, 60)
    assert flow.utilisation == pytest.approx(0.5)
    busy, settled = 30.0, 3_000
    for step in range(1, int(WINDOW / EVERY) + 2):
        flow.observe(Sample(60 + step * EVERY, settled, 0, 0, busy, 60 + step * EVERY))
    assert flow.utilisation == pytest.approx(0.0, abs=0.01)
    assert flow.arrival_rate < 1


def test_rare_arrivals_are_counted_over_a_longer_time():
    """One message in ten minutes is one in ten minutes, also just after it has come."""
    flow = Flow()
    for second in range(0, 1200, 5):
        flow.observe(Sample(second, 0, 0, 1 + second // 600, 0.0, 0.0))
    assert flow.arrival_rate == pytest.approx(1 / 1200, rel=0.1)


def test_the_end_of_many_arrivals_shows_soon():
    """Ten seconds after 100 a second have ended, they look like one a second at most."""
    flow = Flow()
    for second in range(120):
        flow.observe(Sample(second, 0, 0, 100 * min(second, 100), 0.0, 0.0))
    for second in range(120, 160):
        flow.observe(Sample(second, 0, 0, 10_000, 0.0, 0.0))
    assert flow.arrival_rate < 2


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 9), st.none() | st.integers(0, 9)), max_size=60))
def test_figures_are_never_absurd(steps):
    """Whatever was sampled, with gaps and redeliveries: no negative rate, no utilisation above 1."""
    flow, time, settled, busy = Flow(), 0.0, 0, 0.0
    for step, count, depth in steps:
        time, settled, busy = time + step, settled + count, busy + 2 * step
        flow.observe(Sample(time, settled, count, depth, busy, time))
        assert flow.rate >= 0
        assert (flow.arrival_rate or 0) >= 0
        assert 0 <= (flow.utilisation or 0) <= 1


def test_what_kept_consumers_idle_is_told_for_half_a_minute():
    """The last reason counts, as long as utilisation may still show it; then it is forgotten."""
    flow = Flow()
    for step in range(8):
        flow.observe(Sample(step * EVERY, 0, 5, 5, 0.0, 0.0, ("output", "order", "")[min(step, 2)]))
    assert flow.held_up_by == "order"
    flow.observe(Sample(8 * EVERY + WINDOW, 0, 5, 5, 0.0, 0.0))
    flow.observe(Sample(9 * EVERY + WINDOW, 0, 5, 5, 0.0, 0.0))
    assert flow.held_up_by == ""
