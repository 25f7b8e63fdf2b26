"""The failure policy: what happens to a delivery after its outcome, and which messages are published for it.

Pure: no clock, no randomness, no I/O; time, host and a random number come in as arguments. Used by the Producer.
A plan's publications gate the ack: results go to the output, a retry to a delay queue, a dead letter to `<input>.dlq`.
A message that keeps its place in an order is not published for its next attempt: that is an Again instead of a plan.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from mqworker.amqp import headers
from mqworker.amqp.properties import HEADERS_FLAG, Properties, decode_leniently
from mqworker.brokers.base import Publication
from mqworker.config.model import RetryConfig, StageConfig
from mqworker.ipc.consumer_messages import Failure, Outcome
from mqworker.producer.entry import ALONE_IN_CHUNK, UNISOLATED, Again, Entry, Isolation, Plan
from mqworker.producer.failure_messages import (
    Circumstances,
    dead_letter,
    dead_letter_in,
    dead_reply,
    fitted,
    renewed,
    retry,
)

CRASH_RUNG = 1  # seconds until a message that killed its Consumer comes back through a delay queue (decisions 15)
WORN = 18  # redeliveries; by default a quorum queue of RabbitMQ 4 drops a message after 20 (decisions 22)
LONGEST_RUNG = 1 << 22  # seconds, 48 days: a queue's time to live is 32 bits of milliseconds
RETRIED = frozenset({"error", "timeout", "memory"})
_CRASHES = headers.CRASHES.encode()


def isolation(properties: bytes) -> Isolation:
    """Return how a message must be isolated: one that has killed a Consumer is alone in its chunk."""
    if not (properties and properties[0] & HEADERS_FLAG):  # as most are: a search takes three times as long
        return UNISOLATED
    return ALONE_IN_CHUNK if _CRASHES in properties else UNISOLATED


def retry_delay(retry: RetryConfig, attempt: int, chance: float) -> int:
    """Return the seconds until the attempt after `attempt`: base * 2^(attempt - 1), as one of the two rungs around it.

    Rungs are powers of two in seconds (each has a queue, decisions 13), so jitter picks one of the two nearest: the
    mean delay is that of the exponential backoff, or up to a quarter more if that is itself a rung. No delay is above
    `retry.max` or below 1.
    """
    wish = min(retry.max, retry.base * 2.0 ** min(attempt - 1, 40))
    return _rung(wish, chance, retry.max)


def _rung(wish: float, chance: float, most: float) -> int:
    low = 1
    while low * 2 <= wish:
        low *= 2
    high = low * 2
    if wish <= low:
        # An exact rung needs no choice between two; for jitter, one in four goes to the next one.
        return high if chance < 0.25 and high <= most else low
    return high if chance < (wish - low) / low and high <= most else low


def held_delay(retry: RetryConfig, attempt: int, chance: float) -> float:
    """Return the seconds until the attempt after `attempt` of a message that keeps its place: up to a quarter off.

    No queue is needed for it, and everything behind the message waits.
    """
    wish = min(retry.max, retry.base * 2.0 ** min(attempt - 1, 40))
    return min(retry.max, wish * (0.75 + chance / 2))


def rung_above(seconds: float) -> int:
    """Return the first rung that is not below `seconds`, so that Retry(after=) is never early; 48 days at most."""
    rung = 1
    while rung < min(seconds, LONGEST_RUNG):
        rung *= 2
    return rung


def plan_result(entry: Entry, outcome: Outcome, stage: StageConfig) -> Plan:
    """Return the plan for an outcome without a failure."""
    output, results = stage.output, outcome.results
    replies = tuple(_replies(outcome)) if outcome.reply_to else ()
    if outcome.dropped:
        return Plan("dropped", (), replies)
    if output is None:
        return Plan("result", (), replies)
    exchange, usual = output.exchange, output.routing_key if output.exchange else output.queue
    publications, settles = [], (entry.epoch, entry.tag)
    for each in results:
        key = usual if each.routing_key is None else each.routing_key
        publications.append(Publication(exchange, key, each.properties, each.body or b"", settles=settles))
    return Plan("result", tuple(publications), replies)


def _replies(outcome: Outcome) -> Iterator[Publication]:
    for each in outcome.results:
        yield Publication("", outcome.reply_to, each.reply or each.properties, each.body or b"", mandatory=False)


def plan_failure(entry: Entry, failure: Failure, stage: StageConfig, about: Circumstances) -> Plan | Again:
    """Return the plan for a failure: try again later or give up, by the stage's `retry` and by the kind of failure."""
    properties = _read(entry, stage)
    attempt = headers.attempt(properties, stage.input.queue)
    last = attempt >= stage.retry.max_attempts
    if last or failure.final or failure.reason not in RETRIED or _is_final(failure.type, stage.retry):
        return _dead(entry, properties, failure, stage, about, attempt)
    after = failure.after
    if about.hold:
        delay = held_delay(stage.retry, attempt, about.chance) if after is None else min(max(after, 0.0), LONGEST_RUNG)
    else:
        delay = retry_delay(stage.retry, attempt, about.chance) if after is None else rung_above(after)
    properties.headers[headers.ATTEMPT] = attempt + 1
    return _again(entry, properties, failure, stage, about, delay)


