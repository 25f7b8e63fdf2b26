"""Whatever a foreign client may send through a whole service on RabbitMQ, nothing dies and nothing is lost."""

import asyncio
import random
import struct
from collections import Counter
from typing import Any

import pika
import pytest
from pika.exceptions import ConnectionClosedByBroker

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import DROP
from mqworker.brokers.rabbitmq.admin import RabbitAdmin
from mqworker.config.model import BrokerConfig
from mqworker.jobs.codecs import UndecodableError, decode
from tests.jobs.test_fuzz import bodies, valid_bodies
from tests.support.amqp import long
from tests.support.foreign import Client
from tests.support.waiting import wait_for
from tests.system.stage import config, settled

pytestmark = [pytest.mark.system, pytest.mark.rabbitmq]

BODIES = 1_000  # of each kind
JOB = """
def handle(body, message):
    return message.body
"""


def nested(octet: bytes, depth: int) -> bytes:
    """Return a table in a table (F) or a list in a list (A), to this depth."""
    field = b"V"
    for _ in range(depth):
        field = long(octet, b"\x01n" + field if octet == b"F" else field)
    return field


FIELDS = {
    "a timestamp in milliseconds": b"T" + struct.pack(">Q", 1_700_000_000_000),
    "the largest timestamp": b"T" + b"\xff" * 8,
    "1,000 nested tables": nested(b"F", 1_000),
    "1,000 nested lists": nested(b"A", 1_000),
    "a decimal": b"D\x02" + struct.pack(">i", 75),
    "a decimal of 255 places": b"D\xff" + struct.pack(">i", -1),
    "60 kB": long(b"S", b"\xc3" * 60_000),
    "bytes": long(b"x", bytes(range(256))),
    "5,000 fields": long(b"F", b"".join(b"\x05%05dt\1" % number for number in range(5_000))),
}
# RabbitMQ 3.10 ends a connection that publishes one of these: types that AMQP does not have, and no number.
ILLEGAL = {"no type": b"?rest", "type 0": b"\0", "type 255": b"\xff\xff\xff", "not a number": b"d\x7f\xf8\0\0\0\0\0\1"}


class Raw(pika.BasicProperties):
    """A property block that is sent as it is."""

    def __init__(self, block: bytes) -> None:
        super().__init__()
        self._block = block

    def encode(self) -> list[bytes]:
        """Return what pika writes after the body's size."""
        return [self._block]


def block(content_type: str, message_id: str, field: bytes | None = None) -> bytes:
    """Return the properties of a persistent message, with one header if there is a field."""
    flags = 1 << 15 | 1 << 12 | 1 << 7
    table = b""
    if field is not None:
        flags |= 1 << 13
        table = struct.pack(">I", 4 + len(field)) + b"\x03odd" + field
    texts = [bytes((len(text),)) + text.encode() for text in (content_type, message_id)]
    return struct.pack(">H", flags) + texts[0] + table + b"\x02" + texts[1]


def accepted(url: str, queue: str, properties: bytes, body: bytes) -> bool:
    """Publish on a separate connection; return whether the broker has accepted it."""
    with Client(url) as client:
        try:
            client.channel.basic_publish("", queue, body, Raw(properties))
        except ConnectionClosedByBroker:
            return False
        return True


def decodable(kind: str, body: bytes) -> bool:
    """Return whether the handler gets to see it."""
    try:
        decode(body, kind, None, "json")
    except UndecodableError:
        return False
    return True


def take(url: str, queue: str) -> list[tuple[Properties, bytes]]:
    """Return everything in a queue, read without a client library's interpretation of headers."""

    async def emptied() -> list[tuple[Properties, bytes]]:
        found: list[tuple[Properties, bytes]] = []

        def wanted(properties: bytes, body: bytes) -> str:
            found.append((Properties.decode(properties), body))
            return DROP

        admin = RabbitAdmin(BrokerConfig(url=url))
        await admin.move(queue, 1_000_000, wanted, 180)
        await admin.close()
        return found

    return asyncio.run(emptied())


def test_fuzzed_messages_through_the_whole_service(service, rabbit, queue):
    """3,000 bodies and the worst legal headers: each has one outcome, undecodable ones are dead byte for byte."""
    chance = random.Random(81)
    sent: dict[str, tuple[str, bytes, bytes | None]] = {}
    for kind, valid in valid_bodies(chance).items():
        for number, body in enumerate(bodies(chance, BODIES, valid)):
            sent[f"{kind}-{number}"] = (kind, body, None)
    for name, field in FIELDS.items():
        sent[name] = ("application/json", b"[1]", field)
        sent[f"{name}, no JSON"] = ("application/json", b"[1", field)
    running = service(config(rabbit.url(), queue, "retry = { max_attempts = 1 }"), {"jobs.py": JOB}).start()
    wait_for(lambda: len(running.named("mqw-consumer")) == 2, 30, "both Consumers")
    processes = {name: running.named(name) for name in ("mqw-producer", "mqw-consumer")}
    with Client(rabbit.url()) as client:
        channel: Any = client._connection.channel()
        for message_id, (kind, body, field) in sent.items():
            channel.basic_publish("", queue, body, Raw(block(kind, message_id, field)))
        channel.queue_declare(queue, passive=True)  # the broker has them all
        for name, field in ILLEGAL.items():
            if accepted(rabbit.url(), queue, block("application/json", name, field), b"[1]"):
                sent[name] = ("application/json", b"[1]", field)
        dead, out = f"{queue}.dlq", f"{queue}.out"
        wait_for(lambda: client.ready(dead) + client.ready(out) >= len(sent), 90, "every message to have an outcome")
    settled(rabbit, queue)
    assert {name: running.named(name) for name in processes} == processes, "no process has died"
    assert running.stage("work")["restarts"] == 0
    assert not [event for event in running.events() if event["event"] == "consuming_lost"], "no connection was lost"
    outcomes = {"dead": take(rabbit.url(), dead), "result": take(rabbit.url(), out)}
    assert Counter(properties.message_id for told in outcomes.values() for properties, _ in told) == Counter(
        sent.keys()
    )
    for outcome, told in outcomes.items():
        for properties, body in told:
            kind, original, field = sent[properties.message_id]
            assert body == original, properties.message_id
            assert outcome == ("result" if decodable(kind, original) else "dead"), properties.message_id
            assert field is None or field in properties.encode(), f"{properties.message_id} was changed"
            if outcome == "dead":
                assert properties.headers["x-mqworker-reason"] == "undecodable"
                assert properties.content_type == kind
    assert len(outcomes["result"]) > BODIES / 2
    assert len(outcomes["dead"]) > BODIES / 2
    assert running.stop() == 0
