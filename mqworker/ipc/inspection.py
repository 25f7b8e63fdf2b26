"""What an operator asks of a Producer about its messages and Consumers, and what it answers; and its failures, counted.

    Service  --AskMessage, AskStack, AskReplace-->  Producer
    Service  <--MessageAnswer, StackAnswer, ReplaceAnswer, FaultReport--  Producer

Frozen records, a part of `producer_messages`, which has them in its unions. Each request has a number, by which its
answer is known.
"""

import msgspec

from mqworker.ipc.records import TaggedRecord

TRACES = 50  # lives of one message that an answer has at most, the newest ones
TEXT = 300  # characters of a text of a failure


class AskMessage(TaggedRecord, frozen=True, tag="ask_message"):
    """Where is the message with this id; the answer is a MessageAnswer."""

    number: int
    message_id: str


class AskStack(TaggedRecord, frozen=True, tag="ask_stack"):
    """Where in its code is the Consumer with this slot; the answer is a StackAnswer."""

    number: int
    slot: int
    pid: int = 0  # of the two in a slot where one replaces another, this process; 0: the one that gets messages


class AskReplace(TaggedRecord, frozen=True, tag="ask_replace"):
    """Replace the Consumer with this slot by a new one; the answer is a ReplaceAnswer."""

    number: int
    slot: int
    now: bool  # kill it, and charge its message; otherwise it finishes what it has
    pid: int = 0  # only this process; 0: of two in the slot the one that gets messages,
    message_id: str = ""  # only if it has this message in hand,
    seq: int | None = None  # and the one with this number in the ledger; 0: none at all


class Trace(msgspec.Struct, frozen=True):
    """One life of a message in a stage, from a delivery to its settlement; times are CLOCK_MONOTONIC, 0.0: not yet."""

    # In hand: held | out | computed | placing | delayed | kept; after it: result | dropped | retried | dead | renewed.
    state: str
    attempt: int = 1
    received: float = 0.0
    begun: float = 0.0
    finished: float = 0.0  # computed, or failed
    settled: float = 0.0
    duration: float = 0.0  # seconds in its handlers
    slot: int = -1  # of its Consumer; -1: none, or unknown
    generation: int = 0
    size: int = 0  # bytes of its body
    redelivered: bool = False
    due: float = 0.0  # of the next attempt, if it has failed and is tried again
    reason: str = ""  # why it has failed, or why it makes no progress
    error_type: str = ""
    error: str = ""
    place: str = ""  # in the code, of the failure


class MessageAnswer(TaggedRecord, frozen=True, tag="message_answer"):
    """What a Producer knows of a message."""

    number: int
    traces: tuple[Trace, ...] = ()  # the newest last
    remembers: int = 0  # how many settled messages it remembers
    since: float = 0.0  # CLOCK_MONOTONIC: when the oldest of them was settled, or since when it remembers all


class StackAnswer(TaggedRecord, frozen=True, tag="stack_answer"):
    """Where a Consumer is."""

    number: int
    text: str = ""
    slot: int = -1
    pid: int = 0
    message_id: str = ""  # of the message in hand, of several the oldest
    seconds: float = 0.0  # for which it is in hand
    refused: str = ""  # why there is no stack, in one sentence
    unknown: bool = False  # because there is no such Consumer


class ReplaceAnswer(TaggedRecord, frozen=True, tag="replace_answer"):
    """Whether a Consumer is replaced."""

    number: int
    refused: str = ""  # why it is not, in one sentence
    unknown: bool = False  # because there is no such Consumer
    pid: int = 0  # of the one that is replaced
    in_hand: int = 0  # messages that it had when it was killed;
    running: int = 0  # those of them that did not wait for a shared object
    message_id: str = ""  # of the one that ran, if it was the only one


class FaultCount(msgspec.Struct, frozen=True):
    """Failures with one reason, error type and place in the code, since the Producer began."""

    reason: str
    error_type: str
    place: str  # "file:line in function"; "": unknown
    retried: int
    dead: int
    first: float  # wall clock
    last: float
    text: str  # of the newest one
    examples: tuple[str, ...]  # the ids of the newest messages, the newest first


class FaultReport(TaggedRecord, frozen=True, tag="faults"):
    """The failures whose counts have changed since the last report; each count is since the Producer began."""

    pid: int
    changed: tuple[FaultCount, ...]
    other: int  # failures of kinds beyond those that are counted apart


InspectionRequest = AskMessage | AskStack | AskReplace
InspectionAnswer = MessageAnswer | StackAnswer | ReplaceAnswer
