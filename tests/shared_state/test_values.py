"""Values arrive as they were, or are refused with the place named."""

import collections
import dataclasses
import decimal
import enum
import math
import pathlib
import uuid
from datetime import UTC, date, datetime, timedelta, timezone

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.errors import Reject, Retry, SharedCallError, SharedValueError
from mqworker.shared_state import answers, values


@dataclasses.dataclass
class Point:
    x: int = 1


class Struct(msgspec.Struct):
    x: int = 1


class Text(str):
    __slots__ = ()


class Color(enum.IntEnum):
    RED = 1


ITSELF: list = []
ITSELF.append(ITSELF)
Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024 - as users write it

REFUSED = [
    ((1, 2), "is of type tuple"),
    ({1}, "is of type set"),
    (frozenset((1,)), "is of type frozenset"),
    (datetime(2026, 1, 1), "not in UTC"),  # noqa: DTZ001 - this is the point
    (datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))), "not in UTC"),
    (datetime(2026, 1, 1, tzinfo=UTC, fold=1), "not in UTC"),
    (date(2026, 1, 1), "is of type datetime.date"),
    (timedelta(1), "is of type datetime.timedelta"),
    (decimal.Decimal(1), "is of type decimal.Decimal"),
    (uuid.UUID(int=1), "is of type uuid.UUID"),
    (Point(), "Point"),
    (Struct(), "Struct"),
    (Color.RED, "Color"),
    (Text("a"), "Text"),
    (Pair(1, 2), "Pair"),
    (bytearray(b"a"), "is of type bytearray"),
    (memoryview(b"a"), "is of type memoryview"),
    (collections.OrderedDict(a=1), "OrderedDict"),
    (collections.defaultdict(int, a=1), "defaultdict"),
    (collections.Counter(a=1), "Counter"),
    (collections.deque([1]), "deque"),
    (range(3), "is of type range"),
    (1j, "is of type complex"),
    (1 << 64, "more than 64 bits"),
    (-(1 << 63) - 1, "more than 64 bits"),
    (np.float64(1), "numpy.float64"),
    (np.int64(1), "numpy.int64"),
    (np.zeros(2), "numpy.ndarray, which would not arrive as such: pass value.tolist()"),
    (pathlib.Path("a"), "Path"),
    (len, "builtin_function_or_method"),
    (object(), "is of type object"),
    (Exception("x"), "is of type Exception"),
    ("\ud800", "cannot encode"),
    (ITSELF, "contains itself"),
    ({(1, 2): 3}, "has the key (1, 2) of type tuple"),
    ({Text("a"): 3}, "has the key 'a'"),
    ({1 << 64: 3}, "has the key"),
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=("Cs",)))
    | st.binary()
    | st.datetimes(timezones=st.just(UTC), allow_imaginary=False).map(lambda each: each.replace(fold=0))
)
KEYS = (
    st.none()
    | st.binary()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=("Cs",)))
)
ACCEPTED = st.recursive(SCALARS, lambda each: st.lists(each) | st.dictionaries(KEYS, each))
ANY = st.recursive(
    SCALARS | st.sampled_from([value for value, _ in REFUSED if value is not ITSELF]),
    lambda each: st.lists(each) | st.dictionaries(KEYS, each) | st.tuples(each) | st.tuples(each, each),
)


def same(one, other):
    """Whether two values are equal, and all their parts of equal types."""
    if type(one) is not type(other):
        return False
    if type(one) is list:
        return len(one) == len(other) and all(map(same, one, other))
    if type(one) is dict:
        return same([*one], [*other]) and same([*one.values()], [*other.values()])
    if type(one) is float:
        return (math.isnan(one) and math.isnan(other)) or (one, math.copysign(1, one)) == (
            other,
            math.copysign(1, other),
        )
    return one == other


