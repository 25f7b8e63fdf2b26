"""Queues on RabbitMQ: looks them up, declares them when they are missing, and compares them with a declaration.

Runs on the loop of the caller. Owns nothing: each request uses a channel of its own, because the broker refuses by
closing the channel. Existing queues are used as they are; what a property that others chose can cost becomes a warning.
Raises `Lost` with the broker's reply code.
"""

import re
from typing import Any, NamedTuple

from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.channel import Channel

NOT_FOUND, REFUSED, LOCKED, MISMATCH = 404, 403, 405, 406
TYPE = "x-queue-type"
SINGLE_ACTIVE = "x-single-active-consumer"
DELIVERY_LIMIT = "x-delivery-limit"
DEFAULT_LIMIT = 20  # deliveries of a message, in a quorum queue of RabbitMQ 4 without a limit of its own
NO_TYPE = "mqworker-looks"  # no queue is of this type: a declaration with it creates nothing
# Seconds. RabbitMQ writes the name of a new quorum queue to disk after 0.8 to 1.0 s (measured on 3.10 and 4.0): a
# broker that is killed before that loses everything that the queue has confirmed.
YOUNG = 2.0
_QUOTED = re.compile(r"\s*(?:the value )?'(.*?)'(?: of type '\w+')?\s*", re.DOTALL)
_QUEUE_TYPE = re.compile(r"rabbit_(\w+)_queue")
_NUMBER = re.compile(r"-?\d+")
_INEQUIVALENT = re.compile(r"inequivalent arg '([^']*)'.*?received (.*?) but current is (.*)", re.DOTALL)


def queue_arguments(connection: AmqpConnection, queue_type: str) -> dict[str, Any]:
    """Return the arguments of one of our queues: always with the type, because a virtual host may have another default.

    By default RabbitMQ 4 drops a message from a quorum queue after 20 deliveries.
    """
    unlimited = queue_type == "quorum" and major_version(connection) >= 4  # RabbitMQ 3 has no limit, and refuses -1
    return {TYPE: queue_type} | ({DELIVERY_LIMIT: -1} if unlimited else {})


def delay_arguments(input_queue: str, delay: int) -> dict[str, Any]:
    """Return what makes a quorum queue safely move its messages to the input queue after `delay` seconds.

    Not always on time: after a node has ended, RabbitMQ may keep them for minutes (docs/guarantees.md).
    """
    return {
        TYPE: "quorum",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-message-ttl": delay * 1000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": input_queue,
    }


def delay_queue(input_queue: str, delay: int) -> str:
    """Return the name of the queue for this delay."""
    return f"{input_queue}.retry.{delay}s"


def major_version(connection: AmqpConnection) -> int:
    """Return the broker's major version, 0 when it does not say."""
    version = str((connection.server_properties or {}).get("version", ""))
    return int(version.split(".", 1)[0]) if version[:1].isdigit() else 0


async def attempt(connection: AmqpConnection, method: str, **arguments: Any) -> Any:
    """Make one request on a channel of its own; raises Lost with the broker's reply code."""
    channel = await Channel.open(connection)
    try:
        return await channel.ask(method, **arguments)
    finally:
        channel.close()


async def queue_status(connection: AmqpConnection, name: str) -> Any | None:
    """Return the answer to a passive declare (message_count, consumer_count), None when there is no such queue."""
    try:
        return await attempt(connection, "queue_declare", queue=name, passive=True)
    except Lost as lost:
        if lost.code == NOT_FOUND:
            return None
        raise


class Difference(NamedTuple):
    """An argument in which an existing queue or exchange differs from a declaration; None stands for "no value"."""

    argument: str
    declared: Any
    found: Any


def difference(lost: Lost) -> Difference | None:
    """Return the difference that made the broker refuse a declaration; None if it refused for another reason."""
    found = _INEQUIVALENT.search(str(lost)) if lost.code == MISMATCH else None
    return Difference(found[1], _value(found[2]), _value(found[3])) if found else None


def _value(text: str) -> Any:
    """Parse a value as the broker writes it: `none`, `'text'` or `the value '5' of type 'signedint'`."""
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        return None
    value = quoted[1]
    return {"true": True, "false": False}.get(value, int(value) if _NUMBER.fullmatch(value) else value)


async def differences(connection: AmqpConnection, name: str, arguments: dict[str, Any]) -> list[Difference]:
    """Declare a durable queue; returns the differences of an existing one, raises Lost when it cannot be declared.

    The broker reports one difference at a time, so the declaration is repeated with each property as it was found. A
    transient or auto-delete queue may vanish in between; once such a property is found, the declaration has a type that
    does not exist, so that we never create such a queue.
    """
    found: list[Difference] = []
    flags: dict[str, Any] = {"durable": True}
    configured = arguments.get(TYPE)
    while True:
        try:
            await attempt(connection, "queue_declare", queue=name, **flags, arguments=arguments)
        except Lost as lost:
            differs = difference(lost)
            if differs is not None and differs.argument == TYPE and differs.declared == NO_TYPE:
                actual = differs.found or "classic"
                return found if actual == configured else [*found, Difference(TYPE, configured, actual)]
            if differs is None or differs.argument in {known.argument for known in found}:
                if not found:
                    raise
                return found
            found.append(differs)
            if differs.argument.startswith("x-"):
                arguments = {key: value for key, value in arguments.items() if key != differs.argument}
                if differs.found is not None:
                    arguments[differs.argument] = differs.found
            else:
                flags[differs.argument] = differs.found
                arguments = arguments | {TYPE: NO_TYPE}
        else:
            return found


