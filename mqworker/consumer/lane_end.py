"""The far end of a lane: takes chunks out of its queue.

Runs in a Consumer's main thread, or its pump. Owns its end of the JoinableQueue and the inbox; receives packed chunks
and the sentinel. It calls `task_done` at once, so that when the Consumer reports a chunk as taken, the next `put`
overlaps nothing. Once its Producer has died, it raises EOFError. If the body of a large message cannot be read, `lost`
says why; nothing is raised, because the consequences must come while the message is in hand.
"""

import select
from multiprocessing.queues import JoinableQueue
from typing import Any

import msgspec

from mqworker.consumer.inbox import Inbox
from mqworker.ipc.consumer_messages import Chunk

_chunks = msgspec.msgpack.Decoder(Chunk)


class LaneEnd:
    """See the module head."""

    def __init__(self, queue: "JoinableQueue[bytes | None]", inbox: Inbox) -> None:
        inside: Any = queue
        inside._writer.close()  # otherwise the Producer's death would never show as end of file
        self.lost: MemoryError | OSError | None = None  # why the body of the last chunk's only message is not there
        self._queue = queue
        self._inbox = inbox
        self._arrived = select.poll()  # the queue's own poll takes 15 us
        self._arrived.register(inside._reader.fileno(), select.POLLIN)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a chunk or the sentinel is there."""
        inside: Any = self._queue
        number: int = inside._reader.fileno()
        return number

    def wait(self) -> Chunk | None:
        """Take the next chunk; None if it was the sentinel."""
        packed = self._queue.get()
        self._queue.task_done()
        self.lost = None
        if packed is None:
            return None
        chunk = _chunks.decode(packed)
        if chunk.unsent:
            self.lost = MemoryError(chunk.unsent)
        elif chunk.in_inbox:
            try:
                body = self._inbox.take(chunk.in_inbox)
            except (MemoryError, OSError) as error:
                self.lost = error
            else:
                chunk.items[0] = msgspec.structs.replace(chunk.items[0], body=body)
        return chunk

    def present(self) -> Chunk | None:
        """Take the next chunk if it is there; the sentinel cannot be, because it is only put into an idle lane."""
        return self.wait() if self._arrived.poll(0) else None
