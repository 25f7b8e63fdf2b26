"""The AMQP 0-9-1 basic property block and its field tables, as pure functions of bytes.

Runs in every process that handles messages (Producer, Consumers, broker admin) and owns nothing: no I/O, no clock.
Receives the property block of a content header frame (the flags and values that follow class, weight and body size),
and returns such a block. Any legal block survives `decode` and `encode` byte for byte, because each header is kept as
the raw field that arrived and is converted to a Python value only on access; so a foreign client's table can neither
break a connection nor be altered in passing. Raises only `MalformedProperties`, when a block contradicts its own
lengths.

Layout: AMQP 0-9-1, sections 4.2.5 and 4.2.6.1, with the field types of RabbitMQ's errata (there `s` is a signed 16 bit
integer, `l` and `L` are signed 64 bit ones, and `x` is a byte array).

Longer than most modules: it is one codec, in which the block, its tables and its field types call each other.
"""

import functools
import struct
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Self

import msgspec
from msgspec.structs import astuple

_OCTETS = tuple(bytes((number,)) for number in range(256))
HEADERS_FLAG = 0x20  # in the first byte of a block: there is a table of headers
MAX_DEPTH = 32  # tables and arrays nested deeper than this are returned as raw bytes: most libraries recurse


class MalformedProperties(ValueError):  # noqa: N818 - the name says what the bytes are
    """The bytes are not a property block: a length points beyond the end, or bytes are left over."""


# Field types: the octet, the size of a value after it, how to read it.
_FORMS = "t? bb BB Uh sh uH Ii iI lq Lq ff dd DBi TQ V"
_FIXED = {ord(form[0]): struct.Struct(">" + form[1:]) for form in _FORMS.split()}
_SIZES = {octet: 1 + form.size for octet, form in _FIXED.items()}
_DECIMAL, _VOID, _TEXT, _BYTES, _ARRAY, _TABLE = b"DVSxAF"
_NESTED = frozenset((_ARRAY, _TABLE))
_LONG = _NESTED | {_TEXT, _BYTES}


def _field_end(data: bytes, start: int, limit: int) -> int:
    """Return the end of the field whose type octet is at `start`; a field of unknown type takes the rest."""
    size = _SIZES.get(data[start])
    if size is None:
        if data[start] not in _LONG:
            return limit
        size = 5 + int.from_bytes(data[start + 1 : start + 5])
        if start + 5 > limit:
            raise MalformedProperties("a field of a header table is cut off")
    if start + size > limit:
        raise MalformedProperties("a field of a header table is longer than its table")
    return start + size


def in_order(table: bytes) -> bytes:
    """Return a table's content sorted by name, with the first field of each name; raises `MalformedProperties`."""
    at, limit, fields = 0, len(table), dict[bytes, bytes]()
    while at < limit:
        name_end = at + 1 + table[at]
        if name_end >= limit:
            raise MalformedProperties("the name of a header is longer than its table")
        if table[name_end] == _TEXT:  # as most are; `_field_end` would take twice as long
            end = name_end + 5 + int.from_bytes(table[name_end + 1 : name_end + 5])
        else:
            end = _field_end(table, name_end, limit)
        name = table[at + 1 : name_end]
        if name not in fields:
            fields[name] = table[at:end]
        at = end
    if at != limit:
        raise MalformedProperties("a field of a header table is longer than its table")
    return b"".join([fields[name] for name in sorted(fields)])


def _split(data: bytes, start: int, limit: int) -> Iterator[tuple[str, int, int]]:
    """Yield name, start and end of each field of a table's content, without descending into nested ones."""
    while start < limit:
        at = start + 1 + data[start]
        if at >= limit:
            raise MalformedProperties("the name of a header is longer than its table")
        if data[at] == _TEXT and at + 5 <= limit:  # as most are; `_field_end` would take twice as long
            end = at + 5 + int.from_bytes(data[at + 1 : at + 5])
            if end > limit:
                raise MalformedProperties("a field of a header table is longer than its table")
        else:
            end = _field_end(data, at, limit)
        yield data[start + 1 : at].decode("utf-8", "surrogateescape"), at, end
        start = end


def _value(data: bytes, start: int, end: int, depth: int = 0) -> Any:
    """Return the Python value of a field, or its raw bytes (with the type octet) when there is no suitable value."""
    kind = data[start]
    if kind in _FIXED:
        return _fixed(kind, data, start + 1)
    try:
        if kind == _TEXT:
            return data[start + 5 : end].decode()
        if kind in _NESTED and depth < MAX_DEPTH:
            return _nested(kind, data, start + 5, end, depth + 1)
    except UnicodeDecodeError:
        return data[start + 5 : end]
    except MalformedProperties:
        return data[start:end]
    return data[start + 5 : end] if kind == _BYTES else data[start:end]


