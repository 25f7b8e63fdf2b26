"""The messages that are published because of a failure: a retry, a dead letter, a reply that reports it.

Pure; used by the failure policy, which decides. A message keeps its body and properties, except for what must not be
published again; headers say why. Whatever header frame was negotiated, they fit: our texts are cut, and a dead letter
whose own headers fill the frame has the message in its body.
"""

from typing import NamedTuple

from mqworker.amqp import headers, wrapper
from mqworker.amqp.labels import derived_id
from mqworker.amqp.properties import Headers, Properties
from mqworker.brokers.base import Publication
from mqworker.config.model import ROUTING_KEY, StageConfig
from mqworker.ipc.consumer_messages import Failure
from mqworker.jobs.failures import cut
from mqworker.producer.entry import Entry

TEXT_LIMIT = 2_000  # bytes of a header that carries text
TRACEBACK_LIMIT = 16_000  # bytes
_MOVED = ("user_id", "expiration")  # a dead letter must not carry these properties (decisions 20)
_COPIES = ("CC", "BCC")
_OUR_TEXTS = (headers.TRACEBACK, headers.EXIT, headers.MESSAGE, headers.ERROR_TYPE, headers.PLACE)
_RECORD = frozenset(
    {
        *(headers.REASON, headers.ERROR_TYPE, headers.MESSAGE, headers.TRACEBACK, headers.EXIT, headers.FAILED_AT),
        *(headers.FIRST_FAILED_AT, headers.HOST, headers.STAGE, headers.QUEUE, headers.ATTEMPT, headers.GENERATION),
        *(headers.CRASHES, headers.PLACE),
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
    hold: bool = False  # the message keeps its place in its order while it is tried again


def retry(
    entry: Entry, properties: Properties, failure: Failure, stage: StageConfig, about: Circumstances, delay: int
) -> Publication | None:
    """Return the message that comes back after `delay` seconds; None if its headers leave no room for ours."""
    table = properties.headers
    _first_failed(properties, about)
    _keep_key(entry, table, stage)
    table[headers.QUEUE] = stage.input.queue
    table[headers.ERROR_TYPE] = cut(failure.type, TEXT_LIMIT)
    table[headers.MESSAGE] = cut(failure.message, TEXT_LIMIT)
    table.pop(headers.PLACE, None)  # of an earlier failure
    if failure.place:
        table[headers.PLACE] = failure.place
    return renewed(entry, properties, stage, about.room, delay)


def renewed(entry: Entry, properties: Properties, stage: StageConfig, room: int, delay: int = 0) -> Publication | None:
    """Return the message as a new one, which the broker counts from zero; None if it does not fit into `room`.

    One without an id keeps the id that is derived from it now.
    """
    table, queue = properties.headers, stage.input.queue
    _keep_key(entry, table, stage)
    if not properties.message_id:
        table[headers.DERIVED_ID] = derived_id(properties, entry.properties, entry.body, queue)
    if table.get(headers.QUEUE) != queue and (not properties.message_id or headers.KEY in table):
        table[headers.QUEUE] = queue
        for name in (headers.ATTEMPT, headers.CRASHES):  # another stage's
            table.pop(name, None)
    _set_aside(properties)
    headers.strip_brokers(properties)
    block = fitted(properties, room)
    return Publication("", queue, block, entry.body, delay=delay) if len(block) <= room else None


def dead_letter(
    entry: Entry, properties: Properties, failure: Failure, stage: StageConfig, about: Circumstances, attempt: int
) -> Publication:
    """Return the dead letter: body untouched, all properties kept, headers that give the reason."""
    _set_aside(properties)
    table = properties.headers
    _keep_key(entry, table, stage)
    _first_failed(properties, about)
    record: dict[str, str | int] = {
        headers.REASON: failure.reason,
        headers.ERROR_TYPE: cut(failure.type, TEXT_LIMIT),
        headers.MESSAGE: cut(failure.message, TEXT_LIMIT),
        headers.TRACEBACK: cut(failure.traceback, TRACEBACK_LIMIT),
        headers.PLACE: failure.place,
        headers.EXIT: cut(failure.exit, TRACEBACK_LIMIT),
        headers.FAILED_AT: about.time,
        headers.HOST: about.host,
        headers.STAGE: about.stage,
        headers.QUEUE: stage.input.queue,
        headers.ATTEMPT: attempt,
        headers.GENERATION: about.generation,
    }
    for name, value in record.items():
        table.pop(name, None)  # of an earlier failure
        if value != "":
            table[name] = value
    return dead_letter_in(entry, properties, stage, about.room)


def dead_letter_in(entry: Entry, properties: Properties, stage: StageConfig, room: int) -> Publication:
    """Return a dead letter with these properties, which already give the reason, in at most `room` bytes of them.

    If the message's own headers fill the frame, the message is in the body, unchanged, and the headers are our record.
    """
    table = properties.headers
    record = {name: value for name in _RECORD if (value := table.get(name)) is not None and _is_ours(name, value)}
    body = entry.body
    block = fitted(properties, room)
    if len(block) > room:
        properties.headers = Headers(record | {headers.WRAPPED: True})
        properties.content_type, properties.content_encoding = wrapper.CONTENT_TYPE, None
        block, body = fitted(properties, room), wrapper.wrap(entry.properties, entry.body)
    return Publication("", stage.dead, block, body)


def dead_reply(properties: Properties, failure: Failure, about: Circumstances) -> tuple[Publication, ...]:
    """Return the reply that reports the failure, if a caller waits for one."""
    if not properties.reply_to:
        return ()
    answer = Properties()
    answer.correlation_id = properties.correlation_id
    answer.message_id = properties.message_id
    answer.content_type = "application/json"
    answer.headers[headers.OUTCOME] = "dead"
    answer.headers[headers.STAGE] = about.stage
    answer.headers[headers.REASON] = failure.reason
    answer.headers[headers.ERROR_TYPE] = cut(failure.type, TEXT_LIMIT)
    answer.headers[headers.MESSAGE] = cut(failure.message, TEXT_LIMIT)
    return (Publication("", properties.reply_to, fitted(answer, about.room), b"null", mandatory=False),)


def fitted(properties: Properties, room: int) -> bytes:
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


def _is_ours(name: str, value: object) -> bool:
    """Whether a header of the record is as we write it: these two may come from anybody."""
    return name not in (headers.FIRST_FAILED_AT, headers.CRASHES) or len(str(value)) <= len("2026-01-01T00:00:00.000Z")


def _keep_key(entry: Entry, table: Headers, stage: StageConfig) -> None:
    """Note the routing key where it keeps the order: the message will come back under the name of the queue."""
    if stage.ordered_by == ROUTING_KEY and not (headers.KEY in table and table.get(headers.QUEUE) == stage.input.queue):
        table[headers.KEY] = entry.routing_key


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


def _first_failed(properties: Properties, about: Circumstances) -> None:
    if headers.FIRST_FAILED_AT not in properties.headers:
        properties.headers[headers.FIRST_FAILED_AT] = about.time
