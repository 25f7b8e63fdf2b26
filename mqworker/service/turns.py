"""Slow changes, one at a time for each stage, in the order in which they were requested.

Runs on the Service's main loop. Owns the tasks in which changes are carried out; only a limited number may wait for
each stage. A caller waits for a while; after that the change goes on alone, and its outcome is logged. Raises
ControlError("busy") and ControlError("deadline"), and whatever the change raises.
"""

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import Coroutine, Iterable
from typing import Any

from mqworker.control.errors import ControlError
from mqworker.control.operator import Stored
from mqworker.ipc import logs

WAITING = 32  # changes of a stage that may be in progress or wait for their turn

log = logging.getLogger("mqworker.service.operations")

Carried = Coroutine[Any, Any, Stored]


class Turns:
    """See the module head."""

    def __init__(self, stages: Iterable[str]) -> None:
        self._turns = {name: asyncio.Lock() for name in stages}
        self._waiting: Counter[str] = Counter()  # stage -> changes in progress or waiting
        self._tasks: set[asyncio.Task[Stored]] = set()

    def begin(self, stage: str, change: Carried) -> asyncio.Task[Stored]:
        """Carry out a change of a stage in its turn."""
        if self._waiting[stage] >= WAITING:
            change.close()
            what = f"{WAITING} changes of stage {stage} are being checked or waiting: try again later"
            raise ControlError("busy", what)
        self._waiting[stage] += 1
        task = asyncio.create_task(self._in_turn(stage, change))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # the caller may have left
        return task

    async def _in_turn(self, stage: str, change: Carried) -> Stored:
        try:
            async with self._turns[stage]:
                return await change
        finally:
            self._waiting[stage] -= 1
            change.close()

    async def answer(self, stage: str, task: asyncio.Task[Stored], patience: float, refused: str) -> Stored:
        """Return the result of a change once the user's code has accepted it; the caller waits `patience` seconds.

        `refused`: the event to log if it is refused after that.
        """
        done, _ = await asyncio.wait({task}, timeout=patience)
        if done:
            return task.result()
        self.report(stage, task, refused)
        raise ControlError(
            "deadline",
            f"the code is still being checked after {patience:g} s; the change is stored if it accepts it, after those"
            " that were asked for before, and the log says so",
        )

    def report(self, stage: str, task: asyncio.Task[Stored], refused: str) -> None:
        """Log the refusal of a change that nobody waits for; a change that is stored is logged elsewhere."""
        task.add_done_callback(functools.partial(_report_refused, refused, stage))


def _report_refused(event: str, stage: str, task: asyncio.Task[Stored]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logs.report(log, logging.WARNING, event, f"stage {stage} was not changed: {error}", stage_name=stage)
