"""The whole service at one moment, as the main thread publishes it and the HTTP threads read it: frozen records.

A Snapshot has the document of the desired state and a view of each stage, shared object and source, which puts what is
desired beside what its process has reported last.
"""

import msgspec

from mqworker.control.audit import Attributed
from mqworker.control.desired_state import Document
from mqworker.control.source_desired import SourceDesired
from mqworker.control.stage_desired import StageDesired
from mqworker.ipc.source_messages import SourceStatus
from mqworker.ipc.stage_status import StageStatus
from mqworker.shared_state.messages import SharedStatus


class StageView(msgspec.Struct, frozen=True):
    """One stage: its desired and its actual state."""

    name: str
    desired: StageDesired
    state: str  # stopped | starting | running | stopping | draining | crash loop | backoff
    actual: StageStatus | None  # None while there is no Producer
    problem: str  # one sentence, or ""
    restarts: int  # of the Producer
    applied: int  # the newest revision that is wholly applied here
    received: int = 0  # Consumers that other stages gave up for it (control/balance)

    @property
    def stop_destroys(self) -> str:
        """What the broker deletes when the stage stops, in one sentence; "" for nothing."""
        status = self.actual
        if status is None or not status.link.auto_delete:
            return ""
        messages = "its messages" if status.backlog is None else f"the {status.backlog:,} messages in it"
        return f"the input of stage {self.name} is auto-delete: unless others consume it, it is deleted with {messages}"


class SharedView(msgspec.Struct, frozen=True):
    """One shared object."""

    name: str
    job: str  # "module:Class"
    state: str  # starting | loading | serving | paused | down
    problem: str  # one sentence, or ""
    restarts: int
    status: SharedStatus | None  # None while there is no process


class SourceView(msgspec.Struct, frozen=True):
    """One source."""

    name: str
    into: str  # the stage
    kind: str  # generator | schedule
    desired: SourceDesired
    state: str  # stopped | starting | ending | finished | backoff | crash loop, or as its process reports
    problem: str  # one sentence, or ""
    restarts: int
    starts: int  # of its process
    items: int  # items confirmed since the service started
    missed: int  # ticks since then
    status: SourceStatus | None  # None while there is no process


class Snapshot(msgspec.Struct, frozen=True):
    """The whole service at one moment."""

    time: float  # CLOCK_MONOTONIC: the main loop renews it at least once a second
    service: str
    pid: int
    started: float  # wall clock
    state: str  # starting | running | draining
    paused: bool  # by SIGTSTP
    document: Document
    stages: dict[str, StageView]
    shared: dict[str, SharedView] = {}
    sources: dict[str, SourceView] = {}
    changes: tuple[Attributed, ...] = ()  # the last that somebody has asked for
    paused_since: float | None = None  # wall clock

    @property
    def applied(self) -> int:
        """The newest revision that is applied in every stage."""
        return min((stage.applied for stage in self.stages.values()), default=self.document.revision)
