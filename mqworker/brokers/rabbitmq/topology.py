"""What a stage needs on RabbitMQ: looks it up, declares it when it is missing, compares it with the configuration.

Runs on the loop of the Link, at each connect and when something turns out to be missing. Owns nothing: each request has
a throw-away channel, because the broker refuses by closing the channel. Existing objects are used as they are; an
argument that differs from the configured one is a warning that names it. Fails with `Lost` when something that is
needed neither exists nor can be created.
"""

import re
from typing import Any, NamedTuple

from mqworker.brokers.base import Placement, Topology
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.channel import Channel

NOT_FOUND, REFUSED, MISMATCH = 404, 403, 406
_QUOTED = re.compile(r"\s*(?:the value )?'(.*?)'(?: of type '\w+')?\s*", re.DOTALL)
_NUMBER = re.compile(r"-?\d+")
_INEQUIVALENT = re.compile(r"inequivalent arg '([^']*)'.*?received (.*?) but current is (.*)", re.DOTALL)


def queue_arguments(connection: AmqpConnection, queue_type: str) -> dict[str, Any]:
    """Return the arguments of one of our queues: always with its type, because a virtual host may have another default.

    By default RabbitMQ 4 drops a message from a quorum queue after 20 deliveries.
    """
    unlimited = queue_type == "quorum" and major_version(connection) >= 4  # RabbitMQ 3 has no limit, and refuses -1
    return {"x-queue-type": queue_type} | ({"x-delivery-limit": -1} if unlimited else {})


def delay_arguments(input_queue: str, delay: int) -> dict[str, Any]:
    """Return the arguments of a queue that moves its messages to the input queue after `delay` seconds, safely."""
    return {
        "x-queue-type": "quorum",
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
    """Make one request on a throw-away channel; raises Lost with the broker's reply code."""
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
    """Read a value as the broker writes it: `none`, `'text'` or `the value '5' of type 'signedint'`."""
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        return None
    value = quoted[1]
    return {"true": True, "false": False}.get(value, int(value) if _NUMBER.fullmatch(value) else value)


async def differences(connection: AmqpConnection, name: str, arguments: dict[str, Any]) -> list[Difference]:
    """Declare a durable queue; returns the differences of an existing one, raises Lost when it cannot be declared.

    The broker names one difference at a time, so the declaration is repeated with each argument as it was found.
    """
    found: list[Difference] = []
    while True:
        try:
            await attempt(connection, "queue_declare", queue=name, durable=True, arguments=arguments)
        except Lost as lost:
            differs = difference(lost)
            if differs is None or differs.argument in {known.argument for known in found}:
                if not found:
                    raise
                return found
            found.append(differs)
            if not differs.argument.startswith("x-"):  # `durable` and the like: never declared as found
                return found
            arguments = {key: value for key, value in arguments.items() if key != differs.argument}
            if differs.found is not None:
                arguments[differs.argument] = differs.found
        else:
            return found


class Found(NamedTuple):
    """The type of a queue (of the input, for a whole topology) and warnings."""

    queue_type: str
    warnings: list[str]


async def ensure_queue(connection: AmqpConnection, name: str, arguments: dict[str, Any]) -> Found:
    """Ensure that a queue exists; one that we are not allowed to declare is assumed to have the configured type."""
    existed = await queue_status(connection, name) is not None
    queue_type, warnings = str(arguments["x-queue-type"]), []
    try:
        found = await differences(connection, name, arguments)
    except Lost as lost:
        if not (existed and lost.code == REFUSED):
            raise
        found = []
    for argument, declared, value in found:
        if argument == "x-queue-type":
            queue_type = str(value or "classic")
        elif not argument.startswith("x-"):
            queue_type = "classic"  # all other types are durable and shared
        warnings.append(f"queue {name!r} {_describe(argument, declared, value)}: it is used as found")
    return Found(queue_type, warnings)


def _describe(argument: str, declared: Any, found: Any) -> str:
    one, other = ("none" if value is None else str(value) or "''" for value in (found, declared))
    return f"was found with {argument} {one}, configured is {other}"


async def ensure_exchange(connection: AmqpConnection, output: Placement) -> list[str]:
    """Ensure that the exchange exists and the queue is bound to it; returns warnings."""
    exchange, warnings = output.exchange, []
    try:
        await attempt(connection, "exchange_declare", exchange=exchange, exchange_type="direct", durable=True)
    except Lost as lost:
        if differs := difference(lost):
            warnings.append(f"exchange {exchange!r} {_describe(*differs)}")
        elif lost.code == REFUSED:
            await attempt(connection, "exchange_declare", exchange=exchange, passive=True)
        else:
            raise
    try:
        await attempt(connection, "queue_bind", queue=output.queue, exchange=exchange, routing_key=output.routing_key)
    except Lost as lost:
        if lost.code != REFUSED:
            raise
        warnings.append(f"queue {output.queue!r} cannot be bound to exchange {exchange!r} ({lost}): bind it by hand")
    return warnings


async def ensure(connection: AmqpConnection, topology: Topology) -> Found:
    """Ensure that a stage's whole topology exists; raises Lost, which names what cannot be created."""
    arguments = queue_arguments(connection, topology.queue_type)
    queue_type, warnings = await ensure_queue(connection, topology.input, arguments)
    others = [topology.dead] if topology.output is None else [topology.dead, topology.output.queue]
    for name in dict.fromkeys(others):
        if name != topology.input:
            warnings += (await ensure_queue(connection, name, arguments)).warnings
    if topology.output is not None and topology.output.exchange:
        warnings += await ensure_exchange(connection, topology.output)
    return Found(queue_type, warnings)
