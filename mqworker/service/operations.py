"""What the HTTP threads can ask for: changes of the desired state, questions to the broker, the end of the service.

Runs on the Service's main loop, called through Control. Owns the document of the desired state and its file; it stores
a change before it carries it out or answers. Fails with ControlError and ChangeRefused, which the caller receives.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

from mqworker.broker_admin.client import BrokerAdminClient
from mqworker.code_check.client import check_code
from mqworker.config.load import Loaded
from mqworker.control import desired_state
from mqworker.control.chain import ChainError, Edit, edited, enabled
from mqworker.control.control import ChangeRefused, ControlError
from mqworker.control.desired_state import (
    Change,
    Document,
    GoBack,
    Reload,
    SetJobs,
    SetLogLevel,
    SetParams,
    StageDesired,
)
from mqworker.control.store import Store
from mqworker.ipc import logs
from mqworker.ipc.messages import CodeCopy, CodeReport, LogEvent
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
        self._checking = {name: asyncio.Lock() for name in loaded.config.stages}  # one change of a stage at a time
        self._changes: set[asyncio.Task[int]] = set()  # that are being checked
        self._reloads: dict[str, asyncio.Task[int]] = {}  # that have not begun to look at the folder, by stage

    async def change(self, asked: Change) -> int:
        """Store a change and bring it about."""
        return self.apply(asked)

    async def reload(self, stage: str, patience: float) -> int:
        """Check the code in the folder, and let new Consumers take over with it."""
        return await self._answer(stage, self._begin_reload(stage), patience, "not_reloaded")

    async def go_back(self, stage: str, generation: int | None, patience: float) -> int:
        """Check and bring back an earlier generation."""
        return await self._answer(
            stage, self._begin(stage, self._go_back(stage, generation)), patience, "not_rolled_back"
        )

    async def edit_jobs(self, stage: str, edit: Edit, expected: str, patience: float) -> int:
        """Check and store a change of the chain."""
        change = self._edit_jobs(stage, edit, expected)
        return await self._answer(stage, self._begin(stage, change), patience, "jobs_refused")

    async def patch_params(self, stage: str, patch: dict[str, Any], patience: float) -> int:
        """Validate and store a merge patch."""
        change = self._set_params(stage, lambda desired: SetParams(stage, merge_patch(desired.params, patch)))
        return await self._answer(stage, self._begin(stage, change), patience, "params_refused")

    async def rollback_params(self, stage: str, patience: float) -> int:
        """Validate and store the previous parameters."""

        def back(_desired: StageDesired) -> SetParams:
            asked = desired_state.rollback(self.document, stage)
            if asked is None:
                raise ControlError("refused", f"stage {stage} has no earlier parameters")
            return asked

        return await self._answer(stage, self._begin(stage, self._set_params(stage, back)), patience, "params_refused")

    async def ask_admin(self, verb: str, arguments: dict[str, Any], deadline: float) -> Any:
        """Let the broker admin ask the broker."""
        return await self._broker_admin.ask(verb, arguments, deadline)

    async def drain(self) -> None:
        """Begin the end, as SIGTERM does."""
        self._owner.begin_drain()

    def apply(self, asked: Change) -> int:
        """Store a change and bring it about; returns the revision that contains it. Raises ControlError."""
        self._refuse_at_the_end()
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
        """Let every stage take the code that is in the folder now."""
        for name in self.document.stages:
            self._begin_reload(name).add_done_callback(functools.partial(_report_refused, "not_reloaded", name))

    def _begin_reload(self, stage: str) -> asyncio.Task[int]:
        """Begin to reload a stage; whoever asks while that waits for its turn is answered by the same reload."""
        waiting = self._reloads.get(stage)
        if waiting is None or waiting.done():
            waiting = self._reloads[stage] = self._begin(stage, self._reload(stage))
        return waiting

    async def _answer(self, stage: str, task: asyncio.Task[int], patience: float, refused: str) -> int:
        """Return a change's revision once the user's code has accepted it; the caller waits `patience` seconds.

        `refused`: the event to log if it is refused after that.
        """
        done, _ = await asyncio.wait({task}, timeout=patience)
        if done:
            return task.result()
        task.add_done_callback(functools.partial(_report_refused, refused, stage))
        raise ControlError(
            "deadline",
            f"the code is still being checked after {patience:g} s; the change is stored if it accepts it,"
            " and the log says so",
        )

    def _begin(self, stage: str, change: Coroutine[Any, Any, int]) -> asyncio.Task[int]:
        """Carry out a change of a stage when it is its turn."""

        async def in_turn() -> int:
            self._refuse_at_the_end()
            self._stage(stage)
            async with self._checking[stage]:
                return await change

        task = asyncio.create_task(in_turn())
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        task.add_done_callback(lambda _task: change.close())  # it may have been refused before its turn
        return task

    async def _reload(self, stage: str) -> int:
        self._reloads.pop(stage, None)
        desired = self._stage(stage)
        report = await self._check(stage, desired.params, None, self._loaded.state_dir, enabled(desired.jobs))
        return self.apply(Reload(stage, report.copy))

    async def _go_back(self, stage: str, generation: int | None) -> int:
        desired = self._stage(stage)
        version = desired_state.earlier(desired, generation)
        if version is None or version.copy is None:
            wanted = "an earlier generation" if generation is None else f"generation {generation}"
            known = [str(each.generation) for each in desired.history if each.copy is not None]
            there = f"there is {', '.join(known)}" if known else "there is none"
            raise ControlError("refused", f"stage {stage} cannot go back to {wanted}: {there} whose code was kept")
        if not version.copy.path(self._loaded.state_dir).is_dir():
            what = f"the code of generation {version.generation} is gone from {self._loaded.state_dir}"
            raise ControlError("refused", f"stage {stage} cannot go back: {what}")
        await self._check(stage, version.params, version.copy, self._loaded.state_dir, enabled(version.jobs))
        return self.apply(GoBack(stage, version))

    async def _edit_jobs(self, stage: str, edit: Edit, expected: str) -> int:
        desired = self._stage(stage)
        if expected not in ("", str(desired.generation)):
            now = ", ".join(f"{link.name} ({link.job}{'' if link.enabled else ', disabled'})" for link in desired.jobs)
            what = f"stage {stage} is at generation {desired.generation} by now, not at {expected}; its chain is: {now}"
            raise ControlError("conflict", what)
        try:
            jobs = edited(desired.jobs, edit)
        except ChainError as error:
            raise ChangeRefused([(error.field, str(error))], []) from None
        asked = enabled(jobs)
        named = tuple(link.job for link in jobs if link.job not in self._known_jobs(stage))
        state_dir = self._loaded.state_dir if desired.copy is not None else None
        await self._check(stage, desired.params, desired.copy, state_dir, asked, named)
        return self.apply(SetJobs(stage, jobs))

    def _known_jobs(self, stage: str) -> set[str]:
        """Return the jobs that may be named in any case: the configuration or a stored generation names them."""
        known = {job for each in self._config.stages.values() for job in each.jobs}
        desired = self._stage(stage)
        return known | {link.job for version in (desired.version, *desired.history) for link in version.jobs}

    async def _set_params(self, stage: str, make: Callable[[StageDesired], SetParams]) -> int:
        """Store parameters that the code of the stage's Consumers accepts, whatever the folder has by now."""
        desired = self._stage(stage)
        asked = make(desired)
        state_dir = self._loaded.state_dir if desired.copy is not None else None
        await self._check(stage, asked.params, desired.copy, state_dir, enabled(desired.jobs))
        return self.apply(asked)

    async def _check(
        self,
        stage: str,
        params: dict[str, Any],
        copy: CodeCopy | None,
        state_dir: Path | None,
        jobs: Sequence[str],
        named: tuple[str, ...] = (),
    ) -> CodeReport:
        """Return what the code check says; raises ChangeRefused if that is a problem.

        `named`: jobs that are to be used because a caller named them.
        """
        report = await check_code(
            *(stage, self._loaded.root, tuple(jobs), params, START_DEADLINE, self._on_log),
            state_dir=state_dir,
            copy=copy,
            needed=desired_state.copies(self.document),
            named=named,
            allowed=self._config.modules,
        )
        for warning in report.warnings:
            logs.report(log, logging.WARNING, "user_code", warning)
        if report.fields or report.problems:
            raise ChangeRefused(report.fields, report.problems)
        return report

    def _refuse_at_the_end(self) -> None:
        if self.ending:
            raise ControlError("draining", "the service is ending and takes no changes")

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


def _report_refused(event: str, stage: str, task: asyncio.Task[int]) -> None:
    """Log why a change was not stored, when no caller waits any more; if it was stored, that is logged elsewhere."""
    if not task.cancelled() and (error := task.exception()) is not None:
        what = f"stage {stage} was not changed: {error}"
        logs.report(log, logging.WARNING, event, what, stage_name=stage)
