"""What a stage does because time passes: limits, revoking, publishing again, new Consumers, one summary a minute.

Lives in the Producer, on its loop. `tick` is called often while messages are worked on and rarely when nothing happens;
it also measures how late it is called, that is, how long the loop was blocked.
"""

import logging
import time

from mqworker.control.wording import seconds
from mqworker.ipc import logs
from mqworker.producer.flow import EVERY, Flow, Sample
from mqworker.producer.limits import Limits
from mqworker.producer.stage import Stage
from mqworker.producer.usage import Usage

BUSY = 0.02  # seconds between ticks while Consumers are busy
QUIET = 0.25
DEAD_EVERY = 5.0  # seconds between requests for the number of dead letters
SUMMARY = 60.0  # seconds between summaries

log = logging.getLogger("mqworker.timers")


class Timers:
    """Ticks for one stage."""

    def __init__(self, stage: Stage) -> None:
        self.flow = Flow()
        self.stall = 0.0  # the longest delay of a tick so far
        self.usage = Usage()
        self._stage = stage
        self._dead_due = 0.0  # when to ask for the number of dead letters
        self._limits = Limits(stage.dispatch.fleet, stage.dispatch.lane_labels)
        self._due = time.monotonic()
        self._measured = 0.0  # when `flow` got its last sample
        self._available = 0.0  # seconds of Consumers until then
        self._summary_due = time.monotonic() + SUMMARY
        self._summary_from = (0, 0)

    def tick(self) -> float:
        """Do everything that is due; returns the seconds until the next tick."""
        now = time.monotonic()
        self.stall = max(self.stall, now - self._due)
        stage = self._stage
        stage.register.pulse(now)
        self._limits.enforce(stage.desired, now, BUSY)
        stage.dispatch.revoke(now)
        stage.settlement.republish(now)
        stage.reconcile(now)
        stage.dispatch.feed()
        self._measure(now)
        self.usage.look(stage.dispatch.fleet.roster.lanes.values(), now)
        if now >= self._dead_due and stage.link.state.connected:
            self._dead_due = now + DEAD_EVERY
            stage.link.ask_dead_depth()
        if now >= self._summary_due:
            self._summarise(now)
        wait = BUSY if stage.dispatch.fleet.roster.busy() else QUIET
        if stage.throttle is not None:
            wait = min(wait, max(BUSY, stage.throttle.due() - now))
        self._due = time.monotonic() + wait
        return wait

    def _measure(self, now: float) -> None:
        since, ledger, fleet = now - self._measured, self._stage.ledger, self._stage.dispatch.fleet
        if since >= EVERY:
            if self._measured:
                self._available += since * max(fleet.roster.working(), len(fleet.roster.busy()))
            self._measured = now
            depth, busy = self._stage.link.depth(), fleet.roster.busy_seconds(now)
            self._stage.settlement.away.look(self._stage.link.others(), depth, now)
            self.flow.observe(
                Sample(now, ledger.counters.settled, len(ledger), depth, busy, self._available, self._held_up_by())
            )

    def _held_up_by(self) -> str:
        """Return what keeps Consumers idle just after they were fed: `output`, `order`, or "" if nothing does."""
        stage = self._stage
        ledger, throttle = stage.ledger, stage.throttle
        if not stage.dispatch.fleet.roster.vacant:
            return ""
        if throttle is not None and len(ledger.backlog) and not throttle.room():
            return "output"
        full = 0 < stage.intake.prefetch <= len(ledger)  # all that may be here is here, also what waits for its turn
        return "order" if stage.ordering is not None and (len(ledger.backlog) or full) else ""

    def _summarise(self, now: float) -> None:
        stage = self._stage
        counters = stage.ledger.counters
        failures = counters.dead + counters.retried + counters.delayed
        settled, failed = counters.settled - self._summary_from[0], failures - self._summary_from[1]
        self._summary_from = (counters.settled, failures)
        self._summary_due = now + SUMMARY
        p95 = stage.service_time.quantile()
        backlog = stage.link.depth()
        delayed = None if stage.ledger.attempts is None else len(stage.ledger.attempts)
        message = (
            f"{settled:,} settled in a minute ({settled / SUMMARY:,.1f}/s), {failed} failed, "
            f"p95 {'unknown' if p95 is None else seconds(p95)}, "
            f"backlog {'unknown' if backlog is None else f'{backlog:,}'}, "
            f"{len(stage.ledger)} in hand{f', {delayed} of them delayed' if delayed else ''}, "
            f"{stage.dispatch.fleet.roster.working()} Consumers"
        )
        logs.report(
            log,
            logging.INFO,
            "summary",
            message,
            rate=round(settled / SUMMARY, 3),
            p95_s=p95,
            backlog=backlog,
            failures=failed,
            in_flight=len(stage.ledger),
            delayed=delayed,
        )
