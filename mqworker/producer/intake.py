"""Intake: takes deliveries into the ledger, and decides how many the broker may send us.

Lives in the Producer, on its loop. Receives deliveries and lost connections from the link; sends it the prefetch, and
the deliveries that go back to the queue unbegun. admission.py (pure) decides how many are taken, suspects.py which
messages are put aside or isolated.
"""

import logging
import math
import time
from collections.abc import Callable

from mqworker.amqp.fingerprint import fingerprint
from mqworker.amqp.labels import labels
from mqworker.brokers.base import Delivery, Link
from mqworker.ipc import logs
from mqworker.ipc.consumer_messages import Failure
from mqworker.ipc.producer_messages import Desired
from mqworker.ipc.stage_spec import StageSpec
from mqworker.producer.acks import GAP_WAIT
from mqworker.producer.admission import Admission, Decision, Facts, HoldBack
from mqworker.producer.entry import DELAYED, HELD, Entry, Isolation
from mqworker.producer.ledger import Ledger
from mqworker.producer.ordered_backlog import OrderedBacklog
from mqworker.producer.pacing import ServiceTime, derive_prefetch, fixed_prefetch, ordered_prefetch
from mqworker.producer.policy import isolation, worn
from mqworker.producer.settlement import Settlement
from mqworker.producer.suspects import CONVICTED, Suspects
from mqworker.producer.throttle import Throttle

log = logging.getLogger("mqworker.intake")


