"""Selections, the choice of letters, and what is remembered of a queue: pure decisions of the broker admin."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.broker_admin import catalogue as catalogues
from mqworker.broker_admin.catalogue import APART, LIMITED, YOUNG, Catalogue, Catalogues
from mqworker.broker_admin.chooser import Chooser
from mqworker.broker_admin.letter_rows import Seen, seen
from mqworker.broker_admin.selections import FORGOTTEN, KEPT, Selection, Selections


def letters(*bodies: bytes) -> list[Seen]:
    return [seen(b"", body) for body in bodies]


def test_a_selection_is_forgotten_after_its_last_use():
    """Ten minutes after it was used last; it belongs to one stage."""
    kept = Selections()
    name = kept.add(Selection("a", []), 0.0)
    assert kept.get(name, "b", 1.0) is None
    for now in (1.0, FORGOTTEN, 2 * FORGOTTEN - 1):
        assert kept.get(name, "a", now) is not None
    assert kept.get(name, "a", 3 * FORGOTTEN) is None


def test_the_selection_that_was_not_used_for_longest_makes_room():
    """There are at most 16."""
    kept = Selections()
    names = [kept.add(Selection("a", []), float(at)) for at in range(KEPT)]
    assert kept.get(names[0], "a", 20.0) is not None
    kept.add(Selection("a", []), 21.0)
    assert [kept.get(name, "a", 22.0) is not None for name in names] == [True, False] + [True] * (KEPT - 2)


@given(st.lists(st.binary(max_size=1), max_size=30))
def test_a_selection_counts_equal_letters(bodies):
    """As many of each as there were, in their order."""
    selection = Selection("a", (each.row for each in letters(*bodies)))
    assert selection.count == len(bodies) == selection.letters.total()
    assert [seen(b"", body).row.id for body in bodies] == selection.ids


@pytest.mark.parametrize(
    ("age", "ready", "complete", "fresh", "current"),
    [
        (0.0, 2, True, None, True),
        (YOUNG + 1, 2, True, None, False),
        (0.0, 3, True, None, False),
        (0.0, 1, True, None, False),
        (0.0, None, True, None, False),
        (0.0, 9, False, None, True),
        (0.0, 1, False, None, False),
        (APART - 1, None, True, 0.0, True),
        (APART + 1, None, True, 0.0, False),
        (100.0, None, True, 200.0, True),
        (201.0, None, True, 200.0, False),
    ],
)
def test_when_a_catalogue_is_true_enough(age, ready, complete, fresh, current):
    """Young and of the right number, or not older than asked for; a look at most every 5 s, whatever is asked for."""
    found = Catalogue(letters(b"1", b"2"), 1000.0, 0.0, complete=complete)
    assert found.current(1000.0 + age, ready, fresh) is current


def test_looks_are_rarer_where_deliveries_are_limited():
    """One a minute is made although nothing seems to have changed; a letter that has come is seen at once."""
    found = Catalogue(letters(b"1"), 1000.0, 0.0, complete=True, limited=True)
    assert found.current(1000.0 + LIMITED - 1, None, 0.0)
    assert not found.current(1000.0 + LIMITED + 1, None, 0.0)
    assert not found.current(1000.0, 2, None)


def test_what_was_moved_is_not_listed_any_more():
    """As many of equal ones as were moved."""
    found = Catalogue(letters(b"1", b"1", b"2", b"3"), 0.0, 0.0, complete=True)
    one, _, two, three = (each.row.id for each in found.letters)
    found.without(Counter({one: 1, three: 1, "unknown": 1}))
    assert [each.row.id for each in found.letters] == [one, two]


def test_the_bytes_that_are_kept_are_bounded(monkeypatch):
    """Those go that were not used for longest; large letters are not kept; a letter that is kept again counts once."""
    monkeypatch.setattr(catalogues, "BODIES", 100)
    kept = Catalogues()
    for name in ("a", "b", "b", "c"):
        kept.keep("q", name, b"", bytes(30))
    assert list(kept.whole("q", "abc")) == ["a", "b", "c"]
    kept.whole("q", "a")
    kept.keep("q", "d", b"", bytes(30))
    assert list(kept.whole("q", "abcd")) == ["a", "c", "d"]
    kept.keep("q", "e", b"", bytes(catalogues.SMALL + 1))
    assert kept.whole("q", "e") == {}


def test_few_queues_are_remembered():
    """The one that was not asked for longest goes."""
    kept = Catalogues()
    for name in "abcd":
        kept.put(name, Catalogue([], 0.0, 0.0, complete=True))
    kept.get("a")
    kept.put("e", Catalogue([], 0.0, 0.0, complete=True))
    assert [name for name in "abcde" if kept.get(name)] == ["a", "c", "d", "e"]
    kept.forget("a")
    assert kept.get("a") is None


def test_a_chooser_takes_the_oldest_that_fit():
    """Up to its limit, by id or by reason; letters and rows are the same to it."""
    (one, two) = (each.row for each in letters(b"1", b"2"))
    by_id = Chooser([one.id], "", 5)
    assert [by_id.chosen(b"", b"1"), by_id.chosen(b"", b"2"), by_id.takes(one.id, "")] == [True, False, True]
    assert by_id.left == 3
    few = Chooser(None, "", 1)
    assert [few.takes(two.id, ""), few.takes(one.id, ""), few.chosen(b"", b"1")] == [True, False, False]
    assert not Chooser(None, "crash", 5).chosen(b"", b"1")
