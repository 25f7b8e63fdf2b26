"""What the HTTP threads can ask for: changes of the desired state, questions to the broker, the end of the service.

Runs on the Service's main loop, called through Control. Owns the document of the desired state and its file; it stores
a change before it carries it out or answers. Fails with ControlError and ParamsRefused, which the caller receives.
"""

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any, Protocol

from mqworker.broker_admin.client import BrokerAdminClient
from mqworker.code_check.client import check_code
from mqworker.config.load import Loaded
from mqworker.control import desired_state
from mqworker.control.control import ControlError, ParamsRefused
from mqworker.control.desired_state import Change, Document, Reload, SetLogLevel, SetParams, StageDesired
from mqworker.control.store import Store
from mqworker.ipc import logs
from mqworker.ipc.messages import LogEvent
from mqworker.jobs.params import merge_patch
from mqworker.producer.staffing import START_DEADLINE

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
        self._on_log = on_log
        self._owner = owner
        self._checking = asyncio.Lock()  # parameters are changed one at a time
        self._changes: set[asyncio.Task[int]] = set()  # of parameters, being checked

    async def change(self, asked: Change) -> int:
        """Store a change and bring it about."""
        return self.apply(asked)

    async def patch_params(self, stage: str, patch: dict[str, Any], patience: float) -> int:
        """Validate and store a merge patch."""
        return await self._check_and_store(
            stage, lambda desired: SetParams(stage, merge_patch(desired.params, patch)), patience
        )

    async def rollback_params(self, stage: str, patience: float) -> int:
        """Validate and store the previous parameters."""

        def back(_desired: StageDesired) -> SetParams:
            asked = desired_state.rollback(self.document, stage)
            if asked is None:
                raise ControlError("refused", f"stage {stage} has no earlier parameters")
            return asked

        return await self._check_and_store(stage, back, patience)

    async def ask_admin(self, verb: str, arguments: dict[str, Any], deadline: float) -> Any:
        """Let the broker admin ask the broker."""
        return await self._broker_admin.ask(verb, arguments, deadline)

    async def drain(self) -> None:
        """Begin the end, as SIGTERM does."""
        self._owner.begin_drain()

    def apply(self, asked: Change) -> int:
        """Store a change and bring it about; returns the revision that contains it. Raises ControlError."""
        if self.ending:
            raise ControlError("draining", "the service is ending and takes no changes")
        if not isinstance(asked, SetLogLevel):
            self._stage(asked.stage)
        new = desired_state.change(self.document, asked, self._config)
        if new != self.document:
            self._save(new)
            self.document = new
            what = f"changed: {type(asked).__name__}"
            stage = getattr(asked, "stage", None)
            logs.report(log, logging.INFO, "changed", what, revision=new.revision, stage_name=stage)
            self._owner.document_changed()
        return new.revision

    def reload_all(self) -> None:
        """Let every stage import its code again."""
        for name in self.document.stages:
            try:
                self.apply(Reload(name))
            except ControlError as error:
                logs.report(log, logging.ERROR, "not_reloaded", f"stage {name} is not reloaded: {error}")

    async def _check_and_store(self, stage: str, make: Callable[[StageDesired], SetParams], patience: float) -> int:
        """Store parameters if the user's code accepts them; after `patience` seconds the caller waits no longer."""
        task = asyncio.create_task(self._store_checked(stage, make))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        done, _ = await asyncio.wait({task}, timeout=patience)
        if done:
            return task.result()
        task.add_done_callback(functools.partial(_report_late, stage))
        raise ControlError(
            "deadline",
            f"the code is still being checked after {patience:g} s; the parameters are stored if it accepts them,"
            " and the log says so",
        )

    async def _store_checked(self, stage: str, make: Callable[[StageDesired], SetParams]) -> int:
        async with self._checking:
            asked = make(self._stage(stage))
            jobs = self._config.stages[stage].jobs
            report = await check_code(stage, self._loaded.root, jobs, asked.params, START_DEADLINE, self._on_log)
            if report.fields or report.problems:
                raise ParamsRefused(report.fields, report.problems)
            return self.apply(asked)

    def _stage(self, name: str) -> StageDesired:
        try:
            return self.document.stages[name]
        except KeyError:
            known = ", ".join(self.document.stages)
            raise ControlError("unknown_stage", f"there is no stage {name}; there is {known}") from None

    def _save(self, document: Document) -> None:
        try:
            self._store.save(document)
        except OSError as error:
            where = self._loaded.state_dir
            raise ControlError("storage", f"the state in {where} cannot be written: {error.strerror}") from None


def _report_late(stage: str, task: asyncio.Task[int]) -> None:
    """Log why parameters were not stored after their caller had left; if they were stored, that is logged elsewhere."""
    if not task.cancelled() and (error := task.exception()) is not None:
        what = f"the parameters of stage {stage} were not changed: {error}"
        logs.report(log, logging.WARNING, "params_refused", what, stage_name=stage)
