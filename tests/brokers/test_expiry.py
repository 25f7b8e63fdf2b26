"""A policy `expires` deletes queues that nobody uses; on RabbitMQ no queue of a stage is deleted with what waits in it.

The scenes wait for queues to expire, each on queues of its own, so they run side by side.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from mqworker.brokers.base import Publication
from mqworker.brokers.rabbitmq import reconnector, upkeep
from tests.brokers.rabbit import RabbitHarness
from tests.support.loop import on_loop
from tests.support.rabbitmq import RabbitNode, major_version
from tests.support.waiting import AMPLE, Patience, until

EXPIRES = 5  # seconds
LATER = 16  # seconds that a retry waits: several times as long


def passed() -> float:
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def expiring(node: RabbitNode, kind: str) -> AsyncIterator[RabbitHarness]:
    """A harness all of whose queues expire."""
    broker = RabbitHarness(node, kind)
    unique = broker.topology.input.partition(".")[0]
    definition = f'<<"{{\\"expires\\": {1000 * EXPIRES}}}">>'
    policy = f'<<"/">>, <<"{unique}">>, <<"^{unique}">>, {definition}, <<"0">>, <<"queues">>, <<"test">>'
    await asyncio.to_thread(node.eval, f"rabbit_policy:parse_set({policy})")
    try:
        yield broker
    finally:
        await asyncio.to_thread(node.eval, f'rabbit_policy:delete(<<"/">>, <<"{unique}">>, <<"test">>)')
        async with asyncio.timeout(AMPLE):
            await broker.close()


async def what_waits(broker: RabbitHarness) -> None:
    """Retries, dead letters, results and a paused input outlive the period by far."""
    topology = broker.topology
    link, sink = await broker.started()  # paused
    link.publish(1, Publication("", topology.input, b"", b"later", delay=LATER))
    link.publish(2, Publication("", topology.dead, b"", b"dead"))
    link.publish(3, Publication("", topology.input, b"", b"waits"))
    link.publish(4, Publication("", topology.output.queue, b"", b"result"))
    for number in (1, 2, 3, 4):
        assert await sink.answer(number) == ""
    began = passed()
    await broker.counts(topology.input, 2, 40)
    assert passed() - began > LATER - 1
    assert (await broker.count(topology.dead), await broker.count(topology.output.queue)) == (1, 1)


async def what_an_earlier_run_has_left(broker: RabbitHarness) -> None:
    """A link that has published no retry itself keeps the delay queues of the one before."""
    topology = broker.topology
    link, sink = await broker.started()
    link.publish(1, Publication("", topology.input, b"", b"later", delay=LATER))
    assert await sink.answer(1) == ""
    await link.close(AMPLE)
    await broker.started()
    began = passed()
    await broker.publish(f"{topology.input}.retry.{LATER}s", b"", b"of an earlier run")
    await broker.counts(topology.input, 2, 40)
    assert passed() - began > LATER - 1


async def a_retry_while_connections_are_short(broker: RabbitHarness) -> None:
    """A retry outlives twice the period while no connection lives for a second."""
    link, sink = await broker.started()  # paused
    link.publish(1, Publication("", broker.topology.input, b"", b"later", delay=LATER))
    assert await sink.answer(1) == ""
    began, short = passed(), 0
    while passed() - began < 2 * EXPIRES + 2:
        await until(lambda: link.state.connected, 10, "a connection")
        await asyncio.sleep(0.5)  # less than the second that this is about
        if (connection := link._consuming.connection) is not None:
            connection.abort("ended by the test")
            short += 1
        await until(lambda: not link.state.connected, 10, "its end")
    assert short >= 5
    await broker.counts(broker.topology.input, 1, 40)


async def a_queue_that_is_empty(broker: RabbitHarness) -> None:
    """A retry that comes just before its delay queue would expire is not lost with it: also unused, the queue stays."""
    topology = broker.topology
    link, sink = await broker.started(prefetch=5)
    link.publish(1, Publication("", topology.input, b"", b"later", delay=1))
    delivery = (await sink.has(1))[0]
    link.ack(delivery.epoch, delivery.tag, multiple=False)
    began = passed()
    await until(lambda: passed() - began > 2 * EXPIRES + 2, 60, "more than twice the time after which they expire")
    kept = [f"{topology.input}.retry.1s"]
    if topology.queue_type == "classic" or major_version() == 3:
        kept += [topology.dead, topology.output.queue]
    for name in kept:
        assert await asyncio.to_thread(broker.node.queue, name) is not None, name


async def the_policy(broker: RabbitHarness) -> None:
    """The control: a queue that no stage uses is deleted."""
    name, channel = f"{broker.topology.input}.of-nobody", await broker.channel()
    await channel.ask("queue_declare", queue=name, durable=True)
    began = passed()
    await until(lambda: passed() - began > EXPIRES, 60, "the time after which it expires")
    patience = Patience(20)
    while await asyncio.to_thread(broker.node.queue, name) is not None:
        assert not patience.over(), "it is still there"
        await asyncio.sleep(0.2)


SCENES = [
    (what_waits, "classic"),
    (what_an_earlier_run_has_left, "classic"),
    (a_retry_while_connections_are_short, "classic"),
    (a_queue_that_is_empty, "classic"),
    (a_queue_that_is_empty, "quorum"),
    (the_policy, "classic"),
]


@pytest.mark.rabbitmq
@pytest.mark.long
@on_loop
async def test_a_policy_that_expires_takes_nothing(rabbit, monkeypatch):
    """Under a policy `expires`, none of the queues of a stage that runs is deleted: see what each scene says."""
    monkeypatch.setattr(reconnector, "PING_EVERY", 1.0)
    monkeypatch.setattr(reconnector, "retry_delay", lambda _failures, **_: 0.1)
    monkeypatch.setattr(upkeep, "TAKE_EVERY", 1.0)

    async def play(scene, kind: str) -> None:
        async with expiring(rabbit, kind) as broker:
            await scene(broker)

    async with asyncio.TaskGroup() as group:
        for scene, kind in SCENES:
            group.create_task(play(scene, kind), name=f"{scene.__name__} on {kind} queues")
