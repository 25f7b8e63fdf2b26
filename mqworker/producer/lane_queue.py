"""The way down of a lane: a JoinableQueue for one chunk, made safe against a reader that is killed.

Lives in the Producer, on its loop; its far end is inherited by one Consumer, which is why the Producer is its parent.
Owns the queue with its feeder thread, its pipe and its named semaphores. Sends packed chunks, and None, the sentinel; a
put never blocks, because the lane puts only when the one before is done. What is put for a dead Consumer is dropped
quietly: its lane's chunk is dispatched again. A start without threads or descriptors raises OSError and leaves nothing.
"""

import errno
from multiprocessing import util
from multiprocessing.queues import JoinableQueue
from typing import Any

from mqworker.ipc.spawn import SPAWN

CHUNKS = 1  # in the queue; how many messages that is, the chunk decides


class LaneQueue:
    """See the module head."""

    def __init__(self) -> None:
        self.far: JoinableQueue[bytes | None] = SPAWN.JoinableQueue(CHUNKS)  # what the Consumer inherits
        queue: Any = self.far
        # The feeder must neither print when the reader was killed, nor end before it has closed the writing end (as it
        # would with `_ignore_epipe`), and an exit of ours must not wait for it.
        queue._on_queue_feeder_error = _drop
        queue.cancel_join_thread()
        try:  # now: where no thread can be had, that is a start that failed, not a put
            with queue._notempty:
                queue._start_thread()
        except RuntimeError as error:
            queue._thread = None
            self.close()
            raise OSError(errno.EAGAIN, str(error)) from None

    def put(self, chunk: bytes | None) -> None:
        """Put one chunk, or the sentinel, into an empty queue."""
        self.far.put_nowait(chunk)

    def consumer_started(self) -> None:
        """Close our copy of the reading end: else the feeder would never see that the pipe is broken."""
        queue: Any = self.far
        queue._reader.close()

    def unlink_semaphores(self) -> None:
        """Unlink the named semaphores, once both sides have them open.

        Else eight of them stay in /dev/shm until the Service ends when this Producer is killed (decisions 4).
        """
        queue: Any = self.far
        locks = [queue._rlock, queue._wlock, queue._sem, queue._unfinished_tasks]
        cond = queue._cond
        locks += [cond._lock, cond._sleeping_count, cond._woken_count, cond._wait_semaphore]
        names = {lock._semlock.name for lock in locks if lock is not None}
        for finalizer in list(util._finalizer_registry.values()):  # type: ignore[attr-defined]  # internal
            if getattr(finalizer._callback, "__qualname__", "") == "SemLock._cleanup" and finalizer._args[0] in names:
                finalizer()

    def close(self) -> None:
        """Let the feeder thread end. It closes the writing end itself, so that no descriptor is closed twice."""
        queue: Any = self.far
        queue._reader.close()
        if queue._thread is None:
            queue._writer.close()
        queue.close()


def _drop(_error: Exception, _item: object) -> None:
    """Drop what could not be sent: the Consumer is dead, and what was in its lane is dispatched again."""
