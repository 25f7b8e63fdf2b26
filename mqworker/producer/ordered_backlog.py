"""The deliveries that wait for a lane in a stage that keeps an order, and which of them go next.

Pure; part of the ledger, in the place of the backlog of other stages. The message that has waited longest goes first,
also among what comes back from a lane: a delivery's place is its tag. Where the whole input is in order, any delivery
may begin, and so may what is free of order. By key, one lane has a key at a time: a chunk takes those of a key that
wait, one behind the other (a run), then those of the next key, and a key is locked until its whole run has an outcome
or is back. With one message of each key in a chunk Consumers would be idle: the most frequent key decides how long all
keys take.

A delivery that is delayed keeps its place; by key, all behind it wait. To be isolated is a property of a delivery, not
another queue: it goes at its turn, alone. So does a large one.

It has all methods of the backlog of other stages, and some for what only an order has; the oldest that may begin are in
a part of their own (heads.py).
"""

from collections.abc import Sequence

from mqworker.ipc.consumer_messages import LARGE
from mqworker.producer.backlog import CHUNK_BYTES
from mqworker.producer.entry import HELD, Entry, Isolation, Unit
from mqworker.producer.heads import Heads
from mqworker.producer.ordering import Ordering


class OrderedBacklog:
    """See the module head."""

    ahead: Entry | None = None  # nothing is put behind another chunk
    waiting_since: float | None = None  # nothing goes back to the broker for having waited: it would come out of order

    def __init__(self, ordering: Ordering) -> None:
        self._ordering = ordering
        self._heads = Heads(ordering)
        self._behind = 0  # how many wait behind heads of their keys
        self._all = 0
        self.bytes = 0  # of all that wait

    def __len__(self) -> int:
        return self._all

    @property
    def ready(self) -> int:
        """How many may begin now; of a key whose first one may, all that wait behind it count."""
        return len(self._heads) + (0 if self._heads.narrow else self._behind)

    @property
    def beside(self) -> int:
        """How many may begin now beside others in a Consumer, at most one of each key."""
        return len(self._heads.beside)

    @property
    def alone(self) -> Sequence[Entry]:
        """Those that may begin and have to be alone in a Consumer for a while, the oldest first."""
        return [entry for _, entry in sorted(self._heads.alone)]

    @property
    def shortest_window(self) -> float | None:
        """The shortest window among the suspects that may begin, in seconds; None: there is none."""
        return min((entry.window for entry in self._heads.suspects), default=None)

    def narrow(self, narrow: bool) -> None:
        """Let only the first of each unit begin, and alone, or end that: each of them frees memory when it is done."""
        self._heads.narrow = narrow

    def add(self, entry: Entry) -> None:
        """Append a new delivery."""
        self._count(entry)
        unit = self._key(entry)
        if unit is None:
            self._heads.add(entry)
        else:
            unit.waiting.append(entry)
            self._look(unit)

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Put deliveries that are in no lane any more in their places; one that is delayed waits there until `wake`."""
        for entry in entries:
            self._count(entry)
            unit = self._key(entry)
            if unit is not None:
                unit.out.discard(entry)
                unit.put_back(entry)
                self._look(unit)
            elif entry.state is HELD:
                self._heads.add(entry)

    def wake(self, entry: Entry) -> None:
        """Let one begin that was delayed; it is held again."""
        unit = self._key(entry)
        if unit is None:
            self._heads.add(entry)
        else:
            self._look(unit)

    def ended(self, entry: Entry) -> None:
        """Unlock the key of a delivery that has left its lane for good, unless others of its run are still there."""
        unit = entry.unit
        assert unit is not None
        if entry.void:
            entry.unit = None
        if self._ordering.serial:
            unit.out.discard(entry)
            self._look(unit)
        self._ordering.tidy(unit)

    def remove(self, entry: Entry) -> None:
        """Remove a delivery that no longer has to wait."""
        self._count(entry, -1)
        unit = self._key(entry)
        if unit is not None:
            unit.waiting.remove(entry)
            self._look(unit)
        elif entry.state is HELD:
            self._heads.remove(entry)

    def take(self, most: int) -> list[Entry]:
        """Remove and return the next chunk: at most `most` deliveries, or a single one that has to be alone.

        A chunk of several has at most CHUNK_BYTES, and nothing LARGE.
        """
        heads = self._heads
        chunk: list[Entry] = []
        size = 0
        while (entry := heads.first()) is not None and len(chunk) < most:
            alone = heads.narrow or _goes_alone(entry)
            if chunk and (alone or size + entry.weight > CHUNK_BYTES):
                break
            run = self._begin(entry, 1 if alone else most - len(chunk), CHUNK_BYTES - size)
            chunk += run
            size += sum(entry.weight for entry in run)
            if alone:
                break
        return chunk

    def take_beside(self, most: int) -> list[Entry]:
        """Remove and return the next chunk of those that may run beside others: of a key one, as all begin at once.

        A chunk of several has at most CHUNK_BYTES, and nothing LARGE.
        """
        heads = self._heads
        chunk: list[Entry] = []
        size = 0
        while (heap := heads.beside) and len(chunk) < most:
            entry = heap[0][1]
            size += entry.weight
            if chunk and (size > CHUNK_BYTES or entry.weight > LARGE):
                break
            chunk += self._begin(entry, 1, 0)
            if entry.weight > LARGE:
                break
        return chunk

    def take_alone(self, entry: Entry) -> list[Entry]:
        """Remove and return one of those that have to be alone."""
        return self._begin(entry, 1, 0)

    def take_suspect(self) -> list[Entry]:
        """Remove and return the suspect with the shortest window among those that may begin, if there is one."""
        suspect = min(self._heads.suspects, key=lambda entry: entry.window, default=None)
        return [] if suspect is None else self._begin(suspect, 1, 0)

    def clear(self) -> None:
        """Forget all."""
        self._heads.clear()
        for unit in self._ordering.units:
            unit.waiting.clear()
            unit.offered, unit.behind = None, 0
        self._all = self._behind = self.bytes = 0

    # --- inside

    def _count(self, entry: Entry, step: int = 1) -> None:
        self._all += step
        self.bytes += step * entry.weight

    def _key(self, entry: Entry) -> Unit | None:
        """Return the unit of which one is computed at a time, if the delivery belongs to one."""
        return entry.unit if self._ordering.serial else None

    def _begin(self, entry: Entry, most: int, room: int) -> list[Entry]:
        """Remove a delivery that may begin, and of its key those behind it that go with it, within `room` bytes."""
        self._heads.remove(entry)
        unit = self._key(entry)
        if unit is None:
            self._count(entry, -1)
            return [entry]
        waiting = unit.waiting
        run = [waiting.popleft()]
        room -= entry.weight
        while waiting and len(run) < most:
            after = waiting[0]
            room -= after.weight
            if after.state is not HELD or _goes_alone(after) or room < 0:
                break
            run.append(waiting.popleft())
        unit.out.update(run)
        unit.offered = None
        for each in run:
            self._count(each, -1)
        self._behind -= unit.behind
        unit.behind = 0
        return run

    def _look(self, unit: Unit) -> None:
        """Offer the first one of a key that waits, if it may begin, in the place of the one that was offered before."""
        waiting = unit.waiting
        head = waiting[0] if waiting and not unit.out and waiting[0].state is HELD else None
        if head is not unit.offered:
            if unit.offered is not None:
                self._heads.remove(unit.offered)
            if head is not None:
                self._heads.add(head)
            unit.offered = head
        behind = len(waiting) - 1 if head is not None else 0
        self._behind += behind - unit.behind
        unit.behind = behind


def _goes_alone(entry: Entry) -> bool:
    return entry.isolation is not Isolation.NONE or entry.weight > LARGE
