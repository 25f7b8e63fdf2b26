"""A message in readable form: its body as text, and its headers as rows. Pure; used by the broker admin.

Numbers are shown exactly as they are in the bytes, also 64-bit integers: none is converted to a float. Nothing is
unpickled, and no module is imported because of a message.
"""

import ast
import json
import zlib
from datetime import datetime
from itertools import accumulate
from typing import Any

import msgspec

from mqworker.amqp.properties import Headers
from mqworker.ipc.json_safe import text, tree

LONGEST = 64 << 10  # bytes of a body that are shown as text
JSON_LONGEST = 1 << 20  # bytes of JSON that is shown whole, so that it can be edited
LARGEST = 4 << 20  # bytes of indented text: a hundred kB that are deeply nested become megabytes
HEX = 4 << 10  # bytes that are shown in hexadecimal
WIDTH = 16  # bytes in a line
CELL = 2_000  # characters of a header's value
INSIDE = 64 << 10  # bytes of a compressed body that are unpacked
_ENCODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 47}  # zlib's window bits
_DEEPER = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1, ord(","): 0}
_NO_SIGNS = bytes(each for each in range(256) if each not in _DEEPER)
_TYPES = {
    b"t": "bool", b"b": "int8", b"B": "uint8", b"U": "int16", b"s": "int16", b"u": "uint16", b"I": "int32",
    b"i": "uint32", b"l": "int64", b"L": "int64", b"f": "float", b"d": "double", b"D": "decimal", b"T": "timestamp",
    b"V": "void", b"S": "text", b"x": "bytes", b"A": "array", b"F": "table",
}  # fmt: skip


def preview(body: bytes, content_type: str | None, content_encoding: str | None) -> dict[str, Any]:
    """Return the body as text, with its kind, whether it is complete, and how it was compressed."""
    encoding = text((content_encoding or "").strip().lower())
    complete = True
    if encoding in _ENCODINGS:
        inside = _unpacked(body, _ENCODINGS[encoding])
        if inside is None:
            return {"kind": "hex", "text": _hex(body), "complete": len(body) <= HEX, "encoding": encoding}
        body, complete = inside
    kind, shown, whole = _shown(body, (content_type or "").partition(";")[0].strip().lower(), complete=complete)
    return {"kind": kind, "text": shown, "complete": complete and whole, "encoding": encoding}


def header_rows(headers: Headers) -> list[tuple[str, str, str]]:
    """Return each header as its name, its AMQP type and its exact value, cut if it is very long."""
    rows = []
    for name in headers:
        value = _plain(headers[name])
        rows.append((text(name), _TYPES.get(headers.field(name)[:1], "unknown"), value[:CELL]))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bytes):
        return str(tree(value))
    return _exact(value, None)


def _shown(body: bytes, media: str, *, complete: bool) -> tuple[str, str, bool]:
    """Return the kind, the text, and whether it is complete."""
    if not body:
        return "empty", "", True
    if body.startswith(b"\x93NUMPY"):
        return "npy", _npy(body), True
    if "msgpack" in media and complete and len(body) <= JSON_LONGEST:
        try:
            if (found := _packed(body)) is not None:
                return "msgpack", found, True
        except (msgspec.DecodeError, RecursionError, ValueError, TypeError):
            pass
    if "pickle" not in media and "msgpack" not in media:
        if complete and len(body) <= JSON_LONGEST and (found := _json(body)) is not None:
            return "json", found, True
        try:
            return "text", _utf8(body[:LONGEST], cut=len(body) > LONGEST or not complete), len(body) <= LONGEST
        except UnicodeDecodeError:
            pass
    return "hex", _hex(body), len(body) <= HEX


def _json(body: bytes) -> str | None:
    """Return indented JSON with its numbers unchanged; None if it is not JSON (or a bare word, which is also text).

    JSON that would be too large when indented is put on one line.
    """
    try:
        return msgspec.json.format(body, indent=2 if _in_lines(body) <= LARGEST else -1).decode()
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _packed(body: bytes) -> str | None:
    """Return MessagePack as indented JSON, or on one line; None if even that is too large."""
    value = msgspec.msgpack.decode(body)
    short = _exact(value, None)
    data = short.encode()
    if len(data) > LARGEST:
        return None
    return _exact(value, 2) if _in_lines(data) <= LARGEST else short


def _in_lines(data: bytes) -> int:
    """Return the approximate size of JSON when indented: each bracket or comma begins a line, indented by its depth."""
    outside = b"".join(data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])  # outside strings
    signs = outside.translate(None, _NO_SIGNS)
    return len(data) + 2 * (len(signs) + sum(accumulate(map(_DEEPER.__getitem__, signs))))


def _utf8(body: bytes, *, cut: bool) -> str:
    for spare in range(4 if cut else 1):  # the cut may be inside a character
        try:
            found = body[: len(body) - spare].decode()
        except UnicodeDecodeError:
            if spare == 3 or not cut:
                raise
        else:
            break
    if "\0" in found:
        raise UnicodeDecodeError("utf-8", body, 0, 1, "a null byte: it is not text")
    return found


def _unpacked(body: bytes, bits: int) -> tuple[bytes, bool] | None:
    """Return the content of a compressed body, and whether it is complete; None if it is damaged."""
    unpacking = zlib.decompressobj(bits)
    try:
        found = unpacking.decompress(body, INSIDE)
    except zlib.error:
        return None
    return found, unpacking.eof and not unpacking.unused_data


def _npy(body: bytes) -> str:
    """Return a description of an array from its header in NumPy's format."""
    at = 10 if body[6:7] == b"\1" else 12
    size = int.from_bytes(body[8:at], "little")
    try:
        head = ast.literal_eval(body[at : at + min(size, 10_000)].decode("latin-1").strip())
        order = "Fortran" if head["fortran_order"] else "C"
        summary = f"array, dtype {head['descr']}, shape {head['shape']}, {order} order, {len(body) - at - size} bytes"
        return text(summary)
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        return f"array whose header cannot be read, {len(body)} bytes"


def _hex(body: bytes) -> str:
    lines = []
    for at in range(0, min(len(body), HEX), WIDTH):
        some = body[at : at + WIDTH]
        seen = "".join(chr(each) if 32 <= each < 127 else "." for each in some)
        lines.append(f"{at:06x}  {some.hex(' '):<{3 * WIDTH - 1}}  {seen}")
    return "\n".join(lines)


def _exact(value: Any, indent: int | None) -> str:
    """Return a value as JSON with exact numbers; values that JSON does not have become text."""
    return json.dumps(_jsonable(value), indent=indent, ensure_ascii=False)


def _jsonable(value: Any) -> Any:  # noqa: PLR0911 - one case for each type of MessagePack and AMQP
    match value:
        case str():
            return text(value)
        case None | bool() | int() | float():
            return value
        case bytes() | bytearray() | memoryview():
            return f"hex:{bytes(value).hex()}"
        case list() | tuple():
            return [_jsonable(item) for item in value]
        case dict():
            return {name if isinstance(name, str) else _name(name): _jsonable(item) for name, item in value.items()}
        case datetime():
            return value.isoformat()
        case msgspec.msgpack.Ext():
            return f"ext {value.code}:{bytes(value.data).hex()}"
    return str(value)


def _name(value: Any) -> str:
    return text(str(_jsonable(value)))
