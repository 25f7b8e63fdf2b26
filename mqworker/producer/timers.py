"""What a stage does because time passes: limits, revoking, publishing again, new Consumers, one summary a minute.

Lives in the Producer, on its loop. `tick` is quick while messages are worked on and slow when nothing happens; it also
measures how late it comes, which is how long the loop was kept from turning.
"""

import logging
import time

from mqworker.ipc import logs
from mqworker.producer.engine import TIME_LIMIT, Engine

BUSY = 0.02  # seconds between ticks while Consumers are busy
QUIET = 0.25
REVOKE_AFTER = 0.02  # seconds that a chunk may take while some of it waits and another Consumer is idle
LONG = 0.005  # seconds after which what was finished before a message is not left to wait for it
STALL = 10.0  # seconds that a Consumer may have a chunk and work on none of its messages: it is stopped, or stuck
STACK_WAIT = 0.2  # seconds for a Consumer to write its stacks before it is killed
SUMMARY = 60.0  # seconds between summaries
RATE_WINDOW = 5.0  # seconds over which the rate is taken

log = logging.getLogger("mqworker.watch")


class Timers:
    """Ticks for one engine."""

    def __init__(self, engine: Engine) -> None:
        self.rate = 0.0
        self.stall = 0.0  # the longest delay of a tick so far
        self._engine = engine
        self._due = time.monotonic()
        self._stacks: dict[int, float] = {}  # lane -> when its stacks were asked for
        self._stalled: dict[int, tuple[int, int]] = {}  # lane -> (chunk, ticks that found no message of it in hand)
        self._counts = [(time.monotonic(), 0)]  # (time, settled) over the last RATE_WINDOW
        self._summary_due = time.monotonic() + SUMMARY
        self._summary_from = (0, 0)

    def tick(self) -> float:
        """Look after everything; returns the seconds until the next tick is due."""
        now = time.monotonic()
        self.stall = max(self.stall, now - self._due)
        engine = self._engine
        self._enforce_hard_limit(now)
        self._end_stalled()
        self._read_outboxes(now)
        self._revoke(now)
        engine.republish(now)
        engine.reconcile(now)
        engine.dispatch()
        self._measure(now)
        if now >= self._summary_due:
            self._summarise(now)
        busy = any(lane.state == "busy" for lane in engine.fleet.lanes.values())
        wait = BUSY if busy else QUIET
        self._due = time.monotonic() + wait
        return wait

    def _enforce_hard_limit(self, now: float) -> None:
        limit = self._engine.desired.hard_limit
        lanes = self._engine.fleet.lanes
        if not limit:
            return
        for number in [number for number in self._stacks if number not in lanes]:
            del self._stacks[number]
        for lane in lanes.values():
            seq, started = lane.in_hand()
            if lane.state != "busy" or not seq or now - started <= limit:
                continue
            asked = self._stacks.setdefault(lane.number, now)
            if asked == now:
                lane.ask_stack()
            elif now - asked > STACK_WAIT:
                lane.kill(f"{TIME_LIMIT} of {limit:g} s")

    def _end_stalled(self) -> None:
        """End a Consumer that was stopped between two messages: no time limit would free those of its chunk.

        Ticks are counted instead of seconds, so that a pause of this process is not held against a Consumer.
        """
        lanes = self._engine.fleet.lanes.values()
        before = self._stalled
        self._stalled = {}
        for lane in lanes:
            if lane.state == "busy" and not lane.in_hand()[0]:
                chunk, ticks = before.get(lane.number, (0, 0))
                ticks = ticks + 1 if chunk == lane.chunk else 1
                self._stalled[lane.number] = (lane.chunk, ticks)
                if ticks * BUSY > STALL:
                    lane.kill(f"it began no message of its chunk for {STALL:g} s")

    def _read_outboxes(self, now: float) -> None:
        """Let no outcome wait in a Consumer for the end of the message after it."""
        for lane in list(self._engine.fleet.lanes.values()):
            seq, started = lane.in_hand()
            if lane.state == "busy" and seq and now - started > LONG:
                lane.read_outbox()

    def _revoke(self, now: float) -> None:
        """Take back what waits behind other work while another Consumer is idle (decisions 2, but for whole chunks)."""
        engine = self._engine
        if engine.ledger.held or not any(engine.fleet.idle()):
            return
        for lane in engine.fleet.lanes.values():
            seq, _ = lane.in_hand()
            if lane.state == "busy" and seq and now - lane.since > REVOKE_AFTER:
                behind = engine.ledger.in_lane(lane.number)
                if len(behind) > 1 and behind[-1].seq != seq and (last := lane.stop_after_message()):
                    engine.ledger.revoke(lane.number, last)  # between two messages the end of the chunk is near

    def _measure(self, now: float) -> None:
        counts = self._counts
        if now - counts[-1][0] >= 0.25:
            counts.append((now, self._engine.ledger.counters.settled))
            while len(counts) > 2 and now - counts[0][0] > RATE_WINDOW:
                counts.pop(0)
            (first, settled_first), (last, settled_last) = counts[0], counts[-1]
            self.rate = (settled_last - settled_first) / max(last - first, 1e-9)

    def _summarise(self, now: float) -> None:
        engine = self._engine
        counters = engine.ledger.counters
        failures = counters.dead + counters.retried
        settled, failed = counters.settled - self._summary_from[0], failures - self._summary_from[1]
        self._summary_from = (counters.settled, failures)
        self._summary_due = now + SUMMARY
        p95 = engine.service_time.quantile()
        backlog = engine.link.depth()
        words = (
            f"{settled:,} settled in a minute ({settled / SUMMARY:,.1f}/s), {failed} failed, "
            f"p95 {_milliseconds(p95)}, backlog {'unknown' if backlog is None else f'{backlog:,}'}, "
            f"{len(engine.ledger)} in hand, {engine.fleet.working()} Consumers"
        )
        rate = round(settled / SUMMARY, 3)
        logs.report(
            log,
            logging.INFO,
            "summary",
            words,
            rate=rate,
            p95_s=p95,
            backlog=backlog,
            failures=failed,
            in_flight=len(engine.ledger),
        )


def _milliseconds(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1000:.3g} ms"
