"""Arrays in bodies: exactly what they were, or a sentence; and nothing that a body says makes a process pay for it."""

import io
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mqworker import arrays
from mqworker.jobs.codecs import UndecodableError, UnencodableError, decode, encode, encode_as
from mqworker.testing import run_job

PAGE = Path(__file__).parents[2] / "docs" / "bodies.md"
MAGIC = b"\x93NUMPY\x01\x00"


def npy(header: str, data: bytes = b"") -> bytes:
    """Return an .npy with any text for a header."""
    return MAGIC + struct.pack("<H", len(header)) + header.encode("latin-1") + data


def described(descr: object, shape: object, data: bytes = b"", fortran: object = False) -> bytes:
    return npy(repr({"descr": descr, "fortran_order": fortran, "shape": shape}), data)


def memory(array: np.ndarray) -> bytes:
    """Return the bytes of all elements, and what is between their fields, which `tobytes` may leave to chance."""
    return array.view(f"V{array.itemsize}").tobytes()


def same(got: np.ndarray, sent: np.ndarray) -> None:
    """Fail unless an array arrived exactly, may be changed, and lies in memory as promised."""
    assert type(got) is np.ndarray
    assert got.dtype == sent.dtype
    assert got.dtype.descr == sent.dtype.descr  # byte order and titles too
    assert got.shape == sent.shape
    assert memory(got) == memory(sent)
    assert got.flags.writeable
    assert got.flags.aligned
    assert got.flags.c_contiguous or not sent.flags.c_contiguous
    assert got.flags.f_contiguous or not sent.flags.f_contiguous


def handle(body):
    return body


SCALARS = (
    npst.boolean_dtypes()
    | npst.integer_dtypes(endianness="?")
    | npst.unsigned_integer_dtypes(endianness="?")
    | npst.floating_dtypes(endianness="?")
    | npst.complex_number_dtypes(endianness="?")
    | npst.datetime64_dtypes(endianness="?")
    | npst.timedelta64_dtypes(endianness="?")
    | npst.byte_string_dtypes(max_len=5)
    | npst.unicode_string_dtypes(max_len=5, endianness="?")
)
NAMES = st.text("abcé'\"(, \n\\", min_size=1, max_size=4)
SHAPES = npst.array_shapes(min_dims=0, max_dims=2, min_side=1, max_side=2)


def structured(fields: st.SearchStrategy[np.dtype]) -> st.SearchStrategy[np.dtype]:
    """Dtypes of one to three fields, some of which are arrays themselves."""
    drawn = st.lists(st.tuples(NAMES, fields, SHAPES), min_size=1, max_size=3, unique_by=lambda field: field[0])
    return st.tuples(drawn, st.booleans()).map(lambda made: np.dtype(made[0], align=made[1]))


DTYPES = (
    st.recursive(SCALARS, structured, max_leaves=4)
    | st.just(np.dtype([(("title", "name"), "<i2"), ("rest", "V3")]))
    | st.just(np.dtype("V7"))
)


