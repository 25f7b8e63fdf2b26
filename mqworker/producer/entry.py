"""What the ledger keeps about a delivery and about a unit of an order, and what it counts.

Plain data of the Producer's process.
"""

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import msgspec

from mqworker.brokers.base import Delivery, Publication
from mqworker.producer.blame import Doubt


class State(IntEnum):
    """How far a delivery has come."""

    HELD = 0  # waits for a lane
    OUT = 1  # in a lane
    PLACING = 2  # its publication is on the way
    PLACED = 3  # everything that had to be placed is confirmed
    KEPT = 4  # void; its plan, or how often it has failed, is kept until the message is redelivered
    DELAYED = 5  # it has failed and waits for its next attempt; only in ordered stages, like the next state
    COMPUTED = 6  # it has a plan, and waits for its turn to publish


HELD, OUT, PLACING, PLACED, KEPT, DELAYED, COMPUTED = (
    State  # looking up a member in its class costs more than the ledger's other steps
)


class Isolation(IntEnum):
    """What may be computed beside a delivery."""

    NONE = 0
    CHUNK = 1  # alone in its chunk, and for a while in its Consumer: it killed one before, or may have
    STAGE = 2  # a suspect: nothing else begins for a while, because it may have killed the whole tree


UNISOLATED, ALONE_IN_CHUNK, ALONE_IN_STAGE = Isolation  # as above: for what is asked of each message


# What became of a message in its Consumer: when it finished, seconds, generation, slot; after a failure also its id.
Work = tuple[float, float, int, int, str]  # a plain one: it is made for each message


class Plan(msgspec.Struct, frozen=True, gc=False):
    """How a delivery is settled: `outcome` is its name in the counters; without publications it settles at once."""

    outcome: str  # result | dropped | retried | dead | renewed
    publications: tuple[Publication, ...] = ()  # they gate the ack: all must be confirmed
    replies: tuple[Publication, ...] = ()  # best effort


class Again(NamedTuple):
    """A message that has failed keeps its place in its order, and is tried again."""

    properties: bytes  # for the next attempt: those of a retry
    after: float  # seconds


class Entry:
    """One delivery in the ledger; body and properties are empty once its outcome is kept."""

    __slots__ = (
        "asked",
        "body",
        "chunk",
        "doubt",
        "due",
        "epoch",
        "exchange",
        "isolation",
        "key",
        "lane",
        "left",
        "original",
        "plan",
        "properties",
        "received",
        "redelivered",
        "routing_key",
        "seq",
        "shared_key",
        "since",
        "state",
        "tag",
        "too_large",
        "tries",
        "unit",
        "void",
        "weight",
        "window",
        "work",
    )

    def __init__(self, seq: int, delivery: Delivery, isolation: Isolation, now: float) -> None:
        self.seq = seq
        self.epoch, self.tag = delivery.epoch, delivery.tag
        self.properties, self.body = delivery.properties, delivery.body
        self.redelivered = delivery.redelivered
        self.exchange, self.routing_key = delivery.exchange, delivery.routing_key
        self.isolation = isolation
        self.received = now
        self.state = HELD
        self.lane: int | None = None
        self.chunk = 0  # the number of its chunk in that lane
        self.void = False
        self.key = b""  # its fingerprint, once it has been void or if the suspects remember it
        self.shared_key = b""  # by which shared objects know it; "": its stage uses none
        self.unit: Unit | None = None  # in which order it stands; None: in none, as in most stages
        self.original: bytes | None = (
            None  # its properties as delivered, if those of a further attempt are in their place
        )
        self.due = 0.0  # when a delayed one may begin
        self.window = 0.0  # seconds for which it runs isolated: from the stage, or if it is doubted in its Consumer
        self.doubt: Doubt | None = None  # it was in hand at deaths of Consumers that could not be attributed
        self.plan: Plan | None = None
        self.left: dict[int, Publication] = {}  # those of its plan that are not confirmed, by their place in it
        self.asked = 0  # how many of them are on their way
        self.tries = 0  # times that some of them were refused
        self.too_large = False  # the last refusal was for its size
        self.since = 0.0  # when its present state began; set from PLACING on
        self.weight = 0  # bytes that are counted for it
        self.work: Work | None = None  # of its last attempt

    @property
    def size(self) -> int:
        """Bytes that its messages take: the input, and the messages to be published for it."""
        size = len(self.body) + len(self.properties)
        if self.original is not None:
            size += len(self.original)
        if self.plan is not None:
            for publication in self.plan.publications:
                size += len(publication.body) + len(publication.properties)
            for publication in self.plan.replies:
                size += len(publication.body) + len(publication.properties)
        return size


class Unit:
    """The deliveries that are in one order: of the whole input, or with one key."""

    __slots__ = ("behind", "key", "offered", "order", "out", "waiting")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.order: deque[Entry] = deque()  # valid and unsettled, as they arrived
        # The rest belongs to the ordered backlog, and is used where one of a unit is computed at a time:
        self.waiting: deque[Entry] = deque()  # those of them that are held or delayed
        self.out: set[Entry] = set()  # in a lane, without an outcome; some may be void
        self.offered: Entry | None = None  # the first one that waits, if it may begin
        self.behind = 0  # how many wait behind that

    def put_back(self, entry: Entry) -> None:
        """Let a delivery wait in its place, which is mostly the first."""
        waiting, place = self.waiting, 0
        while place < len(waiting) and waiting[place].tag < entry.tag:
            place += 1
        waiting.insert(place, entry)


class HeldBytes:
    """The bytes that the deliveries in hand take; each entry remembers the bytes counted for it."""

    def __init__(self) -> None:
        self.total = 0

    def weigh(self, entry: Entry, weight: int) -> None:
        """Count `weight` bytes for an entry from now on."""
        self.total += weight - entry.weight
        entry.weight = weight


@dataclass
class Counters:
    """Since the ledger began; received = settled + voided + released + in flight."""

    received: int = 0
    settled: int = 0
    voided: int = 0
    released: int = 0
    adopted: int = 0
    redispatched: int = 0
    delayed: int = 0  # failures after which a message kept its place
    confirmed: int = 0
    refused: int = 0
    ambiguous: int = 0  # publications whose answer was lost: besides lost acks, the only source of duplicates
    late: int = 0  # outcomes that came after another one had been used
    result: int = 0
    dropped: int = 0
    retried: int = 0
    dead: int = 0
    renewed: int = 0  # put back as a new message before the broker would have dropped it

    def settle(self, outcome: str) -> None:
        """Count one settled delivery under its outcome too."""
        self.settled += 1
        setattr(self, outcome, getattr(self, outcome) + 1)
