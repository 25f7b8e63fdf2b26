"""The failure policy: what happens to a delivery after its outcome, and which messages are published for it.

Pure: no clock, no randomness, no I/O; time, host and a random number come in as arguments. Used by the Producer.
A plan's publication gates the ack: a result goes to the output, a retry to a delay queue, a dead letter to
`<input>.dlq`. `settles=(0, 0)` asks the ledger to fill in the delivery.
"""

from typing import NamedTuple

from mqworker.amqp import headers, wrapper
from mqworker.amqp.properties import Headers, Properties, decode_leniently
from mqworker.brokers.base import Publication
from mqworker.config.model import RetryConfig, StageConfig
from mqworker.ipc.messages import Failure, Outcome
from mqworker.jobs.failures import cut
from mqworker.producer.entry import Entry, Isolation, Plan

CRASH_RUNG = 1  # seconds until a message that killed its Consumer runs again (decisions 15)
WORN = 18  # redeliveries; by default a quorum queue of RabbitMQ 4 drops a message after 20 (decisions 22)
LONGEST_RUNG = 1 << 22  # seconds, 48 days: a queue's time to live is 32 bits of milliseconds
TEXT_LIMIT = 2_000  # bytes of a header that carries text
TRACEBACK_LIMIT = 16_000  # bytes
RETRIED = frozenset({"error", "timeout", "memory"})
_MOVED = ("user_id", "expiration")  # a dead letter must not carry these properties (decisions 20)
_COPIES = ("CC", "BCC")
_OUR_TEXTS = (headers.TRACEBACK, headers.EXIT, headers.MESSAGE, headers.ERROR_TYPE)
_RECORD = frozenset(
    {
        *(headers.REASON, headers.ERROR_TYPE, headers.MESSAGE, headers.TRACEBACK, headers.EXIT, headers.FAILED_AT),
        *(headers.FIRST_FAILED_AT, headers.HOST, headers.STAGE, headers.QUEUE, headers.ATTEMPT, headers.GENERATION),
        headers.CRASHES,
    }
)
_LEAST_TEXT = 200  # bytes; what is shorter says nothing and goes altogether


class Circumstances(NamedTuple):
    """What a plan needs besides the failure: where and when it happened, and a random number."""

    stage: str
    host: str
    generation: int
    time: str  # RFC 3339
    chance: float  # uniform in [0, 1), for the jitter
    room: int = headers.ROOM  # bytes of properties that a publication may have


def isolation(properties: bytes) -> Isolation:
    """Return how a message must be isolated: one that has killed a Consumer is alone in its chunk."""
    return Isolation.CHUNK if headers.CRASHES.encode() in properties else Isolation.NONE


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


def rung_above(seconds: float) -> int:
    """Return the first rung that is not below `seconds`, so that Retry(after=) is never early; 48 days at most."""
    rung = 1
    while rung < min(seconds, LONGEST_RUNG):
        rung *= 2
    return rung


def plan_result(outcome: Outcome, stage: StageConfig) -> Plan:
    """Return the plan for an outcome without a failure."""
    if outcome.body is None:
        return Plan("dropped", None, _reply(outcome.reply_to, outcome.properties, b""))
    reply = _reply(outcome.reply_to, outcome.properties, outcome.body)
    output = stage.output
    if output is None:
        return Plan("result", None, reply)
    key = output.routing_key if output.exchange else output.queue
    return Plan("result", Publication(output.exchange, key, outcome.properties, outcome.body, settles=(0, 0)), reply)


def _read(entry: Entry, stage: StageConfig) -> Properties:
    """Return its properties without the crashes that another stage counted: they would count here otherwise."""
    properties = decode_leniently(entry.properties)
    if not headers.crashes(properties, stage.input):
        properties.headers.pop(headers.CRASHES, None)
    return properties


def plan_failure(entry: Entry, failure: Failure, stage: StageConfig, about: Circumstances) -> Plan:
    """Return the plan for a failure: try again later or give up, by the stage's `retry` and by the kind of failure."""
    properties = _read(entry, stage)
    attempt = headers.attempt(properties, stage.input)
    last = attempt >= stage.retry.max_attempts
    if last or failure.final or failure.reason not in RETRIED or _is_final(failure.type, stage.retry):
        return dead(entry, properties, failure, stage, about, attempt)
    after = failure.after
    delay = retry_delay(stage.retry, attempt, about.chance) if after is None else rung_above(after)
    properties.headers[headers.ATTEMPT] = attempt + 1
    return _again(entry, properties, failure, stage, about, delay)


