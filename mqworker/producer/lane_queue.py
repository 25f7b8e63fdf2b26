"""The way down of a lane: a JoinableQueue for one chunk, made safe against a reader that is killed.

Lives in the Producer, on its loop; its far end is inherited by one Consumer, which is why the Producer is its parent.
Owns the queue with its feeder thread, which also writes large bodies into the inbox, its pipe and its named semaphores.
Sends packed chunks, and None, the sentinel; a put never blocks, because the lane puts a chunk only when the Consumer
has taken the previous one: then the pipe is empty, and a chunk that it holds as a whole is written at once, without the
feeder. A chunk for a dead Consumer is dropped silently: its messages are dispatched again. A start that lacks threads
or descriptors raises OSError and leaves nothing behind.
"""

import errno
from multiprocessing import util
from multiprocessing.queues import JoinableQueue
from multiprocessing.reduction import ForkingPickler
from queue import Full
from typing import Any

import msgspec

from mqworker.consumer.inbox import Inbox
from mqworker.ipc.consumer_messages import LARGE, Chunk
from mqworker.ipc.pipes import capacity
from mqworker.ipc.spawn import SPAWN

CHUNKS = 1  # the size of the queue; a chunk may hold many messages
AROUND = 4096 + 64  # bytes of the pipe that a chunk leaves: its length may have a page of its own, and pickle adds some

_encode = msgspec.msgpack.Encoder().encode


class LargeChunk:
    """A chunk of one large message; the feeder thread pickles it, and writes its body into the inbox by that.

    Nothing of its size is allocated there, so what the feeder does cannot fail for want of memory.
    """

    def __init__(self, chunk: Chunk, inbox: Inbox) -> None:
        self._chunk = chunk
        self._inbox = inbox

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        """Become a packed chunk without the body, which is in the inbox, unless there is no memory for it."""
        item = self._chunk.items[0]
        size, unsent = len(item.body), ""
        try:
            self._inbox.put(item.body)
        except OSError as error:
            unsent = f"no memory to pass its {size:,} bytes on to a Consumer: {error.strerror}"
            size = 0
        items = [msgspec.structs.replace(item, body=b"")]
        chunk = msgspec.structs.replace(self._chunk, items=items, in_inbox=size, unsent=unsent)
        return bytes, (_encode(chunk),)


Packed = bytes | LargeChunk


class LaneQueue:
    """See the module head."""

    def __init__(self, inbox: Inbox) -> None:
        self.far: JoinableQueue[Any] = SPAWN.JoinableQueue(CHUNKS)  # the Consumer inherits it, and gets bytes
        self._inbox = inbox
        queue: Any = self.far
        # When the reader was killed, the feeder must print nothing, and must close the writing end before it ends (with
        # `_ignore_epipe` it would not). Our exit must not wait for the feeder.
        queue._on_queue_feeder_error = _drop
        queue.cancel_join_thread()
        try:  # start the thread now: without a free thread the start must fail, not the first put
            with queue._notempty:
                queue._start_thread()
        except RuntimeError as error:
            queue._thread = None
            self.close()
            raise OSError(errno.EAGAIN, str(error)) from None
        self._measure()

    def pack(self, chunk: Chunk) -> Packed:
        """Return the chunk as it can be put."""
        large = len(chunk.items) == 1 and len(chunk.items[0].body) > LARGE
        return LargeChunk(chunk, self._inbox) if large else _encode(chunk)

    def put(self, chunk: Packed | None) -> None:
        """Put one chunk, or the sentinel, into an empty queue."""
        if chunk is not None and (isinstance(chunk, LargeChunk) or len(chunk) > self._at_once):
            self.far.put_nowait(chunk)
        else:
            self._write(chunk)

    def _measure(self) -> None:
        """Note what the pipe holds: less than usual where the user's pipes have used up what the kernel gives them."""
        queue: Any = self.far
        self._at_once = capacity(queue._writer.fileno()) - AROUND  # bytes of a chunk

    def _write(self, chunk: bytes | None) -> None:
        """Do what `put` and then the feeder would do, here: to wake that thread takes longer than to write."""
        queue: Any = self.far
        if queue._closed or not queue._wlock.acquire(block=False):  # the feeder has written, and not let go of it yet
            queue.put_nowait(chunk)
            return
        try:
            if not queue._sem.acquire(block=False):
                raise Full
            with queue._cond:
                queue._unfinished_tasks.release()
            try:
                queue._send_bytes(ForkingPickler.dumps(chunk))
            except OSError as error:
                queue._sem.release()
                _drop(error, chunk)
        finally:
            queue._wlock.release()

    def consumer_started(self) -> None:
        """Close our copy of the reading end: otherwise the feeder would never notice that the pipe is broken."""
        queue: Any = self.far
        queue._reader.close()

    def unlink_semaphores(self) -> None:
        """Unlink the named semaphores, once both sides have them open.

        Otherwise, if this Producer is killed, eight of them stay in /dev/shm until the Service ends (decisions 4).
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
    """Drop a chunk that could not be sent: the Consumer is dead, and the messages of its lane are dispatched again."""
