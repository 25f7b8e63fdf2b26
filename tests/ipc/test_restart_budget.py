"""Restart budgets."""

import pytest
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
    """The second start comes at once, the third after half a second, then each after twice as long, up to a minute."""
    assert delays(Budget(), 11) == [0, 0.5, 1, 2, 4, 8, 16, 32, MOST, MOST, MOST]


def test_years_of_deaths_are_counted():
    """A slot that has died every minute for years is still restarted once a minute."""
    assert set(delays(Budget(fruitless=1_000), 200)) == {MOST}
    assert set(delays(Budget(fruitless=10_000_000), 2)) == {MOST}


# Each line: the time, what happens then (an end of a fruitless or fruitful life, a success of the present one, or
# nothing), and what holds after it: when the next start is due, and whether it is a crash loop or the end of patience.
TABLES = {
    "a fruitful life costs nothing": [
        (0, "fruitless", 0, ""),
        (1, "fruitless", 1.5, ""),
        (100, "fruitful", 100, ""),
        (101, "fruitless", 101, ""),
        (102, "fruitless", 102.5, ""),
    ],
    "a success of the present life is forgotten by nobody": [
        (0, "fruitless", 0, ""),
        (1, "fruitless", 1.5, ""),
        (2, "prospered", 1.5, ""),
        (3, "fruitless", 3, ""),
    ],
    "five in a row are a crash loop, eight are the end": [
        (0, "fruitless", 0, ""),
        (1, "fruitless", 1.5, ""),
        (2, "fruitless", 3, ""),
        (4, "fruitless", 6, ""),
        (7, "fruitless", 11, "crash loop"),
        (8, "", 11, "crash loop"),
        (12, "fruitless", 20, "crash loop"),
        (21, "fruitless", 37, "crash loop"),
        (40, "fruitless", 72, "exhausted"),
    ],
}


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_each_event_has_its_consequence(table):
    """Event by event: when the next start is due, and how the deaths so far are judged."""
    budget = Budget(limit=8)
    for now, event, due, verdict in table:
        if event == "prospered":
            budget.prospered()
        elif event:
            budget.died(now, fruitful=event == "fruitful")
        assert budget.may_start(due)
        assert not budget.may_start(due - 0.01)
        assert ("exhausted" if budget.exhausted else "crash loop" if budget.crash_loop else "") == verdict


@given(st.integers(0, 10), st.lists(st.sampled_from(["fruitless", "fruitful", "prospered"]), max_size=30))
def test_only_fruitless_lives_in_a_row_count(limit, events):
    """Crash loop and exhaustion follow from the deaths since the last success; without a limit nothing is exhausted."""
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
