"""What the Service sends a Producer, and what that reports: frozen records.

    Service  --Order-->   Producer      Desired, Drain, DumpStacks, AskHeld, InspectionRequest
    Service  <--Report--  Producer      StageStatus, Ended, LogEvent, Held, InspectionAnswer, FaultReport

A Producer is started with a StageSpec and its first Desired. `stage_status` has the status, `inspection` the requests
and answers about single messages and Consumers, and the failures, counted.
"""

import msgspec

from mqworker.ipc.generation import Generation
from mqworker.ipc.inspection import FaultReport, InspectionAnswer, InspectionRequest
from mqworker.ipc.records import LogEvent, TaggedRecord
from mqworker.ipc.stage_status import StageStatus


class Desired(TaggedRecord, frozen=True, tag="desired"):
    """The desired state of a stage from now on; the Producer brings it about and reports the applied revision."""

    revision: int
    listening: bool
    consumers: int  # 0 while working is switched off
    generation: Generation
    candidate: Generation | None  # the next one: its Consumers are set up, and get no message before it is committed
    soft_limit: float  # seconds for one message, 0: none
    hard_limit: float
    log_level: int
    auto: bool = False  # their number follows the load: no change waits for one that ends its last message


class Drain(TaggedRecord, frozen=True, tag="drain"):
    """Take nothing new, finish what is in hand, give the rest back and end; a later Drain may bring `until` forward."""

    until: float  # CLOCK_MONOTONIC: when whatever is still in hand is given back


class DumpStacks(TaggedRecord, frozen=True, tag="stacks"):
    """Write the stacks of this process and its Consumers to the log."""


class AskHeld(TaggedRecord, frozen=True, tag="ask_held"):
    """List the failed messages that wait in their places, or let one of them go; the answer is a Held."""

    number: int  # the number of this request
    skip: str = ""  # the id of the message to let go; "": list them


Order = Desired | Drain | DumpStacks | AskHeld | InspectionRequest


class Ended(TaggedRecord, frozen=True, tag="ended"):
    """The last report of a Producer that ends as ordered."""

    given_back: int


class HeldMessage(msgspec.Struct, frozen=True):
    """A failed message that waits in its place for its next attempt."""

    message_id: str  # derived from its content if it has none
    key: str  # of its order; "": that of the whole input
    attempt: int  # the next one
    seconds: float  # until that begins
    behind: int  # how many wait behind it
    error_type: str  # of its last failure
    error: str


class Held(TaggedRecord, frozen=True, tag="held"):
    """The answer to an AskHeld with this number."""

    number: int
    messages: tuple[HeldMessage, ...] = ()  # the oldest ones
    total: int = 0
    refused: str = ""  # why the message was not let go, in one sentence
    unknown: bool = False  # because there is none with this id


Report = StageStatus | Ended | LogEvent | Held | InspectionAnswer | FaultReport
