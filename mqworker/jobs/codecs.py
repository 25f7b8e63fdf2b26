"""Decodes bodies to Python values and encodes results to bodies.

Runs in Consumers, code checks and users' tests; pure functions of their arguments. A message's content type is compared
with a fixed list and never selects code: no module is imported for it and nothing is unpickled. Raises only
`UndecodableError` or `UnencodableError`, with one sentence for the dead letter; `MemoryError` passes through, because
it may not be the message's fault.
"""

import json
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec

from mqworker.jobs.compression import ENCODINGS, CompressionError, LimitError, decompress, is_compression
from mqworker.jobs.encode_errors import describe_unencodable
from mqworker.jobs.npy import NPY_TYPE, ArrayError, extension, from_npy, is_array, packable, to_npy
from mqworker.jobs.plain import nan_at, plain, with_plain_keys

JSON_TYPE: Final = "application/json"
MSGPACK_TYPE: Final = "application/msgpack"
TEXT_TYPE: Final = "text/plain; charset=utf-8"
BYTES_TYPE: Final = "application/octet-stream"
BINARY: Final = "binary"  # content_encoding of results that are no text: without it kombu decodes them as UTF-8

_JSON_TYPES = frozenset((JSON_TYPE, "application/x-json", "text/json", "text/x-json", "json"))
_MSGPACK_TYPES = frozenset((MSGPACK_TYPE, "application/x-msgpack", "application/vnd.msgpack"))
_PLAIN_ENCODINGS = frozenset(("", "identity", "binary", "8bit", "7bit", "utf-8", "utf8"))
# Python would take a charset as the name of any codec, and some are not charsets at all (zlib, punycode): hence a list.
_CHARSETS = frozenset(
    [f"iso-8859-{part}" for part in range(1, 17) if part != 12]
    + [f"windows-{page}" for page in (874, *range(1250, 1259))]
    + ["utf-8", "utf8", "us-ascii", "ascii", "latin-1", "latin1", "utf-16", "utf-16le", "utf-16be", "utf-32"]
    + ["gbk", "gb2312", "gb18030", "big5", "shift-jis", "euc-jp", "iso-2022-jp", "euc-kr", "koi8-r", "koi8-u"]
)
_NOT_HERE = frozenset(("zstd", "zstandard", "application/zstd", "br", "brotli", "application/x-brotli"))
_UTF8 = frozenset(("utf-8", "utf8", "us-ascii", "ascii"))
_PYTHON_JSON = (b"NaN", b"Infinity", b"\\ud", b"\\uD")  # Python's own json writes these, and half a surrogate pair
_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
# msgspec recurses in C and stops at Python's recursion limit; even when user code raises that limit, a body of nothing
# but brackets must not overflow the C stack (measured: 300,000 levels crash the process).
_MAX_RECURSION = 5_000


class UndecodableError(Exception):
    """The body does not match its content type (or the stage's codec), or that content type is not accepted."""


class UnencodableError(Exception):
    """The result of a job cannot be encoded by the stage's codec."""


class OversizedError(Exception):
    """A body is larger than the stage accepts, after decompression."""


def decode(
    body: bytes,
    content_type: str | None,
    content_encoding: str | None,
    default: str,
    *,
    compression: object = None,
    limit: int = 1 << 40,
    forced: str | None = None,
) -> Any:
    """Return the value of a body.

    `default` names the codec for a body without a content type, `forced` the one for every body. A body is decompressed
    if `content_encoding` or `compression` (kombu's header) says so, to at most `limit` bytes. One of a type that is not
    known here stays bytes, and so does a pickle.
    """
    charset = ""
    if content_encoding is not None or compression is not None:
        body, charset = _unpacked(body, content_encoding or "", compression, limit)
    return _decoder(content_type or "", charset, default, forced)(body)


