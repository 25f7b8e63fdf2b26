"""The events of the Feed, each as the JSON that is its data. The client of ours that reads them is `http/ui/store.js`.

Plain data. `n` is a second since the start of the Service; a series is an array of numbers, one for each second or for
each 15 s from number `from` on, and null where nothing is known.
"""

from typing import Any

import msgspec

Series = dict[str, list[float]]


class FeedHello(msgspec.Struct, frozen=True):
    """The first event: what answers, and the present second, which the client can lay on its own clock."""

    boot: str  # a name for this life of the Service; seconds of another one mean nothing in it
    n: int
    now: float  # wall clock
    service: str
    version: str
    role: str  # control | read
    hidden_topics: list[str]  # topics that were asked for, but that this role may not see


class FeedHistory(msgspec.Struct, frozen=True, rename={"first": "from"}):
    """What a stage did before now: whole, or what a client that resumes has not seen."""

    stage: str
    every: int  # seconds: 1 or 15
    first: int  # number of the first step
    series: Series


class FeedService(msgspec.Struct, frozen=True):
    """The service as a whole."""

    name: str
    state: str
    paused: bool
    revision: int
    applied: int
    started: float  # wall clock
    uptime: float
    log_level: str
    stale: float | None = None  # seconds since the main thread last answered; null: it is well


class FeedStage(msgspec.Struct, frozen=True, rename={"arrived": "in"}):
    """A stage in the overview."""

    name: str
    state: str
    why: Any  # code, level, sentence, since
    consumers: tuple[int, int]  # ready, wanted
    auto: bool
    rate: float | None
    arrival: float | None
    arrived: float | None  # messages that arrived in the newest known second
    unfinished: int | None
    seconds_left: float | None
    growing: bool
    held_back_by: str
    backlog: int | None
    dead_backlog: int | None
    dead: int  # messages that became dead letters since the start
    running: bool
    listening: bool
    generation: int
    applied: int  # the newest revision that is wholly applied in it
    change: Any


class FeedOverview(msgspec.Struct, frozen=True):
    """The service, its stages, sources and shared objects."""

    n: int
    service: FeedService
    stages: list[FeedStage]
    line: list[Any]
    bottlenecks: list[str]
    sources: list[Any]
    shared: list[Any]


class FeedPoints(msgspec.Struct, frozen=True, rename={"first": "from"}):
    """The newest seconds of a stage; those that overlap earlier ones are the same."""

    first: int
    series: Series


class FeedLogs(msgspec.Struct, frozen=True):
    """Log lines that fit the filters, each with its number."""

    lines: list[tuple[int, msgspec.Raw]]
    gap: int  # lines before these that are not here: too many came, or they are no longer kept


class FeedOperations(msgspec.Struct, frozen=True):
    """Bulk operations that have changed."""

    operations: list[Any]


class FeedAudit(msgspec.Struct, frozen=True):
    """New records of the audit."""

    records: list[Any]


class FeedPeers(msgspec.Struct, frozen=True):
    """The other services."""

    peers: list[Any]


class FeedTick(msgspec.Struct, frozen=True):
    """The end of a second: what has changed in it came before. Its id is where a client resumes."""

    n: int
    now: float  # wall clock


class FeedBye(msgspec.Struct, frozen=True):
    """The last event of a stream that the service ends."""

    reason: str  # draining | renew (reconnect: the stream is ten minutes old, or the login has ended)
