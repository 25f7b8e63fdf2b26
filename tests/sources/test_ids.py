"""The ids of a source's messages."""

import pytest

from mqworker.jobs.item import NOWHERE
from mqworker.jobs.item import SourceItem as Item
from mqworker.sources.ids import Ids, tick_text


def ids(items: list[Item], position: object = NOWHERE) -> list[str]:
    made = Ids("rows", "4f", position)
    return [made.of(item) for item in items]


def test_an_item_has_the_id_of_its_position():
    """Texts as they are, other values as JSON; those behind one count from it."""
    items = [Item(1, position=7), Item(2), Item(3), Item(4, position="b"), Item(5, position=[1, "x"]), Item(6)]
    assert ids(items) == ["rows:7", "rows:7+1", "rows:7+2", "rows:b", 'rows:[1,"x"]', 'rows:[1,"x"]+1']


def test_after_a_death_the_same_items_have_the_same_ids():
    """Whatever position was stored: what follows it is counted from there."""
    items = [Item(1, position=7), Item(2), Item(3, position=8), Item(4)]
    whole = ids(items)
    assert ids(items[1:], 7) == whole[1:]
    assert ids(items[3:], 8) == whole[3:]


def test_without_positions_each_life_has_ids_of_its_own():
    """It begins anew, so equal ids would mean equal content."""
    assert ids([Item(1), Item(2)]) == ["rows:4f.1", "rows:4f.2"]


def test_what_the_item_says_counts():
    """An id of its own is used as it is."""
    assert ids([Item(1, message_id="mine"), Item(2, position=3, message_id="yours"), Item(3)]) == [
        "mine",
        "yours",
        "rows:3+1",
    ]


def test_the_same_position_twice_is_refused():
    """It would say that all up to here was yielded when it was not."""
    made = Ids("rows", "4f", 7)
    with pytest.raises(ValueError, match="twice"):
        made.of(Item(1, position=7))


def test_ticks():
    """One message of a tick has its time as id; several are numbered."""
    made = Ids("rows", "4f")
    made.begin(tick_text(1774746000000), yields=False)
    assert made.of(Item(1)) == "rows:2026-03-29T01:00:00Z"
    made.begin(tick_text(1774746000500), yields=True)
    assert [made.of(Item(1)), made.of(Item(2))] == [
        "rows:2026-03-29T01:00:00.500Z.1",
        "rows:2026-03-29T01:00:00.500Z.2",
    ]


def test_long_ones_are_hashed():
    """An id has at most 255 bytes, and different positions have different ones."""
    long = ids([Item(1, position="x" * 300), Item(2, position="y" * 300)])
    assert all(len(each) < 50 for each in long)
    assert len(set(long)) == 2
