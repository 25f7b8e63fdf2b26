"""Staffing: which Consumers are started and which leave."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.config.stop_budget import LEAVE
from mqworker.producer.staffing import (
    EXCUSED_MAX,
    START_DEADLINE,
    Action,
    ConsumerFacts,
    Kill,
    Retire,
    Staffing,
    Start,
)


def one(lane: int, state: str = "idle", code: int = 1, **facts) -> ConsumerFacts:
    """Return a Consumer in the slot of its lane's number."""
    defaults = {"slot": lane, "since": 0.0, "replace": False, "leaving": False}
    return ConsumerFacts(lane=lane, state=state, code_generation=code, **(defaults | facts))


@pytest.mark.parametrize(
    ("wanted", "code", "consumers", "actions"),
    [
        pytest.param(3, 1, [], [Start(0), Start(1), Start(2)], id="from nothing: all at once"),
        pytest.param(2, 1, [one(0), one(1)], [], id="as wanted"),
        pytest.param(2, 1, [one(1)], [Start(0)], id="the lowest free slot"),
        pytest.param(1, 1, [one(0, "busy"), one(1)], [Retire(1)], id="fewer: the idle goes before the busy"),
        pytest.param(0, 1, [one(0, "busy"), one(1, "starting")], [Retire(1), Retire(0)], id="none"),
        pytest.param(2, 2, [one(0), one(1)], [Start(2)], id="new code: a new one comes before an old one goes"),
        pytest.param(8, 2, [one(n) for n in range(8)], [Start(8), Start(9)], id="new code: a quarter at a time"),
        pytest.param(
            2, 2, [one(0), one(1), one(2, "starting", 2)], [], id="new code: the old stay until the new one is ready"
        ),
        pytest.param(
            2, 2, [one(0), one(1), one(2, "idle", 2)], [Start(3), Retire(0)], id="new code: an old one goes for a new"
        ),
        pytest.param(1, 1, [one(0, replace=True)], [Start(1)], id="one that is to be replaced"),
        pytest.param(1, 1, [one(0, leaving=True)], [Start(1)], id="one that leaves does not count"),
        pytest.param(
            1,
            1,
            [one(0, "starting", since=-START_DEADLINE - 1)],
            [Kill(0, "it was not set up within 600 s")],
            id="one that is not set up in time",
        ),
        pytest.param(
            0,
            1,
            [one(0, "leaving", leaving=True, since=-LEAVE - 1)],
            [Kill(0, "it did not end within 10 s")],
            id="one that does not leave in time",
        ),
    ],
)
def test_what_is_decided(wanted, code, consumers, actions):
    """The desired and the actual Consumers lead to these actions."""
    staffing = Staffing()
    staffing.want(wanted, code)
    assert staffing.decide(consumers, 0.0) == actions


def test_a_slot_that_keeps_dying_waits_longer_each_time():
    """The first two starts are immediate; a slot that has finished a message restarts at once."""
    staffing = Staffing()
    staffing.want(1, 1)
    now, waits = 0.0, []
    for _ in range(6):
        staffing.died(0, now, fruitful=False, problem="it died")
        started = now
        while not staffing.decide([], now):
            now += 0.25
        waits.append(now - started)
    assert waits == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0]
    assert staffing.crash_loop
    assert staffing.problem == "it died"
    staffing.prospered(0, 1)
    assert not staffing.crash_loop
    assert staffing.problem == ""
    staffing.died(0, now, fruitful=True, problem="")
    assert staffing.decide([], now) == [Start(0)]


def test_a_known_killer_costs_its_slot_nothing_unless_nothing_else_happens():
    """The good messages behind a few killers do not wait for a Consumer; a stage of killers alone is a crash loop."""
    staffing = Staffing()
    staffing.want(2, 1)
    for _ in range(5):
        for slot in [0, 1] * (EXCUSED_MAX // 2):
            staffing.died(slot, 0.0, fruitful=False, problem="it died", attributed=True)
        assert staffing.decide([], 0.0) == [Start(0), Start(1)]
        staffing.prospered(0, 1)  # a good message between them
    deaths = 0
    while not staffing.crash_loop:
        staffing.died(0, 0.0, fruitful=False, problem="it died", attributed=True)
        deaths += 1
    assert deaths == EXCUSED_MAX + 5
    assert staffing.decide([], 0.0) == []
    assert staffing.problem == "it died"


def test_new_code_deserves_a_new_chance():
    """A restart with other code clears the deaths of the old code."""
    staffing = Staffing()
    staffing.want(1, 1)
    for _ in range(9):
        staffing.start_failed(0, 0.0, "no memory")
    assert staffing.decide([], 0.1) == []
    staffing.want(1, 2)
    assert staffing.decide([], 0.1) == [Start(0)]
    assert not staffing.crash_loop
    assert staffing.problem == ""


def apply(consumers: list[ConsumerFacts], actions: list[Action], code: int, lanes: int) -> list[ConsumerFacts]:
    """Carry out the actions: started Consumers are ready, retired ones are gone."""
    gone = {action.lane for action in actions if not isinstance(action, Start)}
    new = [
        one(lanes + at, "idle", code, slot=action.slot)
        for at, action in enumerate(actions)
        if isinstance(action, Start)
    ]
    return [consumer for consumer in consumers if consumer.lane not in gone] + new


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), min_size=1, max_size=6))
def test_it_arrives_at_what_is_wanted_and_keeps_working_on_the_way(orders):
    """From any state, the number and code are soon the desired ones, and no slot is used twice.

    While some Consumers are desired and some were ready, at least one is ready all the time.
    """
    staffing, consumers, code, lanes = Staffing(), [], 1, 0
    for wanted, newer in orders:
        code += newer
        staffing.want(wanted, code)
        for _ in range(40):
            if staffing.as_wanted(consumers):
                break
            before = len(consumers)
            actions = staffing.decide(consumers, 0.0)
            assert actions
            consumers = apply(consumers, actions, code, lanes)
            lanes += 40
            assert len({consumer.slot for consumer in consumers}) == len(consumers)
            assert not (wanted and before) or consumers
        assert staffing.as_wanted(consumers)
        assert staffing.decide(consumers, 0.0) == []
