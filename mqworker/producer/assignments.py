"""Which deliveries are out on which lane. Pure; part of the ledger.

A lane may have several chunks, one behind the other; they end in their order.
"""

from collections.abc import Iterable, Sequence

from mqworker.producer.entry import HELD, OUT, Entry, Isolation


class Assignments:
    """The deliveries that are out on each lane, in the order of its chunks."""

    def __init__(self) -> None:
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

    def assign(self, lane: int, chunk: int, entries: Sequence[Entry]) -> None:
        """Note that these deliveries are the next chunk of a lane."""
        mine = self._lanes.setdefault(lane, {})
        for entry in entries:
            entry.state = OUT
            entry.lane, entry.chunk = lane, chunk
            mine[entry.seq] = entry
            if entry.isolation is Isolation.STAGE:
                self._isolated = entry

    def remove(self, entry: Entry) -> None:
        """Remove one delivery from its lane: it has an outcome, or its Consumer died of it."""
        assert entry.lane is not None
        del self._lanes[entry.lane][entry.seq]
        entry.lane = None
        if entry is self._isolated:
            self._isolated = None

    def behind(self, lane: int, seq: int) -> list[Entry]:
        """Remove from a lane what it has not begun: all behind the delivery `seq`, if that is out on it."""
        mine = self._lanes.get(lane, {})
        if seq not in mine:
            return []
        seqs = list(mine)
        return self._return([mine[other] for other in seqs[seqs.index(seq) + 1 :]])

    def pick(self, lane: int, seqs: Iterable[int]) -> list[Entry]:
        """Remove these from a lane, as far as they are out on it."""
        mine = self._lanes.get(lane, {})
        return self._return([mine[seq] for seq in seqs if seq in mine])

    def end(self, lane: int, chunk: int) -> list[Entry]:
        """End the chunks of a lane up to this number; returns the deliveries that have no outcome."""
        entries = self._return([entry for entry in self.on(lane) if entry.chunk <= chunk])
        if not self._lanes.get(lane, True):
            del self._lanes[lane]
        return entries

    def close(self, lane: int) -> list[Entry]:
        """Forget a lane; returns the deliveries that were out on it without an outcome."""
        entries = self._return(self.on(lane))
        self._lanes.pop(lane, None)
        return entries

    def end_isolation(self) -> None:
        """Let others run beside the isolated delivery from now on."""
        if self._isolated is not None:
            self._isolated.isolation = Isolation.CHUNK
            self._isolated = None

    def _return(self, entries: list[Entry]) -> list[Entry]:
        for entry in entries:
            self.remove(entry)
            entry.state = HELD
        return entries
