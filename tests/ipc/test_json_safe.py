"""Values from user code and foreign headers."""

import json
import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from mqworker.amqp.properties import Headers
from mqworker.ipc.json_safe import scalar, tree

texts = st.text(max_size=9) | st.text("\n\x00\u2028\ud800ab\\'\"", max_size=9)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts | st.binary(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(anything)
def test_a_scalar_can_be_sent_and_shown(value):
    """MessagePack and JSON both carry a log event's field unchanged."""
    shown = scalar(value, 100)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(shown)) == shown
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown


def test_numbers_of_other_libraries_are_numbers():
    """Subclasses of int and float, which MessagePack refuses, become plain numbers."""
    numbers = [type("Int", (int,), {})(3), type("Float", (float,), {})(0.5), type("Str", (str,), {})("x")]
    assert [type(scalar(value, 9)) for value in numbers] == [int, float, str]
    assert [scalar(value, 99) for value in (math.nan, math.inf, 1 << 80)] == ["nan", "inf", str(1 << 80)]


@given(st.binary(max_size=60))
def test_any_table_of_headers_can_be_sent_and_shown(content):
    """Whatever a foreign client wrote can be sent: text of any bytes, unknown types, broken nested tables."""
    table = b"\x01a" + b"F" + len(content).to_bytes(4) + content
    for headers in (Headers.decode(table), {"text": content.decode("utf-8", "surrogateescape"), "list": [content]}):
        shown = tree(dict(headers))
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(shown)) is not None
        assert msgspec.json.decode(msgspec.json.encode(shown)) is not None
