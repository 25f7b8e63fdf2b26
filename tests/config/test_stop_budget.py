"""The stop budget: whoever waits for another waits longer than the other may take."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mqworker.config.stop_budget import LEAVE, StopBudget

moments = st.floats(0, 4_000_000)


@given(moments, moments)
def test_everyone_has_ended_before_the_next_one_loses_patience(drain, drained):
    """For any drain deadline and end of work, each step is over half a second before the next one's deadline."""
    budget = StopBudget(drain)
    steps = [budget.consumers(min(drain, drained)), budget.producer, budget.kill, budget.abandon, budget.service]
    steps += [budget.least]
    assert all(inner + 0.49 <= outer for inner, outer in itertools.pairwise(steps))
    assert budget.least <= budget.advised < budget.successor


@given(moments, moments)
def test_teardown_has_what_the_drain_deadline_leaves(drain, drained):
    """Consumers have LEAVE seconds to leave, as far as the drain deadline allows, and always at least one."""
    until = StopBudget(drain).consumers(drained)
    assert until >= min(drained, drain) + 1
    if drained + LEAVE <= drain:
        assert until == drained + LEAVE


def test_a_deployed_stopwaitsecs_stays_enough():
    """Earlier versions printed 35 s for the default drain deadline of 30 s, which still suffices."""
    assert StopBudget(30.0).least == 35
