"""Which codec and charset a content type stands for: a fixed list.

Runs in Consumers, code checks and users' tests; pure. A content type never selects code: unknown types are bytes.
"""

from functools import lru_cache
from typing import Final

from mqworker.jobs.npy import NPY_TYPE
from mqworker.signing import CONTENT_TYPE as PICKLE_TYPE

JSON_TYPE: Final = "application/json"
MSGPACK_TYPE: Final = "application/msgpack"
TEXT_TYPE: Final = "text/plain; charset=utf-8"
BYTES_TYPE: Final = "application/octet-stream"

_JSON_TYPES = frozenset((JSON_TYPE, "application/x-json", "text/json", "text/x-json", "json"))
_MSGPACK_TYPES = frozenset((MSGPACK_TYPE, "application/x-msgpack", "application/vnd.msgpack"))
_PICKLES = ("pickle", "x-pickle", "python-pickle", "x-python-pickle")
_PICKLE_TYPES = frozenset((PICKLE_TYPE, *(f"application/{name}" for name in _PICKLES)))

# Python accepts any codec as a charset, and some are not charsets at all (zlib, punycode): hence a list.
CHARSETS = frozenset(
    [f"iso-8859-{part}" for part in range(1, 17) if part != 12]
    + [f"windows-{page}" for page in (874, *range(1250, 1259))]
    + ["utf-8", "utf8", "us-ascii", "ascii", "latin-1", "latin1", "utf-16", "utf-16le", "utf-16be", "utf-32"]
    + ["gbk", "gb2312", "gb18030", "big5", "shift-jis", "euc-jp", "iso-2022-jp", "euc-kr", "koi8-r", "koi8-u"]
)


def codec_for(content_type: str, default: str, forced: str | None) -> str:
    """Return the codec that reads a body: `forced` if given, else that of the content type; without one, `default`.

    A body sent by a stage with the codec msgpack can be read with `forced` msgpack, even if it is a single array.
    """
    if forced == "msgpack" and codec_of(content_type) == "npy":
        return "npy"
    return forced or (codec_of(content_type) if content_type.partition(";")[0].strip() else default)


def codec_of(content_type: str) -> str:
    """Return json, msgpack, npy, text, pickle, or, for all others, bytes."""
    media = content_type.partition(";")[0].strip().lower()
    if media in _JSON_TYPES or media.endswith("+json"):
        return "json"
    if media in _MSGPACK_TYPES:
        return "msgpack"
    if media in _PICKLE_TYPES:
        return "pickle"
    if media == NPY_TYPE:
        return "npy"
    return "text" if media.startswith("text/") else "bytes"


@lru_cache(maxsize=256)
def is_binary(content_type: str) -> bool:
    """Return whether a body of this type is neither JSON nor text."""
    return codec_of(content_type) not in ("json", "text")


def charset_of(content_type: str) -> str:
    """Return the charset that a content type names; "" if it names none."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower().replace("_", "-")
    return ""
