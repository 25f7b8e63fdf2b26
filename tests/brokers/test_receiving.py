"""Taking messages out of a queue in two steps, as the broker admin does it, on each broker."""

import pytest

from mqworker.amqp.properties import Properties
from mqworker.broker_admin.verbs import Verbs
from mqworker.brokers.base import BrokerRefused
from mqworker.config.model import BrokerConfig, Config
from tests.brokers.harness import contract
from tests.support.waiting import AMPLE


def block(message_id: str | None) -> bytes:
    return Properties(delivery_mode=2, message_id=message_id).encode()


@contract
async def test_a_message_stays_until_it_is_named_as_taken(broker):
    """Each question removes what it names, once for each time that it does, and returns the next ones."""
    await broker.started()
    queue = broker.topology.output.queue
    verbs = Verbs(Config(stages={}, broker=BrokerConfig(url=broker.url)))
    try:
        for number in range(5):
            await broker.publish(queue, block(f"m{number}"), b"%d" % number)
        for _ in range(3):
            await broker.publish(queue, block(None), b"equal")
        first = await verbs.receive(AMPLE, queue, 3, [])
        assert [(each["message_id"], each["body"]) for each in first] == [("m0", b"0"), ("m1", b"1"), ("m2", b"2")]
        taken = [each["id"] for each in first]
        assert [each["id"] for each in await verbs.receive(AMPLE, queue, 3, [])] == taken, "whoever took them has died"
        after = await verbs.receive(AMPLE, queue, 3, taken)
        assert [each["body"] for each in after] == [b"3", b"4", b"equal"]
        await broker.counts(queue, 5)
        assert await verbs.receive(AMPLE, queue, 0, [each["id"] for each in after]) == []
        await broker.counts(queue, 2)
        assert [each["body"] for each in await verbs.receive(AMPLE, queue, 9, taken)] == [b"equal"] * 2
        with pytest.raises(BrokerRefused):
            await verbs.receive(AMPLE, "no.such.queue", 1, [])
    finally:
        await verbs._admin.close()


@contract
async def test_large_messages_come_a_few_at_a_time(broker):
    """An answer has to fit through a pipe, so it ends at eight MiB; the others come with the next question."""
    await broker.started()
    queue = broker.topology.output.queue
    verbs = Verbs(Config(stages={}, broker=BrokerConfig(url=broker.url)))
    try:
        for number in range(5):
            await broker.publish(queue, block(f"m{number}"), b"x" * (3 << 20))
        found = await verbs.receive(AMPLE, queue, 5, [])
        assert [each["message_id"] for each in found] == ["m0", "m1"]
        found = await verbs.receive(AMPLE, queue, 5, [each["id"] for each in found])
        assert [each["message_id"] for each in found] == ["m2", "m3"]
    finally:
        await verbs._admin.close()
