"""What a stage needs to exist on RabbitMQ: looked for, declared when missing, compared with what was configured.

Runs on the loop of the Link, at each connect and when something turns out to be missing. It owns nothing: every
question goes over a throw-away channel, because the broker answers "no" by closing the channel. Existing objects
are used as they are; another argument than the configured one is a warning that names it. Fails with `Lost` when
something that is needed neither exists nor can be made.
"""

import re
from typing import Any

from mqworker.brokers.base import Placement, Topology
from mqworker.brokers.rabbitmq.amqp_connection import AmqpConnection, Lost
from mqworker.brokers.rabbitmq.channel import Channel

NOT_FOUND, REFUSED, MISMATCH = 404, 403, 406
_INEQUIVALENT = re.compile(r"inequivalent arg '([^']*)'.*?received (.*?) but current is (.*)", re.DOTALL)


def queue_arguments(wire: AmqpConnection, queue_type: str) -> dict[str, Any]:
    """Return the arguments of a queue of ours; by itself RabbitMQ 4 drops a quorum message after 20 deliveries."""
    if queue_type != "quorum":
        return {}
    limit = {"x-delivery-limit": -1} if major_version(wire) >= 4 else {}  # RabbitMQ 3 refuses -1 and has no limit
    return {"x-queue-type": "quorum"} | limit


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


def mismatch(lost: Lost) -> tuple[str, str, str] | None:
    """Return argument, configured and found value when a declaration was refused for a difference."""
    found = _INEQUIVALENT.search(str(lost)) if lost.code == MISMATCH else None
    return (found[1], found[2].strip("' "), found[3].strip("' ")) if found else None


async def ensure_queue(wire: AmqpConnection, name: str, arguments: dict[str, Any]) -> list[str]:
    """Make sure that a queue exists; returns warnings."""
    existed = await queue_status(wire, name) is not None
    try:
        await attempt(wire, "queue_declare", queue=name, durable=True, arguments=arguments)
    except Lost as lost:
        if difference := mismatch(lost):
            argument, wanted, found = difference
            return [f"queue {name!r} was found with {argument} {found}, configured is {wanted}: it is used as found"]
        if not (existed and lost.code == REFUSED):  # not allowed to declare, no need to
            raise
    return []


async def ensure_exchange(wire: AmqpConnection, output: Placement) -> list[str]:
    """Make sure that the exchange exists and the queue is bound to it; returns warnings."""
    exchange, warnings = output.exchange, []
    try:
        await attempt(wire, "exchange_declare", exchange=exchange, exchange_type="direct", durable=True)
    except Lost as lost:
        if difference := mismatch(lost):
            argument, wanted, found = difference
            warnings.append(f"exchange {exchange!r} was found with {argument} {found}, configured is {wanted}")
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


async def ensure(wire: AmqpConnection, topology: Topology) -> list[str]:
    """Make sure that all of a stage's topology exists; returns warnings, raises Lost with what cannot be had."""
    arguments = queue_arguments(wire, topology.queue_type)
    names = [topology.input, topology.dead]
    if topology.output is not None and topology.output.queue not in names:
        names.append(topology.output.queue)
    warnings = []
    for name in names:
        warnings += await ensure_queue(wire, name, arguments)
    if topology.output is not None and topology.output.exchange:
        warnings += await ensure_exchange(wire, topology.output)
    return warnings