def _unpacked(body: bytes, content_encoding: str, compression: object, limit: int) -> tuple[bytes, str]:
    """Undo the encodings, the last one first; returns the body and the charset that was found among them."""
    charset = ""
    names = content_encoding.lower().replace(":", ",").split(",")  # Spring AMQP wrote "gzip:UTF-8" for years
    named = isinstance(compression, str) and (is_compression(compression.lower()) or compression.lower() in _NOT_HERE)
    if named and not any(map(is_compression, map(str.strip, names))):  # not somebody else's header, nor the same again
        names.append(str(compression).lower())
    try:
        for name in map(str.strip, reversed(names)):
            if is_compression(name):
                body = decompress(body, name, limit)
            elif name.replace("_", "-") in _CHARSETS:
                charset = name.replace("_", "-")
            elif name not in _PLAIN_ENCODINGS:
                raise UndecodableError(f"the encoding {name!r} is not accepted; accepted: {ENCODINGS}")
    except CompressionError as error:
        raise UndecodableError(str(error)) from None
    except LimitError as error:
        raise OversizedError(str(error)) from None
    return body, charset


def encode(value: Any, codec: str, *, nan: str = "null") -> tuple[bytes, str]:
    """Return the body and the content type of a result.

    Results that are bytes are sent unchanged (as application/octet-stream), except with `msgpack`, which has a type for
    them. JSON has no NaN and no infinity: both become null, or are refused where `nan` is "error". Values of numpy,
    pandas and pydantic and other containers get the form that `mqworker.jobs.plain` gives them; with `msgpack` arrays
    stay arrays, and one alone is sent as application/x-npy.
    """
    if codec == "msgpack" and is_array(value):
        return _to_npy(value), NPY_TYPE
    return _encode(value, codec, nan)


def encode_msgpack(value: Any) -> bytes:
    """Return a value as MessagePack."""
    return _encode(value, "msgpack", "null")[0]


def _encode(value: Any, codec: str, nan: str) -> tuple[bytes, str]:
    try:
        if codec == "msgpack":
            return _shallow(_to_msgpack, value), MSGPACK_TYPE
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value), BYTES_TYPE
        if codec == "json":
            if nan == "error":
                _refuse_nan(value)
            return _shallow(_to_json, value), JSON_TYPE
        if codec == "text" and isinstance(value, str):
            return value.encode(), TEXT_TYPE
    except (MemoryError, UnencodableError):
        raise
    except RecursionError:
        raise UnencodableError("the result is nested too deeply, or contains itself") from None
    except Exception as exc:  # noqa: BLE001 - a result may be any object, and may fail in any way
        if isinstance(value, str):
            raise UnencodableError("the result has characters that UTF-8 cannot encode (lone surrogates)") from None
        encoder = _to_msgpack if codec == "msgpack" else _to_json
        raise UnencodableError(
            f"the result cannot be encoded as {codec}: {describe_unencodable(value, encoder, exc)}"
        ) from None
    allowed = "text or bytes" if codec == "text" else "bytes"
    raise UnencodableError(f"the result must be {allowed} with the codec {codec}, but is {type(value).__qualname__}")


