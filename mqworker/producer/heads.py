"""The deliveries that may begin in a stage that keeps an order: which of them is the oldest.

Pure; a part of the ordered backlog, which adds of each key only the first one that waits. Those that have to be alone
in their chunk and the suspects are kept apart. If it is *narrow*, because nothing but the first of each unit can free
memory, all others are set aside until it is their turn: the ordering tells who has risen to that.
"""

import heapq

from mqworker.producer.entry import Entry, Isolation
from mqworker.producer.ordering import Ordering


class Heads:
    """See the module head. Whoever adds and removes is the ordered backlog."""

    def __init__(self, ordering: Ordering) -> None:
        self._ordering = ordering
        self._heap: list[tuple[int, Entry]] = []  # by tag
        self._alone: list[tuple[int, Entry]] = []  # by tag: those that have killed a Consumer, or may have
        self._suspects: list[Entry] = []
        self._aside: set[Entry] = set()  # no suspects; they may begin when they are the first of their units

    def __len__(self) -> int:
        return len(self.beside) + len(self.alone) + len(self.suspects)

    @property
    def narrow(self) -> bool:
        """Whether only the first of each unit may begin."""
        return self._ordering.risen is not None

    @narrow.setter
    def narrow(self, narrow: bool) -> None:
        if narrow is self.narrow:
            return
        entries = [*self._aside, *(entry for _, entry in (*self._heap, *self._alone))]
        self._ordering.risen = [] if narrow else None
        self._aside.clear()
        self._heap.clear()
        self._alone.clear()
        for entry in entries:
            self.add(entry)

    @property
    def beside(self) -> list[tuple[int, Entry]]:
        """A heap of those that may run beside others in a Consumer, by tag."""
        self._look()
        return self._heap

    @property
    def alone(self) -> list[tuple[int, Entry]]:
        """A heap of those that have to be alone, by tag."""
        self._look()
        return self._alone

    def first(self) -> Entry | None:
        """Return the oldest one that is not a suspect."""
        heap = self.beside
        if self._alone and (not heap or self._alone[0] < heap[0]):
            heap = self._alone
        return heap[0][1] if heap else None

    @property
    def suspects(self) -> list[Entry]:
        """The suspects among them."""
        return [each for each in self._suspects if self._is_first(each)] if self.narrow else self._suspects

    def add(self, entry: Entry) -> None:
        """Let a delivery begin; while it is narrow, only once it is the first of its unit."""
        if entry.isolation is Isolation.STAGE:
            self._suspects.append(entry)
        elif self.narrow and not self._is_first(entry):
            self._aside.add(entry)
        else:
            heapq.heappush(self._heap_of(entry), (entry.tag, entry))

    def remove(self, entry: Entry) -> None:
        """Remove a delivery that was added."""
        if entry.isolation is Isolation.STAGE:
            self._suspects.remove(entry)
        elif entry in self._aside:
            self._aside.remove(entry)
        elif (heap := self._heap_of(entry))[0][1] is entry:
            heapq.heappop(heap)
        else:
            heap.remove((entry.tag, entry))
            heapq.heapify(heap)

    def clear(self) -> None:
        """Forget all."""
        self._suspects.clear()
        self._heap.clear()
        self._alone.clear()
        self._aside.clear()

    def _heap_of(self, entry: Entry) -> list[tuple[int, Entry]]:
        return self._heap if entry.isolation is Isolation.NONE else self._alone

    def _look(self) -> None:
        """Let those begin that are now the first of their units, and were set aside for that."""
        risen = self._ordering.risen
        while risen:
            if (entry := risen.pop()) in self._aside:
                self._aside.remove(entry)
                heapq.heappush(self._heap_of(entry), (entry.tag, entry))

    def _is_first(self, entry: Entry) -> bool:
        return entry.unit is None or self._ordering.is_turn(entry)
