"""The operations on dead letters that are in progress: a few at the same time, at most one for each selection.

Runs in the broker admin, on its loop; a part of `letter_verbs`. Owns a task for each operation, which locks the queue
while it runs, and corrects what is known about the queue when it is over. An operation's last progress says why it
failed; if it cannot begin, `begin` raises VerbRefused.
"""

import asyncio
import logging
from collections.abc import Callable

from mqworker.broker_admin.bulk import BulkOperation
from mqworker.broker_admin.letter_looks import LetterLooks
from mqworker.broker_admin.refused import VerbRefused
from mqworker.broker_admin.selections import Selection
from mqworker.brokers.base import Admin, BrokerUnavailable
from mqworker.ipc.admin_messages import AdminProgress

OPERATION = 600.0  # seconds that an operation may take
MOST = 4  # operations at the same time

log = logging.getLogger("mqworker.broker_admin.letter_operations")


class LetterOperations:
    """See the module head."""

    def __init__(self, admin: Admin, looks: LetterLooks, tell: Callable[[AdminProgress], None]) -> None:
        """`tell` receives the progress of operations."""
        self.in_progress: dict[str, BulkOperation] = {}
        self._admin = admin
        self._looks = looks
        self._tell = tell
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, name: str, kind: str, chosen: Selection, dead: str, to: str) -> str:
        """Begin an operation, to the queue `to` ("": drop them); returns its name, or that of the first if repeated."""
        if chosen.operation:
            if chosen.kind != kind:
                raise VerbRefused("refused", f"the selection was used already, to {chosen.kind} its letters")
            return chosen.operation
        if sum(not each.over for each in self.in_progress.values()) >= MOST:
            raise VerbRefused("busy", f"{MOST} operations are in progress already; try again when one has ended")
        chosen.operation, chosen.kind = name, kind
        bulk = self.in_progress[name] = BulkOperation(name, chosen, dead, to, self._tell)
        task = asyncio.create_task(self._run(bulk, dead))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return name

    def cancel(self, name: str) -> bool:
        """End an operation before its next batch; returns False if it has ended already."""
        found = self.in_progress.get(name)
        return found is not None and found.cancel()

    async def _run(self, bulk: BulkOperation, queue: str) -> None:
        """Carry out an operation, and correct what is known about its queue."""
        try:
            async with self._looks.taking(queue, OPERATION, bulk.take_gone) as left:
                await bulk.run(self._admin, left)
                if not bulk.exact:
                    self._looks.catalogues.forget(queue)
        except BrokerUnavailable as error:  # it did not get the lock in time
            if not bulk.over:
                bulk.fail(str(error))
        except Exception as error:
            self._looks.catalogues.forget(queue)
            log.exception("operation %s failed", bulk.name, extra={"event": "desk_failed"})
            if not bulk.over:
                bulk.fail(str(error))
        finally:
            del self.in_progress[bulk.name]
