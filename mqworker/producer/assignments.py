"""Which deliveries are out on which lane, and how they get there from the backlog and back.

Pure; part of the ledger. A lane may have several chunks, one behind the other; they end in their order. What a lane
does not compute goes back into the backlog, in its place. A void delivery does not: nobody waits for it here.

What holds at every moment: while a delivery runs isolated from the whole stage, no other one goes to a lane.
"""

from collections.abc import Callable, Container, Iterable

from mqworker.producer.backlog import Backlog
from mqworker.producer.entry import ALONE_IN_STAGE, HELD, OUT, Counters, Entry, Isolation
from mqworker.producer.ordered_backlog import OrderedBacklog
from mqworker.producer.quarantine import May


class Assignments:
    """The deliveries that are out on each lane, in the order of its chunks.

    `forget` is called with each void delivery that comes back without an outcome.
    """

    def __init__(self, backlog: Backlog | OrderedBacklog, counters: Counters, forget: Callable[[Entry], None]) -> None:
        self._backlog = backlog
        self._counters = counters
        self._forget = forget
        self._lanes: dict[int, dict[int, Entry]] = {}  # lane -> seq -> entry
        self._isolated: Entry | None = None  # runs isolated from the whole stage

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    @property
    def isolated(self) -> Entry | None:
        """The delivery that runs isolated from the whole stage at present, if any."""
        return self._isolated

    def on(self, lane: int) -> list[Entry]:
        """Return the deliveries that are out on a lane."""
        return list(self._lanes.get(lane, {}).values())

    def take(self, lane: int, chunk: int, most: int, may: May = May.OTHERS) -> list[Entry]:
        """Move deliveries that may begin now to a lane, as its next chunk: up to `most`, or one suspect."""
        if most < 1 or may is May.NOBODY or self._isolated is not None:
            return []
        entries = self._backlog.take(most) if may is May.OTHERS else self._backlog.take_suspect()
        return self._send_out(lane, chunk, entries)

    def take_beside(self, lane: int, chunk: int, most: int) -> list[Entry]:
        """Move deliveries to a lane whose Consumer works on several at once: up to `most`, none that must be alone."""
        return [] if self._isolated is not None else self._send_out(lane, chunk, self._backlog.take_beside(most))

    def take_alone(self, lane: int, chunk: int, entry: Entry) -> list[Entry]:
        """Move one that must be alone to such a lane."""
        return [] if self._isolated is not None else self._send_out(lane, chunk, self._backlog.take_alone(entry))

    def remove(self, entry: Entry) -> None:
        """Remove one delivery from its lane: it has an outcome, or its Consumer died of it."""
        assert entry.lane is not None
        del self._lanes[entry.lane][entry.seq]
        entry.lane = None
        if entry is self._isolated:
            self._isolated = None

    def give_back(self, lane: int, seqs: Iterable[int]) -> int:
        """Take back what a Consumer that works on several has taken and not begun. Returns how many."""
        mine = self._lanes.get(lane, {})
        return self._take_back([mine[seq] for seq in seqs if seq in mine])

    def revoke(self, lane: int, after: int) -> int:
        """Take back what a lane has not begun: all behind the delivery `after`, if that is out on it.

        Returns how many to dispatch again.
        """
        mine = self._lanes.get(lane, {})
        if after not in mine:
            return 0
        seqs = list(mine)
        return self._take_back([mine[seq] for seq in seqs[seqs.index(after) + 1 :]])

    def chunk_ended(self, lane: int, chunk: int) -> int:
        """Dispatch again what the chunks of a lane up to this one have left without an outcome. Returns how many."""
        count = self._take_back([entry for entry in self.on(lane) if entry.chunk <= chunk])
        if not self._lanes.get(lane, True):
            del self._lanes[lane]
        return count

    def lane_died(self, lane: int, seqs: Container[int]) -> list[Entry]:
        """Take everything back from a dead lane except these deliveries, which are returned to be charged.

        The caller passes their plans to Ledger.finished. A void delivery is not charged: its redelivery starts over.
        """
        charged = [entry for entry in self.on(lane) if entry.seq in seqs]
        for entry in charged:
            self.remove(entry)
        self._take_back(self.on(lane))
        self._lanes.pop(lane, None)
        for entry in charged:
            if entry.void:
                self._forget(entry)
        return [entry for entry in charged if not entry.void]

    def end_isolation(self) -> None:
        """Let others run beside the isolated delivery from now on."""
        if self._isolated is not None:
            self._isolated.isolation = Isolation.CHUNK
            self._isolated = None

    # --- inside

    def _send_out(self, lane: int, chunk: int, entries: list[Entry]) -> list[Entry]:
        if entries:
            mine = self._lanes.setdefault(lane, {})
            for entry in entries:
                entry.state = OUT
                entry.lane, entry.chunk = lane, chunk
                mine[entry.seq] = entry
                if entry.isolation is ALONE_IN_STAGE:
                    self._isolated = entry
        return entries

    def _take_back(self, entries: list[Entry]) -> int:
        """Put deliveries back into the backlog; returns how many, without the void ones."""
        if not entries:
            return 0  # as at the end of most chunks
        valid = []
        for entry in entries:
            self.remove(entry)
            entry.state = HELD
            if entry.void:
                self._forget(entry)
            else:
                valid.append(entry)
        self._backlog.put_back(valid)
        self._counters.redispatched += len(valid)
        return len(valid)
