"""What the HTTP threads can request: changes of the desired state, requests to the broker, the end of the service.

Runs on the Service's main loop, called through Control. Owns the document of the desired state and its file; it stores
a change before it carries it out or answers. Raises ControlError and ChangeRefused to the caller.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import msgspec

from mqworker.broker_admin.client import BrokerAdminClient
from mqworker.config.load import Loaded
from mqworker.config.urls import embedded_path
from mqworker.control import desired_state
from mqworker.control.audit import CHANGES, ORIGIN, Attributed
from mqworker.control.desired_state import (
    Change,
    Commit,
    Document,
    GoBack,
    Reload,
    Revert,
    SetJobs,
    SetLogLevel,
    SetParams,
    SetSource,
    Undo,
)
from mqworker.control.difference import difference
from mqworker.control.errors import ControlError
from mqworker.control.stage_desired import StageDesired, Version, described
from mqworker.control.store import Store
from mqworker.ipc import logs
from mqworker.ipc.producer_messages import Held
from mqworker.ipc.records import LogEvent
from mqworker.ipc.source_messages import RunDone
from mqworker.service.bulk_operations import BulkOperations
from mqworker.service.checked_changes import CheckedChanges
from mqworker.service.inspection import Inspection
from mqworker.service.shared_supervisors import SharedSupervisors
from mqworker.service.source_changes import SourceChanges
from mqworker.service.sources import Sources
from mqworker.service.stages import Stages

TRY_AGAIN = 1.0  # seconds until storing the end of a change is tried again

log = logging.getLogger("mqworker.service.operations")


class Trees(NamedTuple):
    """What the Service keeps running; Operations ask these directly for what does not change the document."""

    stages: Stages
    shared: SharedSupervisors
    sources: Sources


class OperationsOwner(Protocol):
    """The Service, as Operations see it."""

    def document_changed(self) -> None:
        """Establish the state that the document now describes."""

    def begin_drain(self) -> None:
        """Begin the end, unless it has begun."""


class Operations:
    """See the module head; an Operator (control/operator)."""

    def __init__(
        self,
        loaded: Loaded,
        document: Document,
        store: Store,
        broker_admin: BrokerAdminClient,
        on_log: Callable[[LogEvent], None],
        trees: Trees,
        owner: OperationsOwner,
    ) -> None:
        self.document = document
        self.changes: tuple[Attributed, ...] = ()  # the last changes that were requested
        self.ending = False  # no further changes are accepted
        self._try_again = 0.0  # CLOCK_MONOTONIC
        self._loaded = loaded
        self._config = loaded.config
        self._store = store
        self._broker_admin = broker_admin
        self._trees = trees
        self._owner = owner
        checked = CheckedChanges(loaded, on_log, self, trees.stages.fallback)
        # Changes that the user's code has to accept first go straight to the part that checks them.
        self.reload = checked.reload
        self.go_back = checked.go_back
        self.edit_jobs = checked.edit_jobs
        self.patch_params = checked.patch_params
        self.rollback_params = checked.rollback_params
        self.params_form = checked.params_form
        self.set_limits = checked.set_limits
        self._reload_stages = checked.reload_all
        inspection = Inspection(trees.stages, broker_admin, self.changeable)
        self.ask_producer = inspection.ask_producer
        self.find_message = inspection.find_message
        self.find_letters = inspection.find_letters
        self.bulk = BulkOperations(broker_admin, doubles=embedded_path(loaded.config.broker.urls[0]) is None)
        self._sources = SourceChanges(loaded, on_log, self, trees.sources.again)

    async def change(self, asked: Change) -> int:
        """Store a change and carry it out."""
        return self.apply(asked)

    async def ask_admin(self, verb: str, arguments: dict[str, Any], deadline: float) -> Any:
        """Have the broker admin query the broker."""
        return await self._broker_admin.ask(verb, arguments, deadline)

    async def reset_shared(self, name: str) -> None:
        """Replace a shared object by a new one."""
        self._refuse_at_the_end()
        why = self._trees.shared.reset(name)
        if why is None:
            raise ControlError("busy", f"no stage uses the shared object {name} any more")
        if why:
            raise ControlError("busy", f"the shared object {name}: {why}")
        logs.report(
            log,
            logging.WARNING,
            "shared_reset",
            f"the shared object {name} is to be replaced by a new one",
            shared=name,
        )

    async def ask_held(self, stage: str, skip: str) -> Held:
        """Return the failed messages that a stage holds, or release one."""
        self.changeable(stage)
        held = await self._trees.stages.ask_held(stage, skip)
        if held.refused:
            raise ControlError("unknown_message" if held.unknown else "refused", held.refused)
        return held

    async def start_source(self, name: str, patience: float) -> int:
        """Check the code of a source in the folder, then run it."""
        self._refuse_at_the_end()
        return await self._sources.start(name, patience)

    async def run_source(self, name: str, patience: float) -> RunDone:
        """Call a scheduled function now."""
        self._refuse_at_the_end()
        self._sources.known(name)
        return await self._trees.sources.run(name, patience)

    def reload_all(self) -> None:
        """Let every stage and every source adopt the code in the folder; returns without waiting for it."""
        self._reload_stages()
        self._sources.reload_all()

    async def drain(self) -> None:
        """Begin the end, as SIGTERM does."""
        self._owner.begin_drain()

    def apply(self, asked: Change) -> int:
        """Store a change and carry it out; returns the revision that contains it. Raises ControlError."""
        if isinstance(asked, SetLogLevel | SetSource):
            self._refuse_at_the_end()
            if isinstance(asked, SetSource):
                self._sources.known(asked.source)
        else:
            self.changeable(asked.stage)
        new = desired_state.change(self.document, asked, self._config, time.time())
        if new != self.document:
            self._save(new)
            self._attribute(new)
            self.document = new
            _report(asked, new)
            origin = ORIGIN.set(None)  # what is started now outlives the request, and is not attributed to it
            try:
                self._owner.document_changed()
            finally:
                ORIGIN.reset(origin)
        return new.revision

    def end_switch(self, asked: Commit | Undo | Revert) -> None:
        """Store how a change of jobs or code ends; if it cannot be stored now, the caller asks again later."""
        now = time.monotonic()
        if self.ending or now < self._try_again:
            return
        try:
            self.apply(asked)
        except ControlError as error:
            self._try_again = now + TRY_AGAIN
            what = f"stage {asked.stage}: the end of a change cannot be stored, and is tried again: {error}"
            logs.report(log, logging.ERROR, "not_stored", what, stage_name=asked.stage)

    def changeable(self, stage: str) -> StageDesired:
        """Return a stage; raises ControlError if there is none, or if the service is ending."""
        self._refuse_at_the_end()
        try:
            return self.document.stages[stage]
        except KeyError:
            raise ControlError("unknown_stage", self._loaded.no_stage(stage)) from None

    def _attribute(self, new: Document) -> None:
        """Note what is changed, and by whom, unless mqworker itself does it: a commit, or a new share of Consumers."""
        if (origin := ORIGIN.get()) is not None:
            change = Attributed(origin, time.time(), difference(self.document, new))
            self.changes = (*self.changes, change)[-CHANGES:]

    def _refuse_at_the_end(self) -> None:
        if self.ending:
            raise ControlError("draining", "the service is ending and takes no changes")

    def _save(self, document: Document) -> None:
        try:
            self._store.save(document)
        except OSError as error:
            where = self._loaded.state_dir
            raise ControlError("storage", f"the state in {where} cannot be written: {error.strerror}") from None


def _report(asked: Change, document: Document) -> None:
    """Log a change that was stored."""
    match asked:
        case SetLogLevel():
            logs.report(log, logging.INFO, "changed", f"changed: SetLogLevel, to {asked.level}")
            return
        case SetSource():
            what = asked.refused or ("started" if asked.running else "stopped")
            what = f"changed: source {asked.source}, {what}"
            logs.report(log, logging.INFO, "changed", what, revision=document.revision)
            return
        case Commit():
            level, event, what = (
                logging.INFO,
                "committed",
                f"committed{_about(document.stages[asked.stage].version)}",
            )
        case Undo():
            level, event = logging.INFO if asked.kind == "taken back" else logging.WARNING, "undone"
            what = f"a change was undone{_about(document.stages[asked.stage].version)} stays: {asked.reason}"
        case Revert():
            level, event = logging.WARNING, "undone"
            what = f"the last change was undone{_about(document.stages[asked.stage].version)}: {asked.reason}"
        case Reload() | GoBack() | SetJobs() | SetParams():
            stage = document.stages[asked.stage]
            level, event = logging.INFO, "changed"
            what = f"changed: {type(asked).__name__}{_about(stage.version)}"
            if stage.candidate is not None:
                what = f"changed: {type(asked).__name__}, to be prepared{_about(stage.candidate.version)}"
        case _:
            values = ", ".join(str(value) for value in msgspec.structs.astuple(asked)[1:])
            level, event, what = logging.INFO, "changed", f"changed: {type(asked).__name__}, to {values}"
    what = f"stage {asked.stage}: {what}" if event != "changed" else what
    logs.report(log, level, event, what, revision=document.revision, stage_name=asked.stage)


def _about(version: Version) -> str:
    return f", {described(version)}"
