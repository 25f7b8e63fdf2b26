"""Overdue: which messages have exceeded the hard limit in a Consumer that works on several, and what becomes of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.producer.overdue import HELD, PULSE, Do, Judged, Moment, ages, look, still

NOW = 1000.0
LIMIT = 10.0
OLD, YOUNG = NOW - 10.5, NOW - 4.0


@pytest.mark.parametrize(
    ("moment", "judged"),
    [
        pytest.param(Moment({}), Judged(Do.NOTHING), id="nothing is in hand"),
        pytest.param(Moment({1: YOUNG}, pulse=NOW), Judged(Do.NOTHING), id="nobody is late"),
        pytest.param(Moment({1: OLD, 2: YOUNG}, pulse=NOW), Judged(Do.CLOSE, frozenset({1})), id="one is late"),
        pytest.param(
            Moment({1: OLD}, pulse=NOW), Judged(Do.KILL, frozenset({1})), id="one is late and no other in hand"
        ),
        pytest.param(
            Moment({1: OLD, 2: YOUNG}, pulse=NOW, closed_at=NOW - 5),
            Judged(Do.NOTHING, frozenset({1})),
            id="it is closed",
        ),
        pytest.param(
            Moment({1: NOW - 21, 2: NOW - 14, 3: NOW - 9}, pulse=NOW, closed_at=NOW - 10.1),
            Judged(Do.KILL, frozenset({1, 2})),
            id="the others have had their time",
        ),
        pytest.param(
            Moment({2: NOW - 9}, pulse=NOW, closed_at=NOW - 60), Judged(Do.NOTHING), id="the late one has ended"
        ),
        pytest.param(
            Moment({1: OLD, 2: YOUNG}, pulse=NOW, patience=1.0), Judged(Do.NOTHING), id="it is being cancelled"
        ),
        pytest.param(Moment({1: 0.0, 2: YOUNG}, pulse=NOW), Judged(Do.NOTHING), id="one waits for a shared object"),
        pytest.param(
            Moment({1: OLD, 2: OLD, 3: 0.0}, running=1, running_since=NOW - 9, pulse=NOW),
            Judged(Do.KILL, frozenset({1})),
            id="the late one holds the loop, so its neighbour is not late",
        ),
        pytest.param(
            Moment({1: OLD, 2: OLD}, running=1, running_since=NOW - HELD / 2, pulse=NOW),
            Judged(Do.KILL, frozenset({1, 2})),
            id="a short step holds nobody up",
        ),
        pytest.param(
            Moment({1: NOW - 12, 2: NOW - 12}, pulse=NOW - 9),
            Judged(Do.NOTHING),
            id="nothing gets on, so time stands still",
        ),
        pytest.param(
            Moment({1: NOW - 12, 2: NOW - 12}, pulse=NOW - 10.5),
            Judged(Do.KILL_STILL),
            id="nothing gets on for too long",
        ),
        pytest.param(
            Moment({1: NOW - 12, 2: NOW - 12}, running=2, running_since=NOW - 11, pulse=NOW - 11),
            Judged(Do.KILL, frozenset({2})),
            id="one holds the loop and the interpreter",
        ),
        pytest.param(
            Moment({1: NOW - 30, 2: NOW - 30}, running=9, running_since=NOW - 20, pulse=NOW),
            Judged(Do.KILL_STILL),
            id="the task of a finished message holds the loop, whatever other threads show",
        ),
        pytest.param(
            Moment({1: NOW - 9, 2: NOW - 3}, running=9, running_since=NOW - 20, pulse=NOW - 20),
            Judged(Do.NOTHING),
            id="the task of a finished message has held the loop since before there was anything to do",
        ),
        pytest.param(
            Moment({1: NOW - 12, 2: NOW - 12, 3: NOW - 1}, pulse=NOW - 10.5),
            Judged(Do.KILL_STILL),
            id="a callback holds the loop, and the message that the pump has taken since then shows nothing",
        ),
        pytest.param(
            Moment({1: NOW - 12, 2: NOW - 12}, running_since=NOW - 0.3, pulse=NOW - 11),
            Judged(Do.KILL, frozenset({1, 2})),
            id="the loop is so full of short steps that its pulse comes late",
        ),
        pytest.param(Moment({1: NOW - 0.1}, pulse=NOW - 3600), Judged(Do.NOTHING), id="it was idle until just now"),
    ],
)
def test_what_becomes_of_it(moment, judged):
    """Its own time counts; who is late closes its Consumer, which is killed when the others have had their time."""
    assert look(moment, LIMIT, NOW) == judged
    assert look(moment, 0.0, NOW) == Judged(Do.NOTHING), "without a limit nothing is"


steps = st.lists(st.tuples(st.integers(1, 3), st.floats(0.001, 8.0)), min_size=1, max_size=12)


@given(steps, st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4))
def test_whoever_holds_the_loop_is_late_alone(taken, looks):
    """Whenever the Producer looks: what a task holds the loop for counts for itself, and for no other one.

    The Consumer moves the beginnings of the others after each long step, as the Producer does in its mind meanwhile.
    Steps too short for that count for everybody.
    """
    now = NOW
    began, own = dict.fromkeys((1, 2, 3), now), dict.fromkeys((1, 2, 3), 0.0)
    for runs, seconds in taken:
        held = seconds > HELD
        for part in looks:
            at = now + seconds * part
            found = ages(Moment(dict(began), runs, now, pulse=at), at)
            for seq, age in found.items():
                least = own[seq] + (seconds * part if seq == runs else 0.0)
                assert least - 1e-6 <= age <= least + HELD + 1e-6
        now += seconds
        for seq in began:
            if seq == runs or not held:
                own[seq] += seconds
            else:
                began[seq] += seconds


@given(
    st.dictionaries(st.integers(1, 5), st.sampled_from([0.0, OLD, YOUNG, NOW - 25, NOW]), max_size=5),
    st.integers(0, 6),
    st.sampled_from([NOW, NOW - 0.01, NOW - 3, NOW - 30]),
    st.sampled_from([0.0, NOW, NOW - 2, NOW - 30]),
    st.sampled_from([0.0, NOW - 1, NOW - 11]),
)
def test_whatever_is_seen(began, running, since, pulse, closed_at):
    """Only messages in hand that use their own time are late, and nobody is killed for those while others have time."""
    moment = Moment(began, running, since, pulse, closed_at)
    what, late = look(moment, LIMIT, NOW)
    assert {seq for seq, at in began.items() if at} >= late
    assert late or what in (Do.NOTHING, Do.KILL_STILL)
    assert all(0.0 <= age <= NOW - (began[seq] or NOW) for seq, age in ages(moment, NOW).items())
    if what is Do.KILL and late != began.keys():
        assert (running in late and NOW - since > HELD) or (closed_at and NOW - closed_at > LIMIT)
    held = running and NOW - since > HELD
    if what is Do.KILL_STILL:
        assert NOW - max(since if held else max(pulse, since), min(filter(None, began.values()), default=0.0)) > max(
            LIMIT, PULSE
        )
        assert not (held and 0.0 < began.get(running, 0.0) <= since), "whoever holds the loop is late before that"


@pytest.mark.parametrize(
    ("moment", "told"),
    [
        pytest.param(Moment({}, running=1, running_since=NOW - 9), (0.0, 0), id="nothing is in hand"),
        pytest.param(Moment({1: OLD}, pulse=NOW - 0.3), (0.0, 0), id="it gets on"),
        pytest.param(
            Moment({1: OLD}, running=1, running_since=NOW - PULSE / 2, pulse=NOW), (0.0, 0), id="not for long"
        ),
        pytest.param(
            Moment({1: OLD, 2: OLD}, running=1, running_since=NOW - 9, pulse=NOW - 9), (NOW - 9, 1), id="a message"
        ),
        pytest.param(
            Moment({2: OLD}, running=1, running_since=NOW - 9, pulse=NOW - 9),
            (NOW - 9, 0),
            id="what a message has left",
        ),
        pytest.param(Moment({1: OLD}, pulse=NOW - 5), (NOW - 5, 0), id="a callback, or the interpreter"),
    ],
)
def test_who_holds_a_consumer_is_told_also_without_a_limit(moment, told):
    """Since when, and which message; a second is not told."""
    assert still(moment, NOW) == told
