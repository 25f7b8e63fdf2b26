"""The property codec: what it must read, write, pass on unchanged and refuse."""

import struct
from datetime import UTC, datetime
from decimal import Decimal

import pika.data
import pika.spec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.amqp.properties import Headers, MalformedProperties, Properties, encode_value

TEXT_PROPERTIES = (
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
)


def block_of(table: bytes) -> bytes:
    """Return a property block with nothing but a header table."""
    return struct.pack(">HI", 1 << 13, len(table)) + table


def entry(name: bytes, field: bytes) -> bytes:
    return bytes((len(name),)) + name + field


def nested(depth: int) -> bytes:
    field = b"V"
    for _ in range(depth):
        table = entry(b"n", field)
        field = b"F" + struct.pack(">I", len(table)) + table
    return field


FIELDS = {
    "bool": (b"t\1", True),
    "odd bool": (b"t\2", True),
    "int8": (b"b\xff", -1),
    "uint8": (b"B\xff", 255),
    "int16": (b"s\xff\xfe", -2),
    "int16 of the specification": (b"U\xff\xfe", -2),
    "uint16": (b"u\xff\xfe", 65534),
    "int32": (b"I\xff\xff\xff\xff", -1),
    "uint32": (b"i\xff\xff\xff\xff", 2**32 - 1),
    "int64": (b"l" + b"\xff" * 8, -1),
    "int64 of others": (b"L" + b"\xff" * 8, -1),
    "float": (b"f" + struct.pack(">f", 0.5), 0.5),
    "double": (b"d" + struct.pack(">d", 0.1), 0.1),
    "decimal": (b"D\2" + struct.pack(">i", 75), Decimal("0.75")),
    "decimal with the largest scale": (b"D\xff" + struct.pack(">i", -1), Decimal("-1E-255")),
    "text": (b"S\0\0\0\2\xc3\xa9", "é"),
    "text that is not UTF-8": (b"S\0\0\0\1\xff", b"\xff"),
    "bytes": (b"x\0\0\0\1\xff", b"\xff"),
    "timestamp": (b"T" + struct.pack(">Q", 1_700_000_000), 1_700_000_000),
    "timestamp in milliseconds": (b"T" + struct.pack(">Q", 1_700_000_000_000), 1_700_000_000_000),
    "void": (b"V", None),
    "array": (b"A\0\0\0\5t\1VB\7", [True, None, 7]),
    "table": (b"F\0\0\0\4\1at\0", {"a": False}),
    "unknown type": (b"?abc", b"?abc"),
    "broken array": (b"A\0\0\0\2I\0", b"A\0\0\0\2I\0"),
    "broken table": (b"F\0\0\0\2\7a", b"F\0\0\0\2\7a"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_type_is_read_and_passed_on_unchanged(name):
    """A field of any type is decoded on access and re-encoded byte for byte."""
    field, value = FIELDS[name]
    block = block_of(entry(b"first", b"t\1") + entry(b"h", field))
    decoded = Properties.decode(block)
    assert decoded.headers["h"] == value
    assert type(decoded.headers["h"]) is type(value)
    assert decoded.headers.to_dict() == {"first": True, "h": value}
    assert decoded.encode() == block
    decoded.headers["added"] = 1
    assert decoded.encode() == block_of(block[6:] + entry(b"added", b"I\0\0\0\1"))[: len(block) + 11]


@pytest.mark.parametrize("depth", [1, 30, 33, 1_000, 20_000])
def test_deep_tables_cost_no_stack(depth):
    """Tables nested to any depth are split, decoded and passed on without recursion."""
    block = block_of(entry(b"deep", nested(depth)))
    decoded = Properties.decode(block)
    shown, levels = decoded.headers.to_dict()["deep"], 0
    while isinstance(shown, dict):
        shown, levels = shown["n"], levels + 1
    assert levels == min(depth, 32)
    assert decoded.encode() == block


def test_an_empty_block_and_an_empty_table_are_kept_apart():
    """No block, no table and an empty table each stay what they are."""
    assert Properties.decode(b"") == Properties()
    assert Properties().encode() == b"\0\0"
    assert not Properties.decode(b"\0\0").headers.present
    assert Properties.decode(block_of(b"")).encode() == block_of(b"")


def test_names_that_occur_twice_pass_through():
    """An untouched table keeps repeated names; reading returns the first of them."""
    block = block_of(entry(b"a", b"B\1") + entry(b"a", b"B\2") + entry(b"A", b"B\3"))
    decoded = Properties.decode(block)
    assert decoded.headers.to_dict() == {"a": 1, "A": 3}
    decoded.message_id = "m"
    assert Properties.decode(decoded.encode()).headers.encode() == block[6:]


def test_bytes_that_are_not_utf8_survive_in_short_strings():
    """Property values and header names in another encoding re-encode byte for byte."""
    block = struct.pack(">H", 1 << 13 | 1 << 7) + struct.pack(">I", 4) + b"\2\xff\xe9V" + b"\2\xe9\xff"
    decoded = Properties.decode(block)
    assert decoded.message_id == "\udce9\udcff"
    decoded.headers["more"] = None
    del decoded.headers["more"]
    assert decoded.encode() == block


def test_headers_behave_like_a_mapping():
    """Headers are set, replaced in place, popped and iterated in order."""
    headers = Headers({"a": 1, "b": "two"})
    headers.set("a", 3)
    assert list(headers) == ["a", "b"]
    assert headers.get("c", 5) == 5
    assert "b" in headers
    assert len(headers) == 2
    assert headers.pop("b") == "two"
    assert headers.pop("b", None) is None
    assert headers == Headers({"a": 3})
    with pytest.raises(KeyError):
        del headers["b"]


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (True, b"t\1"),
        (1, b"I\0\0\0\1"),
        (2**31, b"l\0\0\0\0\x80\0\0\0"),
        ("\udcff", b"S\0\0\0\1\xff"),
        (Decimal(500), b"D\0\0\0\1\xf4"),
        (Decimal("-0.75"), b"D\2\xff\xff\xff\xb5"),
        (datetime(2023, 11, 14, 22, 13, 20), b"T" + struct.pack(">Q", 1_700_000_000)),  # noqa: DTZ001 - naive on purpose
        (datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), b"T" + struct.pack(">Q", 1_700_000_000)),
    ],
)
def test_values_are_encoded_as_their_field_type(value, field):
    """Each Python type has one field type; naive datetimes count as UTC."""
    assert encode_value(value) == field


