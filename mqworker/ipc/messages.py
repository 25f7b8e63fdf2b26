"""Everything that crosses a process boundary of mqworker, in one file: frozen records.

    Service  --Order-->  Producer  --Chunk-->    Consumer
    Service  <--Report-- Producer  <--Uplink--   Consumer
    Service  --AdminQuestion->  BrokerAdmin      Service  --CodeQuestion->  CodeCheck
    Service  <--AdminAnswer--   BrokerAdmin      Service  <--CodeReport--   CodeCheck

Each record is plain data (numbers, text, bytes): no exception, callable, lock or pika object ever crosses. A running
process receives records only as MessagePack. Only multiprocessing uses pickle, and only from a parent to a child that
it started: for the process object at `spawn` (StageSpec and Desired are among its arguments), and around the bytes of a
Chunk in a lane's queue. Nothing that a child, a broker or an HTTP client sends is ever unpickled. Times called
`started` or `since` are CLOCK_MONOTONIC seconds, which all processes of a machine share; durations are in seconds.

Longer than most modules, because whoever asks what one process may send to another finds it here.
"""

from pathlib import Path
from typing import Any

import msgspec

from mqworker.amqp.headers import ROOM
from mqworker.config.model import BrokerConfig, StageConfig
from mqworker.ipc.inspection import Answer, FaultReport, Question

BUCKETS = (
    *(base * 10.0**power for power in range(-4, 3) for base in (1, 2.5, 5)),
    1000.0,
    1800.0,
)  # of handler time: upper bounds in seconds, 0.1 ms to half an hour; one more bucket is open


LARGE = 1 << 18  # bytes of a body above which it is passed on by itself, so that it is not copied more than necessary
CODE = "code"  # the folder of the copies of code, in the state folder


class _Record(msgspec.Struct, frozen=True, tag=True):
    pass


class LogEvent(_Record, frozen=True, tag="log"):
    """A log event of any process, sent to the Service, which alone writes it."""

    time: float  # wall clock, seconds since the epoch, for display only
    level: int
    event: str  # a fixed name
    msg: str
    process: str
    pid: int
    stage: str = ""
    fields: dict[str, Any] = {}


# --- Service and Producer -------------------------------------------------------------------------------------------


class StageSpec(_Record, frozen=True):
    """What a Producer is started with; it never changes during its life."""

    service: str
    stage: str
    config: StageConfig
    broker: BrokerConfig
    root: str  # the folder of the configuration and of the user's code
    state_dir: str
    drain_deadline: float  # seconds for work in hand when the Producer itself gets a TERM
    shared: dict[str, str] = {}  # the classes of the shared objects that have a name


class CodeCopy(msgspec.Struct, frozen=True):
    """A copy of a user's code in the state folder, from which it is imported as if from `folder`."""

    digest: str
    folder: str

    def root(self, now: str) -> Path:
        """Return the folder as it was, or, if that is gone, the one that the configuration is in now."""
        folder = Path(self.folder)
        return folder if folder.is_dir() else Path(now)

    def path(self, state_dir: str | Path) -> Path:
        """Return where it is."""
        return Path(state_dir) / CODE / self.digest


class SharedUse(msgspec.Struct, frozen=True):
    """A shared object that a stage uses."""

    name: str
    job: str  # "module:Class"


class Generation(msgspec.Struct, frozen=True):
    """Jobs, code and parameters of a stage together."""

    number: int
    code: int  # the generation with which jobs or code came: its Consumers can be those of this one
    jobs: list[str]
    copy: CodeCopy | None  # None: whatever is in the folder
    params: bytes  # JSON object
    shared: tuple[SharedUse, ...] = ()


class Desired(_Record, frozen=True, tag="desired"):
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


class Drain(_Record, frozen=True, tag="drain"):
    """Take nothing new, finish what is in hand, give the rest back and end; a later Drain may bring `until` forward."""

    until: float  # CLOCK_MONOTONIC: when whatever is still in hand is given back


class DumpStacks(_Record, frozen=True, tag="stacks"):
    """Write the stacks of this process and its Consumers to the log."""


class AskHeld(_Record, frozen=True, tag="ask_held"):
    """List the failed messages that wait in their places, or let one of them go; the answer is a Held."""

    number: int  # of this question
    skip: str = ""  # the id of the message to let go; "": list them


Order = Desired | Drain | DumpStacks | AskHeld | Question


class InHand(msgspec.Struct, frozen=True, array_like=True):
    """A message that a Consumer works on."""

    since: float  # when it was started
    message_id: str


class ConsumerStatus(_Record, frozen=True):
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


class Times(msgspec.Struct, frozen=True, array_like=True):
    """A histogram of durations in seconds over BUCKETS, since its process started."""

    counts: tuple[int, ...]
    total: float


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
    """How a stage that keeps an order gets on."""

    delayed: int  # messages that wait in their places for their next attempt
    locked: int  # messages held that cannot begin now: delayed ones, and those behind another one of their key
    stuck: bool  # nothing that is here can begin, and no more comes before something here is settled
    blocked: BlockedOrder | None = None  # of those that do not get on, the one with most messages behind it
    hottest: str | None = None  # the key with most messages here; None: none has any
    hottest_messages: int = 0


