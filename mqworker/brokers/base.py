"""A broker as the rest of mqworker sees it: two small interfaces (a third is in outlet.py) and what they exchange.

Runs wherever an asyncio loop uses a broker: in a stage's Producer (`Link`) and in the broker admin (`Admin`).
Everything here is called on that loop's thread and never blocks it. `rabbitmq` and `sqlite` implement both interfaces;
the same contract tests (tests/brokers) run against each. Only `brokers/rabbitmq` imports pika.

A message is two byte strings: `properties`, the AMQP 0-9-1 basic property block (flags and values, decoded on demand by
`mqworker.amqp.properties`), and `body`. A Link inspects neither, so any legal message of a foreign client passes
through unchanged.

Longer than most modules, because everything that a broker must do, and everything that it exchanges with its users,
should be found in one place.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from mqworker.amqp.properties import MalformedProperties, Properties
from mqworker.ipc.stage_status import LinkState

__all__ = [
    "CONNECTING",
    "DROP",
    "STOP",
    "Admin",
    "Bindings",
    "BrokerBrokeOff",
    "BrokerRefused",
    "BrokerUnavailable",
    "Delivery",
    "Link",
    "LinkState",
    "Moving",
    "Peeked",
    "Placement",
    "Publication",
    "PublishAnswers",
    "QueueInfo",
    "Show",
    "Sink",
    "Topology",
    "Wanted",
    "decode_or_refuse",
]


CONNECTING = "connecting"  # the reason while a Link is connecting and has not failed yet


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One message as the broker delivered it; `(epoch, tag)` is the only way to settle it."""

    epoch: int  # counts the consuming sessions of this Link; tags of an older epoch are void
    tag: int  # consecutive within its epoch, from 1
    properties: bytes
    body: bytes
    redelivered: bool
    exchange: str
    routing_key: str


class Publication(msgspec.Struct, frozen=True, gc=False):
    """One message to publish: persistent, confirmed, and returned when it has no route (if `mandatory`)."""

    exchange: str
    routing_key: str
    properties: bytes
    body: bytes
    mandatory: bool = True
    delay: int = 0  # whole seconds until it reaches `routing_key`, which is the stage's input queue in this case
    settles: tuple[int, int] | None = None  # (epoch, tag) of the input that this, and those with it, settle


class Bindings(msgspec.Struct, frozen=True):
    """How a stage's input is bound to an exchange; without a `type` the exchange must exist."""

    exchange: str
    keys: tuple[str, ...]
    type: str = ""


class Placement(msgspec.Struct, frozen=True):
    """Where results of a stage go. If both an exchange and a queue are given, the queue is bound by `routing_key`.

    Without a `type`, a missing exchange is made, as a direct one, only if there is a queue.
    """

    queue: str
    exchange: str = ""
    routing_key: str = ""
    type: str = ""


class Topology(msgspec.Struct, frozen=True):
    """What a stage needs on its broker; existing objects are used as they are."""

    input: str
    output: Placement | None
    dead: str  # the dead-letter queue
    queue_type: str = "classic"  # type of the queues that are created here: classic | quorum
    bindings: Bindings | None = None  # of the input
    ordered: bool = False  # the input has one consumer at a time, and is handled in order; see `Link.consume`

    @property
    def queues(self) -> tuple[str, ...]:
        """Return the names of all queues except those for delays."""
        others = (self.output.queue,) if self.output is not None and self.output.queue else ()
        return tuple(dict.fromkeys((self.input, self.dead, *others)))


class PublishAnswers(Protocol):
    """Receives the answers to publications."""

    def confirmed(self, publish_ids: Sequence[int]) -> None:
        """Receive which publications are stored: the broker has routed and persisted them."""

    def refused(self, publish_id: int, reason: str, *, too_large: bool = False) -> None:
        """Receive that this one is not stored (returned, nacked, no exchange, too large): the broker has no copy.

        `too_large`: it was refused for its size, so publishing it again is useless until the broker has a higher limit.
        """

    def publishes_lost(self, reason: str) -> None:
        """Receive that publications without an answer may or may not be stored: the publishing connection has ended."""


class Sink(PublishAnswers, Protocol):
    """Receives the events of a Link. Calls come on the loop's thread, in the order of the events."""

    def delivered(self, delivery: Delivery) -> None:
        """Receive a new message; `delivery.epoch` never decreases."""

    def consuming_lost(self, epoch: int, reason: str) -> None:
        """Receive that all deliveries up to and including `epoch` are void: the broker will deliver them again.

        `reason` is "" if `Link.end_epoch` has ended the epoch; that is the last call about it, after all confirms.
        """

    def link_changed(self, state: LinkState) -> None:
        """Receive the new state."""

    def output_depth(self, messages: int) -> None:
        """Receive the answer to `Link.ask_output_depth`."""

    def dead_depth(self, messages: int) -> None:
        """Receive the answer to `Link.ask_dead_depth`."""


