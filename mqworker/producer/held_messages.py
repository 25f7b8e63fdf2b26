"""Held messages, for an operator who asks: which failed messages wait in their places, and letting one go.

Lives in the Producer, on its loop. Receives an AskHeld, answers with a Held. A message that is let go becomes a dead
letter in its turn, and then those behind it follow. Only one that waits for its next attempt can be let go: what one
that runs will have done is not known.
"""

import time

from mqworker.amqp import headers
from mqworker.amqp.labels import labels
from mqworker.amqp.properties import decode_leniently
from mqworker.ipc.consumer_messages import Failure
from mqworker.ipc.json_safe import text
from mqworker.ipc.producer_messages import AskHeld, Held, HeldMessage
from mqworker.producer.entry import DELAYED, OUT, Entry
from mqworker.producer.ledger import Ledger
from mqworker.producer.stage import Stage

LISTED = 20  # messages at most
REASON = "skipped"  # of the dead letter


def answer(stage: Stage, asked: AskHeld) -> Held:
    """List the messages that wait, or let one go; a refusal says why."""
    ledger, queue = stage.ledger, stage.spec.config.input.queue
    if not asked.skip:
        waiting, now = delayed(ledger), time.monotonic()
        return Held(asked.number, tuple(described(entry, queue, now) for entry in waiting[:LISTED]), len(waiting))
    entry = find(ledger, queue, asked.skip)
    if entry is None or entry.state is not DELAYED:
        return Held(asked.number, refused=_why_not(stage, asked.skip, entry), unknown=entry is None)
    stage.settlement.convicted(entry, let_go(entry))
    stage.ask_turn()
    return Held(asked.number)


def delayed(ledger: Ledger) -> list[Entry]:
    """Return the deliveries that wait for their next attempt, in their places."""
    return sorted((entry for entry in ledger.unfinished if entry.state is DELAYED), key=lambda entry: entry.tag)


def find(ledger: Ledger, queue: str, message_id: str) -> Entry | None:
    """Return the delivery with this id: the first that waits for its next attempt, else any without an outcome."""
    for entry in sorted(ledger.unfinished, key=lambda entry: (entry.state is not DELAYED, entry.tag)):
        if id_of(entry, queue) == message_id:
            return entry
    return None


def id_of(entry: Entry, queue: str) -> str:
    """Return the id of a delivery, derived if it has none; "" if it has none and has not failed: no body is hashed."""
    if entry.original is None:
        return text(decode_leniently(entry.properties).message_id or "")
    return str(labels(entry.properties, entry.body, queue)["message_id"])


def described(entry: Entry, queue: str, now: float) -> HeldMessage:
    """Return what an operator wants to know about a delivery that waits."""
    unit, known = entry.unit, labels(entry.properties, entry.body, queue)
    assert unit is not None
    error_type, error = _last_failure(entry)
    return HeldMessage(
        message_id=known["message_id"],
        key=text(unit.key.decode(errors="replace")),
        attempt=known["attempt"],
        seconds=round(max(0.0, entry.due - now), 3),
        behind=len(unit.order) - 1 - unit.order.index(entry),
        error_type=error_type,
        error=error,
    )


def let_go(entry: Entry) -> Failure:
    """Return why a message is dead that an operator has let go: its last failure is in it."""
    error_type, error = _last_failure(entry)
    return Failure(REASON, error_type, f"skipped by an operator, after: {error}", final=True)


def _last_failure(entry: Entry) -> tuple[str, str]:
    table = decode_leniently(entry.properties).headers
    error_type, error = (table.get(name) for name in (headers.ERROR_TYPE, headers.MESSAGE))
    return text(str(error_type or "")), text(str(error or ""))


def _why_not(stage: Stage, message_id: str, entry: Entry | None) -> str:
    if entry is not None:
        what = "is being computed" if entry.state is OUT else "is about to be computed"
        return f"message {message_id} {what}; one that waits for its next attempt can be skipped"
    if not stage.spec.config.holds:
        return f'stage {stage.spec.stage} holds no failed messages: that takes ordered_by, and on_failure = "hold"'
    why = f"no message {message_id} waits in stage {stage.spec.stage} for its next attempt"
    if not stage.link.state.consuming:
        return f"{why}: the stage takes nothing now, and its messages are at the broker"
    return f"{why}; `mqworker held list` shows those that do"
