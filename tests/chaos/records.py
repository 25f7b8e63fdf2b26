"""What a run of the campaign records, as plain data: the checker and the report read nothing else."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.chaos.load import Message
from tests.chaos.wire import Step

# Faults that may have an outcome published twice, or the work of a message done twice.
DISRUPTIVE = frozenset(
    {
        *("producer-kill", "producer-stop", "service-kill", "service-stop", "service-term"),
        *("broker-kill", "broker-freeze", "close-connections", "disk-alarm"),
        *("cut", "reset", "reset-all", "corrupt", "half-close", "halt", "long-halt", "delay"),
        "silent-death",
        *("output-unbound", "output-deleted"),
    }
)
GROWTH = 6  # descriptors or threads that may be more at the end: a connection, a lane in exchange
KILLS_CONSUMER = frozenset({"consumer-kill", "consumer-stop", "consumer-kill-idle"})
KILLS_TREE = frozenset({"producer-kill", "silent-death", "service-kill", "producer-stop", "service-stop"})


@dataclass
class Fault:
    """One injected fault; times are monotonic, `end` is when it was healed."""

    kind: str
    start: float
    end: float
    about: str = ""


class Outcome(NamedTuple):
    """A message taken off the output or the dead-letter queue."""

    id: str
    queue: str  # result | dead
    correlation: str
    headers: dict[str, Any]
    body: bytes


class Start(NamedTuple):
    """A line of the handler's journal."""

    time: float
    pid: int
    id: str


class Answer(NamedTuple):
    """A call of the control API; status 0: refused or no answer."""

    time: float
    path: str
    status: int
    seconds: float


class Sample(NamedTuple):
    """One answer of GET /stages/work."""

    time: float
    pid: int  # of the Producer
    counters: dict[str, int]
    in_tree: int  # held + dispatched + computed + settling
    prefetch: int
    stall: float
    restarts: int


@dataclass
class Size:
    """Descriptors and threads of the tree at one quiet moment, by kind of process."""

    time: float
    descriptors: dict[str, int] = field(default_factory=dict)
    threads: dict[str, int] = field(default_factory=dict)


def grown(before: Size, after: Size) -> list[str]:
    """Return what has become more than it may, a sentence for each."""
    return [
        f"{kind} had {was[kind]} {what}, and has {now[kind]}"
        for what, was, now in (
            ("descriptors", before.descriptors, after.descriptors),
            ("threads", before.threads, after.threads),
        )
        for kind in was.keys() & now.keys()
        if now[kind] > was[kind] + GROWTH
    ]


@dataclass
class Round:
    """One round: faults under load, then quiescence, then all outcomes. `tried` and `confirmed` are its inputs."""

    name: str
    broker: str  # classic | quorum | sqlite
    began: float = 0.0
    clock: float = 0.0  # wall clock minus monotonic
    ended: float = 0.0
    quiet: bool = False  # quiescence was reached in time
    unquiet: str = ""  # what was left if it was not
    tried: dict[str, Message] = field(default_factory=dict)
    confirmed: set[str] = field(default_factory=set)
    stored: list[float] = field(default_factory=list)  # when inputs were confirmed, in order
    outcomes: list[Outcome] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    steps: dict[str, list[Step]] = field(default_factory=dict)  # id -> what was published for it
    acked: dict[int, int] = field(default_factory=dict)  # tenth of a second -> acks on the wire
    acks: int = 0
    most_unsettled: int = 0
    consuming: list[float] = field(default_factory=list)  # first deliveries of connections
    violations: list[str] = field(default_factory=list)  # of invariant 3, and others that are seen at once
    log: str = ""  # of the service
    broker_log: str = ""
    exits: list[int] = field(default_factory=list)  # codes of Services that ended without being killed by us
    secrets: tuple[str, ...] = ()
    seats: int = 1  # messages that one Consumer works on at once