@st.composite
def any_array(draw):
    """An array of any dtype and shape with any bytes in it, in C's order, Fortran's or none."""
    dtype = draw(DTYPES)
    shape = draw(npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    empty = np.zeros(shape, dtype)
    made = np.ndarray(
        empty.shape, empty.dtype, bytearray(draw(st.binary(min_size=empty.nbytes, max_size=empty.nbytes)))
    )
    if dtype.kind == "U":
        made = np.full(shape, "aä", dtype)
    match draw(st.sampled_from(["C", "F", "gaps", "back"])):
        case "F":
            made = np.asfortranarray(made) if made.ndim else made
        case "gaps":
            made = np.repeat(made, 2, axis=0)[::2] if made.ndim else made
        case "back":
            made = made[..., ::-1] if made.ndim else made
    return made


NESTED = st.recursive(
    any_array(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=5,
)


def compare(got: object, sent: object) -> None:
    """Fail unless both are nested in the same way, and every array of one is that of the other."""
    if isinstance(sent, np.ndarray):
        same(got, sent)
        return
    assert type(got) is type(sent)
    assert len(got) == len(sent)
    pairs = [(got[key], sent[key]) for key in sent] if isinstance(sent, dict) else zip(got, sent, strict=True)
    for one, other in pairs:
        compare(one, other)


@settings(max_examples=300, deadline=None)
@given(NESTED)
def test_arrays_arrive_as_they_were_however_nested(value):
    """Every byte, dtype and shape arrives, at any depth.

    An article that this project answers says that of an array inside a dict or a list, pickle serialises only the
    address, so that data are lost. Pickle does not; what looks so is a queue of multiprocessing, which pickles later,
    in a thread, when the array may have been changed or reused. It cannot happen here: a result is its bytes before the
    handler gets the next message, and there is no form in which an array is anything but its bytes.
    """
    compare(arrays.unpack(arrays.pack(value)), value)
    body, content_type = encode(value, "msgpack")
    assert content_type == (arrays.NPY if isinstance(value, np.ndarray) else arrays.MSGPACK)
    compare(decode(body, content_type, None, "json"), value)
    compare(decode(body, content_type, None, "json", forced="msgpack"), value)


@settings(max_examples=150, deadline=None)
@given(any_array())
def test_an_array_alone_is_what_numpy_reads_and_writes(array):
    """A bare array is an ordinary .npy file, in both directions."""
    body = arrays.to_npy(array)
    same(arrays.from_npy(body), array)
    saved = io.BytesIO()
    np.save(saved, array, allow_pickle=False)
    for read in (np.load(io.BytesIO(body), allow_pickle=False), decode(saved.getvalue(), arrays.NPY, None, "json")):
        assert (read.dtype, read.shape) == (array.dtype, array.shape)
        assert read.tobytes() == array.tobytes() or array.dtype.names  # numpy may leave out bytes between fields


def test_an_array_goes_through_a_chain_of_stages():
    """What a test of a user's job sees is what the next stage would."""
    frame = np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3))
    assert run_job(handle, {"frame": frame}, codec="msgpack")["frame"].dtype == frame.dtype
    same(run_job(handle, frame, codec="msgpack"), frame)
    same(run_job(handle, arrays.to_npy(frame), content_type=arrays.NPY, codec="json"), frame)


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ({"a": np.float32(1.5), "b": np.int64(7), "c": np.bool_(True)}, {"a": 1.5, "b": 7, "c": True}),
        ([np.array([1, None], object)], [[1, None]]),
        ([np.ma.masked_array([1, 2], [False, True])], [[1, None]]),
    ],
)
def test_what_is_not_an_exact_array_has_its_plain_form(value, body):
    """Scalars are numbers that every language reads; arrays of Python objects and masked ones are lists."""
    assert decode(*encode(value, "msgpack"), None, "json") == body


def test_keys_that_need_a_form_do_not_cost_the_arrays_theirs():
    """A dict whose keys MessagePack does not know still has arrays as values."""
    same(arrays.unpack(arrays.pack({np.int64(1): {None: np.arange(3)}}))[1][None], np.arange(3))


OVERLAPPING = np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]})
NOT_EXACT = [
    (np.zeros(2, OVERLAPPING), "overlapping"),
    (np.zeros(2, np.dtype("f8", metadata={"unit": "m"})), "the metadata of its dtype would be lost"),
    (np.zeros(2, [("a", np.dtype("f8", metadata={"unit": "m"}), (2,))]), "the metadata of its dtype would be lost"),
    (np.zeros(2, np.dtype([])), "its elements have no bytes"),
    (np.zeros(1, [("图", "i4")]), "latin-1"),
    (np.zeros(1, [("a" * 70_000, "i4")]), "Header length"),
]


@pytest.mark.parametrize(("array", "why"), NOT_EXACT)
def test_an_array_without_an_exact_form_is_refused_with_its_place(array, why):
    """Nothing is lost quietly: the sentence names the array and the reason."""
    with pytest.raises(UnencodableError, match=re.escape("result['a'][1] is of type numpy.ndarray")) as caught:
        encode({"a": [0, array]}, "msgpack")
    assert why in str(caught.value)
    with pytest.raises(UnencodableError, match=why):
        encode(array, "msgpack")
    with pytest.raises(ValueError, match=why):
        arrays.pack([array])


