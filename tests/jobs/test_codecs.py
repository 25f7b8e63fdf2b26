"""Bodies and results: what is accepted, what is refused, and that nothing else ever happens."""

import dataclasses
import datetime as dt
import pickle
import subprocess
import sys
import uuid

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqworker.jobs.codecs import UndecodableError, UnencodableError, decode, encode

ACCEPTED = (
    "accepted: JSON (application/json, anything with +json), MessagePack (application/msgpack), text (text/*) "
    "and bytes (application/octet-stream)"
)
BAD_JSON = "the body is not JSON: JSON is malformed"
BAD_PACK = "the body is not MessagePack: MessagePack data is malformed"
NO_JSON = "the result cannot be encoded as json"
NO_COMPLEX = " (complex has no plain form)"
CODECS = ["json", "msgpack", "text", "bytes"]
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@dataclasses.dataclass
class Point:
    x: object
    y: object = 0


class Track(msgspec.Struct):
    points: list[Point]


@pytest.mark.parametrize(
    ("body", "content_type", "default", "value"),
    [
        (b'{"a": [1, 2.5, null]}', "application/json", "bytes", {"a": [1, 2.5, None]}),
        (b"1", "application/json; charset=utf-8", "bytes", 1),
        (b"1", 'Application/JSON;charset="UTF-8"', "bytes", 1),
        (b"1", "application/vnd.api+json", "bytes", 1),
        (b"\xef\xbb\xbf1", "application/json", "bytes", 1),
        (b"null", None, "json", None),
        (b"\x93\x01\x02\x03", "application/msgpack", "json", [1, 2, 3]),
        (b"\x01", "application/x-msgpack", "json", 1),
        (b"\x01", "application/vnd.msgpack", "json", 1),
        (b"\x01", None, "msgpack", 1),
        ("grün".encode(), "text/plain", "json", "grün"),
        ("grün".encode("latin-1"), "text/plain; charset=ISO-8859-1", "json", "grün"),
        ("电".encode("gbk"), "text/csv; header=present; charset=gbk", "json", "电"),
        ("grün".encode(), None, "text", "grün"),
        (b"\x00\xff", "application/octet-stream", "json", b"\x00\xff"),
        (b"\x00\xff", None, "bytes", b"\x00\xff"),
        (b"", "", "text", ""),
    ],
)
def test_a_body_is_decoded_by_its_content_type_and_else_by_the_stage_codec(body, content_type, default, value):
    """Each accepted content type yields its value."""
    assert decode(body, content_type, None, default) == value


@pytest.mark.parametrize("encoding", [None, "", "identity", "UTF-8", "utf8", "binary"])
def test_content_encodings_that_change_nothing_are_accepted(encoding):
    """Clients that put the charset or `binary` into content_encoding are accepted."""
    assert decode(b"[1]", "application/json", encoding, "json") == [1]


def test_packed_bodies_are_refused():
    """A body that would have to be decompressed is refused (no decompression bombs)."""
    with pytest.raises(UndecodableError, match=r"^the content encoding 'gzip' is not accepted: send the body as it is"):
        decode(b"\x1f\x8b", "application/json", "gzip", "json")


