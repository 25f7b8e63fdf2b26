"""What a broker is to the rest of mqworker: two small interfaces and the records they exchange.

Runs wherever an asyncio loop owns a broker: in a stage's Producer (`Link`) and in the broker admin (`Admin`).
Everything here is called on that loop's thread and never blocks it. `rabbitmq` and `sqlite` implement both; one
contract test suite (tests/brokers) runs against each. Only `brokers/rabbitmq` imports pika.

A message is two byte strings: `properties`, the AMQP 0-9-1 basic property block (flags and values, decoded on demand by
`mqworker.amqp.properties`), and `body`. Neither is looked into on its way through a Link, so any legal message of a
foreign client passes through unchanged.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from mqworker.amqp.properties import MalformedProperties, Properties
from mqworker.ipc.messages import LinkState

__all__ = [
    "DROP",
    "STOP",
    "Admin",
    "BrokerRefused",
    "BrokerUnavailable",
    "Delivery",
    "Link",
    "LinkState",
    "Peeked",
    "Placement",
    "Publication",
    "QueueInfo",
    "Show",
    "Sink",
    "Topology",
    "Wanted",
    "decode_or_refuse",
]


class Delivery(NamedTuple):
    """One message as the broker handed it over; `(epoch, tag)` is the only way to settle it."""

    epoch: int  # counts the consuming sessions of this Link; tags of an older epoch are void
    tag: int  # consecutive within its epoch, from 1
    properties: bytes
    body: bytes
    redelivered: bool
    exchange: str
    routing_key: str


class Publication(NamedTuple):
    """One message to publish: persistent, confirmed, and returned when it has no route (if `mandatory`)."""

    exchange: str
    routing_key: str
    properties: bytes
    body: bytes
    mandatory: bool = True
    delay: int = 0  # whole seconds until `routing_key` (then the stage's input queue) gets it; 0: at once
    settles: tuple[int, int] | None = None  # (epoch, tag) of the input that this settles alone, if it does


class Placement(msgspec.Struct, frozen=True):
    """Where results of a stage go; with an exchange, the queue is bound to it by `routing_key`."""

    queue: str
    exchange: str = ""
    routing_key: str = ""


class Topology(msgspec.Struct, frozen=True):
    """What a stage needs to exist on its broker; existing objects are used as found (decisions 23)."""

    input: str
    output: Placement | None
    dead: str  # the dead-letter queue
    queue_type: str = "classic"  # of the queues that are made here: classic | quorum


class Sink(Protocol):
    """What hears a Link. Calls come on the loop's thread, in the order in which things happened."""

    def delivered(self, delivery: Delivery) -> None:
        """Take a new message; `delivery.epoch` never goes back."""

    def confirmed(self, publish_ids: Sequence[int]) -> None:
        """The broker took responsibility for these publications (persisted, routed)."""

    def refused(self, publish_id: int, reason: str, *, too_large: bool = False) -> None:
        """This publication was not placed (returned, nacked, no exchange, too large); the broker has no copy.

        `too_large`: its size is the reason, so publishing it again is of no use until the broker has another limit.
        """

    def publishes_lost(self, reason: str) -> None:
        """The publish connection ended: each publication without an answer may or may not have been stored."""

    def consuming_lost(self, epoch: int, reason: str) -> None:
        """All deliveries of `epoch` and before are void: the broker gives them out again."""

    def link_changed(self, state: LinkState) -> None:
        """Something in the state changed."""


