"""Everything that is sent to or from the process of a shared object, in one module: frozen records.

    Service  --SharedOrder-->   shared object  <--Calls--    Consumer
    Service  <--SharedReport--  shared object  --Answers-->  Consumer
                                shared object  <--SettlementNotice--  Producer
    shared object  --Entry-->   its journal

The Service uses the pipes of a child; Consumers and Producers connect to the object's socket. All records are
MessagePack in frames. The journal holds the bytes of arguments as they were received, never as a call may have changed
them.
"""

from typing import Any

import msgspec

from mqworker.ipc.generation import CodeCopy
from mqworker.ipc.histogram import Times
from mqworker.ipc.records import LogEvent

# --- Service and shared object --------------------------------------------------------------------------------------


class Charge(msgspec.Struct, frozen=True):
    """A call that is not made again because the process died in it: its message fails once, with this sentence."""

    stage: str
    message: bytes
    call: bytes
    reason: str
    made: float = 0.0  # CLOCK_MONOTONIC

    @property
    def key(self) -> tuple[str, bytes, bytes]:
        """Return which call it is."""
        return self.stage, self.message, self.call


class SharedSpec(msgspec.Struct, frozen=True):
    """What the process of a shared object is started with."""

    name: str  # its folder has the same name
    job: str  # "module:Class"
    root: str  # the folder of the user's code
    copy: CodeCopy | None  # the copy to import from; None: the folder itself
    digest: str  # of the code: a journal is replayed only under the one that wrote it
    state_dir: str
    log_level: int
    fresh: bool = False  # begin with a new object, even if the state cannot be loaded; what is remembered stays
    trial: bool = False  # load and report, but serve only after a Resume: another process still has the folder
    held: bool = False  # begin as after a Pause
    charges: tuple[Charge, ...] = ()
    snapshot_bytes: int = 64 << 20  # bytes of journal after which a snapshot is made
    snapshot_deadline: float = 300.0  # seconds after which the process that writes it is killed
    tick_seconds: float = 5.0


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """Make no further calls, and let the callers wait."""


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Go on after Pause; a trial takes the folder over and serves."""


class TakeSnapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """Make a snapshot; a paused object answers when it is made, by a report whose `journaled` is 0."""


class ResetState(msgspec.Struct, frozen=True, tag="reset"):
    """Replace the object by a new one; what is remembered stays."""


class StopSharing(msgspec.Struct, frozen=True, tag="stop"):
    """Make a snapshot and end."""


class SetLevel(msgspec.Struct, frozen=True, tag="level"):
    """Set the least severe level that is logged."""

    log_level: int


SharedOrder = Pause | Resume | TakeSnapshot | ResetState | StopSharing | SetLevel


COUNTS = (
    "calls",  # received, including those whose answer was remembered
    "repeated",  # answered from what is remembered
    "without_id",  # of messages without an id, or of no message
    "failed",  # whose method raised
    "ticks",
    "replayed",  # calls in the journal that were made again at the start
)


class SharedStatus(msgspec.Struct, frozen=True, tag="status"):
    """The state of a shared object, sent at least once a second unless a call takes longer; counts are of this life."""

    name: str
    pid: int
    state: str  # loading | trial | serving | paused
    digest: str
    counts: dict[str, int]  # of COUNTS
    remembered: int  # records of messages
    kept: int  # of those, the ones that are kept for a time
    evicted: int  # records that were evicted before their time
    diverged: dict[str, int]  # by method: calls whose answer differed when they were replayed
    journaled: int = 0  # records in the journal since the last snapshot
    journal_bytes: int = 0  # the same, in bytes
    snapshot_age: float | None = None  # seconds; None: there is none
    snapshots: int = 0
    snapshot_problem: str = ""  # why the last attempt to make one has failed
    connections: int = 0
    times: Times | None = None  # how long the calls that were made have taken
    described: Any = None  # what its `describe` returns
    describe_problem: str = ""
    tick_problem: str = ""


class SharedReset(msgspec.Struct, frozen=True, tag="reset"):
    """A ResetState was carried out, or has failed: then `problem` says why."""

    problem: str


class ChargeEnded(msgspec.Struct, frozen=True, tag="charge_ended"):
    """A charge of the spec has ended: its message has failed, or from now on its call would be made again."""

    charge: Charge


class SharedUnfit(msgspec.Struct, frozen=True, tag="unfit"):
    """The object cannot be served; the process ends."""

    kind: str  # code (the class, its import) | state (files damaged, other code) | disk
    reason: str
    traceback: str = ""


class SharedEnded(msgspec.Struct, frozen=True, tag="ended"):
    """The last report of a process that ends as ordered; if no snapshot could be made, its journal has everything."""


SharedReport = SharedStatus | SharedReset | ChargeEnded | SharedUnfit | SharedEnded | LogEvent


# --- Consumer or Producer, and shared object ------------------------------------------------------------------------


class Caller(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The first record on a connection, sent again whenever the parameters change."""

    stage: str
    params: bytes  # JSON object: the stage's parameters for the calls that follow


class Call(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One call; `body` is the encoded argument of a link, or [arguments, keyword arguments] of a proxy."""

    number: int  # counted by the caller; the answer has the same number
    message: bytes  # the message's key; empty: the call belongs to no message
    has_id: bool  # whether the message came with an id
    call: bytes  # its key
    method: str  # "": `handle`, for a link
    body: bytes


class Calls(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Calls that are made one after another, and whose answers come in one frame."""

    calls: list[Call]


class SettlementNotice(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """What became of messages: their keys of 16 bytes, one after another, at most 1 MiB. Never answered."""

    stage: str
    settled: bytes  # acked after a result or drop
    again: bytes  # about to be published again, as a retry, a renewal or a dead letter


class CallAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The answer to one call (`answers`)."""

    number: int
    answer: bytes


class Answers(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The answers to one frame of calls, in the order of the calls."""

    answers: list[CallAnswer]


Received = Caller | Calls | SettlementNotice


# --- the journal ----------------------------------------------------------------------------------------------------


class ParamsEntry(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Parameters to which later calls refer by this number; the numbers are valid within one segment."""

    number: int
    params: bytes


class CallEntry(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """One call that was made, and its answer."""

    stage: str
    message: bytes
    call: bytes
    method: str
    body: bytes
    params: int
    now: float
    answer: bytes


class SettlementEntry(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A SettlementNotice; also, as `again`, a message whose second run has met its record."""

    stage: str
    settled: bytes
    again: bytes
    now: float


class TickEntry(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Time has passed: `tick` was called, and old records were forgotten."""

    now: float
    answer: bytes


class ResetEntry(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The object was replaced by a new one."""

    now: float


Entry = ParamsEntry | CallEntry | SettlementEntry | TickEntry | ResetEntry
