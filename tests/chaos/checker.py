"""The invariants of a round, as a pure function of its records: every sentence it returns is a broken promise.

The numbers are those of the list of invariants in docs/guarantees.md. Nothing is averaged, and nothing is excused that
no logged fault explains.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from tests.chaos import logcheck
from tests.chaos.attribution import between, bound, causes, repeated
from tests.chaos.load import CRASH_MAX, KILLERS, MAX_ATTEMPTS, POISON, PREFETCH
from tests.chaos.records import DISRUPTIVE, KILLS_CONSUMER, KILLS_TREE, Answer, Round, grown

NOTICED = 15.0  # seconds until dead connections are given up and work goes on over new ones
SHOWN = 5  # examples in a sentence


def check(round_: Round) -> list[str]:
    """Return everything that is wrong, each with the number of its invariant."""
    checks = (
        *(*DELIVERY, _attempts, _isolation, _backpressure, _leaks),
        *(_control, _numbers, _unexplained_restarts, _noticed),
    )
    problems = [problem for each in checks for problem in each(round_)]
    return problems + logcheck.check(round_.log, round_.secrets)


def _some(ids: set[str] | list[str]) -> str:
    ordered = sorted(ids)
    return ", ".join(ordered[:SHOWN]) + (f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else "")


def _loss(round_: Round) -> Iterator[str]:
    if not round_.quiet:
        yield f"15 liveness: not quiet in time, left: {round_.unquiet}"
    lost = round_.confirmed - {outcome.id for outcome in round_.outcomes}
    if lost:
        yield f"1 loss: {len(lost)} of {len(round_.confirmed)} confirmed inputs have no outcome: {_some(lost)}"


def _invention(round_: Round) -> Iterator[str]:
    for outcome in round_.outcomes:
        message = round_.tried.get(outcome.id)
        if message is None:
            yield f"2 invention: an outcome for {outcome.id!r}, which was never sent"
        elif outcome.correlation != message.correlation or any(
            outcome.headers.get(name) != value for name, value in message.headers.items()
        ):
            yield f"2 invention: {outcome.id} lost its correlation id or a header: {outcome.headers}"
        elif outcome.queue == "dead" and outcome.body != message.body:
            yield f"2 invention: the dead letter {outcome.id} has another body"
        elif outcome.queue == "result" and (not message.good or json.loads(outcome.body) != message.expected()):
            yield f"2 invention: {outcome.id} ({message.kind}) has a wrong result: {outcome.body[:100]!r}"


def _ack_after_confirm(round_: Round) -> Iterator[str]:
    for violation in round_.violations[:SHOWN]:
        yield f"3, 11, 12: {violation}"
    if len(round_.violations) > SHOWN:
        yield f"3, 11, 12: {len(round_.violations) - SHOWN} more"


def _one_kind(round_: Round) -> Iterator[str]:
    kinds: dict[str, set[str]] = defaultdict(set)
    for outcome in round_.outcomes:
        kinds[outcome.id].add(outcome.queue)
    both = [name for name, queues in kinds.items() if len(queues) > 1]
    if both:
        yield f"4 two kinds of outcome: {_some(both)}"


def _duplicates(round_: Round) -> Iterator[str]:
    counts, unexplained = causes(round_)
    if unexplained:
        yield f"5 duplicates that no fault explains: {_some(unexplained)}"
    if round_.broker == "sqlite" and repeated(round_):
        yield f"5 duplicates where result and ack are one transaction: {_some(list(repeated(round_)))}"
    for index, count in counts.items():
        fault, most = round_.faults[index], bound(round_, round_.faults[index])
        if count > most:
            yield f"5 {count} duplicates of one {fault.kind} at {fault.start:.3f}, {most} are allowed"


def _attempts(round_: Round) -> Iterator[str]:
    for outcome in round_.outcomes:
        message = round_.tried.get(outcome.id)
        if outcome.queue != "dead" or message is None:
            continue
        told = {name.removeprefix("x-mqworker-"): value for name, value in outcome.headers.items()}
        missing = {"reason", "error-type", "message", "failed-at", "first-failed-at", "attempt", "stage"} - told.keys()
        if missing:
            yield f"8 the dead letter {outcome.id} does not say {_some(missing)}"
        reason = told.get("reason")
        if message.good:
            if not _excusable(round_, reason, told):
                yield f"9 {outcome.id} is good and was put aside: {told}"
        elif reason != POISON[message.kind] and not _excusable(round_, reason, told):
            yield f"8 {outcome.id} ({message.kind}) is dead for {reason!r}"
        elif reason == "error" and told.get("attempt") != MAX_ATTEMPTS:
            yield f"8 {outcome.id} is dead after attempt {told.get('attempt')}"
    yield from _starts(round_)


def _excusable(round_: Round, reason: object, told: dict[str, object]) -> bool:
    """Return whether our own kills may have convicted a message: each death needs a kill of its own."""
    kinds = KILLS_TREE if told.get("error-type") == "TreeDied" else KILLS_CONSUMER
    return reason == "crash" and sum(fault.kind in kinds for fault in round_.faults) >= CRASH_MAX


def _starts(round_: Round) -> Iterator[str]:
    times: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for start in round_.starts:
        times[start.id].append((start.time, start.pid))
    # What kills a Consumer that works on several messages at once costs its neighbours another start.
    killers = {name for name, message in round_.tried.items() if message.kind in KILLERS} if round_.seats > 1 else set()
    died = {start.pid for start in round_.starts if start.id in killers}
    unexplained = []
    for name, began in times.items():
        message = round_.tried.get(name)
        if message is None:
            continue
        allowed = {"raise": MAX_ATTEMPTS, "exit": CRASH_MAX, "segfault": CRASH_MAX}.get(message.kind, 1)
        extra = len(began) - allowed
        if extra <= 0:
            continue
        began.sort()
        explained = sum(
            pid in died or bool(between(round_.faults, DISRUPTIVE | KILLS_CONSUMER, first, second))
            for (first, pid), (second, _) in pairwise(began)
        )
        if explained < extra:
            unexplained.append(name)
    if unexplained:
        yield f"8 {len(unexplained)} messages were started more often than faults explain: {_some(unexplained)}"


def _isolation(round_: Round) -> Iterator[str]:
    for charge in logcheck.charges(round_.log):
        message = round_.tried.get(charge.id)
        if message is not None and message.good and charge.reason == "crash":
            known = between(
                round_.faults, KILLS_CONSUMER | KILLS_TREE, charge.time - round_.clock, charge.time - round_.clock
            )
            if not known:
                yield f"9 {charge.id} is good and was charged with a crash that we did not cause"
        elif message is not None and message.good:
            yield f"9 {charge.id} is good and was charged with {charge.reason}: {charge.words}"


def _backpressure(round_: Round) -> Iterator[str]:
    if round_.most_unsettled > PREFETCH:
        yield f"10 the broker had {round_.most_unsettled} unacked on a channel, prefetch is {PREFETCH}"
    over = max((sample.in_tree for sample in round_.samples), default=0)
    if over > 2 * PREFETCH:  # those of a lost connection go on beside those of the new one
        yield f"10 {over} messages were in the tree, prefetch is {PREFETCH}"


def _leaks(round_: Round) -> Iterator[str]:
    if len(round_.sizes) > 1:
        yield from (f"13 {what}" for what in grown(round_.sizes[0], round_.sizes[-1]))


def _broker_log(round_: Round) -> Iterator[str]:
    stale = [line for line in round_.broker_log.splitlines() if "unknown delivery tag" in line]
    if stale:
        yield f"14 the broker was told unknown delivery tags, {len(stale)} times: {stale[0]}"


DELIVERY = (_loss, _invention, _ack_after_confirm, _one_kind, _duplicates, _broker_log)  # for every kind of round


def answered(round_: Round) -> list[Answer]:
    """Return the calls of the control API while its Service was neither stopped nor away."""
    away = frozenset({"service-kill", "service-stop", "service-term"})
    return [
        answer
        for answer in round_.answers
        if not between(round_.faults, away, answer.time, answer.time + answer.seconds)
    ]


def _control(round_: Round) -> Iterator[str]:
    answers = answered(round_)
    silent = [answer for answer in answers if not answer.status or answer.status == 500]
    if silent:
        yield f"16 {len(silent)} calls had no answer, the first at {silent[0].time:.3f}: {silent[0]}"
    health = sorted(answer.seconds for answer in answers if answer.path == "/livez")
    # Every core is busy with the campaign itself: the figures are reported, the bound is for a service that hangs.
    if health and (health[len(health) * 99 // 100] > 1.0 or health[-1] > 5.0):
        yield f"16 health took {health[len(health) * 99 // 100]:.3f} s (p99), {health[-1]:.3f} s at most"


def _numbers(round_: Round) -> Iterator[str]:
    known: dict[int, dict[str, int]] = {}
    for sample in round_.samples:
        now = sample.counters
        under_way = now["received"] - now["settled"] - now["voided"] - now["released"]
        outcomes = now["result"] + now["dropped"] + now["retried"] + now["dead"]
        if not 0 <= under_way <= sample.in_tree or (not now["voided"] and under_way != sample.in_tree):
            yield f"18 {under_way} are under way by the counters, {sample.in_tree} in the tree: {now}"
            return
        if outcomes != now["settled"]:
            yield f"18 {outcomes} outcomes, {now['settled']} settled: {now}"
            return
        before = known.get(sample.pid, {})
        if any(now[name] < value for name, value in before.items() if name in now):
            yield f"18 a counter fell: {before}, {now}"
            return
        known[sample.pid] = now


def _unexplained_restarts(round_: Round) -> Iterator[str]:
    tree = sum(fault.kind in KILLS_TREE for fault in round_.faults)
    lives = len({sample.pid for sample in round_.samples if sample.pid})
    services = sum(fault.kind == "service-term" for fault in round_.faults)
    if lives > 1 + tree + services:
        yield f"15 {lives} Producers lived, {tree + services} faults ended one"
    bad = [code for code in round_.exits if code not in (0, 75)]
    if bad:
        yield f"17 the Service ended with {bad}"


def _noticed(round_: Round) -> Iterator[str]:
    for fault in round_.faults:
        if fault.end - fault.start > NOTICED and fault.kind == "long-halt":
            later = [start for start in round_.starts if fault.start + 1 < start.time < fault.start + NOTICED + 4]
            if not later:
                yield f"15 nothing was begun for {NOTICED + 4:.0f} s after the connections went dead"