class SwitchState(msgspec.Struct, frozen=True):
    """How far a change of jobs or code is, until nothing is left of it to do."""

    revision: int  # of the Desired that it is about
    code: int
    update: str  # switch | rolling | old-first: as it is done
    ready: int = 0  # Consumers that are set up
    wanted: int = 0  # how many must be, until it is committed; 0: it is committed
    on_trial: bool = False  # it is committed, and has not finished a message
    left: int = 0  # Consumers of the code of before that are at work, or finish what they have
    failed: str = ""  # why it has to be undone


class StageStatus(_Record, frozen=True, tag="status"):
    """A Producer's report on its stage, sent at least once a second: also its heartbeat."""

    stage: str
    pid: int
    state: str  # starting | running | draining
    revision: int  # the last one that was fully applied; see Desired
    generation: int  # the oldest that any Consumer at work has applied
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


class Ended(_Record, frozen=True, tag="ended"):
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


class Held(_Record, frozen=True, tag="held"):
    """The answer to an AskHeld with this number."""

    number: int
    messages: tuple[HeldMessage, ...] = ()  # the oldest ones
    total: int = 0
    refused: str = ""  # why the message was not let go, in one sentence
    unknown: bool = False  # because there is none with this id


Report = StageStatus | Ended | LogEvent | Held | Answer | FaultReport


# --- Producer and Consumer ------------------------------------------------------------------------------------------


class Birth(_Record, frozen=True, tag="birth"):
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


class Hello(_Record, frozen=True, tag="hello"):
    """The Consumer is set up and is waiting for its first chunk."""

    pid: int
    generation: int
    kind: str = "serial"  # serial | threads | tasks: how it works on messages
    seats: int = 0  # how many it works on at once; 0: it is serial


class Unfit(_Record, frozen=True, tag="unfit"):
    """The Consumer could not be set up (import, parameters, `setup`) and ends."""

    failure: Failure


class Piece(_Record, frozen=True, tag="piece"):
    """A part of the body of a large result, which is in the hatch; the outcome follows its pieces."""

    place: int  # in the hatch
    size: int
    whole: int  # bytes of that body


class Outcomes(_Record, frozen=True, tag="outcomes"):
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


class Stack(_Record, frozen=True, tag="stack"):
    """Where a message is that has exceeded the hard limit and goes on: sent once, before its Consumer is killed."""

    seq: int
    text: str


Uplink = Hello | Unfit | Outcomes | Piece | Stack | LogEvent


# --- Service and broker admin, code check ---------------------------------------------------------------------------


class AdminQuestion(_Record, frozen=True, tag="ask"):
    """One request to the broker admin; `verb` names one of mqworker.broker_admin.verbs.VERBS."""

    id: int
    verb: str
    due: float  # CLOCK_MONOTONIC: when the caller gives up
    arguments: dict[str, Any]


class AdminAnswer(_Record, frozen=True, tag="answer"):
    """The answer: `value`, or `error` with its kind (unavailable | refused | internal)."""

    id: int
    value: Any = None
    error: str = ""
    kind: str = ""


class CodeQuestion(_Record, frozen=True, tag="check"):
    """What a code check must check."""

    root: str  # the folder of the user's code
    jobs: tuple[str, ...]
    params: bytes  # JSON object
    state_dir: str = ""  # where copies of code are; "": look at the folder itself
    copy: CodeCopy | None = None  # the copy to look at; None: make one
    needed: tuple[str, ...] = ()  # digests of the copies to keep
    named: tuple[str, ...] = ()  # jobs that a caller has named, and that must follow the rules for that
    allowed: tuple[str, ...] = ()  # modules whose jobs a caller may name
    shared: dict[str, str] = {}  # the classes of the shared objects that have a name
    source: str = ""  # "generator" or "schedule": the only job is a source, and of which kind; "": they are handlers
    concurrency: int = 1
    soft_limit: float = 0.0
    schema: bool = False  # what the parameters may be is wanted, whether these are accepted or not


class CodeFound(_Record, frozen=True, tag="found"):
    """What a code check is about to import; sent first, because the import may never end."""

    copy: CodeCopy | None  # None: the folder itself
    warning: str = ""  # why there is no copy


class CodeReport(_Record, frozen=True, tag="code"):
    """What a code check found: problems in the user's code or parameters; empty when all is well."""

    problems: list[str]
    fields: list[tuple[str, str]]  # (field, what is wrong) of the parameters
    defaults: dict[str, Any]  # the parameters with the code's defaults filled in
    died: bool = False  # the user's code ended or stopped the code check instead of raising
    copy: CodeCopy | None = None  # what was looked at; None: the folder itself
    warnings: tuple[str, ...] = ()
    shared: tuple[SharedUse, ...] = ()  # the shared objects that the jobs use
    edited: bool = False  # the folder has other code by now: its import may have made some
    schema: dict[str, Any] | None = None  # JSON Schema of the parameters, if that was wanted and there is one