def test_a_handler_may_ask_for_npy_or_messagepack():
    """`Result(array, content_type=...)` decides, whatever the stage's codec is."""
    array = np.arange(3)
    same(decode(encode_as(array, arrays.NPY), arrays.NPY, None, "json"), array)
    same(decode(encode_as(array, arrays.MSGPACK), arrays.MSGPACK, None, "json"), array)
    with pytest.raises(UnencodableError, match="list is not an array"):
        encode_as([1], arrays.NPY)


class Canary:
    built = False

    def __reduce__(self):
        return setattr, (Canary, "built", True)


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Canary()], object), allow_pickle=True)
    return file.getvalue()


MALFORMED = {
    "nothing": (b"", "it begins otherwise"),
    "text": (b"not an array", "it begins otherwise"),
    "version 2": (MAGIC.replace(b"\x01\x00", b"\x02\x00") + b"\x00" * 8, "it begins otherwise"),
    "no length": (MAGIC, "not one of .npy"),
    "half a header": (MAGIC + b"\xff\x00{'descr'", "not one of .npy"),
    "code": (npy("__import__('os').abort()"), "not one of .npy"),
    "a call in the dict": (npy("{'descr': exit(1), 'fortran_order': False, 'shape': ()}"), "not one of .npy"),
    "no dict": (npy("[1, 2]"), "not one of .npy"),
    "other keys": (npy("{'a': 1}"), "not one of .npy"),
    "nul": (npy("\0"), "not one of .npy"),
    "brackets": (npy("(" * 60_000), "not one of .npy"),
    "signs": (npy("-" * 60_000 + "1"), "not one of .npy"),
    "sums": (npy("1" + "+1" * 30_000), "not one of .npy"),
    "attributes": (npy("a" + ".a" * 30_000), "not one of .npy"),
    "a number without end": (npy("9" * 65_000), "not one of .npy"),
    "no dtype": (described("<q9", (1,)), "not one of .npy"),
    "a field of no type": (described([("a", "what")], (1,)), "not one of .npy"),
    "order": (described("<f8", (1,), b"\0" * 8, fortran=2), "not one of .npy"),
    "2**50 elements": (described("<f8", (1 << 50,), b"\0" * 8), "which its header contradicts"),
    "one element of 2 GB": (described("V2147483647", (), b"\0" * 8), "which its header contradicts"),
    "a product that overflows to 8": (
        described("<f8", (1 << 32, 1 << 32, 1), b"\0" * 8),
        "which its header contradicts",
    ),
    "elements of no bytes": (described("V0", (1 << 50,)), "which its header contradicts"),
    "too few bytes": (described("<f8", (2,), b"\0" * 15), "which its header contradicts"),
    "too many bytes": (described("<f8", (2,), b"\0" * 17), "which its header contradicts"),
    "negative": (described("<f8", (-1, -1), b"\0" * 8), "not one of .npy"),
    "a hexadecimal number without end": (
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 0x" + "f" * 60_000 + ")}"),
        "not one of .npy",
    ),
    "Python 2": (
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "0L, " * 15_000 + ")}"),
        "not one of .npy",
    ),
    "many fields in one text": (described("b" + ",b" * 30_000, (0,)), "not one of .npy"),
    "many fields inside one": (described([("a", ("b" + ",b" * 30_000, (1,)))], (0,)), "not one of .npy"),
    "many fields in place of a shape": (described([("a", "V9", "b,b,b")], (0,)), "not one of .npy"),
    "70 dimensions": (described("<f8", (1,) * 70, b"\0" * 8), "cannot be made of shape"),
    "none of 2**100": (described("<f8", (0, 1 << 100)), "not one of .npy"),
    "none of 2**62 by 2**62": (described("<f8", (0, 1 << 62, 1 << 62)), "cannot be made of shape"),
    "objects": (described("|O", (1,), b"\0" * 8), "never"),
    "an object in a field": (described([("a", [("b", "|O")])], (1,), b"\0" * 8), "never"),
    "a pickle": (pickled(), "never"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_array_is_undecodable_and_costs_nothing(name):
    """Whatever the bytes say, it is a sentence: nothing is executed, unpickled, or allocated for what is not there."""
    data, why = MALFORMED[name]
    tracemalloc.start()
    for body, content_type in ((data, arrays.NPY), (packed(data), arrays.MSGPACK)):
        with pytest.raises(UndecodableError, match=re.escape(why)):
            decode(body, content_type, None, "json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    assert not Canary.built
    with pytest.raises(ValueError, match=re.escape(why)):
        arrays.unpack(packed(data))


def test_views_of_any_items_are_bytes():
    """What is in a memoryview of another format, as numpy and `array` give it, is read as its bytes."""
    data = arrays.to_npy(np.arange(4))
    same(arrays.from_npy(memoryview(data).cast("c")), np.arange(4))
    same(arrays.from_npy(memoryview(data).cast("q")), np.arange(4))


def packed(data: bytes) -> bytes:
    return msgspec.msgpack.encode({"a": [msgspec.msgpack.Ext(78, data)]})


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80) | st.text("{}[]()'\"descrfotan_ushape:,<|fVOiU0128 TrueFalse-+.", max_size=80).map(npy))
def test_random_arrays_give_a_value_or_a_sentence(data):
    """No bytes make the decoder raise anything else."""
    try:
        decode(packed(data), arrays.MSGPACK, None, "json")
    except UndecodableError as error:
        str(error).encode()


