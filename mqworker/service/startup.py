"""What can prevent or delay the start of the Service: the control port, the stored state, the user's code.

Runs once, on the Service's main loop, before the first Producer; it may be cancelled wherever it waits. Owns nothing.
Raises StartError, one sentence with cause and fix.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from mqworker.code_check.client import check_code
from mqworker.config.load import Loaded
from mqworker.config.model import ControlConfig
from mqworker.control import desired_state, generations
from mqworker.control.chain import enabled
from mqworker.control.desired_state import Document
from mqworker.control.generations import FoundCode
from mqworker.control.source_desired import FoundSource
from mqworker.control.stage_desired import StageDesired, described
from mqworker.control.store import Store
from mqworker.exits import Exit
from mqworker.http.server import HttpServer
from mqworker.ipc import logs
from mqworker.ipc.check_messages import CodeReport
from mqworker.ipc.generation import CodeCopy
from mqworker.ipc.records import LogEvent
from mqworker.service.instance import StartError
from mqworker.service.part import used_elsewhere
from mqworker.service.source_changes import check_source, problem

PORT = "control.port (MQWORKER_CONTROL__PORT)"
PORT_PATIENCE = 10.0  # seconds to wait for a taken port to become free
CHECK_DEADLINE = 60.0  # seconds for the check of the code; code that takes longer is left to the Consumers

log = logging.getLogger("mqworker.service.startup")


async def start_up(
    loaded: Loaded,
    server: HttpServer,
    store: Store,
    on_log: Callable[[LogEvent], None],
    prepare: Callable[[Document], None],
) -> Document:
    """Bind the port, check the code, and store the initial desired state; returns that state.

    While the code is being checked, `prepare` is called once, with the initial state except for the code.
    """
    await _bind(server, loaded.config.control)
    old, notes = _load(store)
    document, _ = desired_state.begin(old, loaded.config, elsewhere=loaded.elsewhere)
    checks = _check_user_code(loaded, old, document, on_log), _check_sources(loaded, document, on_log)
    found, sources, _ = await asyncio.gather(*checks, _beside(prepare, document))
    document, more = desired_state.begin(old, loaded.config, found, elsewhere=loaded.elsewhere, sources=sources)
    for note in (*notes, *more, *loaded.warnings):
        logs.report(log, logging.WARNING, "configuration", note)
    try:
        store.save(document)
    except OSError as error:  # not for good: supervisord tries again, and there may be space then
        what = f"the state in {loaded.state_dir} cannot be written: {error.strerror}"
        raise StartError(Exit.INTERNAL, f"{what}; free some space, or set service.state_dir") from None
    for name, stage in document.stages.items():
        logs.report(log, logging.INFO, "generation", f"stage {name}: {described(stage.version)}", stage_name=name)
    return document


async def _beside(prepare: Callable[[Document], None], document: Document) -> None:
    """Call `prepare` once the checks, for which everything waits, have been started."""
    await asyncio.sleep(0)
    prepare(document)


async def _bind(server: HttpServer, control: ControlConfig) -> None:
    end = time.monotonic() + PORT_PATIENCE
    while True:
        try:
            server.bind()
        except OSError as error:
            if time.monotonic() > end:
                what = f"the control address {control.host}:{control.port} cannot be used ({error.strerror})"
                raise StartError(Exit.INTERNAL, f"{what}: stop what listens there, or set {PORT}") from None
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
    loaded: Loaded, old: Document | None, document: Document, on_log: Callable[[LogEvent], None]
) -> dict[str, FoundCode]:
    """Check the code that will run; return what was found, by stage."""
    before = old.known if old is not None else {}
    checks = [_StageCheck(loaded, before.get(name), document, name, on_log).run() for name in document.stages]
    found = dict(zip(document.stages, await asyncio.gather(*checks), strict=True))
    for warning in dict.fromkeys(warning for _, report in found.values() for warning in report.warnings):
        logs.report(log, logging.WARNING, "user_code", warning)
    problems = []
    for name, (_, report) in found.items():
        if report.died:  # the code may not be the reason: the Consumers will show
            for problem in report.problems:
                logs.report(log, logging.ERROR, "user_code", f"stage {name}: {problem}", stage_name=name)
            continue
        problems += [f"stage {name}: {problem}" for problem in _problems(report)]
    uses = [use for each, _ in found.values() for use in each.shared or ()]
    problems = problems or list((await used_elsewhere(loaded, uses, on_log)).values())
    if problems:
        parts = [problem.partition("\n") for problem in problems]
        summary, tracebacks = "; ".join(line for line, _, _ in parts), (rest for _, _, rest in parts)
        raise StartError(Exit.CONFIG, "\n".join([summary, *tracebacks]))
    return {name: each for name, (each, _) in found.items()}


async def _check_sources(
    loaded: Loaded, document: Document, on_log: Callable[[LogEvent], None]
) -> dict[str, FoundSource]:
    """Check the code of the sources; if it is refused, the previous code stays in use, if it is kept."""
    names = list(loaded.config.sources)
    reports = await asyncio.gather(*(check_source(loaded, name, document, on_log) for name in names))
    found, problems = {}, []
    for name, report in zip(names, reports, strict=True):
        why = problem(report)
        if why and (report.died or document.sources[name].code.is_there(loaded.state_dir)):
            logs.report(log, logging.ERROR, "user_code", f"source {name}: {why}")
            found[name] = FoundSource(report.copy, "" if report.died else why)
        elif why:
            problems += [f"source {name}: {each}" for each in _problems(report)]
        else:
            found[name] = FoundSource(report.copy)
    if problems:
        raise StartError(Exit.CONFIG, "; ".join(each.partition("\n")[0] for each in problems))
    return found


def _problems(report: CodeReport) -> list[str]:
    return report.problems + [f"params.{field}: {problem}" for field, problem in report.fields]


def _first_lines(report: CodeReport) -> list[str]:
    """Return the problems without tracebacks."""
    return [problem.partition("\n")[0] for problem in _problems(report)]


class _StageCheck:
    """Finds out which code a stage will run, and checks only that: code that a rollback replaced is not imported."""

    def __init__(
        self,
        loaded: Loaded,
        old: StageDesired | None,
        document: Document,
        name: str,
        on_log: Callable[[LogEvent], None],
    ) -> None:
        self._loaded, self._name, self._on_log = loaded, name, on_log
        self._old = old
        self._stage = document.stages[name]
        self._needed = desired_state.copies(document)

    async def run(self) -> tuple[FoundCode, CodeReport]:
        """Return the code that was found, and the report on what will run."""
        stage = self._stage
        if "code" in stage.configured and stage.copy is not None:
            folder = (await self._ask(stage, None, look=False)).copy
            found = FoundCode(folder, chosen=stage.copy.path(self._loaded.state_dir).is_dir())
            report = await self._ask_begun(found)
        else:
            report = await self._ask(stage, None)
            found = FoundCode(report.copy)
        if not report.died:
            found = found._replace(shared=report.shared)
        for without in (found._replace(params=False), found._replace(jobs=False, params=False)):
            if report.died or not (report.problems or report.fields):
                break
            if self._begun(without) != self._begun(found):  # values that were changed at run time may be the reason
                other = await self._ask_begun(without)
                if not (other.problems or other.fields):
                    return without._replace(shared=other.shared), other
        if not report.died and (report.problems or report.fields) and (last := await self._ask_last()) is not None:
            return found._replace(refused="; ".join(_first_lines(report)), shared=last.shared), last
        return found, report

    async def _ask_last(self) -> CodeReport | None:
        """Return the report on the generation that was last in use; None if it cannot be used."""
        old = self._old
        if old is None or old.copy is None or not old.copy.path(self._loaded.state_dir).is_dir():
            return None
        report = await self._ask(old, old.copy)
        return None if report.problems or report.fields else report

    def _begun(self, found: FoundCode) -> StageDesired:
        return generations.begin(self._stage, None, self._loaded.config.stages[self._name], found)[0]

    async def _ask_begun(self, found: FoundCode) -> CodeReport:
        stage = self._begun(found)
        return await self._ask(stage, stage.copy)

    async def _ask(self, stage: StageDesired, copy: CodeCopy | None, *, look: bool = True) -> CodeReport:
        """Check what this stage runs, from a copy; without one, from the folder, after copying it."""
        config, deadline = self._loaded.config, CHECK_DEADLINE
        if config.shared or stage.shared:  # only the check shows which shared objects the jobs use
            deadline = config.stages[self._name].setup_deadline
        return await check_code(
            *(self._name, self._loaded.root, tuple(enabled(stage.jobs)) if look else ()),
            *(stage.params, deadline, self._on_log),
            state_dir=self._loaded.state_dir,
            copy=copy,
            needed=self._needed,
            shared=config.shared_classes,
            concurrency=config.stages[self._name].concurrency,
            soft_limit=stage.soft_limit,
        )