class Intake:
    """See the module head. `ask_turn` schedules a turn; `changed` is called when there is something new to report."""

    def __init__(
        self,
        spec: StageSpec,
        ledger: Ledger,
        link: Link,
        settlement: Settlement,
        suspects: Suspects,
        service_time: ServiceTime,
        throttle: Throttle | None,
        ask_turn: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self.prefetch = 0  # in force; 0: nothing is taken
        self.problem = ""  # why nothing is taken although messages are wanted
        self.hold_back = HoldBack.NO
        self.draining = False
        self.frozen = False  # nothing may begin, and the epoch ends when nothing is in hand
        self._ordered = spec.config.ordered_by is not None
        self._epoch_ends = False  # the link was asked for that
        self._spec = spec
        self._ledger = ledger
        self._link = link
        self._settlement = settlement
        self._suspects = suspects
        self._service_time = service_time
        self._throttle = throttle
        self._ask_turn = ask_turn
        self._changed = changed
        self._wished = 0  # the prefetch that suits the work
        self._lasting = 0  # the prefetch to keep on a queue where it cannot be changed
        self._asked = (0, 0)  # the last values of both that were sent to the link
        ack_timeout = spec.broker.ack_timeout or math.inf
        self._admission = Admission(
            spec.config.max_held_bytes, time.monotonic(), ack_timeout / 2, ordered=self._ordered
        )

    # --- what the broker reports (Sink)

    def delivered(self, delivery: Delivery) -> None:
        """Open an entry for it in the ledger, or put it aside."""
        now = time.monotonic()
        self._settlement.away.came(delivery.properties, delivery.body)
        if log.isEnabledFor(logging.DEBUG):
            again = ", which the broker has given out before" if delivery.redelivered else ""
            about = labels(delivery.properties, delivery.body, self._spec.config.input.queue)
            logs.report(
                log, logging.DEBUG, "received", f"received a message of {len(delivery.body)} bytes{again}", **about
            )
        if not delivery.redelivered:
            self._ledger.delivered(delivery, now, isolation(delivery.properties))
        else:
            self._redelivered(delivery, now)
        self._ask_turn()

    def consuming_lost(self, epoch: int, reason: str) -> None:
        """Mark everything that was delivered as void."""
        self._ledger.consuming_lost(time.monotonic())
        self._epoch_ends = False
        level = logging.WARNING if reason and not self.draining else logging.DEBUG
        voided = f"deliveries were voided: {reason or 'the stage rests'}"
        logs.report(log, level, "consuming_lost", voided, epoch=epoch)

    # --- how many

    def reconcile(self, desired: Desired, working: int, now: float) -> None:
        """Take as many messages as suit the work and the present Consumers, or none."""
        publications = self._ledger.publications
        self._suit_prefetch(desired.consumers)
        facts = Facts(
            wanted=desired.listening and desired.consumers > 0 and not self.draining,
            consumers=desired.consumers,
            working=working,
            prefetch=self._link.state.fixed_prefetch or self._wished,
            held_bytes=self._ledger.held_bytes.total - self._waiting_bytes(),
            unplaced=publications.unplaced,
            output_full=self._throttle is not None and self._throttle.held_back,
            waited=now - (self._ledger.backlog.waiting_since or now),
        )
        decision = self._admission.decide(facts, now)
        self.problem, self.hold_back = self._explain(decision), decision.hold_back
        if self._throttle is not None and not self.problem and (problem := self._throttle.problem(now)):
            self.problem, self.hold_back = problem, HoldBack.OUTPUT
        self._set_prefetch(decision.prefetch)
        if decision.give_back:
            self.give_back_held()
        if self._ordered:
            self._keep_order(decision, now)

    def quiet(self) -> None:
        """Stop taking messages for good, and give back those that wait for a lane."""
        self.draining = True
        self._set_prefetch(0)
        self.give_back_held()

    def give_back_held(self) -> None:
        """Return to the broker the messages that wait for a lane."""
        for epoch, tags in self._ledger.release_held().items():
            self._link.release(epoch, tags)

    def as_wanted(self, desired: Desired) -> bool:
        """Whether the consumer is as wanted; True without a broker connection, because the link reports that."""
        if not self._link.state.connected:
            return True
        wanted = desired.listening and desired.consumers > 0
        as_wanted = (self.prefetch > 0) == wanted or bool(self.problem)
        state = self._link.state
        if self.frozen:
            return as_wanted and (state.resting or (state.auto_delete and self._at_rest()))
        if self._ordered and state.waits:
            return as_wanted
        return as_wanted and state.consuming == (self.prefetch > 0)

    # --- inside

    def _waiting_bytes(self) -> int:
        """Return the bytes of messages that wait in an order, which nothing can lower: only what is begun counts."""
        backlog = self._ledger.backlog
        return backlog.bytes if isinstance(backlog, OrderedBacklog) else 0

    def _suit_prefetch(self, consumers: int) -> None:
        config, high = self._spec.config, self._service_time.quantile()
        if self._ordered:
            configured = config.consumers if isinstance(config.consumers, int) else 0
            wish = ordered_prefetch(configured * config.concurrency)
            self._wished = self._lasting = config.prefetch or wish
            return
        at_once = consumers * config.concurrency  # messages
        self._wished = config.prefetch or derive_prefetch(high, at_once, self._wished)
        self._lasting = config.prefetch or fixed_prefetch(high, at_once)

    def _keep_order(self, decision: Decision, now: float) -> None:
        """Narrow what may begin; and end the epoch at rest, which gives everything back in its place."""
        self.frozen = decision.frozen
        backlog = self._ledger.backlog
        if isinstance(backlog, OrderedBacklog):
            backlog.narrow(decision.narrow)
        if not self.frozen:
            self._epoch_ends = False  # also if it was asked for while there was none, and nothing came of it
        elif not (self._epoch_ends or self._link.state.resting) and self._at_rest():
            self._epoch_ends = True
            self._settlement.send_acks(now + GAP_WAIT)  # also those that would wait behind a gap
            self._link.end_epoch()

    def _at_rest(self) -> bool:
        """Whether nothing is computed, and nothing published is unanswered."""
        return not len(self._ledger.assignments) and not self._ledger.publications.unanswered

    def _redelivered(self, delivery: Delivery, now: float) -> None:
        suspect = key = None
        if self._suspects:
            key = fingerprint(delivery.properties, delivery.body)
            suspect = self._suspects.find(key)
        beside = isolation(delivery.properties)
        if suspect is not None and suspect.suspected:
            beside = Isolation.STAGE
        self._settlement.send(self._ledger.delivered(delivery, now, beside))
        entry = self._ledger.acks.find(delivery.epoch, delivery.tag)
        if entry is None or entry.state not in (HELD, DELAYED):  # adopted: it is already being computed here, or was
            return
        if suspect is None or key is None:
            if self._must_renew(delivery):
                self._settlement.renew(entry)
            return
        entry.key = key
        if suspect.convicted:
            self._convict(entry)
        elif suspect.suspected:
            entry.window = suspect.window
        elif self._must_renew(delivery):
            self._settlement.renew(entry)

    def _must_renew(self, delivery: Delivery) -> bool:
        """Whether the broker may soon drop a message; in an order, which it then loses, only if a limit is possible."""
        return worn(delivery.properties) and not (self._ordered and self._link.state.delivery_limit == -1)

    def _convict(self, entry: Entry) -> None:
        """Put a message aside without computing it: it took the whole tree down while it ran isolated."""
        self._suspects.clear(entry.key)
        message = f"the whole process tree died {CONVICTED} times while it computed this message alone"
        self._settlement.convicted(entry, Failure("crash", "TreeDied", message, final=True))

    def _explain(self, decision: Decision) -> str:
        publications = self._ledger.publications
        match decision.hold_back:
            case HoldBack.BYTES:
                held = self._ledger.held_bytes.total
                waits = "only the first of each order begins" if self._ordered else "the input waits"
                return f"holding {held:,} bytes, more than max_held_bytes allows: {waits}"
            case HoldBack.UNPLACED:
                refused = f"the results of {publications.unplaced} messages cannot be placed ({publications.refusal})"
                return f"{refused}: {'those behind them wait' if self._ordered else 'the input waits'}"
        return ""

    def _set_prefetch(self, prefetch: int) -> None:
        if (prefetch, self._lasting) != self._asked:
            self._asked = prefetch, self._lasting
            self._link.consume(prefetch, self._lasting)
        if prefetch != self.prefetch:
            self.prefetch = prefetch
            self._changed()