@pytest.mark.parametrize(
    ("body", "content_type", "sentence"),
    [
        (b"", "application/json", "the body is not JSON: it is empty"),
        (b"", "application/msgpack", "the body is not MessagePack: it is empty"),
        (b"1 2", "application/json", f"{BAD_JSON}: trailing characters (byte 3)"),
        (b"{'a':1}", "application/json", f"{BAD_JSON}: object keys must be strings (byte 1)"),
        (b"NaN", "application/json", f"{BAD_JSON}: invalid character (byte 0)"),
        (b"9" * 5000, "application/json", "the body is not JSON: Integer value out of range"),
        (b"1e999", "application/json", "the body is not JSON: Number out of range"),
        (b'"\xff"', "application/json", "the body is not JSON: it has text that is not UTF-8 (invalid start byte)"),
        (b"[" * 100_000, "application/json", "the body is not accepted as JSON: it is nested too deeply"),
        (b'{"a":' * 100_000, "application/json", "the body is not accepted as JSON: it is nested too deeply"),
        (b"\x91" * 100_000, "application/msgpack", "the body is not accepted as MessagePack: it is nested too deeply"),
        (b"\xef\xbb\xbf" * 9, "application/json", f"{BAD_JSON}: invalid character (byte 0)"),
        (b"\x01\x02", "application/msgpack", f"{BAD_PACK}: trailing characters (byte 1)"),
        (b"\xdd\xff\xff\xff\xff", "application/msgpack", "the body is not MessagePack: Input data was truncated"),
        (b"\x81\x80\x01", "application/msgpack", f"{BAD_PACK}: map keys must be hashable (byte 3)"),
        (
            b"\xff",
            "text/plain",
            ("the body is not text in utf-8: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        ),
        (b"x", "text/plain; charset=zlib", "the charset 'zlib' is not accepted: send text as UTF-8"),
        (b"x", "text/plain; charset=../os", "the charset '../os' is not accepted: send text as UTF-8"),
        (b"1", "application/json; charset=utf-16", "JSON in the charset 'utf-16' is not accepted: it must be UTF-8"),
        (b"x", "image/png", f"the content type 'image/png' is not accepted; {ACCEPTED}"),
        (b"x", "json", f"the content type 'json' is not accepted; {ACCEPTED}"),
    ],
)
def test_what_cannot_be_decoded_is_refused_with_a_sentence(body, content_type, sentence):
    """Each way in which a body can be bad has its own sentence for the dead letter."""
    with pytest.raises(UndecodableError) as caught:
        decode(body, content_type, None, "json")
    assert str(caught.value) == sentence


class Canary:
    built = False

    def __reduce__(self):
        return setattr, (Canary, "built", True)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "content_type",
    ["application/x-python-serialize", "application/python-pickle", "application/x-pickle", "application/pickle; v=5"],
)
def test_a_pickle_is_refused_and_never_loaded(content_type, codec):
    """No header makes a body run code, whatever the stage's codec is (S17, S18)."""
    with pytest.raises(UndecodableError, match="loading a pickle runs code from the message"):
        decode(pickle.dumps(Canary()), content_type, None, codec)
    assert not Canary.built


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(CODECS))
def test_random_bytes_give_a_value_or_undecodable(body, codec):
    """No body makes a decoder raise anything else."""
    try:
        decode(body, None, None, codec)
    except UndecodableError as error:
        str(error).encode()


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30) | st.sampled_from(["text/x; charset="]).flatmap(lambda s: st.text().map(s.__add__)))
def test_random_content_types_give_a_value_or_undecodable(content_type):
    """No content type or charset makes the decoder raise anything else, and its sentence is valid text."""
    try:
        decode(b"[1]", content_type, content_type, "json")
    except UndecodableError as error:
        str(error).encode()


@settings(max_examples=60, deadline=None)
@given(PLAIN, st.sampled_from(["json", "msgpack"]))
def test_plain_values_come_back_as_they_went(value, codec):
    """What one stage returns, the next one receives."""
    body, content_type = encode(value, codec)
    assert decode(body, content_type, None, "bytes") == value


def test_a_raised_recursion_limit_does_not_let_a_body_end_the_process():
    """Even when user code raises Python's recursion limit, brackets do not overflow the C stack."""
    code = (
        "import sys; sys.setrecursionlimit(10**6)\n"
        "from mqworker.jobs.codecs import *\n"
        "for body, kind in ((b'[' * 900_000, 'application/json'), (b'\\x91' * 900_000, 'application/msgpack')):\n"
        "    try: decode(body, kind, None, 'json')\n"
        "    except UndecodableError as error: print(error)\n"
        "loop = []; loop.append(loop)\n"
        "try: encode(loop, 'json')\n"
        "except UnencodableError as error: print(error)\n"
        "assert sys.getrecursionlimit() == 10**6\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "the body is not accepted as JSON: it is nested too deeply",
        "the body is not accepted as MessagePack: it is nested too deeply",
        "the result is nested too deeply, or contains itself",
    ]


