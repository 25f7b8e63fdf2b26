"""Lines of a file, in batches: all of them, wherever reads end; long ones are not held; what came before is known."""

import gzip
import os
import threading
from contextlib import contextmanager
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqworker.brokers.files import reader
from mqworker.brokers.files.reader import InputFault, LineReader


@contextmanager
def opened(data, sizes=()):
    """Yield the descriptor of a pipe that gives data in pieces of these sizes, then the rest at once."""
    out, into = os.pipe()

    def write():
        at = 0
        for size in (*sizes, len(data)):
            piece = data[at : at + size]
            at += size
            while piece:
                piece = piece[os.write(into, piece) :]
        os.close(into)

    writing = threading.Thread(target=write)
    writing.start()
    try:
        yield out
    finally:
        while os.read(out, 1 << 16):
            pass
        writing.join()
        os.close(out)


def batches(data, most=1 << 20, sizes=()):
    """Return all batches of data."""
    with opened(data, sizes) as fd:
        lines = LineReader(fd, most)
        return list(iter(lines.read, None))


def lines_of(found):
    """Return (number, line) of each line; of one that is too long, its length."""
    return [(batch.first + place, batch.too_long or line) for batch in found for place, line in enumerate(batch.lines)]


TEXTS = st.lists(st.sampled_from([b"", b"\r", b"a", b"bc", b"def\r", b"x" * 9, b"y" * 40]), max_size=30)


@given(TEXTS, st.booleans(), st.lists(st.integers(1, 30), max_size=10), st.booleans())
def test_each_line_comes_once_with_its_number_and_what_came_before_it(lines, newline, sizes, zipped):
    """However the input is cut into reads, plain or gzip, with or without a last newline, above the limit or not."""
    data = b"\n".join(lines) + (b"\n" if newline and lines else b"")
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    found = batches(gzip.compress(data) if zipped else data, 20, sizes)
    for (number, got), (n, line) in zip(lines_of(found), enumerate(expected, 1), strict=True):
        assert number == n
        assert got == line or (len(line) > 20 and got == len(line))
    at = 0
    for batch in found:
        assert batch.offset == at
        assert batch.before.hexdigest() == sha256(data[:at]).hexdigest()
        at += batch.size
        assert batch.after.hexdigest() == sha256(data[:at]).hexdigest()
    assert at == len(data)


@given(TEXTS, st.data())
def test_a_later_reader_goes_on_where_an_earlier_one_was(lines, data):
    """After `skip` the same lines follow with the same numbers, offsets and digests."""
    whole = b"".join(line + b"\n" for line in lines)
    skipped = data.draw(st.integers(0, len(lines)))
    offset = sum(len(line) + 1 for line in lines[:skipped])
    with opened(whole) as fd:
        later = LineReader(fd, 1000)
        later.skip(skipped, offset, sha256(whole[:offset]).hexdigest())
        found = list(iter(later.read, None))
    assert lines_of(found) == list(enumerate(lines, 1))[skipped:]
    if found:
        assert found[0].offset == offset
        assert found[-1].after.hexdigest() == sha256(whole).hexdigest()


@pytest.mark.parametrize("other", [b"1\n2\n4\n", b"1\n2\n", b""])
def test_another_input_is_noticed(other):
    """`skip` refuses an input whose beginning is another one, or that is shorter."""
    with opened(other) as fd, pytest.raises(InputFault, match="not the input of that run"):
        LineReader(fd, 100).skip(3, 6, sha256(b"1\n2\n3\n").hexdigest())


def test_a_line_that_is_too_long_is_not_held(monkeypatch):
    """Of a line above the limit no more than two reads are in memory, and the lines after it come."""
    monkeypatch.setattr(reader, "BLOCK", 1000)
    with opened(b"1\n" + b"x" * 100_000 + b"\n2\n3") as fd:
        lines = LineReader(fd, 500)
        found = []
        while batch := lines.read():
            found.append(batch)
            assert len(lines._rest) + len(lines._ahead) <= 1500
    assert lines_of(found) == [(1, b"1"), (2, 100_000), (3, b"2"), (4, b"3")]


def test_members_of_gzip_follow_each_other():
    """Several members, also with padding between them, are one input."""
    data = gzip.compress(b"1\n2") + bytes(512) + gzip.compress(b"\n3\n")
    assert lines_of(batches(data, sizes=[1] * 40)) == [(1, b"1"), (2, b"2"), (3, b"3")]


def test_a_cut_gzip_file_gives_its_whole_lines(monkeypatch):
    """What is whole comes, then the fault says behind which byte."""
    monkeypatch.setattr(reader, "BLOCK", 500)
    whole = b"".join(b"%d %d\n" % (n, n * n * 7919) for n in range(5000))
    with opened(gzip.compress(whole)[:-400]) as fd:
        lines, found = LineReader(fd, 1000), []
        with pytest.raises(InputFault, match=r"cut off after byte [\d,]+") as fault:
            found.extend(iter(lines.read, None))
    told = int(str(fault.value).partition("after byte ")[2].partition(" ")[0].replace(",", ""))
    expected = whole[:told].split(b"\n")[:-1]
    assert [line for _, line in lines_of(found)] == expected
    assert 3000 < len(expected) < 5000


def test_damaged_gzip_is_named():
    """Bytes that are changed end the reading with a sentence."""
    data = bytearray(gzip.compress(os.urandom(3000)))
    data[1500] ^= 0xFF
    with pytest.raises(InputFault, match="damaged"):
        batches(bytes(data))


@pytest.mark.parametrize("form", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_refused(form):
    """A file in UTF-16 would be lines of garbage."""
    with pytest.raises(InputFault, match="UTF-16"):
        batches("\ufeff1\n2\n".encode(form))
