"""Arbitrary legal property blocks, as a foreign client may send them."""

import struct

from hypothesis import strategies as st

from mqworker.amqp import headers
from mqworker.amqp.properties import Headers, Properties

short = st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
names = short | st.sampled_from(["CC", "BCC", *headers.CODECS, *headers.BROKERS])


def long(octet: bytes, content: bytes) -> bytes:
    return octet + struct.pack(">I", len(content)) + content


def table(fields: list[tuple[str, bytes]]) -> bytes:
    return b"".join(
        bytes((len(raw),)) + raw + field
        for raw, field in ((name.encode("utf-8", "surrogateescape"), field) for name, field in fields)
    )


scalars = (
    st.sampled_from([b"V", b"t\0", b"t\1", b"B\7", b"?unknown", b"A\0\0\0\2I\0", b"F\0\0\0\2\7a", b"D\2\0\0\0\x4b"])
    | st.integers(-(1 << 31), (1 << 31) - 1).map(lambda value: b"I" + struct.pack(">i", value))
    | st.integers(0, (1 << 64) - 1).map(lambda value: b"T" + struct.pack(">Q", value))
    | st.floats(width=64).map(lambda value: b"d" + struct.pack(">d", value))
    | st.binary(max_size=20).map(lambda raw: long(b"S", raw))
    | st.binary(max_size=20).map(lambda raw: long(b"x", raw))
)
# A field of unknown type takes the rest of its table: such a one is only ever the last.
known = scalars.filter(lambda field: not field.startswith(b"?"))
fields = st.recursive(
    known,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: long(b"A", b"".join(items)))
        | st.lists(st.tuples(short, inner), max_size=3).map(lambda items: long(b"F", table(items)))
    ),
    max_leaves=5,
)
tables = st.lists(st.tuples(names, fields), max_size=5, unique_by=lambda item: item[0]).map(
    lambda items: Headers.decode(table(items))
)
texts = st.none() | short
properties = st.builds(
    Properties,
    content_type=texts,
    content_encoding=texts,
    headers=tables | st.builds(Headers),
    delivery_mode=st.none() | st.sampled_from([1, 2]),
    priority=st.none() | st.integers(0, 255),
    correlation_id=texts,
    reply_to=texts,
    expiration=st.none() | st.integers(0, 1 << 32).map(str),
    message_id=texts,
    timestamp=st.none() | st.integers(0, (1 << 64) - 1),
    type=texts,
    user_id=texts,
    app_id=texts,
    cluster_id=texts,
)
