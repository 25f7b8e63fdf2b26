"""Which fault explains a duplicate: part of the checker, and pure like it.

A duplicate is explained by a fault that was active between two publications of the same step, as the wire saw them;
each fault explains at most as many as can have been in progress.
"""

from bisect import bisect_right
from collections import defaultdict

from tests.chaos.load import PREFETCH
from tests.chaos.records import DISRUPTIVE, Fault, Outcome, Round
from tests.chaos.wire import SLOT

AFTER = 2.0  # seconds that a fault works on after it was healed: reconnecting, starting
WRITTEN = 0.5  # seconds after which a classic queue has written what happened before a message was stored in it
LONG_AFTER = 12.0  # the same for one that shows only by a deadline
DELAYED = ".retry."  # in the name of a delay queue, between that of the input and the seconds
SLOW = frozenset(
    {
        *("producer-stop", "service-stop", "broker-freeze", "halt", "long-halt", "silent-death"),
        *("disk-alarm", "delay", "broker-kill"),
    }
)
# These cost both connections, one after the other: a result that was sent twice because nobody knew, may be computed
# again because its ack was on the other one.
BOTH = SLOW | {"close-connections", "reset-all"}


def between(faults: list[Fault], kinds: frozenset[str], first: float, last: float) -> list[int]:
    """Return the faults of these kinds (their indexes) that were active at some time between these two."""
    return [
        index
        for index, fault in enumerate(faults)
        if fault.kind in kinds
        and fault.start <= last
        and fault.end + (LONG_AFTER if fault.kind in SLOW else AFTER) >= first
    ]


def bound(round_: Round, fault: Fault) -> int:
    """Return how many duplicates this fault can explain."""
    most = PREFETCH * (2 if fault.kind in BOTH else 1)
    if fault.kind == "broker-kill" and round_.broker in ("classic", "foreign"):
        # A classic queue may keep acks in memory while nobody publishes into it (tests/benchmarks/lost_acks.py).
        before = bisect_right(round_.stored, fault.start)
        stored = round_.stored[before - 1] if before else round_.began
        slots = range(int((stored - WRITTEN) / SLOT), int(fault.start / SLOT) + 2)
        most += sum(round_.acked.get(slot, 0) for slot in slots)
    return most


def repeated(round_: Round) -> dict[str, list[Outcome]]:
    """Return the ids with more than one outcome."""
    by_id: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in round_.outcomes:
        by_id[outcome.id].append(outcome)
    return {name: outcomes for name, outcomes in by_id.items() if len(outcomes) > 1}


def causes(round_: Round) -> tuple[dict[int, int], list[str]]:
    """What each extra outcome is attributed to: how many by fault (its index), and the ids that nothing explains.

    Where several faults come into question it goes to the one that explains the smallest part of what it could.
    """
    counts: dict[int, int] = defaultdict(int)
    bounds = [bound(round_, fault) for fault in round_.faults]
    unexplained = []
    for name, outcomes in repeated(round_).items():
        extra = len(outcomes) - 1
        explained = [candidates for candidates in _repeats(round_, name) if candidates]
        if len(explained) < extra:
            unexplained.append(name)
        for candidates in explained[:extra]:
            counts[min(candidates, key=lambda index: (counts[index] + 1) / bounds[index])] += 1
    return counts, unexplained


def _repeats(round_: Round, name: str) -> list[list[int]]:
    """Return, for each step of this message that was published again, retry or outcome, the faults that may be why.

    How long a retry waits is partly chance, so its two publications may go to different delay queues.
    """
    last: dict[tuple[object, ...], float] = {}
    found = []
    for step in round_.steps.get(name, []):
        same = (step.exchange, step.key.partition(DELAYED)[0], step.label)
        if same in last:
            found.append(between(round_.faults, DISRUPTIVE, last[same], step.time))
        last[same] = step.time
    return found
