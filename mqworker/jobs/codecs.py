"""Decodes bodies to Python values and encodes results to bodies.

Runs in Consumers, code checks and users' tests; pure functions of their arguments. A message's content type is compared
with a fixed list and never selects code: no module is imported for it, and nothing is unpickled unless a key of the
stage has signed it. Raises only `UndecodableError`, `OversizedError` or `UnencodableError`, with one sentence for the
dead letter; `MemoryError` is raised as it is, because it may not be the message's fault.

Longer than most modules, because each content type's decoder and encoder belong together.
"""

import json
import pickle
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from mqworker import signing
from mqworker.jobs.compression import ENCODINGS, CompressionError, LimitError, decompress, is_compression
from mqworker.jobs.content_types import (
    BYTES_TYPE,
    CHARSETS,
    JSON_TYPE,
    MSGPACK_TYPE,
    TEXT_TYPE,
    charset_of,
    codec_for,
    codec_of,
)
from mqworker.jobs.encode_errors import describe_unencodable
from mqworker.jobs.npy import NPY_TYPE, ArrayError, extension, from_npy, is_array, packable, to_npy
from mqworker.jobs.plain import nan_at, plain, with_plain_keys

BINARY: Final = "binary"  # content_encoding of results that are not text: without it, kombu decodes them as UTF-8

_BYTES = (bytes, bytearray, memoryview)  # a tuple, because a union would be created at each use
_PLAIN_ENCODINGS = frozenset(("", "identity", "binary", "8bit", "7bit", "utf-8", "utf8"))
_NOT_HERE = frozenset(("zstd", "zstandard", "application/zstd", "br", "brotli", "application/x-brotli"))
_UTF8 = frozenset(("utf-8", "utf8", "us-ascii", "ascii"))
_PYTHON_JSON = (b"NaN", b"Infinity", b"\\ud", b"\\uD")  # Python's json writes these: also half a surrogate pair
_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
# msgspec recurses in C and stops at Python's recursion limit. Even if user code raises that limit, a body of nothing
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
    keys: Sequence[str] = (),
    signature: object = None,
) -> Any:
    """Return the value of a body.

    `default` names the codec for a body without a content type, `forced` the codec for every body. A body is
    decompressed, to at most `limit` bytes, if `content_encoding` or `compression` (kombu's header) says so. A body of
    an unknown type stays bytes. So does a pickle, unless there are `keys`: then it must have a `signature` by one of
    them.
    """
    signed = bool(keys) and codec_for(content_type or "", default, forced) == "pickle"
    if signed:
        _verify(body, signature, keys)
    charset = ""
    if content_encoding is not None or compression is not None:
        body, charset = _unpacked(body, content_encoding or "", compression, limit)
    value = _decoder(content_type or "", charset, default, forced)(body)
    return _unpickle(value) if signed else value


def _verify(body: bytes, signature: object, keys: Sequence[str]) -> None:
    try:
        signing.verify(body, signature, keys)
    except ValueError as error:
        raise UndecodableError(str(error)) from None


def _unpickle(body: bytes) -> Any:
    """Load a pickle whose signature has been verified."""
    try:
        return pickle.loads(body)  # noqa: S301 - its maker has the stage's key
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - classes of the user's code are imported and called
        raise UndecodableError(f"the pickle cannot be loaded: {type(error).__qualname__}: {error!s:.500}") from None