def test_other_extension_types_stay_what_they_are():
    """Extension 78 alone is an array; a handler gets any other as msgspec's `Ext`, as before."""
    other = msgspec.msgpack.Ext(5, b"ab")
    assert decode(msgspec.msgpack.encode([other]), arrays.MSGPACK, None, "json") == [other]


def test_without_numpy_the_sentence_names_the_fix(tmp_path):
    """mqworker does not need numpy, and says so where it is missing."""
    body = tmp_path / "body"
    body.write_bytes(arrays.pack([np.arange(3)]))
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from mqworker import arrays\n"
        f"body = open({str(body)!r}, 'rb').read()\n"
        "print(arrays.unpack(arrays.pack({'a': 1})))\n"
        "try: arrays.unpack(body)\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "{'a': 1}"
    assert "arrays need numpy" in done.stdout
    assert "pip install numpy" in done.stdout


def block(language: str) -> str:
    """Return the reader that docs/bodies.md has for a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?npy.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return found


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
@pytest.mark.parametrize(
    ("array", "shown"),
    [
        (np.array([[1.5, -2], [3, 4]]), '{"shape":[2,2],"fortran":false,"values":[1.5,-2,3,4]}'),
        (np.asfortranarray(np.array([[1, 2], [3, 4]], "u1")), '{"shape":[2,2],"fortran":true,"values":[1,3,2,4]}'),
        (np.array(7, ">i2"), '{"shape":[],"fortran":false,"values":[7]}'),
        (np.zeros((0, 3), "f4"), '{"shape":[0,3],"fortran":false,"values":[]}'),
    ],
)
def test_the_lines_for_javascript_read_an_array(array, shown, tmp_path):
    """What the documents give to readers in JavaScript works."""
    (tmp_path / "body").write_bytes(arrays.to_npy(array))
    code = block("js") + 'console.log(JSON.stringify(readNpy(require("fs").readFileSync("body"))))\n'
    done = subprocess.run(["node", "-e", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr) == (shown, "")


def test_the_lines_for_python_read_and_write_arrays():
    """What the documents give to programs in Python without mqworker works, in both directions."""
    names: dict[str, object] = {}
    exec(block("py"), names)
    array = np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))
    same(names["read_npy"](arrays.to_npy(array)), array)
    same(arrays.from_npy(names["write_npy"](array)), array)


def test_pickles_of_arrays_stay_bytes():
    """An array that was pickled is not loaded either."""
    body = pickle.dumps(np.arange(3))
    assert decode(body, "application/x-python-serialize", None, "json") == body
