"""Ends `run --burst`: asks the broker when the rule wants it, counts what was done, and returns the exit code.

Runs on the Service's main loop; burst_rule.py decides when the run is over. The broker is asked through the broker
admin, again and again until it answers. Dead letters are noticed in two ways: the Producers count them, and the
dead-letter queues hold more than at the start, in case a Producer was killed before it could report.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection

from mqworker.broker_admin.client import BrokerAdminClient
from mqworker.control.errors import ControlError
from mqworker.control.views import StageView
from mqworker.exits import Exit
from mqworker.http.totals import Totals
from mqworker.ipc import logs
from mqworker.service.burst_rule import Ask, BurstRule, End, Left

ASK_DEADLINE = 30.0  # seconds for the broker's answer: it is asked about some 25 queues a stage, one by one
COUNTED = {"result": "results", "dropped": "dropped", "retried": "retried", "dead": "dead"}  # counters and their names

log = logging.getLogger("mqworker.service.burst")


class Burst:
    """See the module head."""

    def __init__(self, broker_admin: BrokerAdminClient) -> None:
        self._broker_admin = broker_admin
        self._rule = BurstRule()
        self._totals = Totals()
        self._before: dict[str, Left] | None = None  # the broker's first answer
        self._request: asyncio.Task[None] | None = None

    def beat(self, stages: Collection[StageView], *, paused: bool, sources_over: bool) -> Exit | None:
        """Do what is due; returns the exit code once the run is over, which it is not before the sources are."""
        for stage in stages:
            if stage.actual is not None:
                self._totals.count(stage.name, stage.actual.pid, stage.actual.counters)
        if self._request is not None and self._request.done():
            self._request.result()  # raises internal errors, which end the Service
            self._request = None
        todo = self._rule.look(stages, time.monotonic(), paused=paused) if sources_over else None
        if isinstance(todo, End):
            return self._end(todo, stages)
        if self._request is None and (todo is not None or self._before is None):
            self._request = asyncio.create_task(self._ask(todo))
        return None

    async def _ask(self, asked: Ask | None) -> None:
        with contextlib.suppress(ControlError):
            answer = await self._broker_admin.ask("left", {}, ASK_DEADLINE)
            left = {name: Left(*counts) for name, counts in answer.items()}
            if self._before is None:
                self._before = left
            if asked is not None:
                self._rule.answered(asked.number, left, time.monotonic())

    def _end(self, end: End, stages: Collection[StageView]) -> Exit:
        before = self._before or {}
        done = {name: sum(int(self._totals.of(stage.name).get(name, 0)) for stage in stages) for name in COUNTED}
        left = {name: here.retries + here.ready for name, here in end.left.items() if here.retries + here.ready}
        died = any(here.dead > before.get(name, here).dead for name, here in end.left.items())
        what = ", ".join(f"{count} {COUNTED[name]}" for name, count in done.items())
        rest = "".join(f"; {count} are left in {name}" for name, count in left.items())
        loops = "".join(f"; {name} is in a crash loop" for name in end.stuck)
        level, message = logging.ERROR if end.stuck else logging.INFO, f"nothing more to do: {what}{rest}{loops}"
        total, stuck = sum(left.values()), ", ".join(end.stuck) or None
        logs.report(log, level, "burst_done", message, **done, left=total, crash_loops=stuck)
        if end.stuck:
            return Exit.RESTARTS_EXHAUSTED
        return Exit.DEAD if done["dead"] or died else Exit.OK
