"""The client of the code check; runs on the Service's main loop, or for `mqworker check` on a loop of its own.

Owns the process for the duration of one check. Whatever the user's code does to it (crash, hang, exit, print) becomes a
CodeReport and log events; nothing is raised, and the loop is never blocked.
"""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from mqworker.code_check.process import CodeCheck
from mqworker.ipc.check_messages import CheckReport, CheckRequest, CodeFound, CodeReport
from mqworker.ipc.child import Child
from mqworker.ipc.generation import CodeCopy
from mqworker.ipc.records import LogEvent
from mqworker.ipc.spawn import Death
from mqworker.shared_state.folder import SHARED

_reports = msgspec.msgpack.Decoder(CheckReport)


async def check_code(
    stage: str,
    root: Path,
    jobs: tuple[str, ...],
    params: dict[str, Any],
    deadline: float,
    on_log: Callable[[LogEvent], None],
    *,
    state_dir: Path | None = None,
    copy: CodeCopy | None = None,
    needed: Iterable[CodeCopy] = (),
    named: tuple[str, ...] = (),
    allowed: tuple[str, ...] = (),
    shared: dict[str, str] | None = None,
    source: str = "",
    concurrency: int = 1,
    soft_limit: float = 0.0,
    schema: bool = False,
) -> CodeReport:
    """Import jobs and validate parameters, within `deadline` seconds; what the code prints goes to `on_log`.

    With a `state_dir`, the check looks at `copy`, or makes a copy there and removes the copies that are not `needed`.
    If it finds problems and the code has changed in the meantime (some packages write modules while they are imported),
    it is repeated once. `named`: jobs that must follow the rules for names that a caller gives, in modules of
    `allowed`. `shared`: the classes of the shared objects that have a name. `source`: which kind of source the job is,
    if it is one (CheckRequest). `concurrency` and `soft_limit` are the stage's. `schema`: as in CheckRequest.
    """
    digests = tuple(each.digest for each in needed)
    if state_dir is not None and (state_dir / SHARED).is_dir():
        from mqworker.shared_state.written_by import digests_needed  # noqa: PLC0415 - where there are shared objects

        digests += digests_needed(state_dir)
    where = "" if state_dir is None else str(state_dir)
    request = CheckRequest(
        *(str(root), jobs, msgspec.json.encode(params), where, copy, digests, named, allowed, shared or {}, source),
        concurrency=concurrency,
        soft_limit=soft_limit,
        schema=schema,
    )
    report = await _ask(stage, request, deadline, on_log)
    return await _ask(stage, request, deadline, on_log) if report.edited else report


async def _ask(stage: str, request: CheckRequest, deadline: float, on_log: Callable[[LogEvent], None]) -> CodeReport:
    answer: asyncio.Future[CodeReport] = asyncio.get_running_loop().create_future()
    names = ", ".join(request.jobs)

    found = CodeFound(None)

    def on_report(report: CheckReport) -> None:
        nonlocal found
        if isinstance(report, CodeFound):
            found = report
        elif not answer.done():
            answer.set_result(report)

    def on_death(death: Death) -> None:
        how = child.kill_reason or f"it {death}"
        on_report(_without_answer(f"importing {names} ended the process: {how}"))

    def complete(report: CodeReport) -> CodeReport:
        warnings = (found.warning,) if found.warning else ()
        return msgspec.structs.replace(report, copy=found.copy, warnings=warnings)

    child = Child(_reports, on_report, on_death, on_log)
    try:
        child.start(CodeCheck(stage))
    except OSError as error:
        return _without_answer(f"the check could not be started: {error.strerror}")
    try:
        child.send(request)
        async with asyncio.timeout(deadline):
            return complete(await answer)
    except TimeoutError:
        return complete(
            _without_answer(f"importing {names} and checking its parameters took longer than {deadline:g} s")
        )
    finally:
        await child.stop("the check is over")


def _without_answer(why: str) -> CodeReport:
    return CodeReport([why], [], {}, died=True)