def _unpacked(body: bytes, content_encoding: str, compression: object, limit: int) -> tuple[bytes, str]:
    """Undo the encodings, the last one first; returns the body, and the charset if one was among them."""
    charset = ""
    names = content_encoding.lower().replace(":", ",").split(",")  # Spring AMQP wrote "gzip:UTF-8" for years
    named = isinstance(compression, str) and (is_compression(compression.lower()) or compression.lower() in _NOT_HERE)
    if named and not any(map(is_compression, map(str.strip, names))):  # else another library's, or a repetition
        names.append(str(compression).lower())
    try:
        for name in map(str.strip, reversed(names)):
            if is_compression(name):
                body = decompress(body, name, limit)
            elif name.replace("_", "-") in CHARSETS:
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

    Results that are bytes are sent unchanged (as application/octet-stream), except with `msgpack` and `pickle`, which
    have a type for them. JSON has no NaN and no infinity: both become null, or are refused if `nan` is "error". Values
    of numpy, pandas and pydantic and other containers get the form that `mqworker.jobs.plain` gives them, except with
    `pickle`. With `msgpack` arrays stay arrays, and a result that is one array is sent as application/x-npy.
    """
    if codec == "msgpack" and is_array(value):
        return _to_npy(value), NPY_TYPE
    return _encode(value, codec, nan)


def encode_msgpack(value: Any) -> bytes:
    """Return a value as MessagePack."""
    return _encode(value, "msgpack", "null")[0]


def _encode(value: Any, codec: str, nan: str) -> tuple[bytes, str]:
    try:
        if codec in _OWN_BYTES:
            convert, content_type = _OWN_BYTES[codec]
            return _shallow(convert, value), content_type
        if isinstance(value, _BYTES):
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
    except Exception as exc:  # noqa: BLE001 - a result may be any object, which may raise anything
        if isinstance(value, str):
            raise UnencodableError("the result has characters that UTF-8 cannot encode (lone surrogates)") from None
        encoder = _OWN_BYTES[codec][0] if codec in _OWN_BYTES else _to_json
        raise UnencodableError(
            f"the result cannot be encoded as {codec}: {describe_unencodable(value, encoder, exc)}"
        ) from None
    allowed = "text or bytes" if codec == "text" else "bytes"
    raise UnencodableError(f"the result must be {allowed} with the codec {codec}, but is {type(value).__qualname__}")


def encode_as(value: Any, content_type: str, *, nan: str = "null") -> bytes:
    """Return the body of a result whose handler has set the content type.

    Bytes are sent unchanged; text is sent in the charset of the content type. Other values are encoded if the type is
    one of JSON or MessagePack; arrays also for application/x-npy.
    """
    if isinstance(value, _BYTES):
        return bytes(value)
    codec, charset = codec_of(content_type), charset_of(content_type) or "utf-8"
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
    if charset not in CHARSETS:
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
    except TypeError:  # perhaps only because of its keys
        return _json_encode(with_plain_keys(value))


def _to_msgpack(value: Any) -> bytes:
    try:
        return _msgpack_encode(value)
    except TypeError:
        return _msgpack_encode(with_plain_keys(value, packable))


def _to_pickle(value: Any) -> bytes:
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


_OWN_BYTES: Final = {"msgpack": (_to_msgpack, MSGPACK_TYPE), "pickle": (_to_pickle, signing.CONTENT_TYPE)}


def _to_npy(value: Any) -> bytes:
    try:
        return to_npy(value)
    except ArrayError as error:
        raise UnencodableError(f"the result cannot be encoded as npy: {error}") from None


@lru_cache(maxsize=256)
def _decoder(content_type: str, charset: str, default: str, forced: str | None) -> Callable[[bytes], Any]:
    """Return the decoder for a content type; without one, that of the stage's codec. A pickle stays bytes here."""
    charset = charset_of(content_type) or charset or "utf-8"
    match codec_for(content_type, default, forced):
        case "json":
            return _json if charset in _UTF8 else _json_in(charset)
        case "msgpack":
            return _msgpack
        case "npy":
            return _npy
        case "text":
            return _text(charset)
    return bytes


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
    if charset not in CHARSETS:
        raise UndecodableError(f"the charset {charset!r} is not accepted: send UTF-8")

    def text(body: bytes) -> str:
        try:
            return body.decode(charset)
        except UnicodeError as exc:
            raise UndecodableError(f"the body is not text in {charset}: {exc}") from None

    return text
