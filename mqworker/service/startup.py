"""What can prevent or delay the start of the Service: the control port, the stored state, the user's code.

Runs once, on the Service's main loop, before the first Producer; it may be cancelled wherever it waits. Owns nothing.
Fails with StartError, one sentence with cause and fix.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from mqworker.code_check.client import check_code
from mqworker.config.load import Loaded
from mqworker.config.model import ControlConfig
from mqworker.control import desired_state
from mqworker.control.chain import enabled
from mqworker.control.desired_state import Document
from mqworker.control.store import Store
from mqworker.exits import Exit
from mqworker.http.server import HttpServer
from mqworker.ipc import logs
from mqworker.ipc.messages import CodeCopy, CodeReport, LogEvent
from mqworker.service.instance import StartError

PORT_PATIENCE = 10.0  # seconds to wait for a taken port to become free
CHECK_DEADLINE = 60.0  # seconds for the check of the code; code that takes longer is left to the Consumers

log = logging.getLogger("mqworker.service.startup")


async def start_up(loaded: Loaded, server: HttpServer, store: Store, on_log: Callable[[LogEvent], None]) -> Document:
    """Bind the port, check the code, and store the initial desired state; returns that state."""
    await _bind(server, loaded.config.control)
    old, notes = _load(store)
    document, _ = desired_state.begin(old, loaded.config)
    found = await _check_user_code(loaded, document, on_log)
    document, more = desired_state.begin(old, loaded.config, found)
    for note in (*notes, *more, *loaded.warnings):
        logs.report(log, logging.WARNING, "configuration", note)
    try:
        store.save(document)
    except OSError as error:  # do not give up for good: supervisord tries again, and there may be space then
        what = f"the state in {loaded.state_dir} cannot be written: {error.strerror}"
        raise StartError(Exit.INTERNAL, f"{what}; free some space, or set service.state_dir") from None
    return document


async def _bind(server: HttpServer, control: ControlConfig) -> None:
    end = time.monotonic() + PORT_PATIENCE
    while True:
        try:
            server.bind()
        except OSError as error:
            if time.monotonic() > end:
                what = f"the control address {control.host}:{control.port} cannot be used ({error.strerror})"
                raise StartError(Exit.INTERNAL, f"{what}: stop what listens there, or set control.port") from None
            await asyncio.sleep(0.2)
        else:
            return


def _load(store: Store) -> tuple[Document | None, list[str]]:
    """Return the stored document, and what to report about it."""
    try:
        old, damage = store.load()
    except OSError as error:
        what = f"the desired state in {store.path} cannot be read: {error.strerror}"
        raise StartError(Exit.CONFIG, f"{what}; make it readable for this user, or move it away") from None
    return old, [damage] if damage else []


async def _check_user_code(
    loaded: Loaded, document: Document, on_log: Callable[[LogEvent], None]
) -> dict[str, CodeCopy | None]:
    """Check the code that will run; return the copies of what the folder has, by stage."""
    reports = await asyncio.gather(*(_check_stage(loaded, document, name, on_log) for name in document.stages))
    for warning in dict.fromkeys(warning for _, report in reports for warning in report.warnings):
        logs.report(log, logging.WARNING, "user_code", warning)
    problems = []
    for name, (_, report) in zip(document.stages, reports, strict=True):
        if report.died:  # the code may not be the reason: the Consumers will find out
            for problem in report.problems:
                logs.report(log, logging.ERROR, "user_code", f"stage {name}: {problem}", stage_name=name)
            continue
        problems += [f"stage {name}: {problem}" for problem in report.problems]
        problems += [f"stage {name}: params.{field}: {problem}" for field, problem in report.fields]
    if problems:
        parts = [problem.partition("\n") for problem in problems]
        summary, tracebacks = "; ".join(line for line, _, _ in parts), (rest for _, _, rest in parts)
        raise StartError(Exit.CONFIG, "\n".join([summary, *tracebacks]))
    return dict(zip(document.stages, (found for found, _ in reports), strict=True))


async def _check_stage(
    loaded: Loaded, document: Document, name: str, on_log: Callable[[LogEvent], None]
) -> tuple[CodeCopy | None, CodeReport]:
    """Return the copy of what the folder has, and the report on the code that will run.

    That is other code if a rollback chose it, and the folder has not changed since.
    """
    stage, needed = document.stages[name], desired_state.copies(document)
    where = name, loaded.root, tuple(enabled(stage.jobs)), stage.params, CHECK_DEADLINE, on_log
    report = await check_code(*where, state_dir=loaded.state_dir, needed=needed)
    found, chosen = report.copy, stage.copy
    same = found is not None and stage.configured.get("code") == found.digest
    if same and chosen is not None and chosen.path(loaded.state_dir).is_dir():
        report = await check_code(*where, state_dir=loaded.state_dir, copy=chosen, needed=needed)
    return found, report