def plan_oversized(entry: Entry, reason: str, stage: StageConfig, about: Circumstances) -> tuple[Failure, Plan]:
    """Return failure and plan for a result that the broker finds too large, with the generation that computed it."""
    assert entry.plan is not None
    assert entry.plan.publication is not None
    generation = decode_leniently(entry.plan.publication.properties).headers.get(headers.GENERATION)
    if type(generation) is int:
        about = about._replace(generation=generation)
    message = f"the result has {len(entry.plan.publication.body):,} bytes; {reason}"
    failure = Failure("oversized", "TooLarge", message, final=True)
    return failure, plan_failure(entry, failure, stage, about)


def plan_smaller(entry: Entry, stage: StageConfig, about: Circumstances) -> tuple[Failure | None, Plan]:
    """Return the plan for a retry or dead letter whose properties no longer fit: another frame size was negotiated.

    With it comes the failure if the message is dead now, because its headers leave no room for a retry.
    """
    assert entry.plan is not None
    outcome, publication, _ = entry.plan
    assert publication is not None
    properties = decode_leniently(publication.properties)
    if outcome == "dead" and headers.WRAPPED not in properties.headers:
        return None, Plan(outcome, _letter(entry, properties, stage, about.room))
    block = _fitted(properties, about.room)
    if len(block) <= about.room or outcome == "dead":
        return None, Plan(outcome, publication._replace(properties=block))
    failure = Failure(
        "oversized", "TooLarge", "the headers of the message leave no room to count its attempts", final=True
    )
    return failure, plan_failure(entry, failure, stage, about)


def plan_crash(entry: Entry, failure: Failure, stage: StageConfig, about: Circumstances) -> Plan:
    """Return the plan for a delivery that a Consumer died of: again, alone, up to `crash.max` times."""
    properties = _read(entry, stage)
    crashes = headers.crashes(properties, stage.input) + 1
    attempt = headers.attempt(properties, stage.input)
    properties.headers[headers.CRASHES] = crashes
    properties.headers[headers.ATTEMPT] = attempt
    if crashes >= stage.crash.max:
        return dead(entry, properties, failure, stage, about, attempt)
    return _again(entry, properties, failure, stage, about, CRASH_RUNG)


def _again(
    entry: Entry, properties: Properties, failure: Failure, stage: StageConfig, about: Circumstances, delay: int
) -> Plan:
    _renew(properties)
    _first_failed(properties, about)
    table = properties.headers
    table[headers.QUEUE] = stage.input
    table[headers.ERROR_TYPE] = cut(failure.type, TEXT_LIMIT)
    table[headers.MESSAGE] = cut(failure.message, TEXT_LIMIT)
    block = _fitted(properties, about.room)
    if len(block) > about.room:  # no room to count attempts in
        attempt = headers.attempt(decode_leniently(entry.properties), stage.input)
        return dead(entry, properties, failure, stage, about, attempt)
    return Plan("retried", Publication("", stage.input, block, entry.body, delay=delay, settles=(0, 0)))


def worn(block: bytes) -> bool:
    """Whether the broker may soon drop a message because of its redeliveries, for which it is not to blame."""
    return headers.redeliveries(decode_leniently(block)) >= WORN


def plan_renewal(entry: Entry, stage: StageConfig, room: int) -> Plan | None:
    """Return the plan that puts a message back as a new one, uncharged; None if its headers leave no room for ours."""
    properties = decode_leniently(entry.properties)
    _renew(properties)
    block = _fitted(properties, room)
    if len(block) > room:
        return None
    return Plan("renewed", Publication("", stage.input, block, entry.body, settles=(0, 0)))


def _renew(properties: Properties) -> None:
    """Make the properties fit to be published again; the broker counts a new message from zero."""
    _set_aside(properties)
    headers.strip_brokers(properties)


def _is_final(type_name: str, retry: RetryConfig) -> bool:
    return type_name in retry.final or type_name.rpartition(".")[2] in retry.final


