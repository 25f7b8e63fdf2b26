"""What the HTTP threads can ask of the Service: a snapshot that is always available, and changes by the main thread.

`Control` is the only object that the HTTP threads and the main thread share. Reading never waits: the main thread
replaces an immutable Snapshot whenever something changes. A change is posted to the main loop, which stores it before
it answers; a caller that wants to know when it is applied waits for a snapshot that says so. Every wait has a deadline;
a request that fails raises ControlError.

All that the threads exchange is in this module. `Control` is as wide as `Operator`: it has a method of one line for
each operation, so that the deadline of each stands in one place, and HTTP routes know nothing of the main loop.
"""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from mqworker.config.load import Loaded
from mqworker.control.audit import Attributed, AuditTrail, find_author
from mqworker.control.chain import Edit
from mqworker.control.desired_state import Change, Document, SetLimits
from mqworker.control.faults import Faults
from mqworker.control.history import History
from mqworker.control.source_desired import SourceDesired
from mqworker.control.stage_desired import StageDesired
from mqworker.control.why_since import WhySince
from mqworker.ipc.admin_messages import BulkView
from mqworker.ipc.inspection import (
    Answer,
    AskReplace,
    AskStack,
    MessageAnswer,
    Question,
    ReplaceAnswer,
    StackAnswer,
)
from mqworker.ipc.logs import LogWriter
from mqworker.ipc.messages import Held, StageStatus
from mqworker.ipc.source_messages import RunDone, SourceStatus
from mqworker.shared_state.messages import SharedStatus

T = TypeVar("T")

STORE_DEADLINE = 5.0  # seconds for the main thread to store a change
BULK_DEADLINE = 15.0  # seconds for an operation on dead letters to begin, or to take notice of its end
ADMIN_GRACE = 2.0  # seconds beyond a question's deadline until a broker admin that does not answer is killed
FIND_DEADLINE = 1.0  # seconds to find a message
STACK = 2.0  # seconds for a Consumer to tell where it is
MARGIN = 3.0  # seconds that a caller waits beyond the deadline that the main thread enforces


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
    items: int  # that were confirmed since the service started
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


class Stored(NamedTuple):
    """A change that is stored."""

    revision: int
    change: int = 0  # the code of the candidate that it has become, by which its end can be told; 0: it is in force


class ParamsForm(NamedTuple):
    """What the parameters of a stage may be."""

    schema: dict[str, Any] | None  # JSON Schema; None: the code does not say
    defaults: dict[str, Any]  # the parameters in use, with the code's defaults filled in
    generation: int


class ControlError(Exception):
    """A request that cannot be carried out.

    `kind` is conflict | unknown_job | unknown_message | unknown_slot | unknown_source | unknown_stage |
    unknown_selection | unknown_operation | count | filter | busy | storage | deadline | draining | refused |
    unavailable | internal; the broker admin uses the last four as well, and those about selections and operations.
    """

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


class ChangeRefused(Exception):  # noqa: N818 - the program is not at fault
    """The user's code refused parameters, or cannot be imported; `fields` says (field, what is wrong).

    `code`: it is the code in the folder, or that of an earlier generation, that cannot be used.
    """

    def __init__(self, fields: list[tuple[str, str]], problems: list[str], *, code: bool = False) -> None:
        self.fields = fields
        self.code = code
        self.problems = problems
        super().__init__("; ".join([f"{field}: {problem}" for field, problem in fields] + problems))


class Bulk(Protocol):
    """Operations on many dead letters, for Control: `all` and `counts` are replaced, never changed."""

    all: tuple[BulkView, ...]
    counts: Mapping[tuple[str, str, str], int]

    async def begin(self, stage: str, selection: str, kind: str, count: int, by: str) -> BulkView:
        """Begin to replay or drop what is selected. Raises ControlError."""

    async def cancel(self, operation: str) -> BulkView:
        """End an operation before its next batch. Raises ControlError."""


