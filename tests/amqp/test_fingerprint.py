"""The identity of a message across its redeliveries."""

from hypothesis import example, given
from hypothesis import strategies as st

from mqworker.amqp.fingerprint import fingerprint
from mqworker.amqp.properties import Headers, Properties
from tests.support import amqp

headers = st.dictionaries(
    st.sampled_from(["a", "b", "x-attempt"]), st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5), max_size=3
)


def block(values: dict[str, object], count: int | None = None) -> bytes:
    properties = Properties(message_id="7")
    for name, value in values.items():
        properties.headers[name] = value
    if count is not None:
        properties.headers["x-delivery-count"] = count
    return properties.encode()


@given(headers)
def test_the_delivery_count_does_not_count(values):
    """With any delivery count, or none, it is the same message."""
    prints = {fingerprint(block(values, count), b"body") for count in (None, 0, 1, 2)}
    assert len(prints) == 1


@given(headers, st.randoms(use_true_random=False))
def test_the_order_of_headers_does_not_count(values, chance):
    """A quorum queue sorts them when it adds its count."""
    mixed = list(values.items())
    chance.shuffle(mixed)
    assert fingerprint(block(dict(mixed)), b"b") == fingerprint(block(values), b"b")
    assert fingerprint(block(dict(sorted(mixed)), 1), b"b") == fingerprint(block(dict(mixed)), b"b")


@given(amqp.properties)
@example(Properties(timestamp=7))  # it begins as an empty table does
def test_a_table_without_headers_counts_like_none(properties):
    """A quorum queue adds the table together with its count; kombu always sends one."""
    properties.headers = Headers()
    plain = properties.encode()
    empty = Headers()
    empty["h"] = 1
    del empty["h"]
    properties.headers = empty
    block = properties.encode()
    assert len(block) == len(plain) + 4
    properties.headers["x-delivery-count"] = 1
    assert fingerprint(plain, b"b") == fingerprint(block, b"b") == fingerprint(properties.encode(), b"b")


@given(st.tuples(st.binary(max_size=4), st.binary(max_size=4)), st.tuples(st.binary(max_size=4), st.binary(max_size=4)))
def test_everything_else_counts(one, other):
    """Different properties or bodies are different messages, wherever the boundary between them is."""
    assert (fingerprint(*one) == fingerprint(*other)) == (one == other)


def test_a_broken_block_has_a_fingerprint():
    """Properties that cannot be parsed are hashed as they are."""
    broken = b"\xff\xff x-delivery-count"
    assert fingerprint(broken, b"") == fingerprint(broken, b"")
    assert fingerprint(broken, b"") != fingerprint(broken + b"!", b"")
