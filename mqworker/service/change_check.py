"""Whether the code of a stage accepts a change: runs a code check, and turns what it finds into a refusal.

Runs on the Service's main loop, for checked_changes.py. Logs the warnings of the check. The report lists the shared
objects that the code uses; a shared object that a stage of another service also uses is refused. Raises ChangeRefused.
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
    """See the module head. `document` returns the present document: the copies that it names are kept."""

    def __init__(self, loaded: Loaded, on_log: Callable[[LogEvent], None], document: Callable[[], Document]) -> None:
        self._loaded = loaded
        self._on_log = on_log
        self._document = document

    async def folder(self, stage: str, params: dict[str, Any], jobs: Sequence[str]) -> CodeReport:
        """Check the code in the folder, after copying it."""
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
        """Check a copy of the code; without one (None), the code in the folder itself.

        `named`: jobs that a caller has named. `soft_limit`: a new soft limit; None for the present one.
        """
        state_dir = None if copy is None else self._loaded.state_dir
        return await self._check(stage, params, jobs, state_dir, copy, named, soft_limit)

    async def schema(
        self, stage: str, params: dict[str, Any], copy: CodeCopy | None, jobs: Sequence[str]
    ) -> CodeReport:
        """Return the schema of the parameters by a copy of the code, whether or not it accepts these parameters."""
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
