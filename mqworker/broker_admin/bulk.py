"""An operation on a selection of dead letters: exactly those are replayed or dropped, however many others arrive.

Runs in the broker admin, on its loop (with the embedded broker, the visits run in its thread). It is one look at the
queue: a letter whose id still has a count in the selection is moved, all others stay where they are. Letters go in
batches, which are published, confirmed, and only then acked; an operator may end it between two of them. Sends an
AdminProgress before and after each batch, so that if this process dies, the Service knows how far the operation was. A
failure is reported in the last progress: the operation is never repeated automatically, because some of the letters may
be in both queues.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from mqworker.broker_admin import dead_letters
from mqworker.broker_admin.selections import Selection
from mqworker.brokers.base import DROP, STOP, Admin, BrokerBrokeOff, BrokerRefused, BrokerUnavailable, Publication
from mqworker.ipc.admin_messages import LOOK_AT, OVER, AdminProgress

TOGETHER = 50  # letters in a batch: a kill doubles one batch, and what the queue has not yet removed of the one before
REPORT = 0.25  # seconds between two reports of how many letters were examined
BEYOND = (
    2 * LOOK_AT
)  # letters that one operation goes through: those of a selection may have been put back behind others


class BulkOperation:
    """See the module head; follows its own move (`brokers.base.Moving`)."""

    def __init__(
        self, name: str, selection: Selection, queue: str, to: str, tell: Callable[[AdminProgress], None]
    ) -> None:
        """`to`: the queue that the letters go to; "" if they are dropped."""
        self.name = name
        self.state = "looking"
        self._gone: Counter[str] = Counter()  # ids of moved letters that `take_gone` has not returned yet
        self._queue = queue
        self._to = to
        self._tell = tell
        self._left = Counter(selection.letters)
        self._wanted = selection.count
        self._chosen: list[str] = []  # ids of the letters that are to move but have not yet, in queue order
        self._looked = self._done = self._unsure = self._refused = 0
        self._reason = ""
        self._doubles = False  # a lost connection or channel may leave letters in both queues
        self._cut = False  # the queue holds more letters than BEYOND, which is where it stopped looking
        self._running = False

    @property
    def over(self) -> bool:
        """Return whether the operation has ended."""
        return self.state in OVER

    @property
    def exact(self) -> bool:
        """Return whether `take_gone` covers every letter that has left the queue."""
        return self.state != "failed" and not self._chosen

    def cancel(self) -> bool:
        """End before the next batch, or at once if it has not begun; returns False if it has ended already."""
        if self.over:
            return False
        self.state = "cancelling" if self._running else "cancelled"
        self._report()
        return True

    async def run(self, admin: Admin, deadline: float) -> None:
        """Carry out the operation; never raises because of the broker."""
        if self.over:
            return
        self._running = True
        self._report()
        ticking = asyncio.create_task(self._tick())
        try:
            await admin.move(
                self._queue, BEYOND + 1, self._visit, deadline, most=self._wanted, together=TOGETHER, moving=self
            )
            if self.state == "cancelling" and self._done < self._wanted:
                self.state = "cancelled"
            elif self._cut:
                missing = self._wanted - self._done - self._refused
                self._fail(f"{missing} of those selected are not among the first {BEYOND} dead letters of the queue")
            else:
                self.state = "done"
        except (BrokerUnavailable, BrokerBrokeOff, TimeoutError) as error:
            if self._doubles:  # the queue may also have lost acks of the batch before
                self._unsure = min(2 * TOGETHER, self._done + self._unsure)
            self._fail(str(error) or f"it did not end within {deadline:g} s")
        except BrokerRefused as refused:
            self._refused += refused.count if self._moving else 0
            self._fail(str(refused))
        finally:
            ticking.cancel()
            if not self.over:  # an internal error, which the caller logs
                self._fail("an error inside mqworker; the log of the service has the details")
            self._report()

    def fail(self, why: str) -> None:
        """Mark the operation as failed without running it."""
        self._fail(why)
        self._report()

    # -- Moving

    @property
    def _moving(self) -> bool:
        return self.state in ("moving", "cancelling")

    def begins(self, count: int) -> bool:
        """See `brokers.base.Moving`."""
        if self.state == "cancelling":
            return False
        self.state = "moving"
        self._unsure = count if self._to else 0
        self._doubles = self._doubles or bool(self._unsure)
        self._report()
        return True

    def take_gone(self) -> Counter[str]:
        """Return the ids of the letters that have been moved since the last call."""
        gone, self._gone = self._gone, Counter()
        return gone

    def moved(self, count: int) -> None:
        """See `brokers.base.Moving`."""
        self._done += count
        self._unsure = 0
        self._gone.update(self._chosen[:count])
        del self._chosen[:count]
        self._report()

    # -- inside

    def _visit(self, properties: bytes, body: bytes) -> Publication | str | None:
        if not self._left.total() or self.state == "cancelling":
            return STOP
        if self._looked >= BEYOND:
            self._cut = True
            return STOP
        self._looked += 1
        letter = dead_letters.letter_id(properties, body)
        key = bytes.fromhex(letter)
        if self._left[key] <= 0:
            return None
        self._left[key] -= 1
        try:
            publication = dead_letters.replay(properties, body, self._to) if self._to else None
        except ValueError as error:  # it stays where it is, and does not hold up others
            self._refused += 1
            self._reason = f"letter {letter} cannot be sent back: {error}"
            return None
        self._chosen.append(letter)
        return publication or DROP

    async def _tick(self) -> None:
        """Report how many letters were examined, until the first is moved."""
        while self.state == "looking":
            await asyncio.sleep(REPORT)
            self._report()

    def _fail(self, why: str) -> None:
        self.state, self._reason = "failed", why

    def _report(self) -> None:
        gone = self._wanted - self._done - self._refused if self.state == "done" else 0
        self._tell(
            AdminProgress(
                operation=self.name,
                state=self.state,
                looked=self._looked,
                done=self._done,
                wanted=self._wanted,
                gone=gone,
                unsure=self._unsure,
                refused=self._refused,
                reason=self._reason,
                at=time.time(),
            )
        )
