"""Settlement: turns outcomes into plans, plans into publications, and confirms into acks.

Lives in the Producer, on its loop. Receives outcomes and deaths from dispatch, and the broker's answers to
publications; sends publications and acks to the link. The decisions are pure (policy.py, the ledger); this module
carries them out and logs them. Nothing here waits, or raises because of a message.
"""

import asyncio
import logging
import random
import socket
import time
from collections.abc import Sequence
from typing import Any

from mqworker.amqp.labels import labels
from mqworker.brokers.base import Link
from mqworker.ipc import logs
from mqworker.ipc.consumer_messages import Failure, Outcome
from mqworker.ipc.stage_spec import StageSpec
from mqworker.producer.acks import Ack
from mqworker.producer.entry import Again, Entry, Plan
from mqworker.producer.failure_messages import Circumstances
from mqworker.producer.faults import FaultTable
from mqworker.producer.journal import failed
from mqworker.producer.ledger import Ledger
from mqworker.producer.policy import (
    isolation,
    plan_crash,
    plan_dead,
    plan_failure,
    plan_renewal,
    plan_result,
    plan_too_large,
)
from mqworker.producer.publications import AnyPublish, Publish
from mqworker.producer.retries_away import RetriesAway
from mqworker.producer.settlement_notices import SettlementNotices

GAP_LOOK = 0.006  # seconds until acks behind a gap are due

log = logging.getLogger("mqworker.settlement")


