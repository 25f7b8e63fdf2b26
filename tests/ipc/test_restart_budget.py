"""Restart budgets."""

from hypothesis import given
from hypothesis import strategies as st

from mqworker.ipc.restart_budget import LOOP, MOST, Budget


def delays(budget: Budget, deaths: int) -> list[float]:
    found = []
    for number in range(deaths):
        budget.died(float(number), fruitful=False)
        found.append(budget.due - number)
    return found


def test_fruitless_lives_wait_longer_each_time():
    """The second start comes at once, the third after half a second, then twice as long each time, up to a minute."""
    assert delays(Budget(), 11) == [0, 0.5, 1, 2, 4, 8, 16, 32, MOST, MOST, MOST]


def test_years_of_deaths_are_counted():
    """A slot that dies each minute for years is still started once a minute."""
    assert set(delays(Budget(fruitless=1_000), 200)) == {MOST}
    assert set(delays(Budget(fruitless=10_000_000), 2)) == {MOST}


def test_a_fruitful_life_costs_nothing():
    """Its successor starts at once, and what was before is forgotten."""
    budget = Budget(limit=8)
    delays(budget, 7)
    budget.died(100.0, fruitful=True)
    assert budget.may_start(100.0)
    assert not budget.crash_loop
    assert delays(budget, 3) == [0, 0.5, 1]


def test_a_start_is_due_at_its_time_and_not_before():
    """`may_start` compares with the time it is given."""
    budget = Budget()
    assert budget.may_start(-1e9) is False
    assert budget.may_start(0.0)
    budget.died(10.0, fruitful=False)
    budget.died(10.0, fruitful=False)
    assert not budget.may_start(10.49)
    assert budget.may_start(10.5)


@given(st.integers(0, 10), st.lists(st.sampled_from(["fruitless", "fruitful", "prospered"]), max_size=30))
def test_only_fruitless_lives_in_a_row_count(limit, events):
    """Crash loop and exhaustion follow from the deaths since the last success; without a limit nothing exhausts."""
    budget, row = Budget(limit=limit), 0
    for now, event in enumerate(events):
        if event == "prospered":
            budget.prospered()
        else:
            budget.died(now, fruitful=event == "fruitful")
        row = row + 1 if event == "fruitless" else 0
        assert budget.crash_loop == (row >= LOOP)
        assert budget.exhausted == (limit > 0 and row >= limit)
        assert budget.due <= now + MOST
