"""Blame: who is charged when a Consumer dies that had several messages in hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.producer.blame import DOUBTED, PATIENCE, Accused, DeathFacts, Doubt, Verdict, judge

A, B, C = (Accused(seq, age, thread=seq + 100) for seq, age in ((1, 5.0), (2, 3.0), (3, 0.5)))
ALL = [A, B, C]


def doubts(*counts, killed=0):
    return {each.seq: Doubt(*counts, killed, each.age) for each in ALL}


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        pytest.param(DeathFacts([]), Verdict(1), id="1: nothing was in hand"),
        pytest.param(DeathFacts(ALL, excused=True, running=1), Verdict(1), id="1: we ended it"),
        pytest.param(DeathFacts([A], excused=True), Verdict(1), id="1: we ended it with one in hand"),
        pytest.param(DeathFacts(ALL, overdue=frozenset({2, 9}), running=1), Verdict(2, (2,)), id="2: one was overdue"),
        pytest.param(DeathFacts(ALL, overdue=frozenset({1, 3})), Verdict(2, (1, 3)), id="2: two were overdue"),
        pytest.param(DeathFacts(ALL, overdue=frozenset({9}), running=1), Verdict(2), id="2: it had just ended"),
        pytest.param(DeathFacts([B], tasks=True, killed=True), Verdict(3, (2,)), id="3: one was in hand"),
        pytest.param(DeathFacts(ALL, thread=102), Verdict(4, (2,)), id="4: faulthandler names its thread"),
        pytest.param(
            DeathFacts(ALL, tasks=True, running=3, loop=50, thread=101),
            Verdict(4, (1,)),
            id="4: before the running one",
        ),
        pytest.param(DeathFacts(ALL, tasks=True, running=2, killed=True), Verdict(5, (2,)), id="5: one had the loop"),
        pytest.param(
            DeathFacts(ALL, tasks=True, running=2, loop=50, thread=50),
            Verdict(5, (2,)),
            id="5: the loop's thread crashed",
        ),
        pytest.param(
            DeathFacts(ALL, tasks=True, running=2, loop=50, thread=999),
            Verdict(8, (), {each.seq: Doubt(1, 0, each.age) for each in ALL}),
            id="5: a thread crashed that somebody has started",
        ),
        pytest.param(
            DeathFacts([A, B._replace(thread=101)], thread=101),
            Verdict(8, (), {1: Doubt(1, 0, 5.0), 2: Doubt(1, 0, 3.0)}),
            id="4: two are in the thread that it names",
        ),
        pytest.param(DeathFacts([A._replace(isolated=True), B]), Verdict(6, (1,)), id="6: one has killed before"),
        pytest.param(
            DeathFacts([A._replace(isolated=True), B], tasks=True, killed=True), Verdict(6, (1,)), id="6: before row 7"
        ),
        pytest.param(
            DeathFacts([A._replace(isolated=True), B._replace(isolated=True)]),
            Verdict(8, (), {1: Doubt(1, 0, 5.0), 2: Doubt(1, 0, 3.0)}),
            id="6: two have",
        ),
        pytest.param(DeathFacts(ALL, tasks=True, killed=True), Verdict(7, (), doubts(0, killed=1)), id="7: all waited"),
        pytest.param(
            DeathFacts(ALL, tasks=True, killed=True, no_memory=True), Verdict(8, (), doubts(1)), id="7: not for memory"
        ),
        pytest.param(DeathFacts(ALL, tasks=True), Verdict(8, (), doubts(1)), id="7: not if it exits itself"),
        pytest.param(DeathFacts(ALL, killed=True), Verdict(8, (), doubts(1)), id="7: threads may have killed it"),
        pytest.param(
            DeathFacts(ALL, tasks=True, killed=True, running=9),
            Verdict(8, (), doubts(1)),
            id="7: what a finished message has left was running",
        ),
        pytest.param(DeathFacts([A], still=True), Verdict(8, (), {1: Doubt(1, 0, 5.0)}), id="8: nothing got on"),
        pytest.param(
            DeathFacts([A._replace(isolated=True), B], still=True, tasks=True, running=2),
            Verdict(6, (1,)),
            id="6: nothing got on beside one that is alone",
        ),
        pytest.param(DeathFacts(ALL, thread=999), Verdict(8, (), doubts(1)), id="8: a thread of nobody"),
    ],
)
def test_who_is_charged(facts, verdict):
    """The first row that applies decides."""
    assert judge(facts) == verdict


def test_a_second_death_without_a_culprit_makes_doubted():
    """One does not, and one that has then run alone for its window is back where it was after the first."""
    once = judge(DeathFacts(ALL)).doubts[1]
    twice = judge(DeathFacts([A._replace(doubt=once, age=1.0), B])).doubts
    assert not once.doubted
    assert (twice[1], twice[1].doubted, twice[2].doubted) == (Doubt(DOUBTED, 0, 5.0), True, False)
    cleared = twice[1].outlived()
    assert not cleared.doubted
    assert judge(DeathFacts([A._replace(doubt=cleared), B])).doubts[1].doubted


def test_whoever_kills_waiting_tasks_makes_nobody_doubted_soon():
    """From the fifth time on it counts: what a message has started may send the signal."""
    doubt = Doubt()
    for count in range(1, PATIENCE + 2):
        verdict = judge(DeathFacts([A._replace(doubt=doubt), B], tasks=True, killed=True))
        doubt = verdict.doubts[1]
        assert verdict.row == 7
        assert doubt.doubted == (count >= PATIENCE + DOUBTED - 1)


accused = st.builds(
    Accused,
    seq=st.integers(1, 9),
    age=st.floats(0, 10**5),
    thread=st.integers(0, 4),
    isolated=st.booleans(),
    doubt=st.builds(Doubt, st.integers(0, 9), st.integers(0, 9), st.floats(0, 10**5)),
)


@given(
    st.builds(
        DeathFacts,
        in_hand=st.lists(accused, max_size=6, unique_by=lambda each: each.seq),
        excused=st.booleans(),
        overdue=st.frozensets(st.integers(1, 12), max_size=3),
        tasks=st.booleans(),
        running=st.integers(0, 12),
        loop=st.integers(0, 5),
        thread=st.integers(0, 5),
        killed=st.booleans(),
        no_memory=st.booleans(),
    )
)
def test_whatever_is_known(facts):
    """Charged is what was in hand, one or those that were overdue; and against others no evidence is lost."""
    verdict = judge(facts)
    present = {each.seq: each for each in facts.in_hand}
    assert present.keys() >= set(verdict.charged) | verdict.doubts.keys()
    assert len(verdict.charged) <= 1 or set(verdict.charged) <= facts.overdue
    assert not (verdict.charged and verdict.doubts)
    assert not (facts.excused and (verdict.charged or verdict.doubts))
    for seq, doubt in verdict.doubts.items():
        before = present[seq].doubt
        assert doubt.longest >= max(before.longest, present[seq].age)
        assert (doubt.deaths - before.deaths) + (doubt.killed - before.killed) >= 1