class Link(Protocol):
    """A stage's hold on its broker. It reconnects for ever; nothing here raises for a broker's fault."""

    state: LinkState

    def start(self) -> None:
        """Begin to connect; the result comes through the Sink."""

    def consume(self, prefetch: int, fixed: int = 0) -> None:
        """Want at most `prefetch` unsettled deliveries at any time; 0 cancels the consumer and keeps the epoch.

        Idempotent, effective now or when connected; a new value takes effect as decisions 9 says, without ever
        exceeding the larger of the two. On a queue whose order a change would cost (a quorum queue), `fixed` is used
        instead, if it is given: its value when an epoch begins to consume stays until the epoch ends, and is told as
        `state.fixed_prefetch`.
        """

    def ack(self, epoch: int, tag: int, *, multiple: bool) -> None:
        """Settle a delivery, or with `multiple` all of its epoch up to it; an old epoch is dropped and counted."""

    def release(self, epoch: int, tags: Sequence[int]) -> None:
        """Give deliveries back to the broker unsettled; an old epoch is dropped."""

    def publish(self, publish_id: int, publication: Publication) -> None:
        """Publish; exactly one of confirmed, refused or publishes_lost follows within the confirm deadline.

        `publish_id` is positive and unique in the life of the Link. While not connected, the answer is `refused`.
        """

    def depth(self) -> int | None:
        """Messages ready in the input queue, as last seen (at most a few seconds old); None when not known."""

    async def close(self, deadline: float) -> None:
        """End in at most `deadline` seconds: pending acks go out, unsettled deliveries go back to the broker."""


class QueueInfo(msgspec.Struct, frozen=True):
    """One queue as the broker shows it."""

    name: str
    messages: int  # ready to be delivered
    consumers: int


class Peeked(NamedTuple):
    """A message that was looked at and is still in its queue; `position` counts from the queue's head."""

    position: int
    properties: bytes
    body: bytes


class BrokerUnavailable(Exception):  # noqa: N818 - says what is so
    """The broker cannot be reached or did not answer in time; the message says which and what to do."""


class BrokerRefused(Exception):  # noqa: N818 - says what is so
    """The broker answered no: no such queue, no route, not allowed, too large."""


def decode_or_refuse(properties: bytes) -> Properties:
    """Read the properties of a message that is to be changed on its way; BrokerRefused if they are malformed."""
    try:
        return Properties.decode(properties)
    except MalformedProperties as error:
        raise BrokerRefused(f"the properties are malformed: {error}") from None


class Admin(Protocol):
    """One-off questions to a broker, each an awaitable that ends by its deadline (seconds).

    Every method raises `BrokerUnavailable` or `BrokerRefused`; a connection is made on demand and kept while in use.
    """

    async def queue(self, name: str, deadline: float) -> QueueInfo | None:
        """Look at a queue; None when there is none."""

    async def delayed(self, name: str, deadline: float) -> int:
        """Count the messages that will come to a queue when their delay is over."""

    async def purge(self, name: str, deadline: float) -> int:
        """Remove all ready messages; returns how many."""

    async def delete(self, name: str, deadline: float) -> int:
        """Delete a queue; returns how many messages went with it. A queue that is not there is refused."""

    async def send(self, queue: str, properties: bytes, body: bytes, deadline: float) -> None:
        """Publish one persistent message to `queue` through the default exchange and wait for its confirm."""

    async def call(self, queue: str, properties: bytes, body: bytes, deadline: float) -> tuple[bytes, bytes]:
        """Send with `reply_to` and a fresh `correlation_id`, and wait for the reply: (properties, body)."""

    async def peek(self, queue: str, limit: int, deadline: float, show: "Show | None" = None) -> list[Peeked]:
        """Look at up to `limit` messages from the head, changing nothing: none is lost, aged or counted.

        `show` says which of them are wanted, and when it is enough. Where in the queue they are may be different the
        next time (RabbitMQ's quorum queues mix up what was looked at).
        """

    async def move(self, queue: str, limit: int, wanted: "Wanted", deadline: float) -> int:
        """Take messages from the head of `queue` (at most `limit` looked at) and ask `wanted` about each.

        None leaves it where it was, a Publication is published and confirmed before the message is acked,
        `DROP` acks it alone, and `STOP` leaves it and all behind it. What comes to the queue meanwhile may be looked
        at too. Returns how many were moved or dropped.
        """

    async def close(self) -> None:
        """Close what is open."""


DROP = "drop"
STOP = "stop"


class Show(Protocol):
    """Chooses among the messages of a queue that is looked at."""

    def __call__(self, properties: bytes, body: bytes) -> "bool | str":
        """Return whether to keep it for the answer, or `STOP` to end with those kept so far."""


class Wanted(Protocol):
    """Decides what becomes of one message of a queue that is gone through."""

    def __call__(self, properties: bytes, body: bytes) -> "Publication | str | None":
        """Return a Publication to place instead of it, `DROP` to drop it, None to leave it, or `STOP`."""
