"""Signed pickles: what a publisher makes is loaded; what was altered, signed by another key or not at all never is."""

import gzip
import hashlib
import hmac
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker import signing
from mqworker.amqp.headers import SIGNATURE
from mqworker.jobs.codecs import UndecodableError, UnencodableError, decode, encode
from mqworker.testing import run_job

KEY, OLD, OTHER = "k" * 32, "o" * 32, "x" * 32
PICKLE = signing.CONTENT_TYPE


class Maker:
    """Makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


class Failing:
    def __reduce__(self):
        return int, ("no number",)


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


def load(body: bytes, signature: object, *keys: str, content_type: str | None = PICKLE, **more: object) -> object:
    default = more.pop("default", "json")
    encoding = more.pop("encoding", None)
    return decode(body, content_type, encoding, default, keys=keys, signature=signature, **more)


@pytest.mark.parametrize(
    "content_type",
    ["application/x-python-serialize", "application/python-pickle", "Application/X-Pickle", "application/pickle; v=5"],
)
def test_a_pickle_signed_by_a_key_of_the_stage_is_loaded(content_type):
    """The publisher's helper gives body and properties; old keys of a list are right too, and capital hex digits."""
    body, about = signing.pickled({"a": Point(7)}, OLD)
    assert about["content_type"] == PICKLE
    signature = about["headers"][SIGNATURE]
    for given_signature in (signature, signature.upper(), signature.encode()):
        got = load(body, given_signature, KEY, OLD, content_type=content_type)
        assert got["a"].x == 7
    assert signing.unpickled(body, signature, OLD)["a"].x == 7


def test_a_key_that_no_stage_would_take_signs_no_pickle():
    """A publisher learns at once that its key is shorter than a `pickle_key` may be."""
    with pytest.raises(ValueError, match="the key has 31 characters; it needs at least 32"):
        signing.pickled(1, "k" * 31)


def test_the_signature_is_hmac_sha256_of_the_body():
    """Any language can make it: the hex digits of an HMAC-SHA256 by the UTF-8 of the key."""
    assert signing.sign(b"body", "schlüssel") == hmac.new("schlüssel".encode(), b"body", hashlib.sha256).hexdigest()


REFUSED = {
    "unsigned": (lambda body: body, lambda _body: None, "without a signature"),
    "altered": (lambda body: body + b".", lambda body: signing.sign(body, KEY), "is wrong"),
    "by another key": (lambda body: body, lambda body: signing.sign(body, OTHER), "is wrong"),
    "empty": (lambda body: body, lambda _body: "", "is wrong"),
    "cut": (lambda body: body, lambda body: signing.sign(body, KEY)[:-1], "is wrong"),
    "a hash without a key": (lambda body: body, lambda body: hashlib.sha256(body).hexdigest(), "is wrong"),
    "no text": (lambda body: body, lambda _body: 7, "is wrong"),
    "no UTF-8": (lambda body: body, lambda _body: "\udcff" * 64, "is wrong"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_key_has_signed_is_never_loaded(name, tmp_path):
    """Unsigned, altered, signed by another key: a sentence, and the file that loading would make is not there."""
    alter, sign, why = REFUSED[name]
    body = pickle.dumps(Maker(tmp_path / "canary"))
    signature = sign(body)
    for more in ({}, {"content_type": None, "default": "pickle"}, {"encoding": "gzip"}):
        with pytest.raises(UndecodableError, match=why):
            load(alter(body), signature, KEY, OLD, **more)
    with pytest.raises(ValueError, match=why):
        signing.unpickled(alter(body), signature, KEY)
    assert not (tmp_path / "canary").exists()
    load(body, signing.sign(body, KEY), KEY).close()
    assert (tmp_path / "canary").exists()  # it would have been


@given(st.none() | st.integers() | st.text() | st.binary() | st.lists(st.text(), max_size=2))
def test_no_other_header_is_a_signature(signature):
    """Whatever is in the header, it is a sentence."""
    with pytest.raises(UndecodableError, match="signature"):
        load(pickle.dumps(1), signature, KEY)


@pytest.mark.parametrize("keys", [(), (KEY,)])
def test_a_signature_makes_nothing_else_a_pickle(keys, tmp_path):
    """Without a key of the stage, or with another content type, a signed pickle is what it was: bytes, or text."""
    body = pickle.dumps(Maker(tmp_path / "canary"), protocol=0)
    signature = signing.sign(body, KEY)
    for content_type in ("application/octet-stream", "image/png") if keys else (PICKLE, "application/pickle"):
        assert load(body, signature, *keys, content_type=content_type) == body
    assert load(body, signature, *keys, content_type="text/plain") == body.decode()
    assert load(body, signature, *keys, forced="bytes") == body
    assert not (tmp_path / "canary").exists()


def test_the_signature_is_of_the_body_as_it_is_sent():
    """A compressed pickle is signed after it was compressed; and nothing is decompressed that nobody has signed."""
    inside = pickle.dumps([1])
    body = gzip.compress(inside)
    assert load(body, signing.sign(body, KEY), KEY, encoding="gzip") == [1]
    with pytest.raises(UndecodableError, match="is wrong"):
        load(body, signing.sign(inside, KEY), KEY, encoding="gzip")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "EOFError"),
        (b"no pickle", "cannot be loaded"),
        (b"cno_such_module\nName\n.", "ModuleNotFoundError: No module named 'no_such_module'"),
        (pickle.dumps(Failing()), "ValueError: invalid literal"),
    ],
)
def test_a_signed_pickle_that_cannot_be_loaded_is_undecodable(body, why):
    """Whatever loading raises is told in one sentence."""
    with pytest.raises(UndecodableError, match=why):
        load(body, signing.sign(body, KEY), KEY)


def test_results_may_be_pickles():
    """With the codec pickle, a class of the user's arrives as it was; what cannot be pickled is named."""
    body, content_type = encode({"a": Point(3)}, "pickle")
    assert content_type == PICKLE
    assert load(body, signing.sign(body, KEY), KEY)["a"].x == 3
    with pytest.raises(UnencodableError, match=r"encoded as pickle: result\['a'\]\[1\] is of type function"):
        encode({"a": [1, lambda: 0]}, "pickle")
    with pytest.raises(UnencodableError, match="nested too deeply"):
        encode(deep(), "pickle")


def deep() -> list[object]:
    made: list[object] = []
    for _ in range(100_000):
        made = [made]
    return made


def handle(point):
    return Point(point.x + 1)


def test_a_test_of_a_job_may_use_pickles():
    """`run_job` signs and loads as a stage with a key does."""
    assert run_job([handle, handle], Point(1), codec="pickle").x == 3
    with pytest.raises(UndecodableError, match="without a signature"):
        run_job(handle, pickle.dumps(Point(1)), codec="pickle", content_type=PICKLE)
