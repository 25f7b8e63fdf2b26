"""A dead letter that goes back changed. Pure; used by the broker admin.

The body is replaced, with its type and encoding, and so are the headers that are named. All other headers and
properties stay as the message's sender wrote them, byte for byte.
"""

import msgspec
from msgspec.structs import replace

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import Publication, decode_or_refuse


class LetterEdit(msgspec.Struct, frozen=True):
    """What is changed besides the body; with `content_type` None, that stays."""

    content_type: str | None = None
    content_encoding: str | None = None  # of the new body; None if it has none
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