class Link(Protocol):
    """A stage's connection to its broker. It never stops reconnecting; no method raises for a broker's fault."""

    state: LinkState

    def start(self) -> None:
        """Begin to connect; the result is reported to the Sink."""

    def consume(self, prefetch: int, fixed: int = 0) -> None:
        """Allow at most `prefetch` unsettled deliveries at any time; 0 cancels the consumer and keeps the epoch.

        Idempotent; takes effect now, or once connected. While a new value takes effect, the unsettled deliveries never
        exceed the larger of the old and the new value. Where a change would harm the queue (it reorders a quorum queue,
        and may end an auto-delete queue), `fixed` is used instead, if it is given: the value with which an epoch begins
        to consume stays until the epoch ends, and is reported as `state.fixed_prefetch`.

        With `Topology.ordered`, an epoch begins when the queue has no other consumer; until then `state.waits` says
        which one it waits for. The epoch keeps its prefetch and its consumer to its end, so 0 only prevents a further
        epoch: `end_epoch` ends the present one. The prefetch must be the same in all epochs and instances while
        anything is in the queue, because a quorum queue delivers returned messages before all others, in the order in
        which they were returned.
        """

    def end_epoch(self) -> None:
        """Stop consuming and end the epoch: unsettled messages go back to their places, marked as redelivered.

        For a stage at rest, which has sent its acks and is publishing nothing: the broker takes the acks before the
        epoch ends, so that nothing settled comes again. From this call on nothing is delivered. Then `consuming_lost`
        follows, without a reason, and `state.resting` is True until `consume` begins the next epoch. This does not
        count as a lost connection. On an auto-delete queue it does nothing, because the broker would delete the queue
        with all its messages.
        """

    def ack(self, epoch: int, tag: int, *, multiple: bool) -> None:
        """Settle a delivery, or with `multiple` all of its epoch up to it; acks of an old epoch are only counted."""

    def release(self, epoch: int, tags: Sequence[int]) -> None:
        """Return deliveries to the broker unsettled; those of an old epoch are ignored.

        With `Topology.ordered` it does nothing, because returned messages would come out of order; `end_epoch` returns
        them.
        """

    def publish(self, publish_id: int, publication: Publication) -> None:
        """Publish; exactly one of confirmed, refused or publishes_lost follows within the confirm deadline.

        `publish_id` is positive and unique in the life of the Link. While not connected, the answer is `refused`.
        """

    def publish_together(self, publish_ids: Sequence[int], publications: Sequence[Publication]) -> None:
        """Publish several; each is answered as for `publish`, with a somewhat later deadline for each further one.

        The embedded broker stores all of them or none. With `Topology.ordered`, each one is sent to RabbitMQ once the
        one before is confirmed, and those after a refused one are refused.
        """

    def depth(self) -> int | None:
        """Return how many messages were ready in the input queue a few seconds ago at most; None when unknown."""

    def others(self) -> int | None:
        """Return how many others consumed the input a few seconds ago; None when unknown, or of no interest."""

    def ask_output_depth(self) -> None:
        """Ask how many messages are ready in the output queue, which the topology must name; 0 when it is missing.

        The answer goes to the Sink; the messages are counted after this call. While a request has no answer, it is not
        asked again; one that is unanswered when the connection ends is forgotten. The answer may take long, or never
        come: a queue may be silent, and the embedded broker spends at most a hundredth of the time on counting.
        """

    def ask_dead_depth(self) -> None:
        """Ask how many messages are ready in the dead-letter queue; as `ask_output_depth`."""

    async def close(self, deadline: float) -> None:
        """End within `deadline` seconds: pending acks are sent, unsettled deliveries go back to the broker."""


class QueueInfo(msgspec.Struct, frozen=True):
    """One queue as the broker describes it."""

    name: str
    messages: int  # ready to be delivered
    consumers: int
    limited: bool = False  # the broker limits the deliveries of a message, as far as a look at the queue has shown


class Peeked(NamedTuple):
    """A message that was looked at and is still in its queue; `position` counts from the queue's head."""

    position: int
    properties: bytes
    body: bytes


class BrokerUnavailable(Exception):  # noqa: N818 - named after the state of the broker
    """The broker cannot be reached, or did not answer in time; the message says which, and what to do."""


class BrokerRefused(Exception):  # noqa: N818 - named after what the broker did
    """The broker refused: no such queue, no route, not allowed, too large."""

    count = 1  # how many messages of a move were refused


class BrokerBrokeOff(BrokerRefused):
    """The broker closed the channel in the middle of a request: it is unknown how much of the request it has read."""

    count = 0


