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
from mqworker.control.desired_state import Document
from mqworker.control.store import Store
from mqworker.exits import Exit
from mqworker.http.server import HttpServer
from mqworker.ipc import logs
from mqworker.ipc.messages import LogEvent
from mqworker.service.instance import StartError

PORT_PATIENCE = 10.0  # seconds to wait for a taken port to become free
CHECK_DEADLINE = 60.0  # seconds for the check of the code; code that takes longer is left to the Consumers

log = logging.getLogger("mqworker.service.startup")


async def start_up(loaded: Loaded, server: HttpServer, store: Store, on_log: Callable[[LogEvent], None]) -> Document:
    """Bind the port, check the code, and store the initial desired state; returns that state."""
    await _bind(server, loaded.config.control)
    document, notes = _load(loaded, store)
    for note in (*notes, *loaded.warnings):
        logs.report(log, logging.WARNING, "configuration", note)
    document = await _check_user_code(loaded, document, on_log)
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


def _load(loaded: Loaded, store: Store) -> tuple[Document, list[str]]:
    """Return the initial document, and what to report about it."""
    try:
        old, damage = store.load()
    except OSError as error:
        what = f"the desired state in {store.path} cannot be read: {error.strerror}"
        raise StartError(Exit.CONFIG, f"{what}; make it readable for this user, or move it away") from None
    document, notes = desired_state.begin(old, loaded.config)
    return document, [damage, *notes] if damage else notes


async def _check_user_code(loaded: Loaded, document: Document, on_log: Callable[[LogEvent], None]) -> Document:
    """Return the document with the copies of the code that was checked."""
    stages = loaded.config.stages
    reports = await asyncio.gather(
        *(
            check_code(
                *(name, loaded.root, stage.jobs, document.stages[name].params, CHECK_DEADLINE, on_log),
                state_dir=loaded.state_dir,
                needed=desired_state.copies(document),
            )
            for name, stage in stages.items()
        )
    )
    for warning in dict.fromkeys(warning for report in reports for warning in report.warnings):
        logs.report(log, logging.WARNING, "user_code", warning)
    problems = []
    for name, report in zip(stages, reports, strict=True):
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
    return desired_state.with_copies(document, dict(zip(stages, (report.copy for report in reports), strict=True)))