def _nested(kind: int, data: bytes, start: int, end: int, depth: int) -> dict[str, Any] | list[Any]:
    if kind == _TABLE:
        return {name: _value(data, at, after, depth) for name, at, after in _split(data, start, end)}
    items = []
    while start < end:
        after = _field_end(data, start, end)
        items.append(_value(data, start, after, depth))
        start = after
    return items


def _fixed(kind: int, data: bytes, at: int) -> Any:
    if kind == _VOID:
        return None
    if kind == _DECIMAL:
        scale, unscaled = _FIXED[kind].unpack_from(data, at)
        return Decimal(f"{unscaled}E-{scale}")  # exact in any arithmetic context
    return _FIXED[kind].unpack_from(data, at)[0]


def _short(text: str) -> bytes:
    try:
        raw = text.encode()  # twice as fast as with another way to handle errors
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "surrogateescape")
    if len(raw) > 255:
        raise ValueError(f"{len(raw)} bytes do not fit an AMQP short string (255)")
    return _OCTETS[len(raw)] + raw


@functools.lru_cache(1024)
def header_name(name: str) -> bytes:
    """Return the name of a header as it stands before its field; raises ValueError if it is too long."""
    return _short(name)


def _long(octet: bytes, content: bytes) -> bytes:
    return octet + len(content).to_bytes(4) + content


def encode_value(value: Any, depth: int = 0) -> bytes:  # noqa: C901, PLR0911 - one case per field type
    """Return the field (type octet and payload) for a Python value; raises ValueError or TypeError if AMQP has none."""
    if depth > MAX_DEPTH:
        raise ValueError("a header value is nested too deeply")
    match value:
        case None:
            return b"V"
        case bool():
            return b"t\1" if value else b"t\0"
        case int():
            if not -(1 << 63) <= value < 1 << 63:
                raise ValueError(f"{value} does not fit 64 bits")
            small = -(1 << 31) <= value < 1 << 31
            return b"I" + value.to_bytes(4, signed=True) if small else b"l" + value.to_bytes(8, signed=True)
        case float():
            return b"d" + struct.pack(">d", value)
        case str():
            return _long(b"S", value.encode("utf-8", "surrogateescape"))
        case bytes():
            return _long(b"x", value)
        case dict():
            fields = (_short(name) + encode_value(item, depth + 1) for name, item in value.items())
            return _long(b"F", b"".join(fields))
        case list() | tuple():
            return _long(b"A", b"".join(encode_value(item, depth + 1) for item in value))
        case Decimal():
            return _decimal(value)
        case datetime():
            aware = value if value.tzinfo else value.replace(tzinfo=UTC)
            return b"T" + _unsigned(int(aware.timestamp()), 8)
    raise TypeError(f"AMQP headers have no type for {type(value).__name__}")


def _decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or not -255 <= exponent <= 9 or len(digits) > 10:
        raise ValueError(f"{value} does not fit an AMQP decimal")
    unscaled = int("".join(map(str, digits))) * (-1 if sign else 1) * int(10 ** max(exponent, 0))
    if not -(1 << 31) <= unscaled < 1 << 31:
        raise ValueError(f"{value} does not fit an AMQP decimal")
    return b"D" + bytes((max(-exponent, 0),)) + unscaled.to_bytes(4, signed=True)


def _unsigned(value: int, size: int) -> bytes:
    try:
        return value.to_bytes(size)
    except OverflowError:
        raise ValueError(f"{value} does not fit {size} unsigned bytes") from None