def dead(
    entry: Entry,
    properties: Properties,
    failure: Failure,
    stage: StageConfig,
    about: Circumstances,
    attempt: int,
) -> Plan:
    """Return the plan for a dead letter: body untouched, all properties kept, headers that give the reason."""
    reply = _dead_reply(properties, failure, about)
    _set_aside(properties)
    _first_failed(properties, about)
    record: dict[str, str | int] = {
        headers.REASON: failure.reason,
        headers.ERROR_TYPE: cut(failure.type, TEXT_LIMIT),
        headers.MESSAGE: cut(failure.message, TEXT_LIMIT),
        headers.TRACEBACK: cut(failure.traceback, TRACEBACK_LIMIT),
        headers.EXIT: cut(failure.exit, TRACEBACK_LIMIT),
        headers.FAILED_AT: about.time,
        headers.HOST: about.host,
        headers.STAGE: about.stage,
        headers.QUEUE: stage.input,
        headers.ATTEMPT: attempt,
        headers.GENERATION: about.generation,
    }
    for name, value in record.items():
        properties.headers.pop(name, None)  # of an earlier failure
        if value != "":
            properties.headers[name] = value
    return Plan("dead", _letter(entry, properties, stage, about.room), reply)


def _letter(entry: Entry, properties: Properties, stage: StageConfig, room: int) -> Publication:
    """Return a dead letter with these properties.

    If the message's own headers fill the frame, the message is in the body, unchanged, and the headers are our record.
    """
    table = properties.headers
    record = {name: value for name in _RECORD if (value := table.get(name)) is not None and _is_ours(name, value)}
    body = entry.body
    block = _fitted(properties, room)
    if len(block) > room:
        properties.headers = Headers(record | {headers.WRAPPED: True})
        properties.content_type, properties.content_encoding = wrapper.CONTENT_TYPE, None
        block, body = _fitted(properties, room), wrapper.wrap(entry.properties, entry.body)
    return Publication("", stage.dead, block, body, settles=(0, 0))


def _is_ours(name: str, value: object) -> bool:
    """Whether a header of the record is as we write it: these two may come from anybody."""
    return name not in (headers.FIRST_FAILED_AT, headers.CRASHES) or len(str(value)) <= len("2026-01-01T00:00:00.000Z")


def _fitted(properties: Properties, room: int) -> bytes:
    """Return the encoded properties, persistent; our texts are cut, the longest first, until a header frame fits."""
    properties.delivery_mode = 2
    table = properties.headers
    block = properties.encode()
    while (excess := len(block) - room) > 0:
        sizes = {
            name: len(text.encode(errors="replace")) for name in _OUR_TEXTS if isinstance(text := table.get(name), str)
        }
        if not sizes:
            break
        longest = max(sizes, key=sizes.__getitem__)
        if sizes[longest] > _LEAST_TEXT:
            table[longest] = cut(str(table[longest]), max(_LEAST_TEXT, sizes[longest] - excess))
        else:
            del table[longest]
        block = properties.encode()
    return block


def _set_aside(properties: Properties) -> None:
    """Move properties that would expire, copy or refuse a retry or dead letter to our headers (decisions 20)."""
    table = properties.headers
    for name in _MOVED:
        value = getattr(properties, name)
        if value is not None:
            table[headers.ORIGINAL + name.replace("_", "-")] = value
            setattr(properties, name, None)
    for name in _COPIES:
        if name in table:
            table.rename(name, headers.ORIGINAL + name)


def _dead_reply(properties: Properties, failure: Failure, about: Circumstances) -> Publication | None:
    """Return the reply that reports the failure to a caller who waits for a result."""
    answer = Properties()
    answer.correlation_id = properties.correlation_id
    answer.message_id = properties.message_id
    answer.content_type = "application/json"
    answer.headers[headers.OUTCOME] = "dead"
    answer.headers[headers.STAGE] = about.stage
    answer.headers[headers.REASON] = failure.reason
    answer.headers[headers.ERROR_TYPE] = cut(failure.type, TEXT_LIMIT)
    answer.headers[headers.MESSAGE] = cut(failure.message, TEXT_LIMIT)
    return _reply(properties.reply_to or "", _fitted(answer, about.room), b"null")


def _first_failed(properties: Properties, about: Circumstances) -> None:
    if headers.FIRST_FAILED_AT not in properties.headers:
        properties.headers[headers.FIRST_FAILED_AT] = about.time


def _reply(reply_to: str, properties: bytes, body: bytes) -> Publication | None:
    return Publication("", reply_to, properties, body, mandatory=False) if reply_to else None
