"""Decodes bodies to Python values and encodes results to bodies.

Runs in Consumers, code checks and users' tests; pure functions of their arguments. A message's content type is compared
with a fixed list and never selects code: no module is imported for it and nothing is unpickled. Raises only
`UndecodableError` or `UnencodableError`, with one sentence for the dead letter; `MemoryError` passes through, because
it may not be the message's fault.
"""

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec

from mqworker.jobs.encode_errors import describe_unencodable

JSON_TYPE: Final = "application/json"
MSGPACK_TYPE: Final = "application/msgpack"
TEXT_TYPE: Final = "text/plain; charset=utf-8"
BYTES_TYPE: Final = "application/octet-stream"

_MSGPACK_TYPES = frozenset((MSGPACK_TYPE, "application/x-msgpack", "application/vnd.msgpack"))
_ACCEPTED = (
    "accepted: JSON (application/json, anything with +json), MessagePack (application/msgpack), "
    "text (text/*) and bytes (application/octet-stream)"
)
_PLAIN_ENCODINGS = frozenset(("", "identity", "binary", "8bit", "7bit", "utf-8", "utf8"))
# Python would take a charset as the name of any codec, and some are not charsets at all (zlib, punycode): hence a list.
_CHARSETS = frozenset(
    [f"iso-8859-{part}" for part in range(1, 17) if part != 12]
    + [f"windows-{page}" for page in (874, *range(1250, 1259))]
    + ["utf-8", "utf8", "us-ascii", "ascii", "latin-1", "latin1", "utf-16", "utf-16le", "utf-16be", "utf-32"]
    + ["gbk", "gb2312", "gb18030", "big5", "shift-jis", "euc-jp", "iso-2022-jp", "euc-kr", "koi8-r", "koi8-u"]
)
_UTF8 = frozenset(("utf-8", "utf8", "us-ascii", "ascii"))
_BOM = b"\xef\xbb\xbf"
# msgspec recurses in C and stops at Python's recursion limit; even when user code raises that limit, a body of nothing
# but brackets must not overflow the C stack (measured: 300,000 levels crash the process).
_MAX_RECURSION = 5_000


class UndecodableError(Exception):
    """The body does not match its content type (or the stage's codec), or that content type is not accepted."""


class UnencodableError(Exception):
    """The result of a job cannot be encoded by the stage's codec."""


def decode(body: bytes, content_type: str | None, content_encoding: str | None, default: str) -> Any:
    """Return the value of a body; `default` names the codec for a body without a content type."""
    if content_encoding is not None and content_encoding.strip().lower() not in _PLAIN_ENCODINGS:
        raise UndecodableError(
            f"the content encoding {content_encoding!r} is not accepted: send the body as it is (identity)"
        )
    return _decoder(content_type or "", default)(body)


def encode(value: Any, codec: str) -> tuple[bytes, str]:
    """Return the body and the content type of a result.

    Results that are bytes are sent unchanged (as application/octet-stream), except with `msgpack`, which has a type for
    them. JSON has no NaN and no infinity: both become null. Numpy's scalars and arrays become numbers and lists.
    """
    try:
        if codec == "msgpack":
            return _shallow(_msgpack_encode, value), MSGPACK_TYPE
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value), BYTES_TYPE
        if codec == "json":
            return _shallow(_json_encode, value), JSON_TYPE
        if codec == "text" and isinstance(value, str):
            return value.encode(), TEXT_TYPE
    except MemoryError:
        raise
    except RecursionError:
        raise UnencodableError("the result is nested too deeply, or contains itself") from None
    except Exception as exc:  # noqa: BLE001 - a result may be any object, and may fail in any way
        if isinstance(value, str):
            raise UnencodableError("the result has characters that UTF-8 cannot encode (lone surrogates)") from None
        encoder = _msgpack_encode if codec == "msgpack" else _json_encode
        raise UnencodableError(
            f"the result cannot be encoded as {codec}: {describe_unencodable(value, encoder, exc)}"
        ) from None
    allowed = "text or bytes" if codec == "text" else "bytes"
    raise UnencodableError(f"the result must be {allowed} with the codec {codec}, but is {type(value).__qualname__}")


def _shallow(convert: Callable[[Any], Any], value: Any) -> Any:
    limit = sys.getrecursionlimit()
    if limit <= _MAX_RECURSION:
        return convert(value)
    sys.setrecursionlimit(_MAX_RECURSION)
    try:
        return convert(value)
    finally:
        sys.setrecursionlimit(limit)


def _plain(value: Any) -> Any:
    """Return a plain form of numpy's values for msgspec; numpy is used if loaded, never imported."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        if isinstance(value, numpy.ndarray):
            return value.tolist()
        if isinstance(value, numpy.generic):
            item = value.item()  # a long double returns itself
            return float(item) if isinstance(item, numpy.floating) else item
    raise TypeError(f"{type(value).__qualname__} has no plain form")


_json_encode = msgspec.json.Encoder(enc_hook=_plain).encode
_msgpack_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode
_json_parse = msgspec.json.Decoder().decode
_msgpack_parse = msgspec.msgpack.Decoder().decode


@lru_cache(maxsize=256)
def _decoder(content_type: str, default: str) -> Callable[[bytes], Any]:
    """Return the decoder for a content type in the list; without a content type, that of the stage's codec."""
    media, _, parameters = content_type.partition(";")
    media = media.strip().lower()
    charset = _charset(parameters)
    if not media:
        return {"json": _json, "msgpack": _msgpack, "text": _text("utf-8"), "bytes": bytes}[default]
    if media == JSON_TYPE or (media.endswith("+json") and "/" in media):
        if charset not in _UTF8:
            raise UndecodableError(f"JSON in the charset {charset!r} is not accepted: it must be UTF-8")
        return _json
    if media in _MSGPACK_TYPES:
        return _msgpack
    if media.startswith("text/"):
        return _text(charset)
    if media == BYTES_TYPE:
        return bytes
    if "pickle" in media or "python-serialize" in media:
        raise UndecodableError(
            f"the content type {content_type!r} is refused: loading a pickle runs code from the message; {_ACCEPTED}"
        )
    raise UndecodableError(f"the content type {content_type!r} is not accepted; {_ACCEPTED}")


def _charset(parameters: str) -> str:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower().replace("_", "-")
    return "utf-8"


def _json(body: bytes) -> Any:
    return _parse(_json_parse, body.removeprefix(_BOM), "JSON")  # some clients send a byte-order mark before JSON


def _msgpack(body: bytes) -> Any:
    return _parse(_msgpack_parse, body, "MessagePack")


def _parse(parse: Callable[[bytes], Any], body: bytes, form: str) -> Any:
    try:
        return _shallow(parse, body)
    except RecursionError:
        raise UndecodableError(f"the body is not accepted as {form}: it is nested too deeply") from None
    except UnicodeDecodeError as exc:
        raise UndecodableError(f"the body is not {form}: it has text that is not UTF-8 ({exc.reason})") from None
    except (ValueError, OverflowError, msgspec.MsgspecError) as exc:
        raise UndecodableError(f"the body is not {form}: {exc if body else 'it is empty'}") from None


def _text(charset: str) -> Callable[[bytes], str]:
    if charset not in _CHARSETS:
        raise UndecodableError(f"the charset {charset!r} is not accepted: send text as UTF-8")

    def text(body: bytes) -> str:
        try:
            return body.decode(charset)
        except UnicodeError as exc:
            raise UndecodableError(f"the body is not text in {charset}: {exc}") from None

    return text
