"""Which records of a source are stored, and when: a table, and a model with confirms in any order."""

from itertools import cycle, islice

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mqworker.brokers.rabbitmq.confirmed_prefix import AGE, EVERY, ConfirmedPrefix


def filled(count: int) -> ConfirmedPrefix:
    """Return one with so many publications, each with a record that is its number."""
    prefix = ConfirmedPrefix()
    for number in range(1, count + 1):
        assert prefix.send(b"%d" % number) == number
    return prefix


def test_nothing_is_stored_beyond_an_unconfirmed_publication():
    """A confirm that comes before that of an earlier publication stores nothing."""
    prefix = filled(3)
    prefix.confirm(2)
    prefix.confirm(3)
    assert prefix.due(100.0) is None
    prefix.confirm(1)
    assert prefix.due(100.0) == b"3"


def test_one_store_is_under_way_at_a_time():
    """The next record waits until the one before is stored."""
    prefix = filled(1)
    prefix.confirm(1)
    assert prefix.due(100.0) == b"1"
    prefix.confirm(prefix.send(b"2"))
    assert prefix.due(100.0) is None
    assert prefix.stored(100.0) == 1
    assert prefix.due(100.0) == b"2"
    assert prefix.stored(100.0) == 2


def test_what_is_stored_is_stored_anew():
    """Unless a newer one is on its way; it counts as no other record, and the next one waits for it."""
    prefix = ConfirmedPrefix()
    assert prefix.again() is None
    prefix.found(b"0")
    assert prefix.again() == b"0"
    assert prefix.again() is None
    prefix.confirm(prefix.send(b"1"))
    assert prefix.due(100.0) is None
    assert prefix.stored(100.0) == 0
    assert prefix.due(100.0) == b"1"
    assert prefix.again() is None
    assert prefix.stored(100.0) == 1
    assert prefix.again() == b"1"


def test_records_without_publications_replace_each_other():
    """However many come while nothing is stored, the newest is what waits."""
    prefix = ConfirmedPrefix()
    prefix.send(b"item")
    for number in range(1000):
        prefix.mark(b"%d" % number)
    assert len(prefix._records) == 1
    prefix.confirm(1)
    assert prefix.due(100.0) == b"999"
    assert prefix.stored(100.0) == 1001


@pytest.mark.parametrize(
    ("confirmed", "seconds", "expected"),
    [
        (EVERY - 1, 0.0, None),
        (EVERY, 0.0, b"%d" % EVERY),
        (1, AGE * 0.9, None),
        (1, AGE, b"1"),
        (2 * EVERY, 0.0, b"%d" % (2 * EVERY)),
    ],
)
def test_while_more_is_on_its_way_records_are_stored_now_and_then(confirmed, seconds, expected):
    """After so many items, or after a second."""
    prefix = ConfirmedPrefix()
    prefix.mark(b"0")
    assert prefix.due(50.0) == b"0"
    prefix.stored(50.0)
    for number in range(1, 2 * EVERY + 2):
        prefix.send(b"%d" % number)
    for number in range(1, confirmed + 1):
        prefix.confirm(number)
    assert prefix.due(50.0 + seconds) == expected


def test_a_record_without_a_publication_waits_for_those_before():
    """The end of a tick is stored when all its items are confirmed."""
    prefix = ConfirmedPrefix()
    prefix.send(None)
    prefix.mark(b"tick")
    assert prefix.due(100.0) is None
    prefix.confirm(1)
    assert prefix.due(100.0) == b"tick"


class Prefixes(RuleBasedStateMachine):
    """Publications with and without records, confirmed in any order, at any times."""

    def __init__(self) -> None:
        super().__init__()
        self.prefix = ConfirmedPrefix()
        self.now = 0.0
        self.open: list[int] = []
        self.stored = 0  # the publication that the stored record is about
        self.storing: int | None = None

    @rule(record=st.booleans(), count=st.integers(1, 300))
    def send(self, record, count):
        for _ in range(count):
            number = self.prefix.sent + 1
            self.open.append(self.prefix.send(b"%d" % number if record else None))

    @precondition(lambda self: self.open)
    @rule(part=st.floats(0, 1), which=st.lists(st.integers(0, 3), min_size=1, max_size=8))
    def confirm(self, part, which):
        for at in islice(cycle(which), max(1, int(part * len(self.open)))):
            self.prefix.confirm(self.open.pop(min(at, len(self.open) - 1)))

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0]))
    def store(self, seconds):
        self.now += seconds
        record = self.prefix.due(self.now)
        if record is not None:
            assert self.storing is None
            self.storing = int(record)
            assert all(self.storing < number for number in self.open), "an unconfirmed item is passed"
            assert self.storing > self.stored

    @precondition(lambda self: self.storing is not None)
    @rule()
    def answer(self):
        self.prefix.stored(self.now)
        self.stored, self.storing = self.storing, None

    @invariant()
    def the_prefix_is_confirmed(self):
        assert all(number > self.prefix.confirmed for number in self.open)


TestPrefixes = pytest.mark.untraced(Prefixes.TestCase)  # slow under it, and the tables show what is covered
TestPrefixes.__doc__ = (
    "No record is ever stored that passes an unconfirmed item, and each is newer than the one before."
)
