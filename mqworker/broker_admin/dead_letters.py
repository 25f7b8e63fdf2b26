"""Dead letters as an operator sees them: which parts of one are shown, and how one is sent back.

Pure; used by the broker admin. A dead letter is identified by the first 16 hex digits of its fingerprint, because a
message id may be missing or not unique.
"""

import hashlib
from typing import Any

from mqworker.amqp import headers, wrapper
from mqworker.amqp.fingerprint import fingerprint
from mqworker.amqp.properties import Properties, decode_leniently
from mqworker.broker_admin import preview as previews
from mqworker.brokers.base import Publication
from mqworker.ipc.json_safe import tree

_GONE_ON_REPLAY = frozenset(
    {
        headers.ATTEMPT,
        headers.CRASHES,
        headers.QUEUE,
        headers.REASON,
        headers.ERROR_TYPE,
        headers.MESSAGE,
        headers.TRACEBACK,
        headers.PLACE,
        headers.EXIT,
        headers.HOST,
        headers.STAGE,
        headers.GENERATION,
        headers.PREFIX + "place",
    }
)
_SHOWN = {
    "reason": headers.REASON,
    "error_type": headers.ERROR_TYPE,
    "message": headers.MESSAGE,
    "place": headers.PLACE,
    "failed_at": headers.FAILED_AT,
    "first_failed_at": headers.FIRST_FAILED_AT,
    "attempt": headers.ATTEMPT,
    "crashes": headers.CRASHES,
    "generation": headers.GENERATION,
    "host": headers.HOST,
    "replayed": headers.REPLAYED,
}
SHORT = 255  # bytes of an expiration in AMQP
MOST_REPLAYS = 2**63 - 1  # what a header can hold
_LONG = {"traceback": headers.TRACEBACK, "exit": headers.EXIT}


def opened(properties: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return a dead letter with its message unwrapped; one that is not wrapped is returned unchanged."""
    outer = decode_leniently(properties)
    inner = wrapper.unwrap(body) if outer.headers.get(headers.WRAPPED) is True else None
    if inner is None:
        return properties, body
    message = decode_leniently(inner[0])
    del outer.headers[headers.WRAPPED]
    for name, value in outer.headers.to_dict().items():
        message.headers[name] = value
    return message.encode(), inner[1]


def letter_id(properties: bytes, body: bytes) -> str:
    """Return the id that an operator uses for a dead letter."""
    return fingerprint(properties, body).hex()[:16]


def reason(properties: bytes) -> object:
    """Return why the message is dead; None if the header is missing (anybody may write to the queue)."""
    return decode_leniently(properties).headers.get(headers.REASON)


def lineage(properties: bytes, body: bytes, *, later: int = 0) -> bytes:
    """Return a digest of the message's identity and its number of replays, plus `later`."""
    properties, body = opened(properties, body)
    decoded = decode_leniently(properties)
    times = _replays(decoded, later)
    return hashlib.sha256(f"{times} {decoded.message_id!r} ".encode(errors="backslashreplace") + body).digest()


def describe(properties: bytes, body: bytes, *, whole: bool = False, preview: bool = False) -> dict[str, Any]:
    """Return the parts of a dead letter that are shown; `whole` adds traceback, headers, properties and body.

    `preview` adds the body as text, and the headers as rows with their types.
    """
    letter = letter_id(properties, body)
    properties, body = opened(properties, body)
    decoded = decode_leniently(properties)
    document: dict[str, Any] = {
        "id": letter,
        "message_id": decoded.message_id,
        "content_type": decoded.content_type,
        "size": len(body),
    }
    names = _SHOWN | (_LONG if whole else {})
    for key, name in names.items():
        value = decoded.headers.get(name)
        if value is not None:
            document[key] = value
    if whole:
        document["headers"] = decoded.headers.to_dict()
        document["correlation_id"] = decoded.correlation_id
        document["reply_to"] = decoded.reply_to
        document["timestamp"] = decoded.timestamp
    shown: dict[str, Any] = tree(document)
    if preview:
        shown["preview"] = previews.preview(body, decoded.content_type, decoded.content_encoding)
        shown["header_rows"] = previews.header_rows(decoded.headers)
        shown["content_encoding"] = tree(decoded.content_encoding)
    return shown | {"properties": properties, "body": body} if whole else shown


def replay(properties: bytes, body: bytes, queue: str) -> Publication:
    """Return the original message: restores what the dead letter had moved aside, and counts the replay."""
    properties, body = opened(properties, body)
    decoded = decode_leniently(properties)
    table = decoded.headers
    headers.strip_brokers(decoded)
    kept = (headers.QUEUE,) if headers.KEY in table else ()  # together these define its place in the order
    for name in list(table):
        if name in _GONE_ON_REPLAY and name not in kept:
            del table[name]
    if not decoded.message_id:
        table.pop(headers.DERIVED_ID, None)  # made for its retries
    for name in ("CC", "BCC"):
        if headers.ORIGINAL + name in table:
            table.rename(headers.ORIGINAL + name, name)
    expiration = table.pop(headers.ORIGINAL + "expiration", None)
    if isinstance(expiration, str) and len(expiration.encode(errors="surrogateescape")) <= SHORT:
        decoded.expiration = expiration
    table[headers.REPLAYED] = _replays(decoded, 1)
    decoded.delivery_mode = 2
    decoded.user_id = None  # the broker refuses a name that is not ours (a wrapped message still has it)
    return Publication("", queue, decoded.encode(), body)


def _replays(decoded: Properties, later: int) -> int:
    """Return how often it was replayed, plus `later`; the header may have any value, because anybody can write it."""
    value = decoded.headers.get(headers.REPLAYED)
    return max(0, min((value if type(value) is int else 0) + later, MOST_REPLAYS))
