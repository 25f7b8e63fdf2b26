"""Which calls are remembered, and for how long, so that an effect happens once even if a message comes twice.

Pure; lives in the process of a shared object, which passes every call, the Producer's notices and the time to it. The
time is always the one in the journal, so that a replay forgets exactly what the process before has forgotten.

The answers to a message's calls are in one record. A record is forgotten

- when its message has been *settled* (its result is placed, or it was dropped), and MOST_NAMED later ones of the stage
  too;
- KEEP seconds after the last event that concerned it, if its message may come back in other ways than by a redelivery:
  a second run has met the record, or the message is published again (retry, renewal, dead letter);
- likewise if the message has not been settled yet, or if the report that it was is lost.

There are at most MOST_KEPT records of the second and third kind, and the answers of all records have at most
MOST_BYTES. Excess records are evicted, the oldest first (for the limit of bytes, settled ones before the others), and
counted.

`CallMemory` is one class, because almost every event moves records between the kinds and changes the totals of all
stages: if it were divided, each part would have to update the counts of the other.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

MOST_NAMED: Final = 65_536  # settled messages of a stage that are remembered
MOST_KEPT: Final = 1_000_000  # records of all stages that are kept
MOST_BYTES: Final = 1 << 30  # bytes of answers; the answer of a link that returns its argument has one byte
KEEP: Final = 7 * 86_400  # seconds
RENEWALS: Final = 168  # renewals within KEEP: a record that is met again and again is renewed once an hour
BATCH: Final = 4_096  # records that are evicted together: finding the oldest costs as much for one as for many


class Record(msgspec.Struct, array_like=True, gc=False):
    """The answers to the calls of one message."""

    call: bytes  # the key of its first call
    answer: bytes
    more: dict[bytes, bytes] | None  # further calls
    mark: int  # named: its place in the ring; kept: until when, in seconds since the epoch
    again: bool  # a second run has met it, or its message was published again

    def find(self, call: bytes) -> bytes | None:
        """Return the answer to a call."""
        if call == self.call:
            return self.answer
        return None if self.more is None else self.more.get(call)

    @property
    def size(self) -> int:
        """Return the bytes of its answers."""
        return len(self.answer) + (sum(map(len, self.more.values())) if self.more is not None else 0)

    def add(self, call: bytes, answer: bytes) -> None:
        """Remember the answer to a further call."""
        if self.more is None:
            self.more = {}
        self.more[call] = answer


class _Stage:
    """The records of one stage; each is either kept (for a time) or named (by the Producer as settled)."""

    def __init__(self) -> None:
        self.kept: dict[bytes, Record] = {}  # by message; in the order of `mark`
        self.named: dict[bytes, Record] = {}  # by message
        self.ring: deque[bytes | None] = deque()  # the last messages that were named; None: without a record
        self.count = 0  # how many messages were named


class SavedStage(msgspec.Struct, array_like=True):
    """The records of one stage, as they are in a snapshot."""

    kept: dict[bytes, Record]
    named: dict[bytes, Record]
    ring: list[bytes | None]
    count: int


class CallMemory:
    """See the module head; the arguments differ from the constants above only in tests."""

    def __init__(
        self,
        most_named: int = MOST_NAMED,
        most_kept: int = MOST_KEPT,
        keep: int = KEEP,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.evicted = 0
        self._most_named, self._most_kept, self._keep, self._most_bytes = most_named, most_kept, keep, most_bytes
        self._bytes = 0  # size of all answers
        self._stages: dict[str, _Stage] = {}
        self._kept = 0  # records of all stages that are kept
        self._last_call = b""
        self._last_answer = b""

    def __len__(self) -> int:
        """Return how many records there are."""
        return self._kept + sum(len(stage.named) for stage in self._stages.values())

    @property
    def kept(self) -> int:
        """Return how many records are kept for a time."""
        return self._kept

    def find(self, stage: str, message: bytes, call: bytes) -> bytes | None:
        """Return the remembered answer to a call; None if there is none. Changes nothing: see `meets`."""
        place = self._stages.get(stage)
        record = None if place is None else place.kept.get(message) or place.named.get(message)
        return None if record is None else record.find(call)

    def meets(self, stage: str, message: bytes, now: float) -> bool:
        """Return whether `published_again` would change the record of a message that a second run has met."""
        place = self._stages[stage]
        if message in place.named:
            return True
        record = place.kept.get(message)
        return record is not None and (not record.again or record.mark < now + self._keep - self._keep // RENEWALS)

    def store(self, stage: str, message: bytes, call: bytes, answer: bytes, now: float) -> None:
        """Remember the answer to a call that was not remembered."""
        place = self._stages.get(stage)
        if place is None:
            place = self._stages[stage] = _Stage()
        self._bytes += len(answer)
        record = place.kept.get(message) or place.named.get(message)
        if record is not None:
            record.add(call, answer)
            self._bound()
            return
        self._last_call = call = self._last_call if self._last_call == call else call  # a link's are equal
        self._last_answer = answer = self._last_answer if self._last_answer == answer else answer
        place.kept[message] = Record(call, answer, None, int(now) + self._keep, False)
        self._kept += 1
        self._bound()

    def settled(self, stage: str, messages: list[bytes]) -> None:
        """Note that these messages were acked after a result or a drop; called in the order of the acks."""
        place = self._stages.get(stage)
        if place is None:
            place = self._stages[stage] = _Stage()
        for message in messages:
            place.count += 1
            record = place.kept.get(message)
            if record is not None and not record.again:
                del place.kept[message]
                self._kept -= 1
                record.mark = place.count
                place.named[message] = record
                place.ring.append(message)
            elif message in place.named:  # it came back without running again, and may do so once more
                place.named[message].mark = place.count
                place.ring.append(message)
            else:
                place.ring.append(None)
            if len(place.ring) > self._most_named:
                self._forget_named(place)

    def published_again(self, stage: str, messages: list[bytes], now: float) -> None:
        """Keep the records of these messages for a time: they may come back in other ways than by a redelivery."""
        place = self._stages.get(stage)
        if place is None:
            return
        for message in messages:
            record = place.named.pop(message, None)
            if record is None:
                record = place.kept.pop(message, None)
                if record is None:
                    continue
                self._kept -= 1
            record.again = True
            record.mark = int(now) + self._keep
            place.kept[message] = record
            self._kept += 1
        self._bound()

    def expire(self, now: float) -> None:
        """Forget what has been kept long enough; called from time to time, with a time that is in the journal."""
        for place in self._stages.values():
            gone = []
            for message, record in place.kept.items():
                if record.mark > now:
                    break
                gone.append(message)
            for message in gone:
                self._bytes -= place.kept.pop(message).size
            self._kept -= len(gone)

    def forget_answers(self, chosen: Callable[[bytes], bool]) -> None:
        """Forget the chosen answers."""
        for place in self._stages.values():
            for records in (place.kept, place.named):
                for message in [message for message, record in records.items() if _without(record, chosen)]:
                    del records[message]
        self._count()

    def save(self) -> dict[str, SavedStage]:
        """Return everything, to be encoded at once."""
        return {
            name: SavedStage(place.kept, place.named, list(place.ring), place.count)
            for name, place in self._stages.items()
        }

    def load(self, saved: dict[str, SavedStage]) -> None:
        """Take over what `save` has returned."""
        for name, each in saved.items():
            place = self._stages[name] = _Stage()
            place.kept, place.named, place.ring, place.count = each.kept, each.named, deque(each.ring), each.count
            for records in (place.kept, place.named):
                for record in records.values():  # equal ones share one object again
                    self._last_call = record.call = self._last_call if self._last_call == record.call else record.call
                    if record.answer == self._last_answer:
                        record.answer = self._last_answer
                    self._last_answer = record.answer
        self._count()

    def _count(self) -> None:
        places = self._stages.values()
        self._kept = sum(len(place.kept) for place in places)
        self._bytes = sum(each.size for place in places for of in (place.kept, place.named) for each in of.values())

    def _forget_named(self, place: _Stage) -> None:
        message = place.ring.popleft()
        if message is None:
            return
        record = place.named.get(message)
        if record is not None and record.mark == place.count - len(place.ring):
            self._bytes -= place.named.pop(message).size

    def _bound(self) -> None:
        """Evict what exceeds the limits."""
        if self._kept > self._most_kept:
            self._evict()
        while self._bytes > self._most_bytes and len(self) > 1:
            if any(place.named for place in self._stages.values()):
                self._evict_named()  # those that may not come back at all
            else:
                self._evict()

    def _evict_named(self) -> None:
        """Evict the oldest named records of the stage that has the most of them."""
        place = max(self._stages.values(), key=lambda each: len(each.named))
        before = len(place.named)
        for _ in range(min(BATCH, len(place.ring))):
            self._forget_named(place)
        self.evicted += before - len(place.named)

    def _evict(self) -> None:
        """Evict the oldest kept records of one stage."""
        keeping = [place for place in self._stages.values() if place.kept]
        place = min(keeping, key=lambda each: next(iter(each.kept.values())).mark)
        count = min(BATCH, max(1, self._most_kept // 64), max(1, len(place.kept) - 1))  # never the newest
        for message in [message for message, _ in zip(place.kept, range(count), strict=False)]:
            self._bytes -= place.kept.pop(message).size
            self._kept -= 1
            self.evicted += 1


def _without(record: Record, chosen: Callable[[bytes], bool]) -> bool:
    """Remove the chosen answers from a record; returns whether none is left."""
    answers = {record.call: record.answer, **(record.more or {})}
    left = {call: answer for call, answer in answers.items() if not chosen(answer)}
    if not left:
        return True
    record.call, record.answer = left.popitem()
    record.more = left or None
    return False
