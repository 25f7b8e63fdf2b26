"""Which messages are in order, and whose turn it is: by tables of events."""

import pytest

from mqworker.amqp import headers
from mqworker.amqp.properties import Headers, Properties
from mqworker.brokers.base import Delivery, Publication
from mqworker.producer.entry import COMPUTED, OUT, Entry, Isolation, Plan
from mqworker.producer.ordering import Ordering
from mqworker.producer.ordering_key import LONGEST, WHOLE, key_of

RESULT = Publication("", "out", b"", b"result")


def delivery(tag: int = 1, routing_key: str = "in", **properties: object) -> Delivery:
    return Delivery(1, tag, Properties(**properties).encode(), b"body", False, "", routing_key)


def key(ordered_by: str, routing_key: str = "in", **properties: object) -> bytes | None:
    return key_of(ordered_by, "in", delivery(1, routing_key, **properties))


# --- keys


@pytest.mark.parametrize(
    ("ordered_by", "table", "expected"),
    [
        ("input", {}, WHOLE),
        ("header:k", {"k": "text"}, b"text"),
        ("header:k", {"k": ""}, b""),
        ("header:k", {"k": "é"}, "é".encode()),
        ("header:k", {"k": b"\xff\0"}, b"\xff\0"),
        ("header:k", {"k": 5}, b"5"),
        ("header:k", {"k": "5"}, b"5"),
        ("header:k", {"k": False}, b"False"),
        ("header:k", {"k": 0.5}, b"0.5"),
        ("header:k", {"k": "x" * LONGEST}, b"x" * LONGEST),
        ("header:k", {}, None),
        ("header:k", {"K": "text"}, None),
        ("header:k", {"k": None}, None),
        ("header:k", {"k": {"a": 1}}, None),
        ("header:k", {"k": [1]}, None),
    ],
)
def test_a_key_is_the_text_of_the_value(ordered_by, table, expected):
    """Numbers count as their text; what is no single value, or missing, is no key."""
    assert key(ordered_by, headers=Headers(table)) == expected


def test_a_long_key_counts_by_its_digest():
    """A key takes no more memory than 255 bytes, and different ones stay different."""
    first, second = (key("header:k", headers=Headers({"k": "x" * 100_000 + last})) for last in "ab")
    assert first != second
    assert len(first) == len(second) == 32


def test_the_correlation_id_is_a_key():
    """A message without it is free of order."""
    assert key("correlation_id", correlation_id="c") == b"c"
    assert key("correlation_id") is None


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({}, b"in"),
        ({headers.KEY: "first", headers.QUEUE: "in"}, b"first"),
        ({headers.KEY: "", headers.QUEUE: "in"}, b""),
        ({headers.KEY: "first", headers.QUEUE: "another stage's"}, b"in"),
        ({headers.KEY: "first"}, b"in"),
        ({headers.KEY: [1], headers.QUEUE: "in"}, b"in"),
    ],
)
def test_a_retry_keeps_the_routing_key_under_which_its_message_first_came(table, expected):
    """It comes back under the name of the queue; the header that says so counts only if this stage set it."""
    assert key("routing_key", headers=Headers(table)) == expected


def test_any_routing_key_is_a_key():
    """The empty one too, and one that is not UTF-8."""
    assert key("routing_key", "") == b""
    assert key("routing_key", "a\udcff") == b"a\xff"


@pytest.mark.parametrize("ordered_by", ["correlation_id", "header:k", "routing_key", "input"])
def test_unreadable_properties_have_no_key(ordered_by):
    """A malformed block counts as empty."""
    broken = Delivery(1, 1, b"\xff" + headers.KEY.encode(), b"body", False, "", "r")
    assert key_of(ordered_by, "in", broken) == {"routing_key": b"r", "input": WHOLE}.get(ordered_by)


# --- turns