class Operator(Protocol):
    """The operations that the main thread carries out on its loop, for Control."""

    async def change(self, asked: Change) -> int:
        """Store a change; returns its revision. Raises ControlError."""

    async def reload(self, stage: str, params: dict[str, Any], patience: float) -> Stored:
        """Check the code in the folder and replace all Consumers with new ones that run it; returns the revision.

        `params`: a merge patch of the parameters, which takes effect with it.

        Raises ChangeRefused, ControlError; patience as for `patch_params`.
        """

    async def go_back(self, stage: str, generation: int | None, patience: float) -> Stored:
        """Check an earlier generation and bring it back: the one with this number, or the one before; see `reload`."""

    async def edit_jobs(
        self, stage: str, edit: Edit, params: dict[str, Any], expected: tuple[str, ...] | None, patience: float
    ) -> Stored:
        """Change the chain, and parameters by a merge patch, if it is at one of these generations; as `reload`.

        Also raises ControlError("conflict") and ControlError("unknown_job").
        """

    async def patch_params(
        self, stage: str, patch: dict[str, Any], expected: tuple[str, ...] | None, patience: float
    ) -> Stored:
        """Validate and store a merge patch; returns its revision. Raises ChangeRefused, ControlError.

        With `expected`, if the parameters are those of one of these generations; else it raises
        ControlError("conflict").

        After `patience` seconds it raises ControlError("deadline"), but the change goes on, so that parameters can be
        changed even if the user's code takes minutes to import.
        """

    async def rollback_params(self, stage: str, expected: tuple[str, ...] | None, patience: float) -> Stored:
        """Do the same with the previous parameters."""

    async def params_form(self, stage: str, patience: float) -> ParamsForm:
        """Return what the parameters of a stage may be. Raises ChangeRefused, ControlError."""

    async def set_limits(self, asked: SetLimits, patience: float) -> Stored:
        """Store time limits, if a soft one can interrupt the jobs; as `patch_params`."""

    async def ask_admin(self, verb: str, arguments: dict[str, Any], deadline: float) -> Any:
        """Let the broker admin carry out a verb. Raises ControlError, also with the kinds of the broker admin."""

    @property
    def bulk(self) -> "Bulk":
        """The operations on dead letters."""

    async def reset_shared(self, name: str) -> None:
        """Replace a shared object by a new one. Raises ControlError."""

    async def ask_held(self, stage: str, skip: str) -> Held:
        """Return the failed messages that a stage holds, or let the one with this id go. Raises ControlError."""

    async def ask_producer(self, stage: str, question: Question, deadline: float) -> Answer:
        """Return the answer of a stage's Producer. Raises ControlError, also if it refuses."""

    async def find_message(self, message_id: str) -> "dict[str, MessageAnswer | ControlError]":
        """Ask every stage for a message; returns for each its answer, or why there is none."""

    async def find_letters(self, message_id: str, deadline: float, *, look: bool) -> dict[str, Any]:
        """Return the dead letters of a message, as they were seen last, or after a look. Raises ControlError."""

    async def start_source(self, name: str, patience: float) -> int:
        """Check the code of a source in the folder, and run it; returns the revision.

        A source that has finished begins again; one that runs this code goes on. Raises ChangeRefused, ControlError.
        """

    async def run_source(self, name: str, patience: float) -> RunDone:
        """Call a scheduled function now, and return when it has ended. Raises ControlError."""

    async def drain(self) -> None:
        """Begin to end the service, as SIGTERM does."""


