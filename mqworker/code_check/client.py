"""The asking side of a code check; runs on the Service's main loop, or for `mqworker check` on a loop made for it.

Owns the process for the time of one check. Whatever the user's code does to it (crash, hang, exit, print) becomes a
CodeReport and log events; nothing is raised, and the loop never waits for it.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mqworker.code_check.process import CodeCheck
from mqworker.ipc.child import Child
from mqworker.ipc.messages import CodeQuestion, CodeReport, LogEvent
from mqworker.ipc.spawn import Death

_reports = msgspec.msgpack.Decoder(CodeReport)


async def check_code(
    stage: str,
    root: Path,
    jobs: tuple[str, ...],
    params: dict[str, Any],
    deadline: float,
    on_log: Callable[[LogEvent], None],
) -> CodeReport:
    """Import jobs and validate parameters, within `deadline` seconds; what the code prints goes to `on_log`."""
    answer: asyncio.Future[CodeReport] = asyncio.get_running_loop().create_future()
    names = ", ".join(jobs)

    def on_report(report: CodeReport) -> None:
        if not answer.done():
            answer.set_result(report)

    def on_death(death: Death) -> None:
        how = child.kill_reason or f"it {death}"
        on_report(_without_answer(f"importing {names} ended the process: {how}"))

    child = Child(_reports, on_report, on_death, on_log)
    try:
        child.start(CodeCheck(stage))
    except OSError as error:
        return _without_answer(f"the check could not be started: {error.strerror}")
    try:
        child.send(CodeQuestion(str(root), jobs, msgspec.json.encode(params)))
        async with asyncio.timeout(deadline):
            return await answer
    except TimeoutError:
        return _without_answer(f"importing {names} and checking its parameters took longer than {deadline:g} s")
    finally:
        await child.stop("the check is over")


def _without_answer(why: str) -> CodeReport:
    return CodeReport([why], [], {}, died=True)
