"""The deliveries that wait for a lane, and which of them go next.

Pure; part of the ledger, and its only part with a strategy: first come, first served, but a message that may kill its
Consumer goes before the others, alone in its chunk, and a message that comes back from a lane goes to the front. A
large one is alone too: what would be behind it in its chunk goes to another lane meanwhile. Suspects, which may
have killed the whole tree, wait separately until they are asked for: the one with the shortest window first.
"""

from collections import deque
from collections.abc import Sequence

from mqworker.ipc.consumer_messages import LARGE
from mqworker.producer.entry import ALONE_IN_CHUNK, UNISOLATED, Entry

CHUNK_BYTES = 1 << 20  # they are copied on their way, and again when they are taken back


class Backlog:
    """First come, first served."""

    def __init__(self) -> None:
        self._waiting: deque[Entry] = deque()
        self._alone: deque[Entry] = deque()  # each in a chunk of its own
        self._suspects: deque[Entry] = deque()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._alone) + len(self._suspects)

    @property
    def shortest_window(self) -> float | None:
        """The shortest window among the waiting suspects, in seconds; None: no suspect is waiting."""
        return min(entry.window for entry in self._suspects) if self._suspects else None

    @property
    def waiting_since(self) -> float | None:
        """When the delivery came that has waited longest; None: none is waiting."""
        queues = (self._waiting, self._alone, self._suspects)
        return min((queue[0].received for queue in queues if queue), default=None)

    def add(self, entry: Entry) -> None:
        """Append a new delivery."""
        self._queue(entry).append(entry)

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Put deliveries that come back from a lane before all others, in their order."""
        for entry in reversed(entries):
            self._queue(entry).appendleft(entry)

    def remove(self, entry: Entry) -> None:
        """Remove a delivery that no longer has to wait."""
        self._queue(entry).remove(entry)

    @property
    def ready(self) -> int:
        """How many may begin now."""
        return len(self)

    @property
    def beside(self) -> int:
        """How many may begin now beside others in a Consumer, at most one of each key."""
        return len(self._waiting)

    @property
    def alone(self) -> Sequence[Entry]:
        """Those that have to be alone in a Consumer for a while, in the order in which they should begin."""
        return self._alone

    @property
    def ahead(self) -> Entry | None:
        """The delivery with which a chunk would begin that is put behind another one; None: none may be put there."""
        return self._alone[0] if self._alone else self._waiting[0] if self._waiting else None

    def take(self, most: int) -> list[Entry]:
        """Remove and return the next chunk: at most `most` deliveries, or a single one that has to be alone.

        A chunk of several has at most CHUNK_BYTES, and nothing LARGE.
        """
        return [self._alone.popleft()] if self._alone else self.take_beside(most)

    def take_beside(self, most: int) -> list[Entry]:
        """Remove and return the next chunk of those that may run beside others."""
        waiting, size = self._waiting, 0
        chunk: list[Entry] = []
        while waiting and len(chunk) < most:
            weight = waiting[0].weight
            size += weight
            if chunk and (size > CHUNK_BYTES or weight > LARGE):
                break
            chunk.append(waiting.popleft())
            if weight > LARGE:
                break
        return chunk

    def take_alone(self, entry: Entry) -> list[Entry]:
        """Remove and return one of those that have to be alone."""
        self._alone.remove(entry)
        return [entry]

    def take_suspect(self) -> list[Entry]:
        """Remove and return the suspect with the shortest window, if there is one."""
        suspect = min(self._suspects, key=lambda entry: entry.window, default=None)
        if suspect is None:
            return []
        self._suspects.remove(suspect)
        return [suspect]

    def clear(self) -> list[Entry]:
        """Remove and return all."""
        entries = [*self._suspects, *self._alone, *self._waiting]
        for queue in (self._suspects, self._alone, self._waiting):
            queue.clear()
        return entries

    def _queue(self, entry: Entry) -> deque[Entry]:
        if entry.isolation is UNISOLATED:
            return self._waiting
        return self._alone if entry.isolation is ALONE_IN_CHUNK else self._suspects
