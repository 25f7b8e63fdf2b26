"""The Consumer: a process that computes, and does no network I/O.

Runs the user's jobs in its main thread, one message at a time; or several at once, in threads or as tasks of a loop,
and then outcomes and chunks are handled by the pump (`seated`, `pump`). Owns the far end of one lane, its place in the
in-hand register, its hatch, its outbox and the write end of its own pipe up. Receives its StageSpec and a Birth once,
then chunks from its lane, until the sentinel ends it. As frames, it sends outcomes (after the pieces of large results,
which are in the hatch), reports of the chunks that it has taken and ended, and log events. It writes gathered outcomes
to its outbox before the next message begins. When its Producer dies, the kernel kills it; when user code damages its
descriptors, it ends itself and is replaced.

The work itself is in `life`.
"""

from multiprocessing.queues import JoinableQueue

from mqworker.consumer.hatch import Hatch
from mqworker.consumer.inbox import Inbox
from mqworker.consumer.lane_end import LaneEnd
from mqworker.consumer.outbox import Outbox
from mqworker.ipc.spawn import Spawned


class Consumer(Spawned):
    """See the module head. Made by its Producer and pickled once, at its start."""

    title = "mqw-consumer"

    def __init__(
        self, stage: str, slot: int, queue: "JoinableQueue[bytes | None]", inbox: Inbox, hatch: Hatch, outbox: Outbox
    ) -> None:
        super().__init__(f"{stage}.consumer-{slot}", stage)
        self._queue = queue
        self._inbox = inbox
        self._hatch = hatch
        self._outbox = outbox

    def load(self) -> None:
        """Import the code that computes, which the Producer does not need."""
        from mqworker.consumer.life import ConsumerLife  # noqa: PLC0415 - the Producer imports this module, and starts faster so

        self._life = ConsumerLife

    def main(self) -> None:
        """Set up, send Hello, compute until the sentinel."""
        lane = LaneEnd(self._queue, self._inbox)
        self._life(self.name, self.token, self.down, self.up.fileno(), lane, self._hatch, self._outbox).live()