def plan_dead(entry: Entry, failure: Failure, stage: StageConfig, about: Circumstances) -> Plan:
    """Return the plan for a failure after which nothing is tried again."""
    properties = _read(entry, stage)
    return _dead(entry, properties, failure, stage, about, headers.attempt(properties, stage.input.queue))


def plan_crash(entry: Entry, failure: Failure, stage: StageConfig, about: Circumstances) -> Plan | Again:
    """Return the plan for a delivery that a Consumer died of: again, alone, up to `crash.max` times.

    One that keeps its place needs no delay queue, and is the next to begin: everything behind it waits.
    """
    properties = _read(entry, stage)
    crashes = headers.crashes(properties, stage.input.queue) + 1
    attempt = headers.attempt(properties, stage.input.queue)
    properties.headers[headers.CRASHES] = crashes
    properties.headers[headers.ATTEMPT] = attempt
    if crashes >= stage.crash.max:
        return _dead(entry, properties, failure, stage, about, attempt)
    return _again(entry, properties, failure, stage, about, 0.0 if about.hold else CRASH_RUNG)


def plan_too_large(entry: Entry, reason: str, stage: StageConfig, about: Circumstances) -> tuple[Failure | None, Plan]:
    """Return another plan for a delivery, because the broker refused one of its publications as too large.

    If that was a result, the input is dead. A retry or dead letter is made smaller: it was built for another frame
    size. The failure is None if the one that led to the plan still stands.
    """
    assert entry.plan is not None
    outcome, publications = entry.plan.outcome, entry.plan.publications
    if outcome == "result":
        return _oversized(entry, publications, reason, stage, about)
    (publication,) = publications
    properties = decode_leniently(publication.properties)
    if outcome == "dead" and headers.WRAPPED not in properties.headers:
        return None, Plan(outcome, (dead_letter_in(entry, properties, stage, about.room),))
    block = fitted(properties, about.room)
    if len(block) <= about.room or outcome == "dead":
        return None, Plan(outcome, (replace(publication, properties=block),))
    failure = Failure(
        "oversized", "TooLarge", "the headers of the message leave no room to count its attempts", final=True
    )
    return failure, plan_dead(entry, failure, stage, about)


def worn(block: bytes) -> bool:
    """Whether the broker may soon drop a message because of its redeliveries, for which it is not to blame."""
    return headers.redeliveries(decode_leniently(block)) >= WORN


def plan_renewal(entry: Entry, stage: StageConfig, room: int) -> Plan | None:
    """Return the plan that puts a message back as a new one, uncharged; None if its headers leave no room for ours."""
    publication = renewed(entry, decode_leniently(entry.properties), stage, room)
    return None if publication is None else Plan("renewed", (publication,))


def _oversized(
    entry: Entry, publications: tuple[Publication, ...], reason: str, stage: StageConfig, about: Circumstances
) -> tuple[Failure, Plan]:
    """Charge the input of a result that is too large, under the generation that computed it."""
    largest = max(publications, key=lambda publication: len(publication.body))
    table = decode_leniently(largest.properties).headers
    if entry.work is not None:
        about = about._replace(generation=entry.work[2])
    which = "the result" if len(publications) == 1 else f"result {table.get(headers.PART)} of {len(publications)}"
    message = f"{which} has {len(largest.body):,} bytes; {reason}"
    failure = Failure("oversized", "TooLarge", message, final=True)
    return failure, plan_dead(entry, failure, stage, about)


def _read(entry: Entry, stage: StageConfig) -> Properties:
    """Return its properties without the crashes that another stage counted: they would count here otherwise."""
    properties = decode_leniently(entry.properties)
    if not headers.crashes(properties, stage.input.queue):
        properties.headers.pop(headers.CRASHES, None)
    return properties


def _again(
    entry: Entry, properties: Properties, failure: Failure, stage: StageConfig, about: Circumstances, delay: float
) -> Plan | Again:
    publication = retry(entry, properties, failure, stage, about, int(delay))
    if publication is not None:
        return Again(publication.properties, delay) if about.hold else Plan("retried", (publication,))
    attempt = headers.attempt(decode_leniently(entry.properties), stage.input.queue)
    return _dead(entry, properties, failure, stage, about, attempt)  # no room to count attempts in


def _dead(
    entry: Entry, properties: Properties, failure: Failure, stage: StageConfig, about: Circumstances, attempt: int
) -> Plan:
    replies = dead_reply(properties, failure, about)
    return Plan("dead", (dead_letter(entry, properties, failure, stage, about, attempt),), replies)


def _is_final(type_name: str, retry: RetryConfig) -> bool:
    return type_name in retry.final or type_name.rpartition(".")[2] in retry.final