class Headers(MutableMapping[str, Any]):  # noqa: PLW1641 - it is mutable, so it has no hash
    """An ordered, case-sensitive table of headers; each access decodes the value again.

    Timestamps are returned as the integer that was sent (seconds, though some clients send milliseconds). A field
    without a Python value (an unknown type, a broken or too deeply nested table) is returned as its raw bytes. If a
    name occurs twice, the first one counts; setting or deleting any header drops the repeats.
    """

    __slots__ = ("_fields", "_present", "_table")

    def __init__(self, values: dict[str, Any] | None = None) -> None:
        self._fields: dict[str, bytes] = {}  # name to type octet and payload
        self._table: bytes | None = None  # the content as it arrived, until a header is changed
        self._present = False  # an empty table encodes differently from none
        if values:
            for name, value in values.items():
                self[name] = value

    @classmethod
    def decode(cls, table: bytes) -> Self:
        """Parse a table's content (without its length); raises `MalformedProperties`."""
        self = cls()
        self._table, self._present = table, True
        fields = self._fields
        for name, start, end in _split(table, 0, len(table)):
            if name not in fields:
                fields[name] = table[start:end]
        return self

    def encode(self) -> bytes:
        """Return the table's content (without its length)."""
        if self._table is None:
            self._table = b"".join([header_name(name) + field for name, field in self._fields.items()])
        return self._table

    @property
    def present(self) -> bool:
        """Whether a block with these headers has a table at all, even an empty one."""
        return self._present

    def __getitem__(self, name: str) -> Any:
        field = self._fields[name]
        return _value(field, 0, len(field))

    def get(self, name: str, default: Any = None) -> Any:
        """Return the decoded value of a header, or `default` when there is none."""
        return self[name] if name in self._fields else default

    def field(self, name: str) -> bytes:
        """Return a header in its encoded form: type octet and value. Raises KeyError when there is none."""
        return self._fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __setitem__(self, name: str, value: Any) -> None:
        header_name(name)
        self._fields[name] = encode_value(value)
        self._table, self._present = None, True

    set = __setitem__

    def stamp(self, fields: Mapping[str, bytes], table: bytes) -> None:
        """Set headers whose values `encode_value` has already encoded: for headers that every message carries.

        `table` is the content of a table with nothing but these.
        """
        self._table = None if self._fields else table
        self._fields.update(fields)
        self._present = True

    def rename(self, old: str, new: str) -> None:
        """Rename a header; its field is kept byte for byte. Raises KeyError when there is none."""
        header_name(new)
        self._fields[new] = self._fields.pop(old)
        self._table = None

    def __delitem__(self, name: str) -> None:
        del self._fields[name]
        self._table = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self.encode() == other.encode()

    def __repr__(self) -> str:
        return f"Headers({self.to_dict()!r})"

    def to_dict(self) -> dict[str, Any]:
        """Return all headers decoded; never raises."""
        return {name: _value(field, 0, len(field)) for name, field in self._fields.items()}


class Properties(msgspec.Struct):
    """The fourteen basic properties of a message; None means absent."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Headers = msgspec.field(default_factory=Headers)
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None

    @classmethod
    def decode(cls, block: bytes) -> Self:
        """Parse a block; empty bytes are an empty block. Raises `MalformedProperties`."""
        values: dict[str, Any] = {}
        pos = 0
        try:
            if block:
                pos = 2
                for name, size in _present(block[0] << 8 | block[1]):
                    if size:
                        values[name] = int.from_bytes(block[pos : pos + size])
                        pos += size
                    elif name != "headers":
                        start = pos + 1
                        pos = start + block[pos]
                        try:
                            values[name] = block[start:pos].decode()
                        except UnicodeDecodeError:
                            values[name] = block[start:pos].decode("utf-8", "surrogateescape")
                    else:
                        start = pos + 4
                        pos = start + int.from_bytes(block[pos:start])
                        values[name] = Headers.decode(block[start:pos])
        except IndexError:
            raise MalformedProperties("the property block is cut off") from None
        if pos != len(block):
            raise MalformedProperties("the property block does not end where its values do")
        return cls(**values)

    def encode(self) -> bytes:
        """Return the block; raises ValueError when a value does not fit its field."""
        flags, block = 0, b""
        for place, value in enumerate(astuple(self)):
            if value is None:
                continue
            bit, size, text = _LAYOUT[place]
            if text:
                block += _short(value)
            elif size:
                block += _unsigned(value, size)
            elif value.present:
                table = value.encode()
                block += len(table).to_bytes(4) + table
            else:
                continue
            flags |= bit
        return flags.to_bytes(2) + block


def decode_leniently(block: bytes) -> Properties:
    """Parse a block; return empty properties for a malformed one."""
    try:
        return Properties.decode(block)
    except MalformedProperties:
        return Properties()


_NAMES = {1 << 15 - index: name for index, name in enumerate(Properties.__struct_fields__)}
_FIXED_PROPERTIES = {"delivery_mode": 1, "priority": 1, "timestamp": 8}
_LAYOUT = tuple(  # for each property: its flag, its size if fixed, whether it is a short string
    (bit, _FIXED_PROPERTIES.get(name, 0), name not in {"headers", *_FIXED_PROPERTIES}) for bit, name in _NAMES.items()
)
_PLANS: dict[int, tuple[tuple[str, int], ...]] = {}  # at most 2**14 entries: see `_present`


def _present(flags: int) -> tuple[tuple[str, int], ...]:
    """Return the names that the flags announce, each with its size if that is fixed, else 0."""
    plan = _PLANS.get(flags)
    if plan is None:
        if flags & 3:
            raise MalformedProperties("the flags announce properties that AMQP 0-9-1 does not have")
        plan = _PLANS[flags] = tuple(
            (name, _FIXED_PROPERTIES.get(name, 0)) for bit, name in _NAMES.items() if flags & bit
        )
    return plan
