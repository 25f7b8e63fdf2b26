"""Which messages an ordered stage keeps in order: those with the same key.

Pure; used by the ordering. A key is the text of what `ordered_by` names, as bytes. A message that does not have it, or
has a table or an array in its place, has no key: it is free of order.
"""

from hashlib import sha256
from typing import Any

from mqworker.amqp import headers
from mqworker.amqp.properties import decode_leniently
from mqworker.brokers.base import Delivery
from mqworker.config.model import CORRELATION_ID, HEADER, INPUT, ROUTING_KEY

WHOLE = b""  # the key of all messages where the whole input is in order
LONGEST = 255  # bytes of a key; a longer text counts by its digest

_KEY = headers.KEY.encode()


def key_of(ordered_by: str, queue: str, delivery: Delivery) -> bytes | None:
    """Return the key of a message that came from `queue`, the stage's input; None if it has none."""
    if ordered_by == INPUT:
        return WHOLE
    if ordered_by == ROUTING_KEY:
        return _routing_key(queue, delivery)
    properties = decode_leniently(delivery.properties)
    if ordered_by == CORRELATION_ID:
        return _text(properties.correlation_id)
    return _text(properties.headers.get(ordered_by.removeprefix(HEADER)))


def _routing_key(queue: str, delivery: Delivery) -> bytes | None:
    """Return the routing key of the original message: that of a retry is the name of the queue."""
    if _KEY in delivery.properties:
        table = decode_leniently(delivery.properties).headers
        if table.get(headers.QUEUE) == queue and (kept := _text(table.get(headers.KEY))) is not None:
            return kept
    return _text(delivery.routing_key)


def _text(value: Any) -> bytes | None:
    if value is None or isinstance(value, dict | list):
        return None
    text = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    return text if len(text) <= LONGEST else sha256(text).digest()