CIRCLE: list = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "value",
    [
        *(2**63, CIRCLE, {"n" * 256: 1}, "\ud800", datetime(1969, 1, 1, tzinfo=UTC)),
        *(Decimal("NaN"), Decimal("1E10"), Decimal(2**31), Decimal("1E-256")),
    ],
)
def test_values_that_do_not_fit_are_refused(value):
    """A value that AMQP cannot hold raises ValueError, and is never encoded wrongly."""
    with pytest.raises(ValueError):
        encode_value(value)


def test_types_that_amqp_does_not_have_are_refused():
    """An object of an unknown type raises TypeError."""
    with pytest.raises(TypeError):
        encode_value(object())


@pytest.mark.parametrize("change", [{"priority": 256}, {"timestamp": -1}, {"message_id": "é" * 128}])
def test_properties_that_do_not_fit_are_refused(change):
    """A property value too large for its field raises ValueError."""
    with pytest.raises(ValueError):
        Properties(**change).encode()


short_text = st.text(st.characters(codec="utf-8"), max_size=60)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary()
    | st.decimals(-1000, 1000, places=3)
)
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(short_text, inner), max_leaves=10)
properties = st.builds(
    Properties,
    headers=st.dictionaries(short_text, values).map(Headers),
    delivery_mode=st.none() | st.integers(0, 255),
    priority=st.none() | st.integers(0, 255),
    timestamp=st.none() | st.integers(0, 2**64 - 1),
    **{name: st.none() | short_text for name in TEXT_PROPERTIES},
)


@given(properties)
def test_what_is_written_is_read_back(original):
    """Decoding inverts encoding, and pika finds the same length."""
    block = original.encode()
    again = Properties.decode(block)
    assert again == original
    assert again.headers.to_dict() == original.headers.to_dict()
    assert again.encode() == block
    assert Headers(again.headers.to_dict()).encode() == original.headers.encode()


pika_leaves = (
    st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.text(st.characters(codec="utf-8")) | st.binary()
)
pika_values = st.recursive(
    pika_leaves, lambda inner: st.lists(inner) | st.dictionaries(short_text, inner), max_leaves=10
)


@given(st.dictionaries(short_text, pika_values), short_text, st.integers(0, 2**64 - 1))
def test_the_same_bytes_as_pika(headers, text, number):
    """For the types that pika handles correctly, both encoders yield the same bytes."""
    names = dict.fromkeys(TEXT_PROPERTIES, text)
    theirs = pika.spec.BasicProperties(headers=headers, timestamp=number, delivery_mode=2, priority=9, **names)
    ours = Properties(headers=Headers.decode(b""), timestamp=number, delivery_mode=2, priority=9, **names)
    for name, value in headers.items():
        ours.headers[name] = value
    assert ours.encode() == b"".join(theirs.encode())
    assert Properties.decode(ours.encode()).headers.to_dict() == headers


@given(st.binary(max_size=300))
def test_random_bytes_decode_or_are_malformed(data):
    """Garbage raises MalformedProperties or decodes to something that can be shown and passed on unchanged."""
    for block in (data, block_of(data)):
        try:
            decoded = Properties.decode(block)
        except MalformedProperties:
            continue
        decoded.headers.to_dict()
        assert decoded.encode() == (block or b"\0\0")


@given(properties, st.data())
def test_damaged_blocks_decode_or_are_malformed(original, data):
    """A legal block with any one byte changed, or cut anywhere, raises MalformedProperties or decodes."""
    block = bytearray(original.encode())
    block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    for damaged in (bytes(block), bytes(block[: data.draw(st.integers(0, len(block)))])):
        try:
            Properties.decode(damaged).headers.to_dict()
        except MalformedProperties:
            continue
