"""A dead letter that goes back changed. Pure; used by the broker admin.

The body is replaced, with its type and encoding; of the headers only those that are named. All others, and every other
property, stay as the message's sender wrote them, byte for byte.
"""

import msgspec
from msgspec.structs import replace

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import Publication, decode_or_refuse


class LetterEdit(msgspec.Struct, frozen=True):
    """What is changed besides the body; `content_type` None: it stays."""

    content_type: str | None = None
    content_encoding: str | None = None  # of the new body; None: it has none
    headers: dict[str, bool | int | float | str | None] = {}  # None removes one


def edited(replay: Publication, body: bytes, changes: LetterEdit) -> Publication:
    """Return a replay with another body; raises BrokerRefused if its properties are malformed."""
    message: Properties = decode_or_refuse(replay.properties)
    if changes.content_type is not None:
        message.content_type = changes.content_type
    message.content_encoding = changes.content_encoding
    for name, value in changes.headers.items():
        if value is None:
            message.headers.pop(name, None)
        else:
            message.headers[name] = value
    return replace(replay, properties=message.encode(), body=body)
