"""A shared object with its memory: every call is looked up first, is made once, and is journaled.

Lives in the process of the shared object. Owns the user's object, the memory and the journal, and keeps the three
consistent: whatever changes one of them is in the journal, in the order in which it happened, before any answer is sent
(`flush`). `replay` applies the same changes without journaling them. Raises OSError when the journal fails; the process
must end then.
"""

import time
from collections import Counter
from typing import Any, Final

from mqworker.ipc.histogram import Histogram
from mqworker.shared_state import answers
from mqworker.shared_state.charges import Charges
from mqworker.shared_state.execution import ExecutionNote
from mqworker.shared_state.identity import NO_MESSAGE, SIZE
from mqworker.shared_state.instance import SharedInstance
from mqworker.shared_state.journal import Journal
from mqworker.shared_state.memory import CallMemory
from mqworker.shared_state.messages import (
    Call,
    CallEntry,
    Caller,
    Entry,
    ParamsEntry,
    ResetEntry,
    SettlementEntry,
    SettlementNotice,
    TickEntry,
)

_LENGTHS = (0, SIZE)
GATHER: Final = 8 << 20  # bytes of gathered records after which they are flushed


class SharedState:
    """See the module head."""

    def __init__(self, instance: SharedInstance, memory: CallMemory) -> None:
        self.instance = instance
        self.memory = memory
        self.counts: Counter[str] = Counter()  # calls, repeated, without_id, failed, ticks, replayed
        self.diverged: Counter[str] = Counter()  # by method
        self.times = Histogram()  # of the calls that were made
        self.charges = Charges()
        self._params: dict[bytes, int] = {}  # numbers of parameters
        self._written: set[int] = set()  # those in the segment that is being written
        self._replayed_params: dict[int, bytes] = {}

    def open(self, journal: Journal, note: ExecutionNote) -> None:
        """Write to the journal from now on: the replay is over."""
        self._journal, self._note = journal, note
        self._gathered = journal.bytes
        self._replayed_params.clear()
        self.instance.enable_log()

    def call(self, caller: Caller, call: Call, now: float) -> bytes:
        """Return the remembered answer to a call, or make the call. `now`: in seconds since the epoch, as below.

        Raises ValueError for invalid keys.
        """
        counts, message = self.counts, call.message
        if len(call.call) != len(message) or len(message) not in _LENGTHS:
            raise ValueError("keys have 16 bytes")
        counts["calls"] += 1
        if message:
            known = self.memory.find(caller.stage, message, call.call)
            if known is not None:
                self._meet(caller.stage, message, now)
                return known
        if not call.has_id:
            counts["without_id"] += 1
        if self.charges:
            charge = self.charges.find(caller.stage, message, call.call, time.monotonic())
            if charge is not None:
                return answers.not_run("unavailable", charge.reason)
        return self._make(caller, call, now)

    def _meet(self, stage: str, message: bytes, now: float) -> None:
        """Keep the record of a message that runs again."""
        self.counts["repeated"] += 1
        if self.memory.meets(stage, message, now):
            self._journal.append(SettlementEntry(stage, b"", message, now))
            self.memory.published_again(stage, [message], now)

    def _make(self, caller: Caller, call: Call, now: float) -> bytes:
        """Make a call, journal it and remember its answer."""
        stage, message, method = caller.stage, call.message, call.method
        number = self._number(caller.params) if self.instance.kind.takes_params else 0
        began = time.monotonic()
        self._note.begin(stage, message, call.call, method or "handle", began)
        answer = self.instance.call(method, call.body, caller.params, now)
        self._note.end()
        self.times.observe(time.monotonic() - began)
        if answer[0] >= answers.RAISED:
            self.counts["failed"] += 1
            if answer[0] == answers.NOT_RUN:
                return answer
        self._journal.append(CallEntry(stage, message, call.call, method, call.body, number, now, answer))
        if message and answers.is_remembered(answer):
            self.memory.store(stage, message, call.call, answer, now)
        if self._journal.bytes - self._gathered > GATHER:
            self.flush()
        return answer

    def take_notice(self, notice: SettlementNotice, now: float) -> None:
        """Apply what the Producer reports; raises ValueError for invalid keys."""
        self._take(notice.stage, notice.settled, notice.again, now)
        if self.charges:
            self.charges.named(notice.stage, _keys(notice.settled + notice.again))
        self._journal.append(SettlementEntry(notice.stage, notice.settled, notice.again, now))

    def tick(self, now: float) -> None:
        """Pass the time to the object, and forget records that are too old."""
        self.counts["ticks"] += 1
        self._note.begin("", NO_MESSAGE, NO_MESSAGE, "tick", time.monotonic())
        answer = self.instance.tick(now)
        self._note.end()
        self.memory.expire(now)
        self._journal.append(TickEntry(now, answer))

    def describe(self) -> tuple[Any, str]:
        """Return the object's description of itself, and what went wrong in making it."""
        self._note.begin("", NO_MESSAGE, NO_MESSAGE, "describe", time.monotonic())
        described = self.instance.described()
        self._note.end()
        return described

    def reset(self, now: float) -> None:
        """Go on with a new object; raises JobLoadError."""
        self.instance.replace(self.instance.kind.new())
        self._journal.append(ResetEntry(now))

    def flush(self) -> None:
        """Hand the journal to the kernel; only then may the calls be answered."""
        self._journal.flush()
        self._gathered = self._journal.bytes

    def next_segment(self) -> int:
        """Begin the next segment, which follows the state as it is now, and return its number."""
        self._journal.begin(self._journal.number + 1)
        self._params.clear()
        self._written.clear()
        return self._journal.number

    def replay(self, entry: Entry, *, execute: bool = True) -> None:
        """Apply an entry that an earlier process has journaled; without `execute`, apply it to the memory only."""
        match entry:
            case CallEntry():
                if execute:
                    self._replay_call(entry)
                if entry.message and answers.is_remembered(entry.answer):
                    self.memory.store(entry.stage, entry.message, entry.call, entry.answer, entry.now)
            case SettlementEntry():
                self._take(entry.stage, entry.settled, entry.again, entry.now)
            case TickEntry():
                if execute and not answers.is_equal(self.instance.tick(entry.now), entry.answer):
                    self.diverged["tick"] += 1
                self.memory.expire(entry.now)
            case ParamsEntry():
                self._replayed_params[entry.number] = entry.params
            case ResetEntry():
                if execute:
                    self.instance.replace(self.instance.kind.new())

    def _replay_call(self, entry: CallEntry) -> None:
        params = self._replayed_params.get(entry.params, b"")
        self.counts["replayed"] += 1
        answer = self.instance.call(entry.method, entry.body, params, entry.now)
        if not answers.is_equal(answer, entry.answer):
            self.diverged[entry.method or "handle"] += 1

    def _take(self, stage: str, settled: bytes, again: bytes, now: float) -> None:
        published, done = _keys(again), _keys(settled)
        if published:
            self.memory.published_again(stage, published, now)
        if done:
            self.memory.settled(stage, done)

    def _number(self, params: bytes) -> int:
        """Return the number of these parameters in this segment of the journal."""
        number = self._params.setdefault(params, len(self._params) + 1)
        if number not in self._written:
            self._written.add(number)
            self._journal.append(ParamsEntry(number, params))
        return number


def _keys(joined: bytes) -> list[bytes]:
    if len(joined) % SIZE:
        raise ValueError("keys have 16 bytes")
    return [joined[at : at + SIZE] for at in range(0, len(joined), SIZE)]
