"""Whether the code of a stage accepts a change: asks a code check, and makes a refusal of what that finds.

Runs on the Service's main loop, for checked_changes.py. Logs the warnings of the check. What it returns says which
shared objects the code uses; one that a stage of another service uses too is refused. Raises ChangeRefused, and
ControlError if there is no answer.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mqworker.code_check.client import check_code
from mqworker.config.load import Loaded
from mqworker.control import desired_state
from mqworker.control.desired_state import Document
from mqworker.control.errors import ChangeRefused
from mqworker.ipc import logs
from mqworker.ipc.check_messages import CodeReport
from mqworker.ipc.generation import CodeCopy
from mqworker.ipc.records import LogEvent
from mqworker.service.part import used_elsewhere

AFTER_AN_EDIT = "jobs are taken from the code that runs: after an edit, `mqworker restart` first"

log = logging.getLogger("mqworker.service.operations")


class ChangeCheck:
    """See the module head. `document` returns the present one: the copies that it names are kept."""

    def __init__(self, loaded: Loaded, on_log: Callable[[LogEvent], None], document: Callable[[], Document]) -> None:
        self._loaded = loaded
        self._on_log = on_log
        self._document = document

    async def folder(self, stage: str, params: dict[str, Any], jobs: Sequence[str]) -> CodeReport:
        """Check the code in the folder, which is copied."""
        return await self._check(stage, params, jobs, self._loaded.state_dir)

    async def copy(
        self,
        stage: str,
        params: dict[str, Any],
        copy: CodeCopy | None,
        jobs: Sequence[str],
        named: tuple[str, ...] = (),
        soft_limit: float | None = None,
    ) -> CodeReport:
        """Check a copy of the code; None: there is none, the code is in the folder itself.

        `named`: jobs that are to be used because a caller named them. `soft_limit`: another one than now.
        """
        state_dir = None if copy is None else self._loaded.state_dir
        return await self._check(stage, params, jobs, state_dir, copy, named, soft_limit)

    async def schema(
        self, stage: str, params: dict[str, Any], copy: CodeCopy | None, jobs: Sequence[str]
    ) -> CodeReport:
        """Return what a copy says that parameters may be, whether these are accepted or not."""
        config = self._loaded.config
        return await check_code(
            *(stage, self._loaded.root, tuple(jobs), params, config.stages[stage].setup_deadline, self._on_log),
            state_dir=None if copy is None else self._loaded.state_dir,
            copy=copy,
            needed=desired_state.copies(self._document()),
            shared=config.shared_classes,
            concurrency=config.stages[stage].concurrency,
            schema=True,
        )

    async def _check(
        self,
        stage: str,
        params: dict[str, Any],
        jobs: Sequence[str],
        state_dir: Path | None,
        copy: CodeCopy | None = None,
        named: tuple[str, ...] = (),
        soft_limit: float | None = None,
    ) -> CodeReport:
        config, document = self._loaded.config, self._document()
        report = await check_code(
            *(stage, self._loaded.root, tuple(jobs), params, config.stages[stage].setup_deadline, self._on_log),
            state_dir=state_dir,
            copy=copy,
            needed=desired_state.copies(document),
            named=named,
            allowed=config.modules,
            shared=config.shared_classes,
            concurrency=config.stages[stage].concurrency,
            soft_limit=document.stages[stage].soft_limit if soft_limit is None else soft_limit,
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
