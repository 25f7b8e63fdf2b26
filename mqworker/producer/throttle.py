"""Back-pressure: holds dispatch back while the output queue holds `output.max_backlog` messages.

Lives in the Producer, on its loop; only a stage with `max_backlog` has one. Asks the link how much the queue holds, and
receives the answers; tells dispatch how many messages may go to lanes. credit.py (pure) decides both; this module
carries it out, and reports it: a log line when the stage is held back and when it is no longer, a sentence meanwhile.
Without answers (no connection, a queue that is silent) the last credit is used up, and nothing more is dispatched.
"""

import logging
import math
import random
import time
from collections.abc import Callable

from mqworker.brokers.base import Link
from mqworker.brokers.credit import Credit, Sent
from mqworker.ipc import logs
from mqworker.producer.ledger import Ledger

SILENT = 10.0  # seconds without an answer after which the status reports it

log = logging.getLogger("mqworker.throttle")


class Throttle:
    """See the module head. `ask_turn` schedules a turn; `changed` is called when there is something new to report."""

    def __init__(
        self,
        queue: str,
        mark: int,
        ledger: Ledger,
        link: Link,
        ask_turn: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._mark = mark
        self._ledger = ledger
        self._link = link
        self._ask_turn = ask_turn
        self._changed = changed
        self._credit = Credit(mark)
        self.held_back = False  # as was reported

    @property
    def depth(self) -> int | None:
        """How many messages the output queue held when it was last asked; None when unknown."""
        return self._credit.depth

    def room(self) -> int:
        """Return how many messages may be dispatched now."""
        return self._credit.room(self._sent())

    def due(self) -> float:
        """Return when to look next; infinity while the link is not connected, which will ask for a turn."""
        return self._credit.due(self._sent()) if self._link.state.connected else math.inf

    def look(self, now: float) -> None:
        """Ask the link if it is time to, and report if the stage is held back from now on, or no longer."""
        if self._link.state.connected and self._credit.must_ask(self._sent(), now):
            self._link.ask_output_depth()
        held_back = self._credit.held_back(now)
        if held_back != self.held_back:
            self.held_back = held_back
            message = self._sentence() if held_back else f"no longer {self._sentence()}"
            logs.report(log, logging.INFO, "held_back" if held_back else "not_held_back", message, depth=self.depth)
            self._changed()

    def output_depth(self, messages: int) -> None:
        """Receive the answer of the link, and feed the lanes if there is credit again."""
        chance = random.random()  # noqa: S311 - jitter, no secret
        self._credit.answered(messages, self._sent(), time.monotonic(), chance)
        self._ask_turn()

    def problem(self, now: float) -> str:
        """Return why nothing is dispatched, in one sentence; "" when something is."""
        if self.held_back:
            return self._sentence()
        silent = self._credit.unanswered(now)
        if silent < SILENT or not self._link.state.connected or self.room():
            return ""
        return (
            f"held back: how much output queue {self._queue} holds is not known, it has not answered for {silent:.0f} s"
        )

    def _sentence(self) -> str:
        return f"held back: output queue {self._queue} holds {self.depth:,} (max_backlog {self._mark:,})"

    def _sent(self) -> Sent:
        publications = self._ledger.publications
        return Sent(publications.last_id, publications.unconfirmed, len(self._ledger.assignments))
