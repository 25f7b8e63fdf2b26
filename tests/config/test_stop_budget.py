"""The stop budget: whoever waits for another waits longer than that one may take."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mqworker.config.stop_budget import LEAVE, StopBudget

moments = st.floats(0, 4_000_000)


@given(moments, moments)
def test_everyone_has_ended_before_the_next_one_loses_patience(drain, drained):
    """Whatever the drain deadline, and whenever the work was done: each step is over half a second before the next."""
    budget = StopBudget(drain)
    steps = [budget.consumers(min(drain, drained)), budget.producer, budget.kill, budget.abandon, budget.service]
    steps += [budget.least]
    assert all(inner + 0.49 <= outer for inner, outer in itertools.pairwise(steps))
    assert budget.least <= budget.advised < budget.successor


@given(moments, moments)
def test_teardown_has_what_the_drain_deadline_leaves(drain, drained):
    """Consumers may take LEAVE seconds to leave, if the drain deadline allows, and one second whatever it says."""
    until = StopBudget(drain).consumers(drained)
    assert until >= min(drained, drain) + 1
    if drained + LEAVE <= drain:
        assert until == drained + LEAVE


def test_a_deployed_stopwaitsecs_stays_enough():
    """35 s were printed for the default drain deadline of 30 s by earlier versions."""
    assert StopBudget(30.0).least == 35
