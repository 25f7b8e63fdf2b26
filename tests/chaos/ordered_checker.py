"""What must hold of a run in an order, a pure function of its records: every sentence it returns is a broken promise.

The first result of each message has its place: behind those of all messages before it, of its key or of the input. What
comes again may come anywhere, but a fault has to explain it, as in every campaign. Between two queues no order can be
seen from outside: of a dead letter it is checked that it is there, once, with its attempts.

With `hold` nobody may be late, and no message of a key begins before the one before it has ended, in a result or in
its last failure. With `pass` those that were charged with a failure may be late, and some have to be.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.chaos import logcheck
from tests.chaos.attribution import between
from tests.chaos.checker import DELIVERY
from tests.chaos.ordered_load import MAX_ATTEMPTS, Keyed
from tests.chaos.records import KILLS_CONSUMER, KILLS_TREE, Round, Start

SHOWN = 3  # examples of one kind
ENOUGH = 5  # messages that failed once, of which one at least must be late


@dataclass
class Run:
    """A round whose stage keeps an order `by` key or input; `ended` is the handler's second journal."""

    round: Round
    by: str
    on_failure: str
    ended: list[Start]
    refused: int = 0  # results that the full queue refused

    @property
    def messages(self) -> list[Keyed]:
        """All messages, as they were sent."""
        return [message for message in self.round.tried.values() if isinstance(message, Keyed)]

    def unit(self, message: Keyed) -> str:
        """Return what the message is in order with."""
        return message.key if self.by == "key" else ""

    @property
    def free(self) -> set[str]:
        """The ids of messages that may leave their order: with `pass`, those that fail, or were charged with a crash.

        What fails as asked needs no charge in the log: a Service that is killed takes its last lines along.
        """
        if self.on_failure == "hold":
            return set()
        asked = {message.id for message in self.messages if message.fails}
        return asked | {charge.id for charge in logcheck.charges(self.round.log)}


def check(run: Run) -> list[str]:
    """Return everything that is wrong."""
    problems = [problem for each in DELIVERY for problem in each(run.round)]
    for check_one in (_results, _begins, _dead, _charges):
        problems += check_one(run)
    bad = [code for code in run.round.exits if code not in (0, 75)]
    problems += [f"17 the Service ended with {bad}"] * bool(bad)
    return problems + logcheck.check(run.round.log, run.round.secrets)


def late(run: Run) -> list[tuple[Keyed, Keyed]]:
    """Return each message whose first result came after that of a later one of its unit, and the latest of those."""
    numbers = {name: number for number, name in enumerate(run.round.tried)}
    newest: dict[str, Keyed] = {}
    seen: set[str] = set()
    found = []
    for outcome in run.round.outcomes:
        message = run.round.tried.get(outcome.id)
        if outcome.queue != "result" or outcome.id in seen or not isinstance(message, Keyed):
            continue
        seen.add(outcome.id)
        unit = run.unit(message)
        before = newest.setdefault(unit, message)
        if numbers[message.id] < numbers[before.id]:
            found.append((message, before))
        else:
            newest[unit] = message
    return found


def _results(run: Run) -> Iterator[str]:
    free = run.free
    all_late = late(run)
    wrong = [(message.id, before.id) for message, before in all_late if message.id not in free]
    if wrong:
        shown = ", ".join(f"{name} after {before}" for name, before in wrong[:SHOWN])
        yield f"20 order: {len(wrong)} results came after later ones of the same order: {shown}"
    if run.on_failure == "pass":
        once = {message.id for message in run.messages if message.fails == 1}
        if len(once) >= ENOUGH and not any(message.id in once for message, _ in all_late):
            yield f"20 pass: {len(once)} messages failed once, and none let others pass"


def _begins(run: Run) -> Iterator[str]:
    """Check who begins when: only where one of a key is computed at a time."""
    if run.by != "key":
        return
    begins = _first(run.round.starts)
    ends = _first(run.ended)
    free = run.free
    units: dict[str, list[str]] = {}
    for message in run.messages:
        if message.id in begins and message.id not in free:
            units.setdefault(message.key, []).append(message.id)
    wrong = [
        f"{second} began {begins[second]:.4f}, {first} ended {ends.get(first, float('inf')):.4f}"
        for names in units.values()
        for first, second in pairwise(names)
        if begins[second] < ends.get(first, float("inf"))
    ]
    if wrong:
        yield f"20 {len(wrong)} messages began before the one before them had ended: {', '.join(wrong[:SHOWN])}"


def _first(starts: list[Start]) -> dict[str, float]:
    return {start.id: start.time for start in reversed(starts)}


def _dead(run: Run) -> Iterator[str]:
    for outcome in run.round.outcomes:
        if outcome.queue == "dead":
            told = {name.removeprefix("x-mqworker-"): value for name, value in outcome.headers.items()}
            if (told.get("reason"), told.get("attempt")) != ("error", MAX_ATTEMPTS):
                yield f"8 {outcome.id} is dead for {told.get('reason')!r} after attempt {told.get('attempt')}"


def _charges(run: Run) -> Iterator[str]:
    """Check that a failure was asked for, and that a crash was a kill of ours."""
    round_ = run.round
    for charge in logcheck.charges(round_.log):
        message = round_.tried.get(charge.id)
        when = charge.time - round_.clock
        if charge.reason == "crash":
            explained = bool(between(round_.faults, KILLS_CONSUMER | KILLS_TREE, when, when))
        else:
            explained = charge.reason == "error" and isinstance(message, Keyed) and message.fails > 0
        if not explained:
            yield f"9 {charge.id} was charged with {charge.reason}: {charge.words}"
