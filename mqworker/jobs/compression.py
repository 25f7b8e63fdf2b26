"""Decompresses bodies up to a limit, so that a few bytes cannot expand until the memory is full.

Runs in Consumers; pure. Raises CompressionError for a damaged body, LimitError above the limit; each has one sentence
for the dead letter.
"""

import zlib
from collections.abc import Callable
from typing import Any

_ANY_HEADER, _NO_HEADER = 47, -15  # zlib's window bits: gzip or zlib, by the header; raw deflate
STREAMS = 1_000  # each costs a copy of the rest of the body
ENCODINGS = "gzip, deflate, bzip2, xz, identity"
_KINDS = {  # HTTP's names in content_encoding, and those of kombu (so of Celery) in its header `compression`
    **dict.fromkeys(("gzip", "x-gzip", "application/x-gzip", "application/gzip"), "gzip"),
    **dict.fromkeys(("deflate", "zlib", "application/zlib"), "deflate"),
    **dict.fromkeys(("bzip2", "bz2", "bzip", "application/x-bz2", "application/x-bzip2"), "bzip2"),
    **dict.fromkeys(("lzma", "xz", "application/x-lzma", "application/x-xz"), "xz"),
}


class CompressionError(Exception):
    """The body cannot be decompressed."""


class LimitError(Exception):
    """The decompressed body would be larger than the limit."""


def is_compression(name: str) -> bool:
    """Return whether this name, in lower case, is that of a known kind of compression."""
    return name in _KINDS


def decompress(body: bytes, name: str, limit: int) -> bytes:
    """Return the decompressed body, at most `limit` bytes; `name` must be a known kind."""
    kind = _KINDS[name]
    parts: list[bytes] = []
    left, rest = limit, body
    while rest:  # gzip, bzip2 and xz allow several streams in a row
        if len(parts) == STREAMS:
            raise CompressionError(f"the body has more than {STREAMS:,} {kind} streams one after the other")
        part, rest = _stream(kind, rest, left)
        left -= len(part)
        parts.append(part)
        if left < 0:
            raise LimitError(f"the body has more than {limit:,} bytes when decompressed; max_body allows no more")
    return b"".join(parts)


def _stream(kind: str, body: bytes, most: int) -> tuple[bytes, bytes]:
    """Return the first stream decompressed, at most one byte more than `most`, and what follows it."""
    decoder, decompress_some = _decoder(kind, body)
    try:
        part = decompress_some(body, most + 1)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - each library has errors of its own
        raise CompressionError(f"the body is not {kind}: {error}") from None
    if not decoder.eof and len(part) <= most:
        raise CompressionError(f"the body is not whole: its {kind} data end too early")
    return part, decoder.unused_data.lstrip(b"\0")


def _decoder(kind: str, body: bytes) -> tuple[Any, Callable[[bytes, int], bytes]]:
    """Return a decompressor and its function (data, most bytes)."""
    if kind == "bzip2":
        import bz2  # noqa: PLC0415 - rare, and otherwise every Consumer would load it

        unbz2 = bz2.BZ2Decompressor()
        return unbz2, unbz2.decompress
    if kind == "xz":
        import lzma  # noqa: PLC0415 - as above

        unxz = lzma.LZMADecompressor(memlimit=256 << 20)
        return unxz, unxz.decompress
    raw = kind == "deflate" and (body[0] & 15 != 8 or int.from_bytes(body[:2]) % 31 != 0) and body[:2] != b"\x1f\x8b"
    inflate = zlib.decompressobj(_NO_HEADER if raw else _ANY_HEADER)  # many clients send deflate without its header
    return inflate, inflate.decompress
