"""Which deliveries the broker expects acks for, in its order, and the acks that are due.

Pure; part of the ledger. One ack with `multiple` covers the settled prefix. A delivery that is settled behind an
unsettled one waits GAP_WAIT for it, so that one ack can cover both; after that it is acked singly (decisions 8).
"""

from collections import OrderedDict, deque
from typing import NamedTuple

from mqworker.producer.entry import PLACED, Entry

GAP_WAIT = 0.005  # seconds that a settled delivery waits for the ones before it


class Ack(NamedTuple):
    """Ack this delivery at the broker, or with `multiple` all up to it in its epoch."""

    epoch: int
    tag: int
    multiple: bool


class Acks:
    """Every delivery of the present epoch that is not acked yet."""

    def __init__(self) -> None:
        self._order: OrderedDict[int, Entry] = OrderedDict()  # tag -> entry, as delivered
        self._settled: deque[Entry] = deque()  # in the order of settling; some of them may be acked already

    @property
    def waiting(self) -> bool:
        """Whether a settled delivery may still have to be acked, so that due() must be called soon."""
        return bool(self._settled)

    def opened(self, entry: Entry) -> None:
        """Add a delivery: the broker expects its ack from now on."""
        self._order[entry.tag] = entry

    def settled(self, entry: Entry) -> None:
        """Note that this delivery may be acked."""
        self._settled.append(entry)

    def find(self, epoch: int, tag: int) -> Entry | None:
        """Return a delivery that is not acked yet."""
        entry = self._order.get(tag)
        return entry if entry is not None and entry.epoch == epoch else None

    def forget(self, entry: Entry) -> None:
        """Remove a delivery that goes back to the broker."""
        del self._order[entry.tag]

    def void(self) -> list[Entry]:
        """Return and forget all deliveries: their connection was lost."""
        entries = list(self._order.values())
        self._order.clear()
        self._settled.clear()
        return entries

    def due(self, now: float) -> list[Ack]:
        """Return the acks that are due; each delivery is acked once."""
        order, settled = self._order, self._settled
        acks: list[Ack] = []
        last: Entry | None = None
        while order:
            tag, entry = order.popitem(last=False)
            if entry.state is not PLACED:
                order[tag] = entry
                order.move_to_end(tag, last=False)
                break
            last = entry
        if last is not None:
            acks.append(Ack(last.epoch, last.tag, multiple=True))
        while settled and (settled[0].tag not in order or now - settled[0].since >= GAP_WAIT):
            entry = settled.popleft()
            if order.pop(entry.tag, None) is not None:
                acks.append(Ack(entry.epoch, entry.tag, multiple=False))
        return acks
