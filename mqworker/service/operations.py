"""What the HTTP threads can ask for: changes of the desired state, questions to the broker, the end of the service.

Runs on the Service's main loop, called through Control. Owns the document of the desired state and its file; it stores
a change before it carries it out or answers. Fails with ControlError and ChangeRefused, which the caller receives.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from mqworker.broker_admin.client import BrokerAdminClient
from mqworker.config.load import Loaded
from mqworker.control import desired_state
from mqworker.control.control import ControlError
from mqworker.control.desired_state import Change, Document, GoBack, Reload, SetJobs, SetLogLevel, SetParams
from mqworker.control.stage_desired import StageDesired
from mqworker.control.store import Store
from mqworker.ipc import logs
from mqworker.ipc.messages import LogEvent
from mqworker.service.checked_changes import CheckedChanges

log = logging.getLogger("mqworker.service.operations")


class OperationsOwner(Protocol):
    """The Service, as Operations know it."""

    def document_changed(self) -> None:
        """Bring about the state that the document now describes."""

    def begin_drain(self) -> None:
        """Begin to end, unless the end has begun."""


class Operations:
    """See the module head; implements control.Operator."""

    def __init__(
        self,
        loaded: Loaded,
        document: Document,
        store: Store,
        broker_admin: BrokerAdminClient,
        on_log: Callable[[LogEvent], None],
        owner: OperationsOwner,
    ) -> None:
        self.document = document
        self.ending = False  # no change is taken any more
        self._loaded = loaded
        self._config = loaded.config
        self._store = store
        self._broker_admin = broker_admin
        self._owner = owner
        checked = CheckedChanges(loaded, on_log, self)
        # What the user's code has to accept first goes straight to the part that asks it.
        self.reload = checked.reload
        self.go_back = checked.go_back
        self.edit_jobs = checked.edit_jobs
        self.patch_params = checked.patch_params
        self.rollback_params = checked.rollback_params
        self.reload_all = checked.reload_all

    async def change(self, asked: Change) -> int:
        """Store a change and bring it about."""
        return self.apply(asked)

    async def ask_admin(self, verb: str, arguments: dict[str, Any], deadline: float) -> Any:
        """Let the broker admin ask the broker."""
        return await self._broker_admin.ask(verb, arguments, deadline)

    async def drain(self) -> None:
        """Begin the end, as SIGTERM does."""
        self._owner.begin_drain()

    def apply(self, asked: Change) -> int:
        """Store a change and bring it about; returns the revision that contains it. Raises ControlError."""
        if isinstance(asked, SetLogLevel):
            self._refuse_at_the_end()
        else:
            self.changeable(asked.stage)
        new = desired_state.change(self.document, asked, self._config)
        if new != self.document:
            self._save(new)
            self.document = new
            what = f"changed: {type(asked).__name__}{_described(asked, new)}"
            stage = getattr(asked, "stage", None)
            logs.report(log, logging.INFO, "changed", what, revision=new.revision, stage_name=stage)
            self._owner.document_changed()
        return new.revision

    def changeable(self, stage: str) -> StageDesired:
        """Return a stage; raises ControlError if there is none, or if the service is ending."""
        self._refuse_at_the_end()
        try:
            return self.document.stages[stage]
        except KeyError:
            known = ", ".join(self.document.stages)
            raise ControlError("unknown_stage", f"there is no stage {stage}; there is {known}") from None

    def _refuse_at_the_end(self) -> None:
        if self.ending:
            raise ControlError("draining", "the service is ending and takes no changes")

    def _save(self, document: Document) -> None:
        try:
            self._store.save(document)
        except OSError as error:
            where = self._loaded.state_dir
            raise ControlError("storage", f"the state in {where} cannot be written: {error.strerror}") from None


def _described(asked: Change, document: Document) -> str:
    """Return what a change has brought, for the log."""
    match asked:
        case SetLogLevel():
            return f", to {asked.level}"
        case Reload() | GoBack() | SetJobs() | SetParams():
            stage = document.stages[asked.stage]
            chain = ", ".join(link.job if link.enabled else f"({link.job})" for link in stage.jobs)
            params, code = (
                msgspec.json.encode(stage.params).decode(),
                stage.copy.digest[:12] if stage.copy else "as found",
            )
            of = f", as {stage.of} was" if stage.of else ""
            return f", generation {stage.generation}{of}: jobs {chain}; parameters {params}; code {code}"
        case _:
            return f", to {', '.join(str(value) for value in msgspec.structs.astuple(asked)[1:])}"