class Control:
    """See the module head; every method may be called from any thread and never blocks longer than its deadline."""

    def __init__(self, loaded: Loaded, logs: LogWriter) -> None:
        self.loaded = loaded
        self.logs = logs
        self.trail = AuditTrail(loaded.state_dir)
        self.history = History(time.monotonic(), f"{time.time_ns() // 1_000_000 & 0xFFFFFFFF:08x}")
        self.why_since = WhySince()
        self.commands = 0  # control commands taken, for the metrics
        self.faults = Faults()  # of all stages; the main thread feeds it
        self.on_publish: Callable[[Snapshot], None] | None = None  # receives every snapshot, on the main thread
        # What parts of their own tell, as plain data; each part puts itself here, and until then there is nothing.
        self.audit: Callable[[int], Sequence[Any]] = self.trail.since  # records behind this number, each with `n`
        self.peers: Callable[[], Sequence[Any]] = tuple  # other services
        self._snapshot: Snapshot | None = None
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._operator: Operator | None = None

    # --- the main thread's side

    def attach(self, loop: asyncio.AbstractEventLoop, operator: Operator) -> None:
        """Begin to pass commands on."""
        self._loop, self._operator = loop, operator

    def publish(self, snapshot: Snapshot) -> None:
        """Replace the snapshot and wake all threads that wait for one."""
        if self.on_publish is not None:
            self.on_publish(snapshot)
        with self._changed:
            self._snapshot = snapshot
            self._changed.notify_all()

    # --- the other threads' side

    def snapshot(self) -> Snapshot | None:
        """The newest snapshot; None only before the Service has begun."""
        return self._snapshot

    def wait(self, until: Callable[[Snapshot], bool], deadline: float) -> Snapshot | None:
        """Wait at most `deadline` seconds for a snapshot that fits; returns it, or None."""
        end = time.monotonic() + deadline
        with self._changed:
            while True:
                snapshot = self._snapshot
                if snapshot is not None and until(snapshot):
                    return snapshot
                left = end - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)

    def paused_by(self, stage: str) -> tuple[str, float | None]:
        """Return who has paused or stopped a stage, and when; "" and None where it is not known."""
        snapshot = self._snapshot
        desired = snapshot.document.stages.get(stage) if snapshot is not None else None
        if snapshot is None or desired is None or (desired.running and desired.listening):
            return "", None
        field = "listening" if desired.running else "running"
        recent = ((each.origin.by, each.time, each.changes) for each in reversed(snapshot.changes))
        found = find_author(recent, stage, field) or self.trail.author(stage, field)
        return found[:2] if found is not None and found.value is False else ("", None)

    def change(self, asked: Change) -> int:
        """Store a change; returns the revision that contains it."""
        return self._run(lambda operator: operator.change(asked), STORE_DEADLINE)

    def reload(self, stage: str, params: dict[str, Any], patience: float) -> Stored:
        """Check the code in the folder (in a code check), and replace all Consumers with new ones that run it."""
        return self._run(lambda operator: operator.reload(stage, params, patience), patience)

    def go_back(self, stage: str, generation: int | None, patience: float) -> Stored:
        """Bring back an earlier generation."""
        return self._run(lambda operator: operator.go_back(stage, generation, patience), patience)

    def edit_jobs(
        self, stage: str, edit: Edit, params: dict[str, Any], expected: tuple[str, ...] | None, patience: float
    ) -> Stored:
        """Change the chain of jobs, and parameters with it, if it is at one of these generations (None: at any)."""
        return self._run(lambda operator: operator.edit_jobs(stage, edit, params, expected, patience), patience)

    def patch_params(
        self, stage: str, patch: dict[str, Any], expected: tuple[str, ...] | None, patience: float
    ) -> Stored:
        """Validate (in a code check) and store a merge patch of a stage's parameters, if they are as `expected`."""
        return self._run(lambda operator: operator.patch_params(stage, patch, expected, patience), patience)

    def rollback_params(self, stage: str, expected: tuple[str, ...] | None, patience: float) -> Stored:
        """Go back to the previous parameters."""
        return self._run(lambda operator: operator.rollback_params(stage, expected, patience), patience)

    def params_form(self, stage: str, patience: float) -> ParamsForm:
        """Return what the parameters of a stage may be, which its code says (in a code check, once)."""
        return self._run(lambda operator: operator.params_form(stage, patience), patience)

    def set_limits(self, asked: SetLimits, patience: float) -> Stored:
        """Limit the time of a message, if a soft limit can interrupt the code (which a code check says)."""
        return self._run(lambda operator: operator.set_limits(asked, patience), patience)

    def ask_admin(self, verb: str, arguments: dict[str, Any], deadline: float) -> Any:
        """Let the broker admin carry out a verb within `deadline` seconds."""
        return self._run(lambda operator: operator.ask_admin(verb, arguments, deadline), deadline + ADMIN_GRACE)

    def operations(self) -> tuple[BulkView, ...]:
        """Return the operations on dead letters: those at work, and the last ones; the oldest first."""
        return () if self._operator is None else self._operator.bulk.all

    def bulk_counts(self) -> Mapping[tuple[str, str, str], int]:
        """Return how many dead letters operations have moved, by stage, kind and outcome."""
        return {} if self._operator is None else self._operator.bulk.counts

    def begin_bulk(self, stage: str, selection: str, kind: str, count: int, by: str) -> BulkView:
        """Begin to replay or drop the dead letters that are selected."""
        return self._run(lambda operator: operator.bulk.begin(stage, selection, kind, count, by), BULK_DEADLINE)

    def cancel_bulk(self, operation: str) -> BulkView:
        """End an operation before its next batch."""
        return self._run(lambda operator: operator.bulk.cancel(operation), BULK_DEADLINE)

    def reset_shared(self, name: str) -> None:
        """Replace a shared object by a new one."""
        self._run(lambda operator: operator.reset_shared(name), STORE_DEADLINE)

    def held(self, stage: str) -> Held:
        """Return the failed messages that wait in their places, the oldest ones, and how many there are."""
        return self._run(lambda operator: operator.ask_held(stage, ""), STORE_DEADLINE)

    def skip(self, stage: str, message_id: str) -> None:
        """Let a failed message go that waits in its place: it becomes a dead letter."""
        self._run(lambda operator: operator.ask_held(stage, message_id), STORE_DEADLINE)

    def find_message(self, message_id: str) -> dict[str, MessageAnswer | ControlError]:
        """Return what each stage knows of a message, or why that cannot be told."""
        return self._run(lambda operator: operator.find_message(message_id), FIND_DEADLINE)

    def find_letters(self, message_id: str, deadline: float, *, look: bool) -> dict[str, Any]:
        """Return the dead letters of a message, and how many seconds old that is, by stage."""
        return self._run(lambda operator: operator.find_letters(message_id, deadline, look=look), deadline)

    def stack(self, stage: str, slot: int) -> StackAnswer:
        """Return where in its code a Consumer is."""
        answer = self._run(lambda operator: operator.ask_producer(stage, AskStack(0, slot), STACK), STACK)
        assert isinstance(answer, StackAnswer)
        return answer

    def replace_consumer(self, stage: str, asked: AskReplace) -> ReplaceAnswer:
        """Replace a Consumer by a new one: when it has finished what it has, or now."""
        answer = self._run(lambda operator: operator.ask_producer(stage, asked, STORE_DEADLINE), STORE_DEADLINE)
        assert isinstance(answer, ReplaceAnswer)
        return answer

    def start_source(self, name: str, patience: float) -> int:
        """Check the code of a source in the folder, and run it; returns the revision that contains it."""
        return self._run(lambda operator: operator.start_source(name, patience), patience)

    def run_source(self, name: str, patience: float) -> RunDone:
        """Call a scheduled function now, and return when it has ended."""
        return self._run(lambda operator: operator.run_source(name, patience), patience)

    def drain(self) -> None:
        """Begin the end of the service."""
        self._run(lambda operator: operator.drain(), STORE_DEADLINE)

    def _run(self, call: Callable[[Operator], Coroutine[Any, Any, T]], deadline: float) -> T:
        """Let the main thread do it; it enforces `deadline` itself, and we wait a little longer for its answer."""
        loop, operator = self._loop, self._operator
        if loop is None or operator is None:
            raise ControlError("busy", "the service is still starting; try again in a moment")
        self.commands += 1
        future = asyncio.run_coroutine_threadsafe(call(operator), loop)
        try:
            return future.result(deadline + MARGIN)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise ControlError("deadline", f"no answer from the main thread within {deadline:g} s") from None
