"""What a Producer sends a Consumer, and what that sends back: frozen records.

    Producer  --StageSpec, Birth, then Chunks-->  Consumer
    Producer  <--Uplink--                         Consumer      Hello, Unfit, Outcomes, Piece, Stack, LogEvent

A Chunk goes through the queue of its lane, a large body through the lane's inbox or hatch, an Uplink through the
Consumer's own pipe.
"""

import msgspec

from mqworker.ipc.generation import Generation
from mqworker.ipc.records import LogEvent, TaggedRecord

LARGE = 1 << 18  # bytes of a body above which it is passed on by itself, so that it is not copied more than necessary


class Birth(TaggedRecord, frozen=True, tag="birth"):
    """What a Consumer receives first, after its StageSpec."""

    slot: int  # 0, 1, ... among the Consumers of its stage: MQWORKER_SLOT
    register: str  # the path of the in-hand register
    place: int  # in the register, where no other living Consumer writes
    consumers: int  # how many share the CPUs of the stage
    generation: Generation
    log_level: int


class Item(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One delivery as a lane carries it to a Consumer."""

    seq: int
    properties: bytes
    body: bytes
    redelivered: bool
    exchange: str
    routing_key: str
    fingerprint: bytes = b""  # what the in-hand register knows it by, if that is not the one of these properties


class Chunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The content of one `put` into a lane: deliveries, and the state under which to compute them."""

    number: int  # counts the chunks of this lane, from 1
    generation: int
    params: bytes | None  # JSON; sent when the lane's Consumer does not have this generation yet
    soft_limit: float
    log_level: int
    items: list[Item]
    more: bool = False  # more messages wait, so the Consumer reports at once that it has taken this chunk
    in_inbox: int = 0  # bytes of the body of the only item: it is in the lane's inbox, here it is empty
    stop_at_failure: bool = False  # what follows a failed message must not begin before it was tried again
    hard_limit: float = 0.0  # for what the Consumer ends itself: programs, coroutines
    unsent: str = ""  # why the body of the only item is neither there nor here: its message fails


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why a message has no result, in text; `reason` is the value of the dead-letter header."""

    reason: str  # error | reject | undecodable | unencodable | timeout | memory | oversized | crash | skipped
    type: str
    message: str
    traceback: str = ""
    exit: str = ""  # how the Consumer ended, with evidence
    after: float | None = None  # the handler asked for another attempt after this many seconds
    final: bool = False  # do not try again
    place: str = ""  # where in the user's code it was raised: "file:line in function"; "": unknown


class ResultMessage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One result, ready to be published; without a body it is only for a caller who waits: there is no result."""

    properties: bytes
    body: bytes | None
    routing_key: str | None = None  # as the handler wants it; None: the output's
    reply: bytes = b""  # the properties of the reply, if they differ
    in_pieces: int = 0  # bytes of its body, which came up before, through the hatch: here it is empty


class Outcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of one delivery in a Consumer: results, nothing (dropped), or a failure."""

    seq: int
    duration: float
    generation: int
    results: tuple[ResultMessage, ...] = ()
    reply_to: str = ""
    failure: Failure | None = None

    @property
    def dropped(self) -> bool:
        """Whether there is no result to publish."""
        return not self.results or self.results[0].body is None


class Hello(TaggedRecord, frozen=True, tag="hello"):
    """The Consumer is set up and is waiting for its first chunk."""

    pid: int
    generation: int
    kind: str = "serial"  # serial | threads | tasks: how it works on messages
    seats: int = 0  # how many it works on at once; 0: it is serial


class Unfit(TaggedRecord, frozen=True, tag="unfit"):
    """The Consumer could not be set up (import, parameters, `setup`) and ends."""

    failure: Failure


class Piece(TaggedRecord, frozen=True, tag="piece"):
    """A part of the body of a large result, which is in the hatch; the outcome follows its pieces."""

    place: int  # in the hatch
    size: int
    whole: int  # bytes of that body


class Outcomes(TaggedRecord, frozen=True, tag="outcomes"):
    """Finished deliveries, and how far the Consumer is with its chunks.

    It has called `task_done` for what it has *taken*, so the next chunk may be put; the end of a chunk says that too.
    One with seats begins all messages of a chunk when it takes it, so its chunks have no end: it says what it has
    taken, and which messages it gives back. Its frames have `rss` whenever it is measured.
    """

    outcomes: list[Outcome]
    generation: int
    taken: int = 0  # the number of the chunk that it has just taken; 0: none
    ended: int = 0  # the number of the chunk that has just ended; 0: none
    rss: int = 0
    leaving: str = ""  # why this Consumer asks to be replaced
    printed: bool = False  # the pipe of its output may hold lines of these messages
    back: tuple[int, ...] = ()  # taken and not begun, because the stop word says so: these may begin elsewhere


class Stack(TaggedRecord, frozen=True, tag="stack"):
    """Where a message is that has exceeded the hard limit and goes on: sent once, before its Consumer is killed."""

    seq: int
    text: str


Uplink = Hello | Unfit | Outcomes | Piece | Stack | LogEvent
