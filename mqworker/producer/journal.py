"""The journal: the last messages that were settled, and the last failures, so that one can be found by its id.

Pure; lives in the Producer, written by the ledger and by settlement. A message costs one note, which keeps references
and no body: what a note says is read when somebody asks. A failure costs far more anyway, so it is kept ready to be
reported; and there are more failures here than such among the settled messages, so why one has failed is known for
longer.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from mqworker.amqp import headers
from mqworker.amqp.message_id import SMALL, brief, has_id
from mqworker.amqp.properties import decode_leniently
from mqworker.ipc.consumer_messages import Failure
from mqworker.ipc.inspection import TEXT, Trace
from mqworker.ipc.json_safe import text
from mqworker.producer.entry import Entry, Work

SETTLED = 10_000  # messages
FAILURES = 2_000
_NO_WORK: Work = (0.0, 0.0, 0, -1, "")
_DERIVED, _PART = headers.DERIVED_ID.encode(), headers.PART.encode()


class Note(NamedTuple):
    """One message that was settled."""

    block: bytes  # properties with its id
    received: float
    settled: float
    outcome: str
    work: Work | None  # None: no Consumer has computed it
    size: int
    redelivered: bool


class FailedAttempt(NamedTuple):
    """One attempt that has failed, as it is reported."""

    message_id: str
    trace: Trace  # `settled` is 0


class SettledJournal:
    """See the module head."""

    def __init__(self, settled: int = 0, failures: int = 0) -> None:
        """`settled`, `failures`: how many it remembers; 0: as many as in a Producer."""
        self._settled: deque[tuple[bytes, float, float, str, Work | None, int, bool]] = deque(maxlen=settled or SETTLED)
        self._failures: deque[FailedAttempt] = deque(maxlen=failures or FAILURES)
        self._append = self._settled.append

    def __len__(self) -> int:
        """How many settled messages it remembers."""
        return len(self._settled)

    @property
    def since(self) -> float | None:
        """When the oldest of them was settled; None while it remembers everything."""
        return self._settled[0][2] if len(self._settled) == self._settled.maxlen else None

    def note(self, entry: Entry, outcome: str, now: float) -> None:
        """Note a message that is settled now, with its plan."""
        block = entry.properties
        if len(block) > SMALL or len(block) < 2 or not block[1] & 0x80:
            block = _named(entry)
        self._append((block, entry.received, now, outcome, entry.work, len(entry.body), entry.redelivered))

    def failed(self, message_id: str, trace: Trace) -> None:
        """Note an attempt that has failed."""
        self._failures.append(FailedAttempt(message_id, trace))

    def settled(self) -> Iterator[Note]:
        """All settled messages, the oldest first."""
        return map(Note._make, self._settled)

    def failures(self, message_id: str) -> list[Trace]:
        """The failed attempts of a message, the oldest first."""
        return [failure.trace for failure in self._failures if failure.message_id == message_id]


def failed(entry: Entry, failure: Failure, outcome: str, attempt: int, due: float) -> Trace:
    """Return the report on an attempt that has failed, as its `work` says; `due`: when the next one is."""
    finished, duration, generation, slot, _ = entry.work or _NO_WORK
    return Trace(
        state=outcome,
        attempt=attempt,
        received=entry.received,
        begun=finished - duration if duration else 0.0,
        finished=finished,
        duration=duration,
        slot=slot,
        generation=generation,
        size=len(entry.body),
        redelivered=entry.redelivered,
        due=due,
        reason=failure.reason,
        error_type=text(failure.type),
        error=text(failure.message[:TEXT]),
        place=failure.place,
    )


def _named(entry: Entry) -> bytes:
    """Return properties with the id of a message: of one without, those of its result tell the id that is derived.

    One without an id or a result is not found by an id later: its body, from which that is derived, is not kept.
    """
    block, plan = entry.properties, entry.plan
    if has_id(block) or _DERIVED in block or plan is None or not plan.publications:
        return brief(block)
    block = plan.publications[0].properties
    if _PART not in block:
        return brief(block)
    properties = decode_leniently(brief(block))
    properties.message_id = (properties.message_id or "").rpartition(".")[0]  # the id of a part ends with its number
    return properties.encode()
