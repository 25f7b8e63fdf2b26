"""How many items may be ahead of the stored position."""

from mqworker.sources.ahead import MOST, Ahead


def test_with_a_position_on_each_item_so_many_are_ahead_of_the_stored_one():
    """Whatever is confirmed."""
    ahead = Ahead()
    for number in range(1, MOST + 1):
        assert number <= ahead.limit
        ahead.sent(number, number)
    assert ahead.limit == MOST
    ahead.confirmed(MOST)
    assert ahead.limit == MOST
    ahead.stored(500)
    assert ahead.limit == 500 + MOST
    assert not ahead.all_stored
    ahead.stored(MOST)
    assert ahead.limit == 2 * MOST
    assert ahead.all_stored


def test_without_positions_so_many_are_unconfirmed():
    """A record that does not come is not waited for."""
    ahead = Ahead()
    for number in range(1, 5 * MOST):
        ahead.sent(number, None)
        ahead.confirmed(number)
        assert ahead.limit == number + MOST


def test_one_position_in_five_thousand():
    """It goes on between the positions, and from each until that is stored."""
    ahead = Ahead()
    records = 0
    for number in range(1, 15_001):
        assert number <= ahead.limit
        if number % 5000 == 0:
            records += 1
        ahead.sent(number, records if number % 5000 == 0 else None)
        ahead.confirmed(number)
        if number % 5000 == 900:
            ahead.stored(records)
    assert ahead.limit == 15_000 - 1 + MOST


def test_records_without_items_replace_each_other():
    """Ticks that yield nothing while nothing is stored take no memory; all is stored when the last one is."""
    ahead = Ahead()
    ahead.sent(1, 1)
    for record in range(2, 1000):
        ahead.sent(1, record)
    assert len(ahead._open) == 1
    ahead.confirmed(1)
    ahead.stored(500)
    assert not ahead.all_stored
    ahead.stored(999)
    assert ahead.all_stored
    assert ahead.limit == 1 + MOST
