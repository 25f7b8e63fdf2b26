"""Bodies and results: what is accepted, what is refused, and that nothing else ever happens."""

import bz2
import collections
import dataclasses
import datetime as dt
import decimal
import gzip
import json
import lzma
import math
import pathlib
import pickle
import subprocess
import sys
import tracemalloc
import uuid
import zlib

import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqworker.jobs.codecs import OversizedError, UndecodableError, UnencodableError, decode, encode

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


class Text(str):
    __slots__ = ()


class Moment(dt.datetime):
    pass


class Model(pydantic.BaseModel):
    a: object
    b: object = None


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
        (b"[1]", "text/json", "bytes", [1]),
        (b"[1]", "application/x-json", "bytes", [1]),
        (b"[1]", "json", "bytes", [1]),
        (b"[1]", "application/vnd.masstransit+json", "bytes", [1]),
        ('{"a":"电"}'.encode("gbk"), "application/json; charset=gbk", "bytes", {"a": "电"}),
        ('{"a":"ü"}'.encode("latin-1"), "application/json;charset=ISO-8859-1", "bytes", {"a": "ü"}),
        ('["ü"]'.encode("utf-16"), "application/json; charset=utf-16", "bytes", ["ü"]),
        ('["ü"]'.encode("utf-16"), "application/json", "bytes", ["ü"]),
        ('\ufeff["ü"]'.encode("utf-16-le"), "application/json; charset=utf-16le", "bytes", ["ü"]),
        (json.dumps([1, math.inf, -math.inf]).encode(), "application/json", "bytes", [1, math.inf, -math.inf]),
        (b"\xff\xd8", "image/jpeg", "json", b"\xff\xd8"),
        (b"\x08\x01", "application/x-protobuf", "json", b"\x08\x01"),
        (b"<a/>", "application/xml", "json", b"<a/>"),
        (b"<a/>", "text/xml", "json", "<a/>"),
        (b"\x80\x04N.", "application/x-java-serialized-object", "json", b"\x80\x04N."),
        (b"x", "no type at all", "json", b"x"),
    ],
)
def test_a_body_is_decoded_by_its_content_type_and_else_by_the_stage_codec(body, content_type, default, value):
    """Each accepted content type yields its value."""
    assert decode(body, content_type, None, default) == value


@pytest.mark.parametrize("encoding", [None, "", "identity", "UTF-8", "utf8", "binary"])
def test_content_encodings_that_change_nothing_are_accepted(encoding):
    """Clients that put the charset or `binary` into content_encoding are accepted."""
    assert decode(b"[1]", "application/json", encoding, "json") == [1]


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


PACKERS = {
    "gzip": gzip.compress,
    "x-gzip": lambda body: gzip.compress(body[:100]) + gzip.compress(body[100:]),
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "gzip, utf-8": gzip.compress,
    "gzip:UTF-8": gzip.compress,
    "deflate, gzip": lambda body: gzip.compress(zlib.compress(body)),
}


@pytest.mark.parametrize("encoding", PACKERS)
def test_compressed_bodies_are_decompressed(encoding):
    """What content_encoding names is undone, the last first."""
    value = {"a": list(range(300))}
    body = PACKERS[encoding](json.dumps(value).encode())
    assert decode(body, "application/json", encoding, "json") == value


@pytest.mark.parametrize(
    ("name", "pack"),
    [("application/x-gzip", zlib.compress), ("application/x-bz2", bz2.compress), ("application/x-lzma", lzma.compress)],
)
def test_kombus_compression_is_undone(name, pack):
    """Kombu names the compression in a header, calls zlib gzip, and gives the charset as content_encoding."""
    assert decode(pack(b"[1]"), "application/json", "utf-8", "json", compression=name) == [1]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "bzip2", "xz"])
def test_a_bomb_is_stopped_at_the_limit(encoding):
    """A body that would be larger than max_body is not decompressed further."""
    body = PACKERS[encoding](bytes(40_000_000))
    assert len(decode(body, "a/b", encoding, "json", limit=40_000_000)) == 40_000_000
    tracemalloc.start()
    with pytest.raises(OversizedError, match="more than 1,000,000 bytes when decompressed"):
        decode(body, "a/b", encoding, "json", limit=1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "bzip2", "xz"])
@given(data=st.data())
def test_damaged_compressed_bodies_are_refused(encoding, data):
    """A compressed body that was cut or changed has a sentence of its own, or the value of its rest."""
    whole = PACKERS[encoding](b"[1, 2, 3]")
    at = data.draw(st.integers(0, len(whole) - 1))
    for body in (whole[:at], whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]):
        try:
            decode(body, "a/b", encoding, "json", limit=1000)
        except (UndecodableError, OversizedError) as error:
            str(error).encode()


def test_unknown_encodings_are_refused():
    """An encoding that cannot be undone is named."""
    with pytest.raises(UndecodableError, match=r"^the encoding 'br' is not accepted; accepted: gzip, deflate"):
        decode(b"x", "application/json", "br", "json")
    with pytest.raises(UndecodableError, match=r"^the encoding 'zstd' is not accepted; accepted: gzip, deflate"):
        decode(b"x", "application/json", None, "json", compression="zstd")


@pytest.mark.parametrize(
    ("forced", "value"), [("json", [1]), ("text", "[1]"), ("bytes", b"[1]"), ("msgpack", UndecodableError)]
)
def test_a_stage_may_say_how_every_body_is_decoded(forced, value):
    """`decode` of the stage wins over the content type."""
    if value is UndecodableError:
        with pytest.raises(UndecodableError):
            decode(b"[1]", "image/png", None, "json", forced=forced)
    else:
        assert decode(b"[1]", "image/png", None, "json", forced=forced) == value


