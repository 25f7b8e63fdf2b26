"""The processes of a run: one checks the code, then a Stage in our own process has Consumers compute the lines.

Runs on the loop of `mqworker map`. Owns the Stage and its Timers. Calls `fails` if no line will ever be computed, or if
the periodic work raises. `end` leaves no process behind. Raises MapError for code that cannot be used.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from mqworker.brokers.base import Link
from mqworker.code_check.client import check_code
from mqworker.config.model import BrokerConfig
from mqworker.exits import Exit
from mqworker.ipc import logs
from mqworker.ipc.generation import Generation
from mqworker.ipc.producer_messages import Desired
from mqworker.ipc.stage_spec import StageSpec
from mqworker.mapping.watcher import Watcher
from mqworker.mapping.work import MapError, MapStage
from mqworker.producer.acks import GAP_WAIT
from mqworker.producer.stage import Stage
from mqworker.producer.timers import Timers
from mqworker.service.orphans import Orphans

GRACE = 2.5  # seconds for lines in hand after a signal; with the other steps, the run ends within 5
LAST = 0.5  # seconds for each of the steps after that
_NEVER = ("Consumers cannot be set up", "a Consumer could not be started")  # how such problems begin

log = logging.getLogger("mqworker.mapping")


async def checked(stage: MapStage, folder: Path, watcher: Watcher) -> Generation:
    """Check the code of a stage, and return the generation that its Consumers run: a copy in the folder."""
    report = await check_code(
        *(stage.name, stage.root, stage.work.jobs, stage.work.params, stage.config.setup_deadline, watcher.event),
        state_dir=folder,
        shared=stage.shared,
        concurrency=stage.config.concurrency,
        soft_limit=stage.config.time_limit.soft,
    )
    if problems := report.problems + [f"params.{field}: {problem}" for field, problem in report.fields]:
        raise MapError(Exit.CONFIG, "\n".join(problems))
    if report.shared:
        names = ", ".join(use.name for use in report.shared)
        what = f"{names}: shared objects keep their state in a service, and map runs without one"
        raise MapError(Exit.CONFIG, f"{what}; run the stage, and send it the lines by `mqworker send`")
    for warning in report.warnings:
        logs.report(log, logging.WARNING, "user_code", warning)
    return Generation(1, 1, list(stage.work.jobs), report.copy, msgspec.json.encode(stage.work.params))


class Crew:
    """See the module head. `link_factory` is called with the arguments of `open_link`."""

    def __init__(
        self,
        stage: MapStage,
        generation: Generation,
        folder: Path,
        watcher: Watcher,
        link_factory: Callable[..., Link],
        fails: Callable[[int, str], None],
    ) -> None:
        spec = StageSpec(
            *("map", stage.name, stage.config, BrokerConfig(url="file:", ack_timeout=0.0)),
            *(str(stage.root), str(folder), GRACE),
        )
        limits = stage.config.time_limit
        desired = Desired(1, True, stage.consumers, generation, None, limits.soft, limits.hard, logging.INFO)
        self.orphans = Orphans()
        self._fails = fails
        self._was_ready = False  # a Consumer has been set up
        self._stage = Stage(spec, desired, watcher.event, self._changed, link_factory)
        self._timers = Timers(self._stage)

    def start(self) -> None:
        """Begin."""
        self._stage.start()
        self._tick()

    async def end(self, patience: float, leave: float, hurry: Callable[[], bool]) -> None:
        """End everything: lines in hand may take `patience` seconds, idle Consumers `leave`; less in a `hurry`."""
        stage = self._stage
        ledger, fleet, end = stage.ledger, stage.dispatch.fleet, time.monotonic() + patience
        stage.register.end_life()  # from now on, the death of a Consumer does not count against its lines
        stage.quiet()
        while (len(ledger.assignments) or len(ledger.publications)) and time.monotonic() < end and not hurry():
            stage.intake.give_back_held()  # what a dying Consumer has left
            await asyncio.sleep(0.01)
        if len(ledger.assignments):
            fleet.kill_all("the run ends")
        stage.settlement.send_acks(time.monotonic() + GAP_WAIT)  # also those that still wait behind a gap
        await self._emptied(max(leave, end - time.monotonic()), hurry)
        fleet.kill_all("it did not end in time")
        await self._emptied(LAST, lambda: False)
        await self.orphans.end(LAST)

    # --- inside

    async def _emptied(self, seconds: float, hurry: Callable[[], bool]) -> None:
        end, lanes = time.monotonic() + seconds, self._stage.dispatch.fleet.roster.lanes
        while lanes and time.monotonic() < end and not hurry():  # noqa: ASYNC110 - runs once, at the end
            await asyncio.sleep(0.005)

    def _changed(self) -> None:
        self._was_ready = self._was_ready or self._stage.dispatch.fleet.roster.working() > 0

    def _tick(self) -> None:
        try:
            wait = self._timers.tick()
        except Exception as error:
            log.exception("the periodic work failed", extra={"event": "failed"})
            self._fails(Exit.INTERNAL, f"{type(error).__name__}: {error}")
            return
        if hopeless := self._hopeless():
            self._fails(Exit.RESTARTS_EXHAUSTED, hopeless)
        asyncio.get_running_loop().call_later(wait, self._tick)

    def _hopeless(self) -> str:
        """Return why no line will ever be computed; "" if some may be."""
        fleet = self._stage.dispatch.fleet
        problem = fleet.staffing.problem
        if (
            not fleet.staffing.crash_loop
            or fleet.roster.working()
            or (self._was_ready and not problem.startswith(_NEVER))
        ):
            return ""
        return problem
