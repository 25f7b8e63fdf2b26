"""Admission: how many deliveries are taken, when none is, and what goes back to the broker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.producer.admission import NOBODY_GRACE, Admission, Facts, HoldBack

LIMIT = 1000
WAIT_MAX = 900.0
AT_WORK = Facts(wanted=True, consumers=4, working=4, prefetch=100, held_bytes=0, unplaced=0)


@pytest.mark.parametrize(
    ("events", "prefetches", "given_back"),
    [
        pytest.param([(0, {})], [100], [False], id="at work: as many as suit it"),
        pytest.param([(0, {}), (1, {"prefetch": 64})], [100, 64], [False] * 2, id="the work changes"),
        pytest.param([(0, {"working": 0})], [0], [False], id="nobody is set up yet: nothing is taken"),
        pytest.param([(0, {}), (1, {"wanted": False})], [100, 0], [False] * 2, id="not listening"),
        pytest.param(
            [(0, {}), (1, {"working": 0}), (1 + NOBODY_GRACE, {"working": 0}), (9, {})],
            [100, 100, 0, 100],
            [False, False, True, False],
            id="no Consumer for a moment changes nothing, for long gives back what is held",
        ),
        pytest.param(
            [(0, {}), (1, {"wanted": False, "consumers": 0, "working": 0})],
            [100, 0],
            [False, True],
            id="no Consumer is wanted: what is held goes back at once",
        ),
        pytest.param(
            [(0, {"held_bytes": 1000}), (1, {"held_bytes": 1001}), (2, {"held_bytes": 501}), (3, {"held_bytes": 500})],
            [100, 0, 0, 100],
            [False] * 4,
            id="bytes: stop above the limit, go on at half of it",
        ),
        pytest.param(
            [(0, {"unplaced": 49}), (1, {"unplaced": 50}), (2, {"unplaced": 25}), (3, {"unplaced": 24})],
            [100, 0, 0, 100],
            [False] * 4,
            id="unplaced: stop at half the prefetch, go on below a quarter",
        ),
        pytest.param(
            [(0, {"prefetch": 1, "unplaced": 1}), (1, {"prefetch": 1, "unplaced": 0})],
            [0, 1],
            [False] * 2,
            id="a prefetch of one stops at one and goes on at none",
        ),
        pytest.param(
            [
                (0, {"output_full": True, "waited": WAIT_MAX}),
                (1, {"output_full": True, "waited": WAIT_MAX + 1}),
                (2, {"output_full": True, "waited": 0.0}),
                (3, {"output_full": False, "waited": 0.0}),
            ],
            [100, 0, 0, 100],
            [False, True, True, False],
            id="a full output: deliveries wait here, but go back before the broker takes them back",
        ),
    ],
)
def test_what_is_decided(events, prefetches, given_back):
    """Each situation leads to the decision in the table."""
    admission = Admission(LIMIT, 0.0, WAIT_MAX)
    decisions = [admission.decide(AT_WORK._replace(**facts), float(now)) for now, facts in events]
    assert [decision.prefetch for decision in decisions] == prefetches
    assert [decision.give_back for decision in decisions] == given_back


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 2 * LIMIT)), max_size=50))
def test_nothing_is_taken_while_holding_back_and_it_ends(steps):
    """While held back nothing is taken; when nothing is unplaced or held any more, work resumes."""
    admission = Admission(LIMIT, 0.0)
    for unplaced, held in steps:
        decision = admission.decide(AT_WORK._replace(unplaced=unplaced, held_bytes=held), 0.0)
        assert (decision.prefetch == 0) == (decision.hold_back is not HoldBack.NO)
        if held > LIMIT or unplaced * 2 >= AT_WORK.prefetch:
            assert decision.prefetch == 0
    assert admission.decide(AT_WORK, 0.0).prefetch == 100


@given(st.lists(st.integers(25, 49), min_size=1))
def test_the_limit_does_not_make_the_consumer_come_and_go(unplaced):
    """Between a quarter and half of the prefetch, the last decision stays."""
    for first in (0, 50):
        admission = Admission(LIMIT, 0.0)
        before = admission.decide(AT_WORK._replace(unplaced=first), 0.0)
        for count in unplaced:
            assert admission.decide(AT_WORK._replace(unplaced=count), 0.0) == before


@pytest.mark.parametrize(
    ("events", "decided"),
    [
        pytest.param([{}], [(100, False, False)], id="at work"),
        pytest.param(
            [{}, {"wanted": False}, {}], [(100, False, False), (0, True, False), (100, False, False)], id="paused"
        ),
        pytest.param([{"working": 0}], [(0, False, False)], id="nobody is set up yet"),
        pytest.param(
            [{}, {"working": 0, "consumers": 0}], [(100, False, False), (0, True, False)], id="no Consumer is wanted"
        ),
        pytest.param(
            [{}, {"held_bytes": LIMIT + 1}, {"held_bytes": LIMIT // 2}],
            [(100, False, False), (100, False, True), (100, False, False)],
            id="too many bytes narrow what begins, and change nothing else",
        ),
        pytest.param([{}, {"unplaced": 100}], [(100, False, False)] * 2, id="what cannot be placed changes nothing"),
    ],
)
def test_an_order_is_kept_by_taking_as_before_or_nothing(events, decided):
    """Prefetch, whether nothing may begin, whether little may; nothing is ever given back."""
    admission = Admission(LIMIT, 0.0, WAIT_MAX, ordered=True)
    decisions = [admission.decide(AT_WORK._replace(**facts), 1.0) for facts in events]
    assert [(one.prefetch, one.frozen, one.narrow) for one in decisions] == decided
    assert not any(one.give_back for one in decisions)
