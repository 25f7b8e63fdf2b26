"""Retries that were sent to a delay queue of RabbitMQ and are overdue here.

Lives in the Producer, on its loop; pure but for the log. RabbitMQ may move a retry to the input minutes after its time,
or not before a node is back (docs/guarantees.md), and shows it in no count over AMQP meanwhile. So what is sent is
remembered here by id and attempt until it is delivered. Another consumer of the input may get it instead, and it may
wait behind a backlog there. So all is forgotten when there is another one, and a retry counts as overdue only if
nothing waits in the input. Receives publications and deliveries; a look now and then, with what is known of the input.
"""

import logging

from mqworker.amqp import headers
from mqworker.amqp.labels import labels
from mqworker.ipc import logs

LATE = 30.0  # seconds after its time; a retry usually comes within one
AWAITED = 600.0  # seconds after the time of the last one in which a stage without any other work is not idle
GIVEN_UP = 3600.0  # seconds after its time: somebody has purged the delay queue, or it is lost
EVERY = 1.0  # seconds between two checks of all of them
MOST = 10_000  # retries that are remembered; further ones are not
MARK = headers.ATTEMPT.encode()  # in the property block of each retry

log = logging.getLogger("mqworker.retries")


class RetriesAway:
    """See the module head; times are CLOCK_MONOTONIC."""

    def __init__(self, queue: str) -> None:
        """`queue`: the input."""
        self.overdue = 0  # as of the last look, less what has come since
        self._queue = queue
        self._due: dict[tuple[str, int], float] = {}
        self._late: set[tuple[str, int]] = set()
        self._looked = self._last = float("-inf")

    def sent(self, block: bytes, body: bytes, due: float) -> None:
        """Note that this retry is sent."""
        if len(self._due) < MOST:
            self._due[self._key(block, body)] = due
            self._last = max(self._last, due)

    def came(self, block: bytes, body: bytes) -> None:
        """Note a delivery."""
        if self._due and MARK in block:
            key = self._key(block, body)
            self._due.pop(key, None)
            self._late.discard(key)
            self._count("no retry is overdue any more")

    def look(self, others: int | None, backlog: int | None, now: float) -> None:
        """Find out what is overdue: how many others consume the input, and what waits there; None when unknown.

        While there is doubt, nothing changes.
        """
        if others:
            self._due.clear()
            self._late.clear()
        elif others == 0 and backlog == 0 and self._due and now - self._looked >= EVERY:
            self._looked = now
            gone = [key for key, due in self._due.items() if now - due > GIVEN_UP]
            for key in gone:
                del self._due[key]
            if gone:
                message = f"{len(gone)} retries have not come back within an hour: purged, lost, or RabbitMQ keeps them"
                logs.report(log, logging.ERROR, "retries_given_up", message, retries=len(gone))
            self._late = {key for key, due in self._due.items() if now - due > LATE}
        self._count("it is not known any more whether a retry is overdue")

    def expected(self, now: float) -> bool:
        """Whether any has not come, and still may; unless others consume the input, who may have got them."""
        return bool(self._due) and now < self._last + AWAITED

    @property
    def problem(self) -> str:
        """One sentence if there are any, else ""."""
        if not self.overdue:
            return ""
        return (
            f"overdue retries: {self.overdue}; if nobody has purged them, RabbitMQ keeps them in a delay queue, for"
            " minutes after it was restarted or has lost a node, or until that is back (docs/guarantees.md)"
        )

    def _key(self, block: bytes, body: bytes) -> tuple[str, int]:
        of = labels(block, body, self._queue)
        return of["message_id"], of["attempt"]

    def _count(self, none: str) -> None:
        before, self.overdue = self.overdue, len(self._late)
        if self.overdue and not before:
            logs.report(log, logging.WARNING, "retries_overdue", self.problem, retries=self.overdue)
        elif before and not self.overdue:
            logs.report(log, logging.INFO, "retries_back", none)
