"""What crosses between the Service and the process of a source: frozen records.

    Service  --SourceSpec, then SourceOrders-->  Source
    Service  <--SourceReports--                  Source

Ticks are in milliseconds since the epoch; `since` and `until` are CLOCK_MONOTONIC seconds.
"""

from typing import Any, Literal

import msgspec

from mqworker.config.model import BrokerConfig, SourceConfig, StageConfig
from mqworker.ipc.generation import CodeCopy
from mqworker.ipc.records import LogEvent, TaggedRecord

SourceState = Literal["connecting", "standby", "running", "waiting", "held back", "blocked", "ending", "finished"]


class SourceSpec(TaggedRecord, frozen=True):
    """What a source's process is started with; it never changes during its life."""

    service: str
    name: str
    config: SourceConfig
    stage: StageConfig  # the one that it publishes into
    broker: BrokerConfig
    root: str
    state_dir: str
    job: str
    params: dict[str, Any]
    copy: CodeCopy | None
    log_level: int
    sharing: int = 1  # sources of that stage


class StopSource(TaggedRecord, frozen=True, tag="stop"):
    """Yield nothing more, and end."""

    until: float


class RunNow(TaggedRecord, frozen=True, tag="run"):
    """Call the scheduled function now; the answer is a RunDone with this id."""

    id: str


class SetSourceLevel(TaggedRecord, frozen=True, tag="level"):
    """Log from this level on."""

    level: int


class DumpSourceStacks(TaggedRecord, frozen=True, tag="stacks"):
    """Write the stacks of this process to the log."""


SourceOrder = StopSource | RunNow | SetSourceLevel | DumpSourceStacks


class Tick(msgspec.Struct, frozen=True):
    """A tick that is done."""

    due: int
    seconds: float  # seconds that it took
    items: int


class SourceStatus(TaggedRecord, frozen=True, tag="status"):
    """The state of a source, sent at least once a second: also its heartbeat. Counters are of this life."""

    pid: int
    state: SourceState
    reason: str  # one sentence, or ""
    position: str | None = None  # the last one that was stored, as JSON, cut to length
    items: int = 0  # items that the broker has confirmed
    unconfirmed: int = 0
    rate: float = 0.0  # items a second, lately
    last_item: float = 0.0  # CLOCK_MONOTONIC: when an item was last confirmed; 0: none yet
    depth: int | None = None  # messages in the input queue of its stage
    due: int | None = None  # the next tick
    last_tick: Tick | None = None
    missed: int = 0  # ticks that were not run
    ticks: int = 0  # ticks that are done
    progress: int = 0  # positions stored, ticks and runs done
    since: float = 0.0  # when the user's code began; 0: it has not
    stall: float = 0.0  # the longest time that the loop was blocked, seconds


class RunDone(TaggedRecord, frozen=True, tag="ran"):
    """A run that was asked for is over."""

    id: str
    items: int
    reason: str = ""  # why it failed


class SourceEnded(TaggedRecord, frozen=True, tag="ended"):
    """The last report: how it ends, and why."""

    how: Literal["finished", "stopped", "failed", "unfit", "lost"]
    reason: str = ""


SourceReport = SourceStatus | RunDone | SourceEnded | LogEvent
