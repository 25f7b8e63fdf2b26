"""The schemas of each stage's parameters: runs a code check once for each code and chain, and keeps the answers.

Runs on the Service's main loop, called through Control. Owns the checks in progress, at most one for each request and
AT_ONCE in all, and the last answers. A caller waits for a while, and a check that has begun goes on without the caller;
a later request gets its answer. A check that has not begun is cancelled when nobody waits for it any more. Raises
ControlError("deadline"), and ChangeRefused if the code cannot be imported, which is not kept.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from mqworker.control.chain import enabled
from mqworker.control.errors import ChangeRefused, ControlError
from mqworker.control.operator import ParamsForm
from mqworker.control.stage_desired import StageDesired, digest_of
from mqworker.ipc.check_messages import CodeReport
from mqworker.ipc.generation import CodeCopy

KEPT = 16  # answers
AT_ONCE = 2  # checks: each is a process that imports the user's code

_Key = tuple[str, str, tuple[str, ...], bytes]


class _Check:
    """A check in progress, or one that waits for its turn."""

    def __init__(self, check: Callable[[], Awaitable[CodeReport]], turns: asyncio.Semaphore) -> None:
        self.waiting = 0  # callers that wait for its answer
        self.begun = False
        self.task = asyncio.ensure_future(self._run(check, turns))

    async def _run(self, check: Callable[[], Awaitable[CodeReport]], turns: asyncio.Semaphore) -> CodeReport:
        async with turns:
            self.begun = True
            return await check()


class ParamsSchemas:
    """See the module head. `stage` returns a stage, or raises; `ask` runs a code check on a copy of the code."""

    def __init__(self, stage: Callable[[str], StageDesired], ask: Callable[..., Any]) -> None:
        self._stage = stage
        self._ask = ask
        self._kept: OrderedDict[_Key, CodeReport] = OrderedDict()
        self._asked: dict[_Key, _Check] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def of(self, name: str, patience: float) -> ParamsForm:
        """Return the schema of a stage's parameters, and the parameters with the code's defaults filled in."""
        stage = self._stage(name)
        jobs = tuple(enabled(stage.jobs))
        key = (name, digest_of(stage.copy), jobs, msgspec.json.encode(stage.params, order="sorted"))
        report = self._kept.get(key)
        if report is None:
            report = await self._found(key, stage.copy, stage.params, patience)
        return ParamsForm(report.schema, report.defaults or stage.params, stage.generation)

    async def _found(self, key: _Key, copy: CodeCopy | None, params: dict[str, Any], patience: float) -> CodeReport:
        check = self._asked.get(key)
        if check is None:
            name, _, jobs, _ = key
            check = self._asked[key] = _Check(lambda: self._ask(name, params, copy, jobs), self._turns)
            check.task.add_done_callback(lambda done: self._end(key, done, keep=copy is not None))
        check.waiting += 1
        try:
            done, _ = await asyncio.wait({check.task}, timeout=patience)
        finally:
            check.waiting -= 1
            if not check.waiting and not check.begun and self._asked.get(key) is check:
                del self._asked[key]  # the next caller asks again
                check.task.cancel()
        if not done:
            raise ControlError("deadline", f"the code is still being imported after {patience:g} s; ask again later")
        report = check.task.result()
        if report.problems:
            raise ChangeRefused([], report.problems, code=True)
        return report

    def _end(self, key: _Key, done: asyncio.Task[CodeReport], *, keep: bool) -> None:
        """Keep an answer, unless it is about a folder, whose code may have changed by now, or is a failure."""
        if key in self._asked and self._asked[key].task is done:
            del self._asked[key]
        if done.cancelled() or done.exception() is not None or done.result().problems or not keep:
            return
        self._kept[key] = done.result()
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
