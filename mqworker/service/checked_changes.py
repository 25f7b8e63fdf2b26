"""Changes that the user's code has to accept before they are stored: its code, its chain of jobs, its parameters.

Runs on the Service's main loop; part of Operations. Owns the code checks in progress, for each stage one at a time
(turns.py). A check that the stage has changed under is made again. Fails with ChangeRefused if the code does not accept
a change, else with ControlError.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from mqworker.code_check.client import check_code
from mqworker.config.load import Loaded
from mqworker.config.programs import is_program, shown
from mqworker.control import desired_state, generations
from mqworker.control.chain import Alter, ChainError, Edit, Remove, edited, enabled
from mqworker.control.control import ChangeRefused, ControlError, Stored
from mqworker.control.desired_state import Change, Document, GoBack, Reload, SetJobs, SetLimits, SetParams, Undo
from mqworker.control.stage_desired import StageDesired, Version, same
from mqworker.control.switch import committed
from mqworker.ipc import logs
from mqworker.ipc.messages import CodeCopy, CodeReport, LogEvent
from mqworker.jobs.params import merge_patch
from mqworker.service.part import used_elsewhere
from mqworker.service.turns import Carried, Turns

AFTER_AN_EDIT = "jobs are taken from the code that runs: after an edit, `mqworker restart` first"

log = logging.getLogger("mqworker.service.operations")


class ChangesOwner(Protocol):
    """Operations, as the checked changes know them."""

    document: Document

    def apply(self, asked: Change) -> int:
        """Store a change and bring it about."""

    def changeable(self, stage: str) -> StageDesired:
        """Return a stage; raises ControlError if there is none, or if the service is ending."""


class CheckedChanges:
    """See the module head."""

    def __init__(self, loaded: Loaded, on_log: Callable[[LogEvent], None], owner: ChangesOwner) -> None:
        self._loaded = loaded
        self._config = loaded.config
        self._on_log = on_log
        self._owner = owner
        self._turns = Turns(loaded.config.stages)
        self._reloads: dict[str, asyncio.Task[Stored]] = {}  # that have not begun to look at the folder, by stage

    async def reload(self, stage: str, params: dict[str, Any], patience: float) -> Stored:
        """Take the code in the folder; whoever asks while a reload waits for its turn is answered by the same."""
        if params:
            return await self._do(stage, self._reload(stage, params), patience, "not_reloaded")
        return await self._turns.answer(stage, self._begin_reload(stage), patience, "not_reloaded")

    async def go_back(self, stage: str, generation: int | None, patience: float) -> Stored:
        """Go back to an earlier generation, or take back what is being prepared."""
        return await self._do(stage, self._go_back(stage, generation), patience, "not_rolled_back")

    async def edit_jobs(
        self, stage: str, edit: Edit, params: dict[str, Any], expected: tuple[str, ...] | None, patience: float
    ) -> Stored:
        """Change the chain, and parameters with it."""
        return await self._do(stage, self._edit_jobs(stage, edit, params, expected), patience, "jobs_refused")

    async def patch_params(self, stage: str, patch: dict[str, Any], patience: float) -> Stored:
        """Merge a patch into the parameters."""
        change = self._set_params(stage, lambda _desired, params: SetParams(stage, merge_patch(params, patch)))
        return await self._do(stage, change, patience, "params_refused")

    async def rollback_params(self, stage: str, patience: float) -> Stored:
        """Go back to earlier parameters."""

        def back(desired: StageDesired, _params: dict[str, Any]) -> SetParams:
            candidate = desired.candidate
            if candidate is not None and not same(candidate.version.params, desired.params):
                what = f"generation {candidate.version.generation} is being prepared, with parameters of its own"
                raise ControlError("refused", f"stage {stage}: {what}; `mqworker rollback` takes it back")
            asked = desired_state.rollback(self._owner.document, stage)
            if asked is None:
                raise ControlError("refused", f"stage {stage} has no earlier parameters")
            return asked

        return await self._do(stage, self._set_params(stage, back), patience, "params_refused")

    async def check_limits(self, asked: SetLimits) -> None:
        """Raise ChangeRefused if a soft limit cannot interrupt the jobs, those at work or those being prepared."""
        desired = self._owner.changeable(asked.stage)
        if not asked.soft or self._config.stages[asked.stage].concurrency == 1:
            return
        candidate = [] if desired.candidate is None else [desired.candidate.version]
        for version in (desired.version, *candidate):
            where = self._folder_of(version.copy)
            jobs = enabled(version.jobs)
            await self._check(asked.stage, version.params, version.copy, where, jobs, soft_limit=asked.soft)

    def reload_all(self) -> None:
        """Let every stage take the code in the folder; nobody waits for it."""
        for name in self._config.stages:
            try:
                self._turns.report(name, self._begin_reload(name), "not_reloaded")
            except ControlError as error:
                logs.report(log, logging.ERROR, "not_reloaded", f"stage {name} is not reloaded: {error}")

    def _begin_reload(self, stage: str) -> asyncio.Task[Stored]:
        self._owner.changeable(stage)
        waiting = self._reloads.get(stage)
        if waiting is None or waiting.done():
            waiting = self._reloads[stage] = self._turns.begin(stage, self._reload(stage, {}))
        return waiting

    async def _do(self, stage: str, change: Carried, patience: float, refused: str) -> Stored:
        """Carry out a change in its turn, and wait for it."""
        try:
            self._owner.changeable(stage)
        except ControlError:
            change.close()
            raise
        return await self._turns.answer(stage, self._turns.begin(stage, change), patience, refused)

    # --- the changes

    async def _apply_checked(self, stage: str, check: Callable[[StageDesired], Coroutine[Any, Any, Change]]) -> Stored:
        """Apply what a check returns; if the stage has changed meanwhile, check again."""
        while True:
            desired = self._owner.changeable(stage)
            asked = await check(desired)
            if _basis(self._owner.changeable(stage)) == _basis(desired):
                revision = self._owner.apply(asked)
                candidate = self._owner.document.stages[stage].candidate
                switches = candidate is not None and not isinstance(asked, SetParams)
                return Stored(revision, candidate.code if candidate is not None and switches else 0)

    async def _reload(self, stage: str, patch: dict[str, Any]) -> Stored:
        if not patch:
            self._reloads.pop(stage, None)

        async def check(desired: StageDesired) -> Change:
            ahead = committed(desired)
            params = merge_patch(ahead.params, patch)
            report = await self._check(stage, params, None, self._loaded.state_dir, enabled(ahead.jobs))
            return Reload(stage, report.copy, params, report.shared)

        return await self._apply_checked(stage, check)

    async def _go_back(self, stage: str, generation: int | None) -> Stored:
        async def check(desired: StageDesired) -> Change:
            candidate = desired.candidate
            if candidate is not None and generation in (None, desired.generation):
                return Undo(stage, candidate.code, "a rollback took it back", "taken back")
            version = self._earlier(stage, desired, generation)
            report = await self._check(
                *(stage, version.params, version.copy, self._loaded.state_dir, enabled(version.jobs))
            )
            return GoBack(stage, msgspec.structs.replace(version, shared=report.shared))

        return await self._apply_checked(stage, check)

    def _earlier(self, stage: str, desired: StageDesired, generation: int | None) -> Version:
        """Return the generation to go back to; raises ControlError."""
        version = generations.earlier(desired, generation)
        if version is None or version.copy is None:
            wanted = (
                f"to generation {generation}" if generation is not None else "further: it is at the first that is kept"
            )
            known = ", ".join(str(each.generation) for each in desired.history if each.copy is not None and each.jobs)
            there = f"by its number it can go back to {known}" if known else "there is no earlier one"
            raise ControlError("refused", f"stage {stage} cannot go back {wanted}; {there}")
        if not version.copy.path(self._loaded.state_dir).is_dir():
            what = f"the code of generation {version.generation} is gone from {self._loaded.state_dir}"
            raise ControlError("refused", f"stage {stage} cannot go back: {what}")
        return version

    async def _edit_jobs(
        self, stage: str, edit: Edit, patch: dict[str, Any], expected: tuple[str, ...] | None
    ) -> Stored:
        async def check(desired: StageDesired) -> Change:
            ahead = committed(desired)
            _refuse_unseen(stage, ahead, expected)
            try:
                jobs = edited(ahead.jobs, edit)
            except ChainError as error:
                if error.field == "name" and isinstance(edit, Alter | Remove):
                    raise ControlError("unknown_job", str(error)) from None
                raise ChangeRefused([(error.field, str(error))], []) from None
            params = merge_patch(ahead.params, patch)
            known = self._known_jobs(ahead)
            named = tuple(dict.fromkeys(link.job for link in jobs if link.job not in known))
            for program in filter(is_program, named):
                what = f"programs are named in the configuration, and {shown(program)} is not"
                raise ChangeRefused([], [what])
            report = await self._check(stage, params, ahead.copy, self._folder_of(ahead.copy), enabled(jobs), named)
            return SetJobs(stage, jobs, params, report.shared)

        return await self._apply_checked(stage, check)

    def _known_jobs(self, desired: StageDesired) -> set[str]:
        """Return the jobs that may be named in any case: the configuration or a generation of the stage names them."""
        known = {job for each in self._config.stages.values() for job in each.specs}
        return known | {link.job for version in (desired.version, *desired.history) for link in version.jobs}

    async def _set_params(self, stage: str, make: Callable[[StageDesired, dict[str, Any]], SetParams]) -> Stored:
        """Store parameters that the code of the stage's Consumers accepts, whatever the folder has by now.

        A change of jobs or code that is in progress has to accept them too: they go into it.
        """

        async def check(desired: StageDesired) -> Change:
            asked = make(desired, desired.params)
            await self._check(
                *(stage, asked.params, desired.copy, self._folder_of(desired.copy), enabled(desired.jobs))
            )
            if desired.candidate is None:
                return asked
            version = desired.candidate.version
            params = make(desired, version.params).params
            try:
                await self._check(stage, params, version.copy, self._folder_of(version.copy), enabled(version.jobs))
            except ChangeRefused as error:
                what = f"the change to generation {version.generation}, which is in progress, does not accept it"
                raise ChangeRefused(error.fields, [*error.problems, what]) from None
            return msgspec.structs.replace(asked, candidates=params)

        return await self._apply_checked(stage, check)

    def _folder_of(self, copy: CodeCopy | None) -> Path | None:
        """Return where a copy of code is; None: there is none, the code is in the folder itself."""
        return None if copy is None else self._loaded.state_dir

    async def _check(
        self,
        stage: str,
        params: dict[str, Any],
        copy: CodeCopy | None,
        state_dir: Path | None,
        jobs: Sequence[str],
        named: tuple[str, ...] = (),
        soft_limit: float | None = None,
    ) -> CodeReport:
        """Return what the code check says; raises ChangeRefused if that is a problem.

        `named`: jobs that are to be used because a caller named them. `soft_limit`: another one than now.
        """
        deadline = self._config.stages[stage].setup_deadline
        report = await check_code(
            *(stage, self._loaded.root, tuple(jobs), params, deadline, self._on_log),
            state_dir=state_dir,
            copy=copy,
            needed=desired_state.copies(self._owner.document),
            named=named,
            allowed=self._config.modules,
            shared=self._config.shared_classes,
            concurrency=self._config.stages[stage].concurrency,
            soft_limit=self._owner.document.stages[stage].soft_limit if soft_limit is None else soft_limit,
        )
        for warning in report.warnings:
            logs.report(log, logging.WARNING, "user_code", warning)
        if report.fields or report.problems:
            hint = [AFTER_AN_EDIT] if named and report.problems else []
            code = bool(report.problems) and not named
            raise ChangeRefused(report.fields, report.problems + hint, code=code)
        if wrong := await used_elsewhere(self._loaded, report.shared, self._on_log):
            raise ChangeRefused([], list(wrong.values()))
        return report


def _basis(stage: StageDesired) -> tuple[int, int]:
    """Return what a check of a change depends on: the stage's generation, and that of its candidate."""
    return stage.generation, stage.candidate.version.generation if stage.candidate is not None else 0


def _refuse_unseen(stage: str, ahead: StageDesired, expected: tuple[str, ...] | None) -> None:
    """Raise ControlError if a caller has seen another generation than the one that the edit would build on."""
    if expected is None or str(ahead.generation) in expected:
        return
    now = ", ".join(f"{link.name} ({link.job}{'' if link.enabled else ', disabled'})" for link in ahead.jobs)
    seen = " or ".join(expected) or "another"
    what = f"stage {stage} is at generation {ahead.generation} by now, not at {seen}; its chain is: {now}"
    raise ControlError("conflict", what)
