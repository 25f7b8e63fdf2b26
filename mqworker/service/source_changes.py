"""Changes of sources: starts and reloads, for which the code in the folder is checked first.

Runs on the Service's main loop; part of Operations. Owns the code checks in progress, one at a time for each source. If
the code check refuses the code, the source stays as it is. Raises ChangeRefused and ControlError.
"""

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Protocol

from mqworker.code_check.client import check_code
from mqworker.config.load import Loaded
from mqworker.control import desired_state
from mqworker.control.desired_state import Change, Document, SetSource
from mqworker.control.errors import ChangeRefused, ControlError
from mqworker.control.source_desired import SourceCode, source_kind
from mqworker.ipc import logs
from mqworker.ipc.check_messages import CodeReport
from mqworker.ipc.records import LogEvent

CHECK_DEADLINE = 60.0  # seconds to import the code and to check the parameters

log = logging.getLogger("mqworker.service.operations")


class SourcesOwner(Protocol):
    """Operations, as the changes of sources see them."""

    document: Document

    def apply(self, asked: Change) -> int:
        """Store a change and bring it about."""


class SourceChanges:
    """See the module head. `again` lets a finished source begin again."""

    def __init__(
        self, loaded: Loaded, on_log: Callable[[LogEvent], None], owner: SourcesOwner, again: Callable[[str], None]
    ) -> None:
        self._loaded = loaded
        self._on_log = on_log
        self._owner = owner
        self._again = again
        self._turns = {name: asyncio.Lock() for name in loaded.config.sources}
        self._tasks: set[asyncio.Task[int]] = set()

    def known(self, name: str) -> None:
        """Raise ControlError if this service has no source with this name."""
        if name not in self._loaded.config.sources:
            raise ControlError("unknown_source", self._loaded.no_source(name))

    async def start(self, name: str, patience: float) -> int:
        """Start a source with the code in the folder; the caller waits `patience` seconds, the change goes on."""
        self.known(name)
        task = asyncio.create_task(self._start(name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        done, _ = await asyncio.wait({task}, timeout=patience)
        if done:
            return task.result()
        task.add_done_callback(functools.partial(_report_late, name))
        what = f"the code is still being checked after {patience:g} s; if it is accepted, the source is started"
        raise ControlError("deadline", what)

    def reload_all(self) -> None:
        """Let every running source adopt the code in the folder; returns without waiting for it."""
        for name, desired in self._owner.document.sources.items():
            if name in self._turns and desired.running:
                task = asyncio.create_task(self._reload(name))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                task.add_done_callback(functools.partial(_report_late, name))

    async def _start(self, name: str) -> int:
        async with self._turns[name]:
            report = await self._check(name)
            if report.problems or report.fields:
                raise ChangeRefused(report.fields, report.problems, code=bool(report.problems))
            revision = self._owner.apply(SetSource(name, running=True, code=self._code(name, report)))
            self._again(name)
            return revision

    async def _reload(self, name: str) -> int:
        async with self._turns[name]:
            report = await self._check(name)
            running = self._owner.document.sources[name].running
            if why := problem(report):
                logs.report(log, logging.ERROR, "not_reloaded", f"source {name} is not reloaded: {why}")
                return self._owner.apply(SetSource(name, running=running, refused=why))
            return self._owner.apply(SetSource(name, running=running, code=self._code(name, report)))

    def _code(self, name: str, report: CodeReport) -> SourceCode:
        config = self._loaded.config.sources[name]
        return SourceCode(config.job, dict(config.params), report.copy)

    async def _check(self, name: str) -> CodeReport:
        report = await check_source(self._loaded, name, self._owner.document, self._on_log)
        for warning in report.warnings:
            logs.report(log, logging.WARNING, "user_code", warning)
        return report


async def check_source(loaded: Loaded, name: str, document: Document, on_log: Callable[[LogEvent], None]) -> CodeReport:
    """Check the code of a source in the folder, after copying it."""
    config = loaded.config.sources[name]
    return await check_code(
        *(f"source {name}", loaded.root, (config.job,), dict(config.params), CHECK_DEADLINE, on_log),
        state_dir=loaded.state_dir,
        needed=desired_state.copies(document),
        source=source_kind(config),
    )


def problem(report: CodeReport) -> str:
    """Return what a check has found, in one line; "" if all is well."""
    problems = [each.partition("\n")[0] for each in report.problems]
    return "; ".join([*problems, *(f"params.{field}: {why}" for field, why in report.fields)])


def _report_late(name: str, task: asyncio.Task[int]) -> None:
    """Log the failure of a change that nobody waits for any more."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logs.report(log, logging.WARNING, "not_reloaded", f"source {name} was not changed: {error}")