def standing(ordering: Ordering, *keys: str | None) -> list[Entry]:
    """Return deliveries that arrived with these keys."""
    entries = []
    for tag, name in enumerate(keys, 1):
        arrived = delivery(tag, correlation_id=name)
        entry = Entry(tag, arrived, Isolation.NONE, 0.0)
        ordering.stand(entry, arrived)
        entries.append(entry)
    return entries


def by_key(*, hold: bool = True) -> Ordering:
    return Ordering("correlation_id", "in", hold=hold)


def test_the_first_of_each_key_has_the_turn():
    """And a message without a key stands in no order."""
    a1, b1, a2, free = standing(by_key(), "a", "b", "a", None)
    ordering_of = [entry.unit.key if entry.unit else None for entry in (a1, b1, a2, free)]
    assert ordering_of == [b"a", b"b", b"a", None]
    ordering = by_key()
    a1, b1, a2 = standing(ordering, "a", "b", "a")
    assert [ordering.is_turn(entry) for entry in (a1, b1, a2)] == [True, True, False]


@pytest.mark.parametrize("state", [COMPUTED, OUT])
def test_who_leaves_gives_the_turn_to_the_next_one_that_can_use_it(state):
    """One that is still being computed publishes when it has its outcome."""
    ordering = by_key()
    first, second, third = standing(ordering, "a", "a", "a")
    second.state = state
    ordering.leave(first)
    assert ordering.turned == ([second] if state is COMPUTED else [])
    assert first.unit is None
    ordering.turned.clear()
    third.state = COMPUTED
    ordering.leave(third)  # it was not the first
    ordering.leave(second)
    assert (ordering.turned, len(ordering)) == ([], 0)


def waits_for_turn(plan: Plan, *, hold: bool) -> bool:
    """Whether the second of a unit waits with this plan; if not, it has left, and with its turn the first goes on."""
    ordering = by_key(hold=hold)
    first, second = standing(ordering, "a", "a")
    first.plan = second.plan = plan
    assert ordering.proceeds(first)
    waits = not ordering.proceeds(second)
    assert (second.unit is not None) is waits
    return waits


@pytest.mark.parametrize(
    ("outcome", "publications", "hold", "waits"),
    [
        ("result", (RESULT,), True, True),
        ("result", (RESULT,), False, True),
        ("result", (), True, False),
        ("dropped", (), True, False),
        ("dead", (RESULT,), True, True),
        ("dead", (RESULT,), False, False),
        ("retried", (RESULT,), False, False),
        ("renewed", (RESULT,), True, False),
        ("renewed", (RESULT,), False, False),
    ],
)
def test_what_waits_for_its_turn(outcome, publications, hold, waits):
    """Results do; a failure only where it holds up those behind; a message that goes back to its queue never."""
    assert waits_for_turn(Plan(outcome, publications), hold=hold) is waits


@pytest.mark.parametrize("outcome", ["result", "dropped"])
def test_replies_wait_for_their_turn(outcome):
    """Whoever waits for answers gets them in order, also where there is no output."""
    assert waits_for_turn(Plan(outcome, (), (RESULT,)), hold=False)


def test_a_lost_connection_empties_every_unit():
    """What is in a lane keeps its unit until its outcome; the others stand anew when they are delivered again."""
    ordering = Ordering("input", "in", hold=True)
    out, held = standing(ordering, None, None)
    unit, out.state = out.unit, OUT
    ordering.void()
    assert (out.unit, held.unit, len(ordering)) == (unit, None, 0)
    (again,) = standing(ordering, None)
    ordering.tidy(unit)  # the outcome of the void one
    assert ordering.is_turn(again)
    assert len(ordering) == 1


def test_a_key_with_a_void_run_is_remembered():
    """Its redeliveries stand in the unit that the lane still locks."""
    ordering = by_key()
    (out,) = standing(ordering, "a")
    unit, out.state = out.unit, OUT
    unit.out.add(out)
    ordering.void()
    (again,) = standing(ordering, "a")
    assert again.unit is unit
