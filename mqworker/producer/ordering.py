"""Whose turn it is to publish, in a stage that keeps an order.

Pure; part of the ledger. A *unit* is what is in order: the whole input, or the messages with one key. Its deliveries
stand in the order in which they arrived, and only the first one may publish: results, replies, a dead letter. It leaves
when it is settled, and the next one has its turn. This one rule keeps the order through refusals, lost answers,
revoking, lost connections and changes of code, whatever begins when; which one may begin is decided by the ordered
backlog.

After a lost connection every unit is empty, and what the broker delivers again stands in line as it arrives.

With `hold`, a message that fails keeps its place until it succeeds or is dead. Without, it leaves its unit at once.
"""

from collections.abc import Iterable

from mqworker.brokers.base import Delivery
from mqworker.config.model import INPUT
from mqworker.producer.entry import COMPUTED, OUT, PLACED, Entry, Plan, Unit
from mqworker.producer.ordering_key import key_of


class Ordering:
    """The units of a stage, by key; `ordered_by` is the stage's setting, `queue` its input."""

    def __init__(self, ordered_by: str, queue: str, *, hold: bool) -> None:
        self.hold = hold
        self.serial = ordered_by != INPUT  # one of a unit is computed at a time
        self.turned: list[Entry] = []  # they have their plans, and their turn has come
        self.risen: list[Entry] | None = None  # they are held, and their turn has come; None: nobody wants to know
        self._ordered_by = ordered_by
        self._queue = queue
        self._units: dict[bytes, Unit] = {}

    def __len__(self) -> int:
        return len(self._units)

    @property
    def units(self) -> Iterable[Unit]:
        """All units that have a delivery, or one in a lane."""
        return self._units.values()

    def stand(self, entry: Entry, delivery: Delivery) -> None:
        """Let a delivery that has just arrived stand behind the others of its unit, if it has a key."""
        key = key_of(self._ordered_by, self._queue, delivery)
        if key is None:
            return
        unit = self._units.get(key)
        if unit is None:
            unit = self._units[key] = Unit(key)
        unit.order.append(entry)
        entry.unit = unit

    def is_turn(self, entry: Entry) -> bool:
        """Whether a delivery is the first of its unit."""
        assert entry.unit is not None
        return entry.unit.order[0] is entry

    def proceeds(self, entry: Entry) -> bool:
        """Whether the plan of a delivery is carried out now; what needs no turn leaves its unit for that.

        What publishes nothing need not wait. A message that is put back as a new one loses its place in any case.
        """
        assert entry.plan is not None
        if self._needs_turn(entry.plan):
            return self.is_turn(entry)
        self.leave(entry)
        return True

    def stands(self, entry: Entry) -> bool:
        """Whether a delivery that is valid again stands in line: not if it is placed, or its plan needs no turn."""
        return entry.state is not PLACED and (entry.plan is None or self._needs_turn(entry.plan))

    def leave(self, entry: Entry) -> None:
        """Let a delivery leave its unit; if the next one has its plan already, its turn has come."""
        unit, entry.unit = entry.unit, None
        assert unit is not None
        order = unit.order
        if order[0] is not entry:
            order.remove(entry)
            return
        order.popleft()
        if not order:
            self.tidy(unit)
        elif order[0].state is COMPUTED:
            self.turned.append(order[0])
        elif self.risen is not None:
            self.risen.append(order[0])

    def void(self) -> None:
        """Empty all units: the connection was lost. What is in a lane goes on, and knows its unit until its outcome."""
        for unit in list(self._units.values()):
            for entry in unit.order:
                if entry.state is not OUT:
                    entry.unit = None
            unit.order.clear()
            self.tidy(unit)
        self.turned.clear()
        if self.risen:
            self.risen.clear()

    def tidy(self, unit: Unit) -> None:
        """Forget a unit without deliveries."""
        if not unit.order and not unit.out and self._units.get(unit.key) is unit:  # else a later one with its key
            del self._units[unit.key]

    def _needs_turn(self, plan: Plan) -> bool:
        if not plan.publications and not plan.replies:
            return False
        if plan.outcome in ("result", "dropped"):
            return True
        return self.hold and plan.outcome != "renewed"
