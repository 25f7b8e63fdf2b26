"""Everything that crosses to or from the process of a shared object, in one file: frozen records.

    Service  --SharedOrder-->   shared object  <--Calls--    Consumer
    Service  <--SharedReport--  shared object  --Answers-->  Consumer
                                shared object  <--SettlementNotice--  Producer
    shared object  --Entry-->   its journal

The Service uses the pipes of a child; Consumers and Producers connect to the object's socket. All are MessagePack in
frames. The journal has the bytes of arguments as they were received, never what a call has made of them.
"""

from typing import Any

import msgspec

from mqworker.ipc.generation import CodeCopy
from mqworker.ipc.histogram import Times
from mqworker.ipc.records import LogEvent

# --- Service and shared object --------------------------------------------------------------------------------------


class Charge(msgspec.Struct, frozen=True):
    """A call that is not made again, because the process died in it: its message fails, once, with this sentence."""

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
    fresh: bool = False  # begin with a new object, also if the state cannot be loaded; what is remembered stays
    trial: bool = False  # load, report, and serve only when told: another process still has the folder
    held: bool = False  # begin as after a Pause
    charges: tuple[Charge, ...] = ()
    snapshot_bytes: int = 64 << 20  # bytes of journal after which a snapshot is made
    snapshot_deadline: float = 300.0  # seconds until the process that writes it is killed
    tick_seconds: float = 5.0


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """Make no call any more, and let the callers wait."""


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Go on after Pause; a trial takes the folder over and serves."""


class TakeSnapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """Make a snapshot; a paused object answers when it is made, with the report that `journaled` is 0."""


class ResetState(msgspec.Struct, frozen=True, tag="reset"):
    """Replace the object by a new one; what is remembered stays."""


class StopSharing(msgspec.Struct, frozen=True, tag="stop"):
    """Make a snapshot and end."""


class SetLevel(msgspec.Struct, frozen=True, tag="level"):
    """Set the least severe level that is logged."""

    log_level: int


SharedOrder = Pause | Resume | TakeSnapshot | ResetState | StopSharing | SetLevel


COUNTS = (
    "calls",  # received, also those whose answer was remembered
    "repeated",  # answered from what is remembered
    "without_id",  # of messages without an id, or of no message
    "failed",  # calls that raised
    "ticks",
    "replayed",  # calls that were made again at the start, from the journal
)


class SharedStatus(msgspec.Struct, frozen=True, tag="status"):
    """How a shared object is doing, sent at least once a second unless a call takes longer; counts are of this life."""

    name: str
    pid: int
    state: str  # loading | trial | serving | paused
    digest: str
    counts: dict[str, int]  # of COUNTS
    remembered: int  # records of messages
    kept: int  # of those, the ones that are kept by time
    evicted: int  # records that were evicted before their time
    diverged: dict[str, int]  # by method: calls that gave another answer when they were replayed
    journaled: int = 0  # records in the journal since the last snapshot
    journal_bytes: int = 0  # the same, in bytes
    snapshot_age: float | None = None  # seconds; None: there is none
    snapshots: int = 0
    snapshot_problem: str = ""  # why the last attempt at one has failed
    connections: int = 0
    times: Times | None = None  # how long calls have taken, those that were made
    described: Any = None  # what its `describe` returns
    describe_problem: str = ""
    tick_problem: str = ""


class SharedReset(msgspec.Struct, frozen=True, tag="reset"):
    """A ResetState was obeyed, or could not be: then `problem` says why."""

    problem: str


class ChargeEnded(msgspec.Struct, frozen=True, tag="charge_ended"):
    """A charge of the spec is over: its message has failed, or its call would be made again."""

    charge: Charge


class SharedUnfit(msgspec.Struct, frozen=True, tag="unfit"):
    """The object cannot be served; the process ends."""

    kind: str  # code (the class, its import) | state (files damaged, other code) | disk
    reason: str
    traceback: str = ""


class SharedEnded(msgspec.Struct, frozen=True, tag="ended"):
    """The last report of a process that ends as ordered; if it could make no snapshot, its journal has everything."""


SharedReport = SharedStatus | SharedReset | ChargeEnded | SharedUnfit | SharedEnded | LogEvent


# --- Consumer or Producer, and shared object ------------------------------------------------------------------------


class Caller(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """What a connection begins with, and what comes again when the parameters change."""

    stage: str
    params: bytes  # JSON object: those of the stage for the calls that follow


class Call(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One call; `body` is the encoded argument of a link, or [arguments, keyword arguments] of a proxy."""

    number: int  # of this caller; the answer has it too
    message: bytes  # its key; empty: it belongs to no message
    has_id: bool  # whether the message came with an id
    call: bytes  # its key
    method: str  # "": `handle`, for a link
    body: bytes


class Calls(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Calls that are made one after another and answered in one frame."""

    calls: list[Call]


class SettlementNotice(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """What became of messages; each is its key of 16 bytes, one after another, at most 1 MiB. It is never answered."""

    stage: str
    settled: bytes  # acked after a result or drop
    again: bytes  # about to be published again: a retry, a renewal, a dead letter


class CallAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The answer to one call (`answers`)."""

    number: int
    answer: bytes


class Answers(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The answers to one frame of calls, in its order."""

    answers: list[CallAnswer]


Received = Caller | Calls | SettlementNotice


# --- the journal ----------------------------------------------------------------------------------------------------


class ParamsEntry(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Parameters that calls name by number from now on; each segment has its own."""

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
    """A SettlementNotice; also, as `again`, a message of which a second run has met what is remembered."""

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