def test_not_a_number_is_read_as_python_writes_it():
    """Python's own json writes NaN, which JSON does not have."""
    (value,) = decode(json.dumps([math.nan]).encode(), "application/json", None, "json")
    assert math.isnan(value)


def test_half_a_surrogate_pair_is_read_as_python_writes_it():
    """A text that was cut within an emoji, or the name of a file that is not UTF-8, is JSON for Python."""
    for text in ("\ud83d", "a\udcff"):
        body = json.dumps([text]).encode()
        assert decode(body, "application/json", None, "json") == [text]
        assert decode(body.replace(b"ud", b"uD"), "application/json", None, "json") == [text]


@pytest.mark.parametrize(
    ("body", "content_type", "sentence"),
    [
        (b"", "application/json", "the body is not JSON: it is empty"),
        (b"", "application/msgpack", "the body is not MessagePack: it is empty"),
        (b"1 2", "application/json", f"{BAD_JSON}: trailing characters (byte 3)"),
        (b"{'a':1}", "application/json", f"{BAD_JSON}: object keys must be strings (byte 1)"),
        (b"NaNa", "application/json", f"{BAD_JSON}: invalid character (byte 0)"),
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
        (b"x", "text/plain; charset=zlib", "the charset 'zlib' is not accepted: send UTF-8"),
        (b"x", "text/plain; charset=../os", "the charset '../os' is not accepted: send UTF-8"),
        (b"1", "application/json; charset=punycode", "the charset 'punycode' is not accepted: send UTF-8"),
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
def test_a_pickle_is_never_loaded(content_type, codec):
    """No header makes a body run code, whatever the stage's codec is: a pickle stays bytes (S17, S18)."""
    pickled = pickle.dumps(Canary())
    assert decode(pickled, content_type, None, codec) == pickled
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
        (np.datetime64("2024-02-29T01:02:03.5", "ns"), "json", b'"2024-02-29T01:02:03.500000"', "application/json"),
        (np.array(["2024-02-29"], "M8[ns]"), "json", b'["2024-02-29T00:00:00"]', "application/json"),
        (np.timedelta64(1_500_000_000, "ns"), "json", b'"PT1.5S"', "application/json"),
        (np.str_("s"), "json", b'"s"', "application/json"),
        (collections.deque([1, 2]), "json", b"[1,2]", "application/json"),
        (range(3), "msgpack", b"\x93\x00\x01\x02", "application/msgpack"),
        (pathlib.PurePosixPath("/a/b"), "json", b'"/a/b"', "application/json"),
        (Text("t"), "json", b'"t"', "application/json"),
        (Moment(2024, 2, 29), "json", b'"2024-02-29T00:00:00"', "application/json"),
        ({decimal.Decimal("1.5"): 1, None: 2, True: 3}, "json", b'{"1.5":1,"null":2,"true":3}', "application/json"),
        (
            {
                None: 1,
                dt.date(2024, 2, 29): 2,
                Moment(2024, 3, 1): 3,
                np.bool_(True): 4,
                np.datetime64("2024-03-02"): 5,
            },
            "json",
            b'{"null":1,"2024-02-29":2,"2024-03-01T00:00:00":3,"true":4,"2024-03-02":5}',
            "application/json",
        ),
        ({"a": [{np.float64(1.5): (range(1),)}]}, "json", b'{"a":[{"1.5":[[0]]}]}', "application/json"),
        (Model(a=1, b=Model(a=[2])), "json", b'{"a":1,"b":{"a":[2],"b":null}}', "application/json"),
    ],
)
def test_a_result_is_encoded_by_the_stage_codec(value, codec, body, content_type):
    """Plain data, bytes, dataclasses, structs and numpy's values can all be encoded."""
    assert encode(value, codec) == (body, content_type)


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ("pandas.DataFrame({'a': [1, 2], 'b': ['x', None]})", [{"a": 1, "b": "x"}, {"a": 2, "b": None}]),
        ("pandas.Series([1.5, float('nan')])", [1.5, None]),
        ("pandas.Series(pandas.to_datetime(['2024-02-29', None]))", ["2024-02-29T00:00:00", None]),
        ("pandas.Timestamp('2024-02-29T01:02:03.000000004Z')", "2024-02-29T01:02:03Z"),
        ("pandas.Timedelta('1 day 2 s')", "P1DT2S"),
        ("[pandas.NaT, pandas.NA, pandas.Period('2024-02', 'M')]", [None, None, "2024-02"]),
        ("{pandas.Timestamp('2024-02-29'): pandas.Index([1, 2])}", {"2024-02-29T00:00:00": [1, 2]}),
    ],
)
def test_what_pandas_returns_has_a_plain_form(value, body):
    """A frame is a list of its rows, a column a list; times are times, and what is missing is null."""
    pandas = pytest.importorskip("pandas")
    assert json.loads(encode(eval(value, {"pandas": pandas}), "json")[0]) == body


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (math.nan, "result"),
        ({"a": [1, {"b": math.inf}]}, "result['a'][1]['b']"),
        ([np.array([1.0, np.nan])], "result[0][1]"),
        (Point(1.0, np.float32("-inf")), "result['y']"),
    ],
)
def test_a_stage_may_refuse_what_json_cannot_say(value, where):
    """With nan = "error", NaN and infinities are an error that names their place."""
    with pytest.raises(UnencodableError) as caught:
        encode(value, "json", nan="error")
    assert str(caught.value) == f'{where} is NaN or infinite, which the stage refuses (nan = "error")'
    assert encode([1.5], "json", nan="error")[0] == b"[1.5]"


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
