"""A broker as the rest of mqworker sees it: two small interfaces (a third is in outlet.py) and what they exchange.

Runs wherever an asyncio loop uses a broker: in a stage's Producer (`Link`) and in the broker admin (`Admin`).
Everything here is called on that loop's thread and never blocks it. `rabbitmq` and `sqlite` implement both interfaces;
the same contract tests (tests/brokers) run against each. Only `brokers/rabbitmq` imports pika.

A message is two byte strings: `properties`, the AMQP 0-9-1 basic property block (flags and values, decoded on demand by
`mqworker.amqp.properties`), and `body`. A Link inspects neither, so any legal message of a foreign client passes
through unchanged.

Longer than most modules, because all that a broker must do, and all that it exchanges with its users, is to be read in
one place.
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


CONNECTING = "connecting"  # the reason of a Link that has begun to connect, and has not failed yet


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
    settles: tuple[int, int] | None = None  # (epoch, tag) of the input that is settled by this, and those beside it


class Bindings(msgspec.Struct, frozen=True):
    """How a stage's input is bound to an exchange; without a `type` the exchange must exist."""

    exchange: str
    keys: tuple[str, ...]
    type: str = ""


class Placement(msgspec.Struct, frozen=True):
    """Where results of a stage go; with an exchange, the queue, if there is one, is bound to it by `routing_key`.

    Without a `type`, an exchange that does not exist is made as a direct one if it has a queue, and else not at all.
    """

    queue: str
    exchange: str = ""
    routing_key: str = ""
    type: str = ""


class Topology(msgspec.Struct, frozen=True):
    """What a stage needs on its broker; existing objects are used as found (decisions 23)."""

    input: str
    output: Placement | None
    dead: str  # the dead-letter queue
    queue_type: str = "classic"  # type of the queues that are created here: classic | quorum
    bindings: Bindings | None = None  # of the input
    ordered: bool = False  # the input is consumed by one at a time, in its order; see `Link.consume`

    @property
    def queues(self) -> tuple[str, ...]:
        """Return the names of all queues but those for delays."""
        others = (self.output.queue,) if self.output is not None and self.output.queue else ()
        return tuple(dict.fromkeys((self.input, self.dead, *others)))


class PublishAnswers(Protocol):
    """Receives the answers to publications."""

    def confirmed(self, publish_ids: Sequence[int]) -> None:
        """Count these publications as stored: the broker has routed and persisted them."""

    def refused(self, publish_id: int, reason: str, *, too_large: bool = False) -> None:
        """Count this publication as not stored (returned, nacked, no exchange, too large): the broker has no copy.

        `too_large`: it was refused for its size, so publishing it again is useless until the broker has a higher limit.
        """

    def publishes_lost(self, reason: str) -> None:
        """Count the publications without an answer as possibly stored: the publishing connection ended."""


class Sink(PublishAnswers, Protocol):
    """Receives what happens on a Link. Calls come on the loop's thread, in the order of the events."""

    def delivered(self, delivery: Delivery) -> None:
        """Receive a new message; `delivery.epoch` never decreases."""

    def consuming_lost(self, epoch: int, reason: str) -> None:
        """Count all deliveries of `epoch` and before as void: the broker will deliver them again.

        `reason` is "" if `Link.end_epoch` has ended the epoch; that is the last call about it, after all confirms.
        """

    def link_changed(self, state: LinkState) -> None:
        """Receive the new state."""

    def output_depth(self, messages: int) -> None:
        """Receive the answer to `Link.ask_output_depth`."""

    def dead_depth(self, messages: int) -> None:
        """Receive the answer to `Link.ask_dead_depth`."""


class Link(Protocol):
    """A stage's connection to its broker. It never stops reconnecting; no method raises because of the broker."""

    state: LinkState

    def start(self) -> None:
        """Begin to connect; the result is reported to the Sink."""

    def consume(self, prefetch: int, fixed: int = 0) -> None:
        """Allow at most `prefetch` unsettled deliveries at any time; 0 cancels the consumer and keeps the epoch.

        Idempotent; takes effect now, or once connected. While a new value takes effect (decisions 9), the unsettled
        deliveries never exceed the larger of the old and the new one. Where a change would harm the queue (it reorders
        a quorum queue, and may end an auto-delete queue), `fixed` is used instead, if it is given: the value with which
        an epoch begins to consume stays until the epoch ends, and is reported as `state.fixed_prefetch`.

        With `Topology.ordered`, an epoch begins when nobody else consumes the queue; until then `state.waits` says for
        whom. It keeps its prefetch and its consumer to its end, so 0 only has no other one begin: `end_epoch` ends it.
        The prefetch must be the same in all epochs and instances while anything is in the queue: a quorum queue gives
        out what comes back before all else, in the order in which it came back.
        """

    def end_epoch(self) -> None:
        """Stop consuming and end the epoch: what is unsettled goes back to its place, marked as redelivered.

        For a stage at rest, which has sent its acks and publishes nothing now: they are taken before the epoch ends, so
        that nothing settled comes again. From this call on nothing is delivered; then follow `consuming_lost`, without
        a reason, and `state.resting`, until `consume` begins the next epoch. It does not count as a lost connection. On
        an auto-delete queue it does nothing, because the broker would delete the queue with all its messages.
        """

    def ack(self, epoch: int, tag: int, *, multiple: bool) -> None:
        """Settle a delivery, or with `multiple` all up to it in its epoch; acks of an old epoch are only counted."""

    def release(self, epoch: int, tags: Sequence[int]) -> None:
        """Return deliveries to the broker unsettled; those of an old epoch are ignored.

        With `Topology.ordered` it does nothing: what was returned would come out of order. `end_epoch` returns it.
        """

    def publish(self, publish_id: int, publication: Publication) -> None:
        """Publish; exactly one of confirmed, refused or publishes_lost follows within the confirm deadline.

        `publish_id` is positive and unique in the life of the Link. While not connected, the answer is `refused`.
        """

    def publish_together(self, publish_ids: Sequence[int], publications: Sequence[Publication]) -> None:
        """Publish several; each is answered as for `publish`, each further one by a somewhat later deadline.

        The embedded broker stores all of them or none. With `Topology.ordered`, RabbitMQ gets each one when the one
        before is confirmed, and those behind a refused one are refused.
        """

    def depth(self) -> int | None:
        """Return how many messages are ready in the input queue, as of the last few seconds; None when unknown."""

    def others(self) -> int | None:
        """Return how many others consume the input, a few seconds ago; None when unknown, or of no interest."""

    def ask_output_depth(self) -> None:
        """Ask how many messages are ready in the output queue, which the topology must name; 0 when it is missing.

        The answer goes to the Sink, counted after this call. A request without an answer yet is not asked again, and
        one that the end of a connection leaves unanswered is forgotten. The answer may take long, or not come at
        all: a queue may be silent, and the embedded broker spends at most a hundredth of the time on counting.
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
    limited: bool = False  # the broker limits the deliveries of a message, as far as a look has shown


class Peeked(NamedTuple):
    """A message that was looked at and is still in its queue; `position` counts from the queue's head."""

    position: int
    properties: bytes
    body: bytes


