"""Reads lines, plain or compressed by gzip, from a file or a pipe.

Runs in a thread of `mqworker map`, because reading may block; it is called by one thread at a time. Owns the position
in one open file. Returns batches of whole lines, each with the SHA-256 of everything before it, by which a later run
recognises the input. A line above the limit is skipped without being held in memory. Raises InputFault, one sentence,
or OSError.
"""

import os
import zlib
from hashlib import sha256
from typing import NamedTuple, Protocol, Self

BLOCK = 1 << 20  # bytes of one read
_GZIP = b"\x1f\x8b"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class InputFault(Exception):  # noqa: N818 - the name says what the input has
    """The input cannot be read further, or is not the one that the earlier run read; one sentence."""


class Digest(Protocol):
    """A running SHA-256."""

    def copy(self) -> Self:
        """Return an independent copy."""

    def update(self, data: bytes, /) -> None:
        """Add these bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""


class LineBatch(NamedTuple):
    """Consecutive lines."""

    first: int  # number of the first one, from 1
    offset: int  # bytes before it, decompressed
    lines: list[bytes]  # without the newlines
    size: int  # bytes, with the newlines; the very last line may have none
    before: Digest  # of everything before it
    after: Digest  # of everything up to its end
    position: int  # how many bytes of the file itself have been read
    too_long: int = 0  # bytes of its only line, if that is above the limit and therefore empty here


class LineReader:
    """See the module head. `fd` still belongs to the caller. `most`: the limit for a line, in bytes."""

    def __init__(self, fd: int, most: int) -> None:
        self._file = _File(fd)
        self._source: _File | _Gzip = self._file
        self._most = most
        self._begun = False
        self._line = 1  # the number of the next line
        self._offset = 0  # where that begins
        self._digest: Digest = sha256()  # of everything before it, and of the skipped part of it
        self._rest = b""  # what was read after the last newline
        self._ahead = b""  # read, but not examined yet
        self._passed = 0  # skipped bytes of a line that is too long ...
        self._before: Digest = self._digest  # ... and the digest of everything before that line

    def skip(self, line: int, offset: int, digest: str) -> None:
        """Skip what an earlier run has read (`line` lines, `offset` bytes); InputFault if these bytes have changed."""
        while self._offset < offset:
            data = self._read(offset - self._offset)
            if not data:
                break
            self._digest.update(data)
            self._offset += len(data)
        if (self._offset, self._digest.hexdigest()) != (offset, digest):
            raise InputFault(f"it is not the input of that run: its first {offset:,} bytes are different")
        self._line = line + 1

    def read(self) -> LineBatch | None:
        """Return the next lines, or None at the end; may block."""
        while True:
            if not self._passed and len(self._rest) > self._most:
                self._before = self._digest.copy()
                self._pass_over(self._rest)
                self._rest = b""
            data, self._ahead = self._ahead or self._read(BLOCK), b""
            if self._passed:
                end = data.find(b"\n") + 1
                self._pass_over(data[:end] if end else data)
                if end or not data:
                    self._ahead = data[end:]
                    return self._long_line(newline=bool(end))
                continue
            whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
            if newline:
                return self._batch(whole.split(b"\n"), whole + newline)
            if not data:
                last, self._rest = self._rest, b""
                return self._batch([last], last) if last else None

    # --- inside

    def _read(self, most: int) -> bytes:
        if not self._begun:
            self._begun = True
            if self._file.begins_with(_GZIP):
                self._source = _Gzip(self._file)
        return self._source.read(min(most, BLOCK))

    def _batch(self, lines: list[bytes], data: bytes) -> LineBatch:
        if self._line == 1 and lines[0].startswith(_UTF16):
            raise InputFault("it is UTF-16: make it UTF-8 first, for example by `iconv -f UTF-16 -t UTF-8`")
        before, after = self._digest, self._digest.copy()
        after.update(data)
        batch = LineBatch(self._line, self._offset, lines, len(data), before, after, self._file.position)
        self._step(batch)
        return batch

    def _pass_over(self, data: bytes) -> None:
        self._digest.update(data)
        self._passed += len(data)

    def _long_line(self, *, newline: bool) -> LineBatch:
        size, self._passed = self._passed, 0
        where = self._line, self._offset
        batch = LineBatch(*where, [b""], size, self._before, self._digest, self._file.position, size - newline)
        self._step(batch)
        return batch

    def _step(self, batch: LineBatch) -> None:
        self._line += len(batch.lines)
        self._offset += batch.size
        self._digest = batch.after.copy()


class _File:
    """The file itself; it may be a pipe, which returns what it has."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._head = b""  # read, but not returned yet
        self.position = 0

    def begins_with(self, mark: bytes) -> bool:
        while len(self._head) < len(mark):
            data = os.read(self._fd, BLOCK)
            if not data:
                break
            self._head += data
        return self._head.startswith(mark)

    def read(self, most: int) -> bytes:
        if self._head:
            data, self._head = self._head[:most], self._head[most:]
        else:
            data = os.read(self._fd, most)
        self.position += len(data)
        return data


class _Gzip:
    """Decompresses members, one after the other."""

    def __init__(self, file: _File) -> None:
        self._file = file
        self._data = b""  # compressed
        self._given = 0  # decompressed bytes that were returned
        self._member = zlib.decompressobj(31)
        self._within = False  # a member has begun

    def read(self, most: int) -> bytes:
        while True:
            data = self._next(most)
            if data is not None:
                self._given += len(data)
                return data

    def _next(self, most: int) -> bytes | None:
        """Return the next decompressed bytes; None if there are none yet."""
        ended = False
        if not self._data:
            self._data = self._file.read(BLOCK)
            ended = not self._data
        if not self._within:
            self._data = self._data.lstrip(b"\0")  # padding between members
            if not self._data:
                return b"" if ended else None
            self._member, self._within = zlib.decompressobj(31), True
        try:
            found = self._member.decompress(self._data, most)
        except zlib.error as error:
            raise InputFault(f"its gzip data are damaged after byte {self._given:,} of the text ({error})") from None
        self._data = self._member.unconsumed_tail
        if self._member.eof:
            self._data, self._within = self._member.unused_data, False
        elif ended and not found:
            raise InputFault(f"its gzip data are cut off after byte {self._given:,} of the text")
        return found or None