class Settlement:
    """See the module head."""

    def __init__(self, spec: StageSpec, ledger: Ledger, link: Link) -> None:
        settled = ledger.publications.settled_keys
        self.notices = SettlementNotices(spec.stage, spec.config, spec.state_dir, settled)
        self.processed = {"processed_result": 0, "processed_dropped": 0, "processed_failed": 0}
        self.faults = FaultTable()
        self.retry_until = 0.0  # the time by which all our retries should have come back
        self.away = RetriesAway(spec.config.input.queue)
        self.last_settled = 0.0
        self.generation = 0  # stamped on messages that no Consumer computed
        self._spec = spec
        self._config = spec.config
        self._ledger = ledger
        self._link = link
        self._host = socket.gethostname()
        self._gap_look: asyncio.TimerHandle | None = None

    # --- called by dispatch and intake

    def finished(self, entry: Entry, outcome: Outcome, now: float, slot: int = -1) -> list[AnyPublish]:
        """Settle a message that the Consumer with this slot finished; returns the publications for it."""
        entry.work = now, outcome.duration, outcome.generation, slot, ""
        if outcome.failure is not None:
            self.processed["processed_failed"] += 1
            plan_for = plan_crash if outcome.failure.reason == "crash" else plan_failure  # it ended a thread or task
            plan_or_again = plan_for(entry, outcome.failure, self._config, self._about(outcome.generation, entry))
            return self._fail(entry, outcome.failure, plan_or_again)
        plan = plan_result(entry, outcome, self._config)
        dropped = plan.outcome == "dropped"
        self.processed["processed_dropped" if dropped else "processed_result"] += 1
        if log.isEnabledFor(logging.DEBUG):
            about, seconds = self._labels(entry), round(outcome.duration, 6)
            message = f"done in {seconds:g} s" + (", without a result" if dropped else "")
            logs.report(log, logging.DEBUG, plan.outcome, message, **about, duration_s=seconds)
        self.notices.planned(entry, plan)
        return self._ledger.finished(outcome.seq, plan, now)

    def crashed(self, entry: Entry, failure: Failure, generation: int, duration: float, slot: int) -> bool:
        """Charge a message with the death of its Consumer; return whether it comes back."""
        entry.work = time.monotonic(), duration, generation, slot, ""
        plan = plan_crash(entry, failure, self._config, self._about(generation, entry))
        self.send(self._fail(entry, failure, plan))
        return isinstance(plan, Again) or plan.outcome == "retried"

    def convicted(self, entry: Entry, failure: Failure) -> None:
        """Put aside a message that must not be computed again."""
        entry.work = time.monotonic(), 0.0, self.generation, -1, ""
        plan = plan_dead(entry, failure, self._config, self._about(self.generation))
        self.send(self._fail(entry, failure, plan))

    def renew(self, entry: Entry) -> None:
        """Put a message back as a new one, because the broker may soon drop it after so many deliveries."""
        if plan := plan_renewal(entry, self._config, self._link.state.header_room):
            message = "given out so often without an outcome that the broker may drop it: put back as a new message"
            logs.report(log, logging.WARNING, "renewed", message, **self._labels(entry))
            self.notices.planned(entry, plan)
            self.send(self._ledger.finished(entry.seq, plan, time.monotonic()))

    def send(self, publishes: Sequence[AnyPublish]) -> None:
        """Hand publications to the link, and acks for what was settled without a publication."""
        for publishing in publishes:
            if not isinstance(publishing, Publish):
                self._link.publish_together(publishing.publish_ids, publishing.publications)
                continue
            publication = publishing.publication
            if publication.delay:
                due = time.monotonic() + publication.delay
                self.retry_until = max(self.retry_until, due + 1)
                self.away.sent(publication.properties, publication.body, due)
            self._link.publish(publishing.publish_id, publication)
        if self._ledger.acks.waiting:
            self.send_acks(time.monotonic())

    # --- what the broker reports (Sink)

    def confirmed(self, publish_ids: Sequence[int]) -> None:
        """Settle the deliveries of these publications, send the acks that are due, and publish whose turn has come."""
        now = time.monotonic()
        self._ack(self._ledger.confirmed(publish_ids, now), now)
        if self._ledger.publications.turned:
            self.send(self._ledger.publications.take_turns(now))

    def refused(self, publish_id: int, reason: str, *, too_large: bool = False) -> None:
        """Keep the publication and try it again later; if it is a result that is too large, dead-letter its message."""
        publications, now = self._ledger.publications, time.monotonic()
        first = not publications.unplaced
        room = self._link.state.header_room
        entry = publications.refused(publish_id, reason, now, room=room if too_large else None)
        if entry is not None:
            failure, plan = plan_too_large(entry, reason, self._config, self._about(self.generation))
            if failure is not None:
                before = entry.work or (now, 0.0, self.generation, -1, "")
                entry.work = now, 0.0, *before[2:]
                self._report(entry, failure, plan)
                self.notices.planned(entry, plan)
            self.send(publications.place(entry, plan, now) + publications.take_turns(now))
        if first and publications.unplaced:
            message = f"a publication was not placed: {reason}; it is tried again"
            logs.report(log, logging.WARNING, "not_placed", message)

    def publishes_lost(self, reason: str) -> None:
        """Publish again everything without an answer."""
        self._ledger.publications.lost(time.monotonic())
        logs.report(log, logging.WARNING, "publishing_lost", f"the publish connection ended: {reason}")

    # --- turns and time

    def send_acks(self, now: float) -> None:
        """Send the acks that are due."""
        self._ack(self._ledger.acks.due(now), now)

    def republish(self, now: float) -> None:
        """Publish again the refused publications that are due."""
        self.notices.flush()
        self.send(self._ledger.tick(now))

    def repeat_now(self) -> None:
        """Publish again at once everything that was refused: the reason for the refusals is gone."""
        now = time.monotonic()
        self.send(self._ledger.publications.repeat_now(now) + self._ledger.publications.take_turns(now))

    # --- inside

    def _ack(self, due: list[Ack], now: float) -> None:
        for epoch, tag, multiple in due:
            self.last_settled = now
            self._link.ack(epoch, tag, multiple=multiple)
        if self._ledger.acks.waiting and self._gap_look is None:
            self._gap_look = asyncio.get_running_loop().call_later(GAP_LOOK, self._look_at_gaps)

    def _look_at_gaps(self) -> None:
        self._gap_look = None
        self.send_acks(time.monotonic())

    def _fail(self, entry: Entry, failure: Failure, plan: Plan | Again) -> list[AnyPublish]:
        """Report a failure, and return what is published for it; nothing if the message waits for its next attempt."""
        now = self._report(entry, failure, plan)
        if isinstance(plan, Again):
            self.notices.planned(entry, Plan("retried"))
            self._ledger.delay(entry, plan, isolation(plan.properties), now)
            return []
        self.notices.planned(entry, plan)
        return self._ledger.finished(entry.seq, plan, now)

    def _report(self, entry: Entry, failure: Failure, plan: Plan | Again) -> float:
        """Log a failure, and note it where it can be asked for; returns when it was, according to `work`."""
        assert entry.work is not None
        now, duration, generation, slot, _ = entry.work
        if isinstance(plan, Again):
            outcome, after, ending = "retried", plan.after, f"tried again in {plan.after:.3g} s, in its place"
        else:
            outcome, after = plan.outcome, 0.0
            if outcome == "retried":
                after = plan.publications[0].delay
            ending = f"tried again in {after} s" if outcome == "retried" else f"moved to {self._config.dead}"
        about = self._labels(entry)
        entry.work = now, duration, generation, slot, about["message_id"]
        due = now + after if outcome == "retried" else 0.0
        self._ledger.journal.failed(about["message_id"], failed(entry, failure, outcome, about["attempt"], due))
        logs.report(
            log,
            logging.WARNING if outcome == "retried" else logging.ERROR,
            outcome,
            f"{failure.reason}: {failure.type}: {failure.message[:500]}; {ending}",
            **about,
            outcome=outcome,
            reason=failure.reason,
            error_type=failure.type,
            duration_s=round(duration, 6),
            generation=generation,
        )
        self._count(failure, outcome, about["message_id"])
        return now

    def _count(self, failure: Failure, outcome: str, message_id: str) -> None:
        """Count a failure in the fault table; the first of its kind is logged, not as a part of its message's life."""
        if self.faults.note(failure, outcome, message_id, time.time()):
            where = f" at {failure.place}" if failure.place else ""
            message = f"the first failure of its kind: {failure.reason}: {failure.type}{where}; message {message_id}"
            logs.report(log, logging.WARNING, "new_fault", message, reason=failure.reason, error_type=failure.type)

    def _labels(self, entry: Entry) -> dict[str, Any]:
        return labels(entry.properties, entry.body, self._config.input.queue)

    def _about(self, generation: int, entry: Entry | None = None) -> Circumstances:
        chance = random.random()  # noqa: S311 - jitter, no secret
        now = logs.timestamp(time.time())
        hold = entry is not None and self._ledger.holds(entry)
        return Circumstances(self._spec.stage, self._host, generation, now, chance, self._link.state.header_room, hold)
