"""A Producer's report on its stage, and its parts: frozen records.

    Service  <--StageStatus--  Producer

Control's snapshots and what HTTP reports are made of it. A link keeps its LinkState itself.
"""

import msgspec

from mqworker.amqp.headers import ROOM
from mqworker.ipc.histogram import Times
from mqworker.ipc.records import TaggedRecord


class InHand(msgspec.Struct, frozen=True, array_like=True):
    """A message that a Consumer works on."""

    since: float  # when it was started
    message_id: str


class ConsumerStatus(TaggedRecord, frozen=True):
    """One Consumer as its Producer sees it."""

    slot: int
    pid: int
    state: str  # starting | idle | busy | spare (set up, and gets no message: before a switch or after it) | leaving
    generation: int  # applied
    code: int  # the generation whose code it imported
    done: int  # messages finished
    message_since: float  # when its message in hand was started, of several the oldest; 0: none
    message_id: str  # of that message, once it has run for a while
    rss: int  # bytes, as last reported
    used: int  # messages in its lane
    seats: int = 0  # how many messages it works on at once; 0: one, and it is serial
    messages: tuple[InHand, ...] = ()  # where it has seats: all that it works on, the oldest first
    held_since: float = 0.0  # where it has seats: since when one message, or other code, stops all others; 0: nothing
    held_by: str = ""  # the id of that message
    cpu: float = 0.0  # seconds of CPU that it has used
    exit: str = ""  # how the Consumer before it in this slot ended, in one sentence; "": there was none
    exit_at: float = 0.0  # CLOCK_MONOTONIC: when that was
    leaving: bool = False  # it ends once it has finished what it has in hand
    seq: int = 0  # the ledger's number of its message in hand, of several the oldest; 0: none


class LinkState(msgspec.Struct, frozen=True):
    """The current state of a Link; `reason` is one sentence with cause and fix whenever something is missing."""

    connected: bool = False  # both connections are up and the topology is declared
    consuming: bool = False  # the broker has registered our consumer
    resting: bool = False  # there is no epoch, because none is wanted; another consumer may take over
    waits: str = ""  # for which other consumer, if the stage is ordered
    delivery_limit: int | None = (
        None  # deliveries of a message until the broker drops it; -1: any number; None: unknown
    )
    fixed_prefetch: int = 0  # in use because it must not change on this queue; 0: it follows what is wanted
    blocked: bool = False  # the broker refuses publishes for now (an alarm)
    header_room: int = ROOM  # bytes of properties that a publication may have
    auto_delete: bool = False  # the input vanishes, with its messages, when its last consumer leaves
    unbound: tuple[str, ...] = ()  # exchanges through which messages came until the input was deleted and made again
    input_problem: str = ""  # why the input is not bound as configured
    reason: str = "not started"
    warnings: tuple[str, ...] = ()  # e.g. an existing queue that may drop messages
    reconnects: int = 0
    repairs: int = 0  # how often something missing was created again on a live connection

    @property
    def problem(self) -> str:
        """What is wrong although it is connected, in one sentence; "" for nothing."""
        if not self.unbound:
            return self.input_problem
        return (
            f"the input was deleted and made again: messages came through {_exchanges(self.unbound)} before, and none"
            " has since; bind the queue again, or stop and start the stage to confirm that this is wanted"
        )


def _exchanges(names: tuple[str, ...]) -> str:
    return f"exchange{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"


class BlockedOrder(msgspec.Struct, frozen=True):
    """A message that holds up those behind it, in a stage that keeps an order."""

    message_id: str
    key: str  # of its order; "": that of the whole input
    since: float  # CLOCK_MONOTONIC: when it was delivered
    behind: int  # how many wait for it
    reason: str


class OrderStatus(msgspec.Struct, frozen=True):
    """The progress of a stage that keeps an order."""

    delayed: int  # messages that wait in their places for their next attempt
    locked: int  # messages held that cannot begin now: delayed ones, and those behind another one of their key
    stuck: bool  # nothing that is here can begin, and no more comes before something here is settled
    blocked: BlockedOrder | None = None  # of the units that make no progress, the one with most messages behind it
    hottest: str | None = None  # the key with most messages here; None: none has any
    hottest_messages: int = 0


class SwitchState(msgspec.Struct, frozen=True):
    """How far a change of jobs or code has got, until it is complete."""

    revision: int  # of the Desired that it is about
    code: int
    update: str  # how it is done: switch | rolling | old-first
    ready: int = 0  # new Consumers that are set up
    wanted: int = 0  # how many new Consumers must be set up before it is committed; 0: it is committed
    on_trial: bool = False  # it is committed, but has not finished a message yet
    left: int = 0  # Consumers with the previous code that have not ended yet
    failed: str = ""  # why it has to be undone


class StageStatus(TaggedRecord, frozen=True, tag="status"):
    """A Producer's report on its stage, sent at least once a second: also its heartbeat."""

    stage: str
    pid: int
    state: str  # starting | running | draining
    revision: int  # the last one that was fully applied; see Desired
    generation: int  # the oldest that any working Consumer has applied
    switch: SwitchState | None  # of the last change of jobs or code, until its code has finished a message
    link: LinkState
    listening: bool  # whether it should consume now, with every reason to hold back considered
    problem: str  # one sentence, or ""
    crash_loop: bool
    consumers: tuple[ConsumerStatus, ...]
    prefetch: int
    held: int
    dispatched: int
    computed: int  # have a result, and wait for their turn to publish it; only in a stage that keeps an order
    settling: int
    held_bytes: int
    kept: int  # outcomes of lost deliveries, kept for their redelivery
    backlog: int | None  # messages ready in the input queue
    counters: dict[str, int]
    times: dict[str, Times]  # process (handlers), wait (for a lane), confirm (of a publication)
    p95: float
    rate: float  # settled per second over the last few seconds
    last_settled: float
    stall: float  # the longest time that this Producer's loop was blocked, seconds
    idle: bool  # input, process tree and retry queues are empty, as far as the Producer knows
    arrival_rate: float | None = None  # messages per second that come to the input queue, lately
    service_time: float | None = None  # seconds that recent messages took in their handlers, on average
    utilisation: float | None = None  # share of time in which the Consumers had messages lately, 0 to 1
    capacity: float | None = None  # messages per second that the present Consumers can settle; never 0
    hold_back: str = "no"  # why nothing comes although it should: no | bytes | output | unplaced | retries
    held_up_by: str = ""  # what kept Consumers idle lately although messages waited here: output | order
    output_backlog: int | None = None  # messages ready in the output queue; None: unknown, or without max_backlog
    order: OrderStatus | None = None  # None: it keeps none
    at: float = 0.0  # CLOCK_MONOTONIC: when it was made
    dead_backlog: int | None = None  # messages ready in the dead-letter queue, as of the last seconds; None: unknown
    journal: int = 0  # settled messages that can still be found by their ids
    faults: int = 0  # kinds of failures since the Producer began