def no_queue(name: str) -> str:
    """Return a sentence on a queue that does not exist."""
    return f"there is no queue {name!r}; `mqworker queues list` shows those of the configuration"


def decode_or_refuse(properties: bytes) -> Properties:
    """Read the properties of a message that is to be changed on its way; BrokerRefused if they are malformed."""
    try:
        return Properties.decode(properties)
    except MalformedProperties as error:
        raise BrokerRefused(f"the properties are malformed: {error}") from None


class Admin(Protocol):
    """One-off requests to a broker, each an awaitable that ends by its deadline (seconds).

    Every method raises `BrokerUnavailable` or `BrokerRefused`; a connection is made on demand and kept while in use.
    """

    async def queue(self, name: str, deadline: float) -> QueueInfo | None:
        """Return what a queue holds; None when there is no such queue."""

    async def delayed(self, name: str, deadline: float) -> int:
        """Count the messages that will come to a queue when their delays are over."""

    async def purge(self, name: str, deadline: float) -> int:
        """Remove all ready messages; returns how many."""

    async def delete(self, name: str, deadline: float) -> int:
        """Delete a queue; returns how many messages it held. A queue that does not exist is refused."""

    async def send(self, queue: str, properties: bytes, body: bytes, deadline: float) -> None:
        """Publish one persistent message to `queue` through the default exchange and wait for its confirm."""

    async def send_many(self, queue: str, messages: Sequence[tuple[bytes, bytes]], deadline: float) -> list[str]:
        """Publish messages to `queue` in this order, each (properties, body), and wait for all confirms.

        The properties are used as they are, so the caller sets a persistent delivery mode, and a unique id for each
        message, to tell them apart. Returns for each why it was refused, "" if it is stored.
        """

    async def call(self, queue: str, properties: bytes, body: bytes, deadline: float) -> list[tuple[bytes, bytes]]:
        """Send with `reply_to` and a new `correlation_id`, and wait for the reply, or for all its parts.

        Each is (properties, body).
        """

    async def peek(
        self,
        queue: str,
        limit: int,
        deadline: float,
        show: "Show | None" = None,
        *,
        singly: bool = False,
        fetched: "Fetched | None" = None,
    ) -> list[Peeked]:
        """Look at up to `limit` messages from the head, changing nothing: none is lost, and none counts as delivered.

        Where a look does count as a delivery and deliveries are limited (RabbitMQ's quorum queues), a message that is
        half way to the limit is put back as a new one, at the end of the queue.

        `show` selects among them, and can end the search; it must not block. With `singly`, no message after the end of
        the search is touched, at the cost of a round trip for each; otherwise more may be fetched to keep the order (a
        quorum queue of RabbitMQ puts messages that are returned behind those that were returned before). Where each
        message costs a round trip anyway, at most `fetched` are looked at; it then reports whether there was another
        one.
        """

    async def move(
        self,
        queue: str,
        limit: int,
        wanted: "Wanted",
        deadline: float,
        *,
        most: int | None = None,
        singly: bool = False,
        together: int = 1,
        moving: "Moving | None" = None,
    ) -> int:
        """Take messages from the head of `queue` (looking at `limit` at most) and ask `wanted` about each.

        None leaves it in its place (as `peek` does), a Publication is published and confirmed before the message is
        acked, `DROP` only acks it, and `STOP` leaves it and all after it. Messages that arrive in the meantime may be
        taken too. The move ends when `most` have been moved or dropped; `singly` as for `peek`. Returns how many were
        moved or dropped.

        Up to `together` are published and confirmed, then acked: if the process is killed in the meantime, no more than
        the last two such batches are in both queues. `moving` follows the move, and may end it.
        """

    async def close(self) -> None:
        """Close what is open."""


DROP = "drop"
STOP = "stop"


class Show(Protocol):
    """Selects among the messages of a queue."""

    def __call__(self, properties: bytes, body: bytes) -> "bool | str":
        """Return whether the answer must contain this message, or `STOP` to end with those selected so far."""


class Fetched:
    """How many messages a look may fetch, where it has to fetch them one by one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.more = False  # it ended at `most`, and there was another message


class Moving(Protocol):
    """Follows a move of messages, batch by batch, and may end it."""

    def begins(self, count: int) -> bool:
        """Note that `count` messages are about to be moved (0: an unknown number); return whether they may be."""

    def moved(self, count: int) -> None:
        """Note that `count` of them are gone from the queue; the others, if any, were not moved."""


class Wanted(Protocol):
    """Decides what happens to one message of a queue."""

    def __call__(self, properties: bytes, body: bytes) -> "Publication | str | None":
        """Return a Publication to publish in its place, `DROP` to drop it, None to leave it, or `STOP`."""
