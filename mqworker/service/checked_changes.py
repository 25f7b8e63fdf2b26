"""Changes that the user's code has to accept before they are stored: of code, jobs, parameters and the soft limit.

Runs on the Service's main loop; part of Operations. Owns the changes that are being checked, one at a time for each
stage (turns.py); change_check.py runs the checks. If the stage changes during a check, the check is repeated. Raises
ChangeRefused if the code does not accept a change, and otherwise ControlError.

Longer than most modules, because all changes are checked, queued and refused in the same way.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

import msgspec

from mqworker.config.load import Loaded
from mqworker.config.model import Config
from mqworker.config.programs import is_program, shown
from mqworker.control import desired_state, generations
from mqworker.control.chain import Alter, ChainError, ChainLink, Edit, Remove, edited, enabled
from mqworker.control.desired_state import Change, Document, GoBack, Reload, SetJobs, SetLimits, SetParams, Undo
from mqworker.control.errors import ChangeRefused, ControlError
from mqworker.control.operator import Stored
from mqworker.control.stage_desired import StageDesired, Version, same
from mqworker.control.switch import committed
from mqworker.ipc import logs
from mqworker.ipc.records import LogEvent
from mqworker.jobs.params import merge_patch
from mqworker.service.change_check import ChangeCheck
from mqworker.service.params_schemas import ParamsSchemas
from mqworker.service.turns import Carried, Turns

log = logging.getLogger("mqworker.service.operations")


class ChangesOwner(Protocol):
    """Operations, as the checked changes see them."""

    document: Document

    def apply(self, asked: Change) -> int:
        """Store a change and carry it out."""

    def changeable(self, stage: str) -> StageDesired:
        """Return a stage; raises ControlError if there is none, or if the service is ending."""


class CheckedChanges:
    """See the module head."""

    def __init__(
        self,
        loaded: Loaded,
        on_log: Callable[[LogEvent], None],
        owner: ChangesOwner,
        fallback: Callable[[str], Version | None],
    ) -> None:
        """`fallback` returns the generation that a stage goes back to if its new code fails its trial."""
        self._fallback = fallback
        self._loaded = loaded
        self._config = loaded.config
        self._owner = owner
        self._check = ChangeCheck(loaded, on_log, lambda: owner.document)
        self._turns = Turns(loaded.config.stages)
        self.params_form = ParamsSchemas(owner.changeable, self._check.schema).of
        self._reloads: dict[str, asyncio.Task[Stored]] = {}  # by stage; those that have not begun to read the folder

    async def reload(self, stage: str, params: dict[str, Any], patience: float) -> Stored:
        """Adopt the code in the folder; callers that ask while a reload waits for its turn share its answer."""
        if params:
            return await self._do(stage, self._reload(stage, params), patience, "not_reloaded")
        return await self._turns.answer(stage, self._begin_reload(stage), patience, "not_reloaded")

    async def go_back(self, stage: str, generation: int | None, patience: float) -> Stored:
        """Go back to an earlier generation, or undo the change that is being prepared."""
        return await self._do(stage, self._go_back(stage, generation), patience, "not_rolled_back")

    async def edit_jobs(
        self, stage: str, edit: Edit, params: dict[str, Any], expected: tuple[str, ...] | None, patience: float
    ) -> Stored:
        """Change the chain, and parameters with it."""
        return await self._do(stage, self._edit_jobs(stage, edit, params, expected), patience, "jobs_refused")

    async def patch_params(
        self, stage: str, patch: dict[str, Any], expected: tuple[str, ...] | None, patience: float
    ) -> Stored:
        """Merge a patch into the parameters."""

        def patched(desired: StageDesired, params: dict[str, Any]) -> SetParams:
            _refuse_unseen_params(stage, desired, expected)
            return SetParams(stage, merge_patch(params, patch))

        change = self._set_params(stage, patched)
        return await self._do(stage, change, patience, "params_refused")

    async def rollback_params(self, stage: str, expected: tuple[str, ...] | None, patience: float) -> Stored:
        """Go back to earlier parameters."""

        def back(desired: StageDesired, _params: dict[str, Any]) -> SetParams:
            _refuse_unseen_params(stage, desired, expected)
            candidate = desired.candidate
            if candidate is not None and not same(candidate.version.params, desired.params):
                what = f"generation {candidate.version.generation} is being prepared, with parameters of its own"
                raise ControlError("refused", f"stage {stage}: {what}; `mqworker rollback` takes it back")
            asked = desired_state.rollback(self._owner.document, stage)
            if asked is None:
                raise ControlError("refused", f"stage {stage} has no earlier parameters")
            return asked

        return await self._do(stage, self._set_params(stage, back), patience, "params_refused")

    async def set_limits(self, asked: SetLimits, patience: float) -> Stored:
        """Limit the time of a message; no check is needed where it runs in a main thread, which can be interrupted."""
        self._owner.changeable(asked.stage)
        if self._config.stages[asked.stage].concurrency == 1:
            return Stored(self._owner.apply(asked))
        return await self._do(asked.stage, self._set_limits(asked), patience, "limits_refused")

    def reload_all(self) -> None:
        """Let every stage adopt the code in the folder; returns without waiting for it."""
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
        """Apply the change that a check returns; if the stage has changed in the meantime, check again."""
        while True:
            desired = self._owner.changeable(stage)
            asked = await check(desired)
            if _basis(self._owner.changeable(stage)) == _basis(desired):
                revision = self._owner.apply(asked)
                candidate = self._owner.document.stages[stage].candidate
                switches = candidate is not None and not isinstance(asked, SetParams | SetLimits)
                return Stored(revision, candidate.code if candidate is not None and switches else 0)

    async def _reload(self, stage: str, patch: dict[str, Any]) -> Stored:
        if not patch:
            self._reloads.pop(stage, None)

        async def check(desired: StageDesired) -> Change:
            ahead = committed(desired)
            params = merge_patch(ahead.params, patch)
            report = await self._check.folder(stage, params, enabled(ahead.jobs))
            return Reload(stage, report.copy, params, report.shared)

        return await self._apply_checked(stage, check)

    async def _go_back(self, stage: str, generation: int | None) -> Stored:
        async def check(desired: StageDesired) -> Change:
            candidate = desired.candidate
            if candidate is not None and generation in (None, desired.generation):
                return Undo(stage, candidate.code, "a rollback took it back", "taken back")
            version = _earlier(stage, desired, generation, self._loaded.state_dir)
            report = await self._check.copy(stage, version.params, version.copy, enabled(version.jobs))
            return GoBack(stage, msgspec.structs.replace(version, shared=report.shared))

        return await self._apply_checked(stage, check)

    async def _edit_jobs(
        self, stage: str, edit: Edit, patch: dict[str, Any], expected: tuple[str, ...] | None
    ) -> Stored:
        async def check(desired: StageDesired) -> Change:
            ahead = committed(desired)
            _refuse_unseen(stage, ahead, expected)
            jobs = _edited(ahead, edit)
            named = _newly_named(jobs, ahead, self._config)
            params = merge_patch(ahead.params, patch)
            report = await self._check.copy(stage, params, ahead.copy, enabled(jobs), named)
            return SetJobs(stage, jobs, params, report.shared)

        return await self._apply_checked(stage, check)

    async def _set_params(self, stage: str, make: Callable[[StageDesired, dict[str, Any]], SetParams]) -> Stored:
        """Store parameters that the code in use accepts, whatever code the folder has by now.

        A change of jobs or code that is in progress must accept them too, because they become part of it.
        """

        async def check(desired: StageDesired) -> Change:
            asked = make(desired, desired.params)
            await self._check.copy(stage, asked.params, desired.copy, enabled(desired.jobs))
            if desired.candidate is None:
                return asked
            version = desired.candidate.version
            params = make(desired, version.params).params
            try:
                await self._check.copy(stage, params, version.copy, enabled(version.jobs))
            except ChangeRefused as error:
                what = f"the change to generation {version.generation}, which is in progress, does not accept it"
                raise ChangeRefused(error.fields, [*error.problems, what]) from None
            return msgspec.structs.replace(asked, candidates=params)

        return await self._apply_checked(stage, check)

    async def _set_limits(self, asked: SetLimits) -> Stored:
        """Store time limits if a soft limit can interrupt the jobs in use, and those that may come into use."""

        async def check(desired: StageDesired) -> Change:
            candidate, fallback = desired.candidate, self._fallback(asked.stage)
            versions = {desired.generation: (desired.version, "")}
            if candidate is not None:
                what = (
                    f"the change to generation {candidate.version.generation}, which is in progress, does not accept it"
                )
                versions[candidate.version.generation] = (candidate.version, what)
            if fallback is not None:
                what = (
                    f"generation {fallback.generation}, which comes back if the new code fails now, does not accept it"
                )
                versions[fallback.generation] = (fallback, what)
            for version, what in versions.values() if asked.soft else ():
                jobs = enabled(version.jobs)
                try:
                    await self._check.copy(asked.stage, version.params, version.copy, jobs, soft_limit=asked.soft)
                except ChangeRefused as error:
                    raise ChangeRefused(error.fields, [*error.problems, *([what] if what else [])]) from None
            return asked

        return await self._apply_checked(asked.stage, check)


def _basis(stage: StageDesired) -> tuple[int, int]:
    """Return what the check of a change depends on: the generations of the stage and of its candidate."""
    return stage.generation, stage.candidate.version.generation if stage.candidate is not None else 0


def _refuse_unseen(stage: str, ahead: StageDesired, expected: tuple[str, ...] | None) -> None:
    """Raise ControlError if the caller has not seen the generation that the edit would build on."""
    if expected is None or str(ahead.generation) in expected:
        return
    now = ", ".join(f"{link.name} ({link.job}{'' if link.enabled else ', disabled'})" for link in ahead.jobs)
    seen = " or ".join(expected) or "another"
    what = f"stage {stage} is at generation {ahead.generation} by now, not at {seen}; its chain is: {now}"
    raise ControlError("conflict", what)


def _refuse_unseen_params(stage: str, desired: StageDesired, expected: tuple[str, ...] | None) -> None:
    """Raise ControlError if the caller has not seen the parameters in use.

    A generation with other jobs or code and the same parameters is not a conflict.
    """
    if expected is None or str(desired.generation) in expected:
        return
    known = [version for version in desired.history if str(version.generation) in expected]
    if not any(same(version.params, desired.params) for version in known):
        seen = " or ".join(expected) or "another"
        what = f"stage {stage} is at generation {desired.generation} by now, not at {seen}, with other parameters"
        raise ControlError("conflict", what)


def _edited(ahead: StageDesired, edit: Edit) -> list[ChainLink]:
    """Return the chain after an edit; raises ChangeRefused, or ControlError if the job to edit does not exist."""
    try:
        return edited(ahead.jobs, edit)
    except ChainError as error:
        if error.field == "name" and isinstance(edit, Alter | Remove):
            raise ControlError("unknown_job", str(error)) from None
        raise ChangeRefused([(error.field, str(error))], []) from None


def _newly_named(jobs: list[ChainLink], ahead: StageDesired, config: Config) -> tuple[str, ...]:
    """Return the jobs of a chain that are named neither in the configuration nor in a generation of the stage.

    Raises ChangeRefused if one of them is a program.
    """
    known = {job for each in config.stages.values() for job in each.specs}
    known |= {link.job for version in (ahead.version, *ahead.history) for link in version.jobs}
    named = tuple(dict.fromkeys(link.job for link in jobs if link.job not in known))
    for program in filter(is_program, named):
        raise ChangeRefused([], [f"programs are named in the configuration, and {shown(program)} is not"])
    return named


def _earlier(stage: str, desired: StageDesired, generation: int | None, state_dir: Path) -> Version:
    """Return the generation to go back to; raises ControlError."""
    version = generations.earlier(desired, generation)
    if version is None or version.copy is None:
        wanted = f"to generation {generation}" if generation is not None else "further: it is at the first that is kept"
        known = ", ".join(str(each.generation) for each in desired.history if each.copy is not None and each.jobs)
        there = f"by its number it can go back to {known}" if known else "there is no earlier one"
        raise ControlError("refused", f"stage {stage} cannot go back {wanted}; {there}")
    if not version.copy.path(state_dir).is_dir():
        what = f"the code of generation {version.generation} is gone from {state_dir}"
        raise ControlError("refused", f"stage {stage} cannot go back: {what}")
    return version
