"""What a handler can read of its message besides the decoded body.

Lives in a Consumer (or a user's test) for one message. It keeps the property block as bytes and decodes it on first
access, so that it costs nothing for handlers that never use it. Raises `UndecodableError` when the block is malformed.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mqworker.amqp.properties import MalformedProperties, Properties
from mqworker.jobs.codecs import UndecodableError


class Message:
    """One delivery, read-only: the raw body, where it came from, and its AMQP properties (None where absent)."""

    __slots__ = ("_block", "_properties", "attempt", "body", "exchange", "redelivered", "routing_key")

    def __init__(
        self,
        body: bytes,
        properties: bytes = b"",
        *,
        redelivered: bool = False,
        exchange: str = "",
        routing_key: str = "",
        attempt: int = 1,
    ) -> None:
        self.body = body
        self.redelivered = redelivered  # the broker has delivered it before, so it may have been computed already
        self.exchange = exchange
        self.routing_key = routing_key
        self.attempt = attempt  # the number of this attempt, from 1
        self._block = properties
        self._properties: Properties | None = None

    @property
    def properties(self) -> Properties:
        """Return all basic properties, decoded once."""
        if self._properties is None:
            try:
                self._properties = Properties.decode(self._block)
            except MalformedProperties as exc:
                raise UndecodableError(f"the message's properties are malformed: {exc}") from None
        return self._properties

    @property
    def headers(self) -> Mapping[str, Any]:
        """Return the headers, read-only; each is decoded on access."""
        return MappingProxyType(self.properties.headers)

    @property
    def message_id(self) -> str | None:
        """Return the publisher's id of the message."""
        return self.properties.message_id

    @property
    def correlation_id(self) -> str | None:
        """Return the id that links a reply to its request; results copy it."""
        return self.properties.correlation_id

    @property
    def reply_to(self) -> str | None:
        """Return the queue that a reply goes to."""
        return self.properties.reply_to

    @property
    def content_type(self) -> str | None:
        """Return the media type by which the body was decoded."""
        return self.properties.content_type

    @property
    def content_encoding(self) -> str | None:
        """Return the encoding of the body as it was received; the handler gets the body decompressed."""
        return self.properties.content_encoding

    @property
    def timestamp(self) -> int | None:
        """Return when the publisher created the message: seconds since the epoch (some clients send milliseconds)."""
        return self.properties.timestamp

    @property
    def priority(self) -> int | None:
        """Return the priority that the publisher set."""
        return self.properties.priority

    @property
    def type(self) -> str | None:
        """Return the publisher's name for this kind of message."""
        return self.properties.type

    @property
    def app_id(self) -> str | None:
        """Return the publisher's name for itself."""
        return self.properties.app_id

    def __repr__(self) -> str:
        return f"Message({self.message_id!r}, {len(self.body)} bytes)"
