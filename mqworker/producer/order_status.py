"""The progress of a stage that keeps an order, for its status: who blocks it, its hottest key, and what cannot begin.

Pure; used by the status. A unit is *blocked* where others stand behind a first one that makes no progress: it waits for
its next attempt, cannot be placed, is suspected of having killed the whole tree, or has been in hand or on its way for
long. A first one that only waits for a Consumer blocks nobody: so do all that are at the broker.
"""

from collections.abc import Mapping
from typing import NamedTuple

from mqworker.control.wording import about
from mqworker.ipc.json_safe import text
from mqworker.ipc.stage_status import BlockedOrder, OrderStatus
from mqworker.producer.entry import DELAYED, OUT, PLACING, Entry, Isolation, Unit
from mqworker.producer.held_messages import id_of
from mqworker.producer.ledger import Ledger
from mqworker.producer.ordering import Ordering

LONG = 5.0  # seconds in hand, or without an answer of the broker, after which a message is said to block
FULL = 0.9  # share of the prefetch from which on all of it counts as taken: some acks are always on their way


class Blocked(NamedTuple):
    """A unit that makes no progress."""

    first: Entry
    behind: int  # how many wait for it
    reason: str


def order_status(
    ledger: Ledger, ordering: Ordering, queue: str, prefetch: int, begun: Mapping[int, float], now: float
) -> OrderStatus:
    """Return it; `begun`: when each message in hand was begun, by its number. `queue`: the stage's input."""
    waiting, ready = len(ledger.backlog), ledger.backlog.ready
    kept = waiting + ledger.publications.computed
    hottest = max(ordering.units, key=lambda unit: len(unit.order), default=None)
    found = blocked(ordering, ledger.publications.refusal, begun, now)
    return OrderStatus(
        delayed=0 if ledger.attempts is None else len(ledger.attempts),
        locked=waiting - ready,
        stuck=not ready and kept > 0 and len(ledger) >= FULL * prefetch > 0,  # not if all are in hand
        blocked=None if found is None else _blocked_order(found, queue),
        hottest=_key(hottest) if hottest is not None and hottest.order else None,
        hottest_messages=0 if hottest is None else len(hottest.order),
    )


def blocked(ordering: Ordering, refusal: str, begun: Mapping[int, float], now: float) -> Blocked | None:
    """Return the blocked unit with most deliveries behind its first one; None: none is. `refusal`: the last one."""
    most: Blocked | None = None
    for unit in ordering.units:
        behind = len(unit.order) - 1
        if behind > (most.behind if most else 0) and (reason := _why(unit, refusal, begun, now)):
            most = Blocked(unit.order[0], behind, reason)
    return most


def _why(unit: Unit, refusal: str, begun: Mapping[int, float], now: float) -> str:
    """Return why a unit makes no progress; "" if it does."""
    first = unit.order[0]
    if first.state is DELAYED:
        return f"its next attempt begins in {about(first.due - now)}"
    if first.tries:
        return f"it cannot be placed: {refusal}"
    if first.state is PLACING:
        return _for_long(now - first.since, "the broker has not answered its publication for")
    if first.state is OUT:
        return _for_long(now - begun.get(first.seq, now), "it has been in hand for")
    if first.isolation is Isolation.STAGE:
        return "it may have killed the whole process tree, and waits until it can run isolated"
    lost = min((begun[each.seq] for each in unit.out if each.seq in begun), default=now)
    return _for_long(now - lost, "work of its key, begun on a connection that was lost, has been in hand for")


def _for_long(seconds: float, what: str) -> str:
    return f"{what} {about(seconds)}" if seconds >= LONG else ""


def _blocked_order(found: Blocked, queue: str) -> BlockedOrder:
    first = found.first
    key = "" if first.unit is None else _key(first.unit)
    return BlockedOrder(id_of(first, queue), key, first.received, found.behind, found.reason)


def _key(unit: Unit) -> str:
    return text(unit.key.decode(errors="replace"))
