"""What a stage needs to exist on RabbitMQ: looked for, declared when missing, compared with what was configured.

Runs on the loop of the Link, at each connect and when something turns out to be missing. It owns nothing: every
question goes over a throw-away channel, because the broker answers "no" by closing the channel. Existing objects
are used as they are; another argument than the configured one is a warning that names it. Fails with `Lost` when
something that is needed neither exists nor can be made.
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


def queue_arguments(wire: AmqpConnection, queue_type: str) -> dict[str, Any]:
    """Return the arguments of a queue of ours: always with its type, because a virtual host may have another default.

    By itself RabbitMQ 4 drops a message of a quorum queue after 20 deliveries.
    """
    unlimited = queue_type == "quorum" and major_version(wire) >= 4  # RabbitMQ 3 has no limit, and refuses -1
    return {"x-queue-type": queue_type} | ({"x-delivery-limit": -1} if unlimited else {})


def delay_arguments(input_queue: str, delay: int) -> dict[str, Any]:
    """Return the arguments of a queue that gives its messages to the input queue after `delay` seconds, safely."""
    return {
        "x-queue-type": "quorum",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-message-ttl": delay * 1000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": input_queue,
    }


def delay_queue(input_queue: str, delay: int) -> str:
    """Return the name of that queue."""
    return f"{input_queue}.retry.{delay}s"


def major_version(wire: AmqpConnection) -> int:
    """Return the broker's major version, 0 when it does not say."""
    version = str((wire.server_properties or {}).get("version", ""))
    return int(version.split(".", 1)[0]) if version[:1].isdigit() else 0


async def attempt(wire: AmqpConnection, method: str, **arguments: Any) -> Any:
    """Make one request on a throw-away channel; raises Lost with the broker's reply code."""
    channel = await Channel.open(wire)
    try:
        return await channel.ask(method, **arguments)
    finally:
        channel.close()


async def queue_status(wire: AmqpConnection, name: str) -> Any | None:
    """Return the answer to a passive declare (message_count, consumer_count), None when there is no such queue."""
    try:
        return await attempt(wire, "queue_declare", queue=name, passive=True)
    except Lost as lost:
        if lost.code == NOT_FOUND:
            return None
        raise


class Difference(NamedTuple):
    """In what an existing queue or exchange differs from what was declared; a value is None where there is none."""

    argument: str
    declared: Any
    found: Any


def difference(lost: Lost) -> Difference | None:
    """Return why a declaration was refused, if it was for a difference."""
    found = _INEQUIVALENT.search(str(lost)) if lost.code == MISMATCH else None
    return Difference(found[1], _value(found[2]), _value(found[3])) if found else None


def _value(text: str) -> Any:
    """Read a value as the broker writes it: `none`, `'text'` or `the value '5' of type 'signedint'`."""
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        return None
    value = quoted[1]
    return {"true": True, "false": False}.get(value, int(value) if _NUMBER.fullmatch(value) else value)


async def differences(wire: AmqpConnection, name: str, arguments: dict[str, Any]) -> list[Difference]:
    """Declare a durable queue; returns in what the existing one differs, raises Lost when there is none to be had.

    The broker names one difference at a time. So the queue is declared again with each argument as it was found.
    """
    found: list[Difference] = []
    while True:
        try:
            await attempt(wire, "queue_declare", queue=name, durable=True, arguments=arguments)
        except Lost as lost:
            differs = difference(lost)
            if differs is None or differs.argument in {known.argument for known in found}:
                if not found:
                    raise
                return found
            found.append(differs)
            if not differs.argument.startswith("x-"):  # `durable` and its like: to be used, not to be made
                return found
            arguments = {key: value for key, value in arguments.items() if key != differs.argument}
            if differs.found is not None:
                arguments[differs.argument] = differs.found
        else:
            return found


class Found(NamedTuple):
    """What was found: the type of the queue (the input's, for a whole topology), and warnings."""

    queue_type: str
    warnings: list[str]


async def ensure_queue(wire: AmqpConnection, name: str, arguments: dict[str, Any]) -> Found:
    """Make sure that a queue exists. The type of one that we may not declare is taken to be the one configured."""
    existed = await queue_status(wire, name) is not None
    queue_type, warnings = str(arguments["x-queue-type"]), []
    try:
        found = await differences(wire, name, arguments)
    except Lost as lost:
        if not (existed and lost.code == REFUSED):
            raise
        found = []
    for argument, declared, value in found:
        if argument == "x-queue-type":
            queue_type = str(value or "classic")
        elif not argument.startswith("x-"):
            queue_type = "classic"  # all other types are durable and shared
        warnings.append(f"queue {name!r} {_words(argument, declared, value)}: it is used as found")
    return Found(queue_type, warnings)


def _words(argument: str, declared: Any, found: Any) -> str:
    one, other = ("none" if value is None else str(value) or "''" for value in (found, declared))
    return f"was found with {argument} {one}, configured is {other}"


async def ensure_exchange(wire: AmqpConnection, output: Placement) -> list[str]:
    """Make sure that the exchange exists and the queue is bound to it; returns warnings."""
    exchange, warnings = output.exchange, []
    try:
        await attempt(wire, "exchange_declare", exchange=exchange, exchange_type="direct", durable=True)
    except Lost as lost:
        if differs := difference(lost):
            warnings.append(f"exchange {exchange!r} {_words(*differs)}")
        elif lost.code == REFUSED:
            await attempt(wire, "exchange_declare", exchange=exchange, passive=True)
        else:
            raise
    try:
        await attempt(wire, "queue_bind", queue=output.queue, exchange=exchange, routing_key=output.routing_key)
    except Lost as lost:
        if lost.code != REFUSED:
            raise
        warnings.append(f"queue {output.queue!r} cannot be bound to exchange {exchange!r} ({lost}): bind it by hand")
    return warnings


async def ensure(wire: AmqpConnection, topology: Topology) -> Found:
    """Make sure that all of a stage's topology exists; raises Lost with what cannot be had."""
    arguments = queue_arguments(wire, topology.queue_type)
    queue_type, warnings = await ensure_queue(wire, topology.input, arguments)
    others = [topology.dead] if topology.output is None else [topology.dead, topology.output.queue]
    for name in dict.fromkeys(others):
        if name != topology.input:
            warnings += (await ensure_queue(wire, name, arguments)).warnings
    if topology.output is not None and topology.output.exchange:
        warnings += await ensure_exchange(wire, topology.output)
    return Found(queue_type, warnings)