def encode_as(value: Any, content_type: str, *, nan: str = "null") -> bytes:
    """Return the body of a result for which its handler names the content type.

    Bytes are sent unchanged, and so is text, in the charset of the content type. Other values are encoded, for a type
    of JSON or MessagePack; arrays also for application/x-npy.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    media, _, parameters = content_type.partition(";")
    codec = _codec_of(media.strip().lower())
    charset = _charset(parameters) or "utf-8"
    if codec == "msgpack":
        return encode_msgpack(value)
    if codec == "npy":
        return _to_npy(value)
    if codec == "json" and not isinstance(value, str):
        body = encode(value, codec, nan=nan)[0]
        if charset in _UTF8:
            return body
        value = body.decode()
    if not isinstance(value, str):
        raise UnencodableError(
            f"the result has the content type {content_type!r}, for which it must be bytes or text, but it is"
            f" {type(value).__qualname__}"
        )
    if charset not in _CHARSETS:
        raise UnencodableError(f"the result has the content type {content_type!r}, of which the charset is not known")
    try:
        return value.encode(charset)
    except UnicodeError as exc:
        raise UnencodableError(f"the result has characters that {charset} cannot encode: {exc}") from None


def _refuse_nan(value: Any) -> None:
    if where := nan_at(msgspec.to_builtins(value, enc_hook=plain)):
        raise UnencodableError(f'{where} is NaN or infinite, which the stage refuses (nan = "error")')


def _shallow(convert: Callable[[Any], Any], value: Any) -> Any:
    limit = sys.getrecursionlimit()
    if limit <= _MAX_RECURSION:
        return convert(value)
    sys.setrecursionlimit(_MAX_RECURSION)
    try:
        return convert(value)
    finally:
        sys.setrecursionlimit(limit)


_json_encode = msgspec.json.Encoder(enc_hook=plain).encode
_msgpack_encode = msgspec.msgpack.Encoder(enc_hook=packable).encode
_json_parse = msgspec.json.Decoder().decode
_msgpack_parse = msgspec.msgpack.Decoder(ext_hook=extension).decode


def _to_json(value: Any) -> bytes:
    try:
        return _json_encode(value)
    except TypeError:  # perhaps only for its keys
        return _json_encode(with_plain_keys(value))


def _to_msgpack(value: Any) -> bytes:
    try:
        return _msgpack_encode(value)
    except TypeError:
        return _msgpack_encode(with_plain_keys(value, packable))


def _to_npy(value: Any) -> bytes:
    try:
        return to_npy(value)
    except ArrayError as error:
        raise UnencodableError(f"the result cannot be encoded as npy: {error}") from None


@lru_cache(maxsize=256)
def _decoder(content_type: str, charset: str, default: str, forced: str | None) -> Callable[[bytes], Any]:
    """Return the decoder for a content type; without one, that of the stage's codec."""
    media, _, parameters = content_type.partition(";")
    media = media.strip().lower()
    charset = _charset(parameters) or charset or "utf-8"
    codec = forced or default
    if not forced and media:
        codec = _codec_of(media)
    match codec:
        case "json":
            return _json if charset in _UTF8 else _json_in(charset)
        case "msgpack":
            return _msgpack
        case "npy":
            return _npy
        case "text":
            return _text(charset)
    return bytes


def _codec_of(media: str) -> str:
    if media in _JSON_TYPES or media.endswith("+json"):
        return "json"
    if media in _MSGPACK_TYPES:
        return "msgpack"
    if media == NPY_TYPE:
        return "npy"
    return "text" if media.startswith("text/") else "bytes"


@lru_cache(maxsize=256)
def is_binary(content_type: str) -> bool:
    """Return whether a body of this type is neither JSON nor text."""
    return _codec_of(content_type.partition(";")[0].strip().lower()) in ("msgpack", "npy", "bytes")


def _charset(parameters: str) -> str:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower().replace("_", "-")
    return ""


def _json(body: bytes) -> Any:
    if body[:2] in _UTF16_BOMS:
        return _json_in("utf-16")(body)
    body = body.removeprefix(_BOM)  # some clients send a byte-order mark before JSON
    try:
        return _parse(_json_parse, body, "JSON")
    except UndecodableError:
        if not any(sign in body for sign in _PYTHON_JSON):
            raise
        try:
            return _shallow(json.loads, body.decode())
        except (ValueError, RecursionError):
            pass
        raise


def _json_in(charset: str) -> Callable[[bytes], Any]:
    text = _text(charset)
    return lambda body: _json(text(body).removeprefix("\ufeff").encode(errors="surrogatepass"))


def _msgpack(body: bytes) -> Any:
    return _parse(_msgpack_parse, body, "MessagePack")


def _npy(body: bytes) -> Any:
    return _parse(from_npy, body, "npy")


def _parse(parse: Callable[[bytes], Any], body: bytes, form: str) -> Any:
    try:
        return _shallow(parse, body)
    except ArrayError as error:
        raise UndecodableError(f"the body is not accepted as {form}: {error}") from None
    except RecursionError:
        raise UndecodableError(f"the body is not accepted as {form}: it is nested too deeply") from None
    except UnicodeDecodeError as exc:
        raise UndecodableError(f"the body is not {form}: it has text that is not UTF-8 ({exc.reason})") from None
    except (ValueError, OverflowError, msgspec.MsgspecError) as exc:
        raise UndecodableError(f"the body is not {form}: {exc if body else 'it is empty'}") from None


def _text(charset: str) -> Callable[[bytes], str]:
    if charset not in _CHARSETS:
        raise UndecodableError(f"the charset {charset!r} is not accepted: send UTF-8")

    def text(body: bytes) -> str:
        try:
            return body.decode(charset)
        except UnicodeError as exc:
            raise UndecodableError(f"the body is not text in {charset}: {exc}") from None

    return text