class BrokerUnavailable(Exception):  # noqa: N818 - named after the state of the broker
    """The broker cannot be reached or did not answer in time; the message says which, and what to do."""


class BrokerRefused(Exception):  # noqa: N818 - named after what the broker did
    """The broker refused: no such queue, no route, not allowed, too large."""

    count = 1  # how many messages of a move it refused


class BrokerBrokeOff(BrokerRefused):
    """The broker closed the channel of a request in the middle: nobody knows what it has read of it."""

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
        """Count the messages that will come to a queue when their delay is over."""

    async def purge(self, name: str, deadline: float) -> int:
        """Remove all ready messages; returns how many."""

    async def delete(self, name: str, deadline: float) -> int:
        """Delete a queue; returns how many messages it held. A queue that does not exist is refused."""

    async def send(self, queue: str, properties: bytes, body: bytes, deadline: float) -> None:
        """Publish one persistent message to `queue` through the default exchange and wait for its confirm."""

    async def send_many(self, queue: str, messages: Sequence[tuple[bytes, bytes]], deadline: float) -> list[str]:
        """Publish messages to `queue` in this order, each (properties, body), and wait for all confirms.

        The properties are taken as they are, so their delivery mode is to be persistent; to tell them apart, each has
        an id of its own. Returns for each why it was refused, "" if it is stored.
        """

    async def call(self, queue: str, properties: bytes, body: bytes, deadline: float) -> list[tuple[bytes, bytes]]:
        """Send with `reply_to` and a fresh `correlation_id`, and wait for the reply, or all its parts.

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
        """Look at up to `limit` messages from the head, changing nothing: none is lost or ages.

        Where a look counts as a delivery and deliveries are limited (RabbitMQ's quorum queues), a message that is half
        way to the limit is put back as a new one, at the end of the queue.

        `show` selects among them, and ends the search; it must not block. With `singly`, none behind the end of the
        search is touched, at the cost of a round trip each; else more may be fetched, so that the order stays (in
        RabbitMQ's quorum queues, what was looked at gets behind what was looked at before). Where each message costs a
        round trip anyway, it looks at no more than `fetched`, which then says whether there was another one.
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
        """Take messages from the head of `queue` (at most `limit` looked at) and ask `wanted` about each.

        None leaves it in its place (as `peek` does), a Publication is published and confirmed before the message is
        acked, `DROP` only acks it, and `STOP` leaves it and all behind it. Messages that arrive meanwhile may be taken
        too. It ends when `most` were moved or dropped; `singly` as for `peek`. Returns how many were moved or dropped.

        Up to `together` are published and confirmed, then acked: whoever is killed meanwhile has doubled no more than
        the last two such batches. `moving` follows it, and may end it.
        """

    async def close(self) -> None:
        """Close what is open."""


DROP = "drop"
STOP = "stop"


class Show(Protocol):
    """Selects among the messages of a queue."""

    def __call__(self, properties: bytes, body: bytes) -> "bool | str":
        """Return whether the answer must contain it, or `STOP` to end with those selected so far."""


class Fetched:
    """How many messages a look may fetch where it has to fetch them one by one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.more = False  # it ended there, and there was another one


class Moving(Protocol):
    """Follows a move of messages, batch by batch, and may end it."""

    def begins(self, count: int) -> bool:
        """Note that `count` are about to be moved (0: some); return whether they may be."""

    def moved(self, count: int) -> None:
        """Note that `count` of them are gone from the queue, and the others, if any, are not moved."""


class Wanted(Protocol):
    """Decides what happens to one message of a queue."""

    def __call__(self, properties: bytes, body: bytes) -> "Publication | str | None":
        """Return a Publication to publish in its place, `DROP` to drop it, None to leave it, or `STOP`."""
