"""Bodies and headers as an operator reads them: exact, bounded, and never executed."""

import gzip
import json
import pickle
import zlib
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.amqp.properties import Headers
from mqworker.broker_admin.preview import CELL, HEX, INSIDE, LARGEST, LONGEST, header_rows, preview
from tests.support import amqp

LARGE = 2**63 - 1
NPY = b"\x93NUMPY\1\0v\0{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }".ljust(127) + b"\n" + bytes(96)


@pytest.mark.parametrize(
    ("body", "content_type", "kind", "part"),
    [
        (
            b'{"n": 9223372036854775807, "x": 1.10e400}',
            "application/json",
            "json",
            '"n": 9223372036854775807,\n  "x": 1.10e400',
        ),
        (b'{"n": 12345678901234567890}', None, "json", "12345678901234567890"),
        (b"plain \xc3\xa4", "text/plain", "text", "plain ä"),
        (b"{broken", "application/json", "text", "{broken"),
        (b"", None, "empty", ""),
        (b"\xff\x00", None, "hex", "ff 00"),
        (b"a\0b", None, "hex", "61 00 62"),
        (
            msgspec.msgpack.encode({"n": LARGE, "b": b"\xff", "l": [1.5, None]}),
            "application/msgpack",
            "msgpack",
            f'"n": {LARGE}',
        ),
        (msgspec.msgpack.encode({7: b"\xff"}), "application/x-msgpack", "msgpack", '"7": "hex:ff"'),
        (b"\xc1", "application/msgpack", "hex", "c1"),
        (NPY, "application/x-npy", "npy", "dtype <f8, shape (3, 4), C order, 96 bytes"),
        (b"\x93NUMPY\1\0\5\0oops!", None, "npy", "cannot be read"),
    ],
)
def test_a_body_is_shown_as_what_it_is(body, content_type, kind, part):
    """Its numbers are exact."""
    told = preview(body, content_type, None)
    assert (told["kind"], told["complete"]) == (kind, True)
    assert part in told["text"]


def test_a_pickle_is_not_loaded():
    """Only its bytes are shown, whatever it would do."""

    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("it was loaded",))

    assert preview(pickle.dumps(Evil(), 0), "application/x-pickle", None)["kind"] == "hex"


@pytest.mark.parametrize(
    ("pack", "name"), [(gzip.compress, "gzip"), (zlib.compress, "deflate"), (gzip.compress, "GZIP ")]
)
def test_a_compressed_body_is_shown_unpacked(pack, name):
    """Up to a bound; a damaged one as it is."""
    told = preview(pack(b'{"n": 1}'), "application/json", name)
    assert (told["kind"], told["text"], told["encoding"]) == ("json", '{\n  "n": 1\n}', name.strip().lower())
    bomb = preview(pack(b"x" * (50 * INSIDE)), "text/plain", name)
    assert (bomb["kind"], bomb["complete"], len(bomb["text"])) == ("text", False, INSIDE)
    assert preview(b"damaged", "application/json", name)["kind"] == "hex"


def test_large_bodies_are_cut():
    """Text in the middle of no character, and hexadecimal numbers."""
    told = preview("ä".encode() * LONGEST, "text/plain", None)
    assert (told["kind"], told["complete"], set(told["text"])) == ("text", False, {"ä"})
    odd = preview(b"x" + "ä".encode() * LONGEST, "text/plain", None)
    assert (odd["kind"], odd["complete"]) == ("text", False)
    assert len(preview(bytes(10 * HEX), None, None)["text"].splitlines()) == HEX // 16


@given(st.binary(max_size=200), st.sampled_from([None, "application/json", "application/msgpack", "text/plain"]))
def test_any_body_has_a_preview(body, content_type):
    """None raises, and each can be sent as JSON."""
    for encoding in (None, "gzip"):
        assert json.dumps(preview(body, content_type, encoding))


@given(amqp.properties)
def test_any_headers_have_rows(properties):
    """Each once, with its type; what AMQP has not is unknown."""
    rows = header_rows(properties.headers)
    assert len(rows) == len(properties.headers)
    assert json.dumps(rows)


def test_headers_are_shown_with_their_types():
    """An integer of 64 bits and a decimal keep every digit; a long value is cut."""
    table = {"n": LARGE, "small": -7, "d": Decimal("1.10"), "t": "x", "b": b"\xff", "no": None, "on": True, "f": 0.1}
    rows = header_rows(Headers(table | {"l": [LARGE, {"a": b"x"}], "long": "y" * 5000}))
    assert rows == [
        ("n", "int64", str(LARGE)), ("small", "int32", "-7"), ("d", "decimal", '"1.10"'), ("t", "text", "x"),
        ("b", "bytes", "\\xff"), ("no", "void", "null"), ("on", "bool", "true"), ("f", "double", "0.1"),
        ("l", "array", f'[{LARGE}, {{"a": "hex:78"}}]'), ("long", "text", "y" * CELL),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "content_type", "kind"),
    [
        (b"[" * 900 + b"0," * 400_000 + b"0" + b"]" * 900, "application/json", "json"),
        (b'{"\\"]":' * 500 + b"[" + b"0," * 100_000 + b"0]" + b"}" * 500, "application/json", "json"),
        (b"\x91" * 300 + b"\xdd" + (90_000).to_bytes(4) + b"\0" * 90_000, "application/msgpack", "msgpack"),
        (b"\xdd" + (900_000).to_bytes(4) + b"\xc0" * 900_000, "application/msgpack", "hex"),
    ],
)
def test_what_is_nested_deeply_becomes_no_huge_text(body, content_type, kind):
    """Where lines would be mostly indentation, there is one; what is too large even so is shown as bytes."""
    told = preview(body, content_type, None)
    assert told["kind"] == kind
    assert len(told["text"]) < LARGEST
    if kind == "json":
        assert msgspec.json.encode(msgspec.Raw(told["text"].encode())) == body
    assert "\n" not in told["text"] or kind == "hex"


def test_ordinary_json_is_in_lines():
    """Also a large one, and brackets in texts are none."""
    body = json.dumps([{"n": n, "text": "[" * 20 + '"\\'} for n in range(10_000)]).encode()
    assert preview(body, None, None)["text"] == msgspec.json.format(body, indent=2).decode()


def test_the_head_of_an_array_is_text():
    """Whatever stands there, it can be sent as JSON."""
    told = preview(NPY.replace(b"'<f8'", b"'\\ud800'"), "application/x-npy", None)
    assert "dtype" in told["text"]
    assert msgspec.json.encode(told)