@pytest.mark.parametrize(
    ("value", "codec", "body", "content_type"),
    [
        ({"a": (1, 2.5, None, True)}, "json", b'{"a":[1,2.5,null,true]}', "application/json"),
        ("grün", "json", '"grün"'.encode(), "application/json"),
        (2**200, "json", str(2**200).encode(), "application/json"),
        (b"\x00\xff", "json", b"\x00\xff", "application/octet-stream"),
        (bytearray(b"ab"), "text", b"ab", "application/octet-stream"),
        (memoryview(b"abcd")[::2], "bytes", b"ac", "application/octet-stream"),
        (b"ab", "msgpack", b"\xc4\x02ab", "application/msgpack"),
        ("grün", "text", "grün".encode(), "text/plain; charset=utf-8"),
        (Point(1, Point(2)), "json", b'{"x":1,"y":{"x":2,"y":0}}', "application/json"),
        (Track([Point(1)]), "json", b'{"points":[{"x":1,"y":0}]}', "application/json"),
        (float("nan"), "json", b"null", "application/json"),
        (dt.date(2024, 2, 29), "json", b'"2024-02-29"', "application/json"),
        (uuid.UUID(int=1), "json", b'"00000000-0000-0000-0000-000000000001"', "application/json"),
        (np.float64(1.5), "json", b"1.5", "application/json"),
        (np.int32(3), "msgpack", b"\x03", "application/msgpack"),
        (np.bool_(True), "json", b"true", "application/json"),
        (np.longdouble(0.5), "json", b"0.5", "application/json"),
        ({np.int64(1): np.arange(4).reshape(2, 2)}, "json", b'{"1":[[0,1],[2,3]]}', "application/json"),
        (np.array(7), "json", b"7", "application/json"),
    ],
)
def test_a_result_is_encoded_by_the_stage_codec(value, codec, body, content_type):
    """Plain data, bytes, dataclasses, structs and numpy's values can all be encoded."""
    assert encode(value, codec) == (body, content_type)


class Odd:
    def __repr__(self):
        raise RuntimeError("no repr")


LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "codec", "sentence"),
    [
        (LOOP, "json", "the result is nested too deeply, or contains itself"),
        ("\ud800", "json", "the result has characters that UTF-8 cannot encode (lone surrogates)"),
        ("\ud800", "text", "the result has characters that UTF-8 cannot encode (lone surrogates)"),
        ("a", "bytes", "the result must be bytes with the codec bytes, but is str"),
        ({"a": 1}, "text", "the result must be text or bytes with the codec text, but is dict"),
        (1j, "json", f"{NO_JSON}: result is of type complex{NO_COMPLEX}"),
        (
            range(2),
            "msgpack",
            "the result cannot be encoded as msgpack: result is of type range (range has no plain form)",
        ),
        (
            2**70,
            "msgpack",
            (
                "the result cannot be encoded as msgpack: result is of type int "
                "(can't serialize ints < -2**63 or > 2**64 - 1)"
            ),
        ),
        ({"a": [0, {"b": 1j}]}, "json", f"{NO_JSON}: result['a'][1]['b'] is of type complex{NO_COMPLEX}"),
        (Point(1, Track([Point(1j)])), "json", f"{NO_JSON}: result.y.points[0].x is of type complex{NO_COMPLEX}"),
        ([{(1, 2): 3}], "json", f"{NO_JSON}: result[0] has the key (1, 2) of type tuple"),
        (np.array([1j]), "json", f"{NO_JSON}: result is of type numpy.ndarray{NO_COMPLEX}"),
        (
            ["\udcff"],
            "json",
            (
                f"{NO_JSON}: result[0] is of type str ('utf-8' codec can't encode "
                "character '\\udcff' in position 0: surrogates not allowed)"
            ),
        ),
    ],
)
def test_a_result_without_a_form_is_refused_and_its_culprit_named(value, codec, sentence):
    """The sentence names the part of the result that is at fault, and its type."""
    with pytest.raises(UnencodableError) as caught:
        encode(value, codec)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "value", [Odd(), {"a": Odd()}, {Odd(): 1}, [lambda: 1], {1, Odd}, Exception("x"), (i for i in "ab")]
)
@pytest.mark.parametrize("codec", CODECS)
def test_any_object_can_be_refused(value, codec):
    """Not even an object without a repr makes the encoder raise anything else."""
    with pytest.raises(UnencodableError):
        encode(value, codec)


def test_numpy_is_never_imported_for_a_result():
    """A service that does not use numpy never imports it."""
    code = (
        "import sys; from mqworker.jobs.codecs import *\n"
        "try: encode(1j, 'json')\n"
        "except UnencodableError: print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
