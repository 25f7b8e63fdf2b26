"""Where a message is, for an operator who asks by its id: in hand here, or settled, or never seen.

Lives in the Producer, on its loop. Receives an AskMessage, answers with a MessageAnswer: a Trace for each delivery of
the message that the ledger holds, or the journal remembers, and for each attempt that has failed. Blocks the loop for a
few milliseconds: the id is looked for in the bytes of the properties, and only where it is found they are decoded.
"""

import re
import time
from collections.abc import Iterator
from itertools import chain

from msgspec.structs import replace

from mqworker.amqp import headers
from mqworker.amqp.labels import DERIVED, derived_id
from mqworker.amqp.message_id import has_id, own_id
from mqworker.amqp.properties import decode_leniently
from mqworker.ipc.inspection import TEXT, TRACES, AskMessage, MessageAnswer, Trace
from mqworker.ipc.json_safe import text
from mqworker.producer.entry import Entry
from mqworker.producer.journal import Note, SettledJournal
from mqworker.producer.lane import Lane
from mqworker.producer.ledger import Ledger
from mqworker.producer.stage import Stage

HASHED = 16 << 20  # bytes of bodies of messages without ids from which ids are derived for one request
LONGEST = 255  # bytes of an id in AMQP
DERIVED_HEADER = headers.DERIVED_ID.encode() + b"S"  # and the length of its value in four bytes
_ESCAPE = re.compile(r"\\x([89a-f][0-9a-f])|\\udc([89a-f][0-9a-f])")


class WantedMessage:
    """Recognises a message by the id that an operator has read somewhere: its own, or the one derived for it."""

    def __init__(self, message_id: str, queue: str) -> None:
        self.message_id = message_id
        self._queue = queue
        plain = message_id.encode("utf-8", "surrogateescape")
        raw = _ESCAPE.sub(lambda found: chr(0xDC00 + int(found[1] or found[2], 16)), message_id)
        self._names = {plain, raw.encode("utf-8", "surrogateescape")}
        self._own = [len(name).to_bytes() + name for name in self._names if len(name) <= LONGEST]
        self._of_retry = [DERIVED_HEADER + len(name).to_bytes(4) + name for name in self._names]
        self._derived = len(message_id) == DERIVED
        self._left = HASHED

    def attempt(self, block: bytes) -> int | None:
        """Return which attempt properties are for, if they are those of the message; None: they are not."""
        if not self._may_be(block):
            return None
        properties = decode_leniently(block)
        name = properties.message_id or properties.headers.get(headers.DERIVED_ID)
        return headers.attempt(properties, self._queue) if isinstance(name, str) and self._is(name) else None

    def attempt_of(self, entry: Entry) -> int | None:
        """Return the same of a delivery in the ledger."""
        block = entry.properties
        if not block and entry.plan is not None and entry.plan.publications:  # its outcome is kept
            block = entry.plan.publications[0].properties
        found = self.attempt(block)
        if found is not None or not self._derived or has_id(block) or len(entry.body) > self._left:
            return found
        self._left -= len(entry.body)
        properties = decode_leniently(block)
        name = derived_id(properties, block, entry.body, self._queue)
        return headers.attempt(properties, self._queue) if name == self.message_id else None

    def _may_be(self, block: bytes) -> bool:
        """Whether properties are worth decoding: a short id occurs in nearly all of them, but rarely as an id."""
        if any(needle in block for needle in self._own) and (own := own_id(block)):
            return own in self._names
        return any(needle in block for needle in self._of_retry)

    def _is(self, name: str) -> bool:
        return text(name) == self.message_id or name.encode("utf-8", "surrogateescape") in self._names


def answer(stage: Stage, asked: AskMessage) -> MessageAnswer:
    """Return what is known of a message."""
    ledger, wanted = stage.ledger, WantedMessage(asked.message_id, stage.spec.config.input.queue)
    traces = find(ledger, stage.dispatch.fleet.roster.lanes, wanted)
    journal = ledger.journal
    since = stage.began if journal.since is None else journal.since
    return MessageAnswer(asked.number, tuple(traces[-TRACES:]), len(journal), since)


def find(ledger: Ledger, lanes: dict[int, Lane], wanted: WantedMessage) -> list[Trace]:
    """Return every life of a message that is known here, the newest last."""
    failures = {trace.finished: trace for trace in ledger.journal.failures(wanted.message_id)}
    ended = [*_settled(ledger.journal, wanted, failures)]
    living = [*_living(ledger, lanes, wanted, failures)]
    known = {trace.finished for trace in chain(ended, living)}
    alone = [trace for finished, trace in failures.items() if finished not in known]
    return sorted(chain(alone, ended), key=_age) + sorted(living, key=_age)


def _age(trace: Trace) -> tuple[float, float]:
    return trace.settled or trace.finished or trace.received, trace.received


def _settled(journal: SettledJournal, wanted: WantedMessage, failures: dict[float, Trace]) -> Iterator[Trace]:
    for note in journal.settled():
        work = note.work
        if work is not None and work[4]:
            if work[4] == wanted.message_id:
                failure = failures.get(work[0]) or _of(note, wanted.attempt(note.block) or 1)
                yield replace(failure, settled=note.settled)
        elif (attempt := wanted.attempt(note.block)) is not None:
            yield _of(note, attempt)


def _of(note: Note, attempt: int) -> Trace:
    """Return the trace of a settled message, from its note."""
    finished, duration, generation, slot, _ = note.work or (0.0, 0.0, 0, -1, "")
    return Trace(
        state=note.outcome,
        attempt=attempt,
        received=note.received,
        begun=finished - duration if finished and duration else 0.0,
        finished=finished,
        settled=note.settled,
        duration=duration,
        slot=slot,
        generation=generation,
        size=note.size,
        redelivered=note.redelivered,
    )


def _living(
    ledger: Ledger, lanes: dict[int, Lane], wanted: WantedMessage, failures: dict[float, Trace]
) -> Iterator[Trace]:
    for entry in ledger.in_hand:
        attempt = wanted.attempt_of(entry)
        if attempt is None:
            continue
        finished, duration, generation, slot, failed = entry.work or (0.0, 0.0, 0, -1, "")
        trace = Trace(
            state=entry.state.name.lower(),
            attempt=attempt,
            received=entry.received,
            size=len(entry.body),
            redelivered=entry.redelivered,
        )
        failure = failures.get(finished) if failed else None
        if entry.plan is not None:  # it has an outcome, which is not settled yet
            begun = finished - duration if duration else 0.0
            trace = replace(trace, begun=begun, finished=finished, duration=duration, generation=generation, slot=slot)
            why = ledger.publications.refusal[:TEXT] if entry.tries else ""
            if failure is not None:
                trace = replace(failure, state=trace.state)
            yield replace(trace, error=why) if why else trace
            continue
        if entry.due > time.monotonic():
            trace = replace(trace, due=entry.due)
        lane = None if entry.lane is None else lanes.get(entry.lane)
        if lane is not None:
            trace = replace(trace, slot=lane.slot, begun=begun_at(lane, entry.seq), generation=lane.generation)
        yield trace


def begun_at(lane: Lane, seq: int) -> float:
    """Return when a Consumer began a message; 0.0: it has not, or waits for a shared object."""
    if lane.seats is not None:
        return lane.seats.working().get(seq, 0.0)
    in_hand, began = lane.in_hand()
    return began if in_hand == seq else 0.0