@pytest.mark.parametrize(
    ("value", "what"), REFUSED, ids=[f"{at}-{type(value).__name__}" for at, (value, _) in enumerate(REFUSED)]
)
def test_what_would_change_is_refused_with_its_place(value, what):
    """Alone, and inside of lists and dicts."""
    with pytest.raises(SharedValueError) as alone:
        values.encode(value, "the answer")
    assert what in str(alone.value)
    assert str(alone.value).startswith("the answer")
    with pytest.raises(SharedValueError) as inside:
        values.encode([0, {"a": [value]}], "the answer")
    if value is not ITSELF and what != "cannot encode":
        assert str(inside.value).startswith("the answer[1]['a'][0]")


@given(ACCEPTED)
def test_what_is_accepted_arrives_as_it_was(value):
    """Equal, of equal types, in the same order."""
    assert same(values.decode(values.encode(value, "it")), value)


@given(ANY)
def test_whatever_it_is_it_arrives_as_it_was_or_is_refused(value):
    """No third way."""
    try:
        data = values.encode(value, "it")
    except SharedValueError:
        return
    assert same(values.decode(data), value)


def test_a_value_that_is_too_large_is_refused(monkeypatch):
    """One MiB is the most, also of what would take for ever to encode."""
    values.encode(b"x" * (values.MOST - 5), "it")
    with pytest.raises(SharedValueError, match="1,048,577"):
        values.encode(b"x" * (values.MOST - 4), "it")
    monkeypatch.setattr(values, "MOST", 1 << 12)  # the looking grows with it
    doubled: list = []
    for _ in range(100):
        doubled = [doubled, doubled]
    with pytest.raises(SharedValueError, match="too large"):
        values.encode(doubled, "it")


def test_deep_values_arrive_or_are_refused():
    """Up to the depth that both sides can encode and decode."""
    value: list = []
    for _ in range(values.DEPTH - 1):
        value = [value]
    assert values.decode(values.encode(value, "it")) == value
    with pytest.raises(SharedValueError, match="deep"):
        values.encode([[value]], "it")


@given(st.dictionaries(st.text("abc", max_size=3), st.booleans(), max_size=5), st.randoms())
def test_the_order_of_a_dict_does_not_make_another_call(value, random):
    """Two runs of one message may build an argument in different orders."""
    shuffled = [*value.items()]
    random.shuffle(shuffled)
    other = dict(shuffled)
    assert values.canonical(value, values.encode(value, "")) == values.canonical(other, values.encode(other, ""))


# --- answers


def test_an_argument_that_is_returned_unchanged_is_the_callers_own():
    """Also one that was copied; one that was changed in place is a new value."""
    argument = {"cid": 1, "at": 2.5}
    encoded = values.encode(argument, "it")
    answer = answers.returned(dict(argument), encoded)
    assert len(answer) == 1
    assert answers.result(answer, argument) is argument
    argument["cid"] = 2
    assert answers.result(answers.returned(argument, encoded), None) == argument


def test_what_a_method_raises_is_raised_in_the_handler():
    """Reject and Retry as such, anything else with its type, message and traceback."""
    with pytest.raises(Reject, match="no such camera"):
        answers.result(answers.raised(Reject("no such camera")))
    with pytest.raises(Retry, match="later") as retry:
        answers.result(answers.raised(Retry(2.5, "later")))
    assert retry.value.after == 2.5
    try:
        {}["x"]
    except KeyError as error:
        answer = answers.raised(error)
    with pytest.raises(SharedCallError) as failed:
        answers.result(answer)
    assert failed.value.type == "KeyError"
    assert failed.value.message == "'x'"
    assert "test_what_a_method_raises" in failed.value.__notes__[0]
    with pytest.raises(SharedValueError, match="tuple"):
        answers.result(answers.raised(SharedValueError("the answer is of type tuple")))


def test_only_a_retry_is_asked_again():
    """It says that nothing has happened yet; everything else is the answer for every run of the message."""
    kept = [answers.returned(1, None), answers.returned(1, values.encode(1, "")), answers.raised(ValueError()),
            answers.raised(Reject())]  # fmt: skip
    assert all(map(answers.is_remembered, kept))
    assert not answers.is_remembered(answers.raised(Retry(1)))
    assert not answers.is_remembered(answers.not_run("error", "why"))