class Found(NamedTuple):
    """What a queue is; for a whole topology: what the input is, and the warnings about all."""

    queue_type: str
    auto_delete: bool = False
    single_active: bool = False  # a consumer gets nothing while there is an earlier one
    delivery_limit: int | None = None  # as in LinkState
    made: bool = False  # it did not exist before
    repaired: bool = False  # some queue of the topology did not exist before
    delaying: bool = False  # the exchange for results returns messages that it will deliver later
    bound: bool = True  # the queue for results is bound to it; False if we are not allowed to bind it
    quorum: frozenset[str] = frozenset()  # names of the quorum queues (of a topology)
    warnings: tuple[str, ...] = ()


async def ensure_queue(connection: AmqpConnection, name: str, arguments: dict[str, Any]) -> Found:
    """Ensure that a queue exists; if we are not allowed to declare it, only its type is found out.

    The same holds for a long name: the broker cuts its answer at 255 bytes, before the difference.
    """
    existed = await queue_status(connection, name) is not None
    known = True
    try:
        found = await differences(connection, name, arguments)
    except Lost as lost:
        if not (existed and lost.code in (REFUSED, MISMATCH)):
            raise
        found, known = [], False
        if (actual := await _type_for_consumers(connection, name)) not in ("", arguments[TYPE]):
            found.append(Difference(TYPE, arguments[TYPE], actual))
    values = {argument: value for argument, _, value in found}
    queue_type = str(values[TYPE] or "classic") if TYPE in values else str(arguments[TYPE])
    warnings = tuple(f"queue {name!r} {what}" for what in consequences(found))
    quorum = frozenset([name] if queue_type == "quorum" else [])
    auto_delete = bool(values.get("auto_delete"))
    return Found(
        queue_type,
        auto_delete,
        single_active=known and bool(values.get(SINGLE_ACTIVE, arguments.get(SINGLE_ACTIVE))),
        delivery_limit=delivery_limit(major_version(connection), queue_type, arguments, values) if known else None,
        made=not existed,
        quorum=quorum,
        warnings=warnings,
    )


def delivery_limit(version: int, queue_type: str, declared: dict[str, Any], found: dict[str, Any]) -> int:
    """Return how many deliveries of a message a queue allows; -1 for any number. Policies are not visible.

    `found` has the values that differ from those `declared`.
    """
    limit = found.get(DELIVERY_LIMIT, declared.get(DELIVERY_LIMIT))
    if queue_type != "quorum":
        return -1
    if version < 4:
        return -1 if limit is None else max(limit, 0)  # RabbitMQ 3 treats -1 as 0
    return DEFAULT_LIMIT if limit is None else max(limit, -1)


async def _type_for_consumers(connection: AmqpConnection, name: str) -> str:
    """Return a queue's type, which the broker reports to a client that may consume; "" if it does not.

    Classic and quorum queues refuse one of these arguments, streams the other; the refusal names the queue's type.
    """
    both = {"x-priority": 0, "x-stream-offset": "next"}
    try:
        await attempt(connection, "basic_consume", queue=name, on_message_callback=lambda *_: None, arguments=both)
    except Lost as lost:
        kind = _QUEUE_TYPE.search(str(lost))
        return kind[1] if kind else ""
    return ""


def consequences(found: list[Difference]) -> list[str]:  # noqa: C901 - one case for each argument
    """Return what follows from the properties of a queue that others declared; harmless ones are left out."""
    values = {argument: value for argument, _, value in found}
    warnings = []
    for argument, declared, value in found:
        match argument:
            case "durable":
                warnings.append("is not durable: its messages are lost when the broker restarts")
            case "auto_delete":
                warnings.append(
                    "is auto-delete: the broker deletes it, with its messages, when its last consumer leaves"
                )
            case "x-queue-type":
                warnings.append(f"is of type {value or 'classic'}, configured is {declared}: it is used as found")
            case "x-expires" if value is not None:
                warnings.append(
                    f"expires: the broker deletes it, with its messages, when it is unused for {_ms(value)}"
                )
            case "x-message-ttl" if value is not None:
                warnings.append(f"drops messages after {_ms(value)}{_or_moves(values)}")
            case "x-max-length" | "x-max-length-bytes" if value is not None:
                if not str(values.get("x-overflow", "")).startswith("reject-publish"):
                    unit = "bytes" if argument.endswith("bytes") else "messages"
                    warnings.append(f"drops its oldest messages when it holds {value:,} {unit}{_or_moves(values)}")
            case "x-single-active-consumer" if declared:
                warnings.append(
                    "has no single active consumer: its ordered stage begins when nobody else consumes it, and cannot"
                    " keep others from coming later; declare it with that argument, or delete it and it is made so"
                )
            case "x-delivery-limit" if value is not None and value >= 0:
                warnings.append(f"drops a message after {value} deliveries that nobody acknowledged{_or_moves(values)}")
    return warnings


def _ms(value: int) -> str:
    return f"{value / 1000:g} s"


def _or_moves(values: dict[str, Any]) -> str:
    return "" if values.get("x-dead-letter-exchange") is None else ", or moves them to its dead-letter exchange"
