"""Epochs of consuming that a stage ends itself, at rest: what was unsettled is back in its place, nothing is lost."""

import asyncio

import pytest

from mqworker.brokers.base import Publication
from mqworker.brokers.rabbitmq import amqp_connection, reconnector
from tests.brokers.harness import Recorder, contract
from tests.support.waiting import AMPLE, until


async def fill(link, sink, queue: str, count: int) -> None:
    """Have a link put numbers into a queue."""
    first = len(sink.answers) + 1
    for number in range(count):
        link.publish(first + number, Publication("", queue, b"", b"%d" % number))
    await until(lambda: len(sink.answers) == first + count - 1, 60, "all stored")


@contract
async def test_what_was_unsettled_is_back_in_its_place(broker):
    """The next epoch begins with what the last one left unsettled, marked as redelivered; no connection was lost."""
    link, sink = await broker.started()
    await fill(link, sink, broker.topology.input, 12)
    link.consume(5, 5)
    await sink.has(5)
    for tag in (1, 3):
        link.ack(1, tag, multiple=False)
    await sink.has(7)
    connected = len(sink.states)
    link.end_epoch()
    await until(lambda: link.state.resting, 10, "the end of the epoch")
    assert sink.consuming_lost_for == [(1, "")]
    assert not link.state.consuming
    await broker.counts(broker.topology.input, 10)
    link.consume(5, 5)
    await sink.has(12)
    link.ack(2, 5, multiple=True)
    await sink.has(17)
    assert [(each.epoch, each.tag) for each in sink.deliveries[7:]] == [(2, tag) for tag in range(1, 11)]
    assert sink.bodies[7:] == [b"%d" % number for number in (1, *range(3, 12))]
    assert [each.redelivered for each in sink.deliveries[7:]] == [True] * 5 + [False] * 5
    assert not link.state.resting
    assert all(state.connected and not state.reason for state in sink.states[connected - 1 :])
    assert link.state.reconnects == 0
    assert not sink.publishes_lost_for
    link.ack(2, 10, multiple=True)


@contract
async def test_nothing_that_was_acked_comes_again(broker):
    """A thousand acks right before the end of an epoch, each on its own, are all taken; so are late ones in its end."""
    link, sink = await broker.started()
    for epoch in range(1, 6):
        before = len(sink.deliveries)
        await fill(link, sink, broker.topology.input, 1000)
        link.consume(1000, 1000)
        await sink.has(before + 1000, 60)
        for delivery in sink.deliveries[before:-1]:
            link.ack(delivery.epoch, delivery.tag, multiple=False)
        link.end_epoch()
        link.ack(epoch, 1000, multiple=False)
        await until(lambda: link.state.resting, 20, "the end of the epoch")
        assert sink.consuming_lost_for[-1] == (epoch, "")
    await broker.publish(broker.topology.input, b"", b"new")
    link.consume(1000, 1000)
    await sink.has(5001)
    await broker.counts(broker.topology.input, 0)
    assert sink.bodies[5000:] == [b"new"]
    assert not any(delivery.redelivered for delivery in sink.deliveries)
    link.ack(6, 1, multiple=False)


@contract
async def test_a_link_that_rests_connects_without_consuming(broker):
    """No epoch begins until one is wanted; one that is wanted while the last one ends begins after it."""
    sink = Recorder()
    link = broker.make_link(sink)
    link.end_epoch()
    link.start()
    await until(lambda: link.state.resting and link.state.connected, 15, "a link at rest")
    assert (await broker.make_admin().queue(broker.topology.input, AMPLE)).consumers == 0
    await broker.publish(broker.topology.input, b"", b"x")
    link.consume(5, 5)
    first = (await sink.has(1))[0]
    link.end_epoch()
    link.consume(5, 5)
    second = (await sink.has(2))[1]
    assert (second.epoch, second.tag, second.redelivered) == (first.epoch + 1, 1, True)
    link.ack(first.epoch, 1, multiple=False)
    await until(lambda: link.stale_acks == 1, 10, "an ack of the old epoch dropped")
    link.ack(second.epoch, 1, multiple=False)


@pytest.mark.rabbitmq
@pytest.mark.parametrize("broker", ["rabbitmq-classic", "rabbitmq-quorum"], indirect=True)
@contract
async def test_a_link_at_rest_stays_so_through_lost_connections(broker, monkeypatch):
    """A connection that is lost at rest, or while an epoch ends, begins no epoch, and each epoch is lost once."""
    monkeypatch.setattr(reconnector, "PING_EVERY", 1.0)
    link, sink = await broker.started(prefetch=5)
    await broker.publish(broker.topology.input, b"", b"x")
    await sink.has(1)
    broker.node.freeze()
    try:
        with monkeypatch.context() as short:
            short.setattr(amqp_connection, "ANSWER_DEADLINE", 1.0)  # nothing answers anyway
            link.end_epoch()
            await until(lambda: not link.state.connected, 20, "the freeze seen")
    finally:
        broker.node.thaw()
    await until(lambda: link.state.connected and link.state.resting, 40, "a link at rest")
    assert [epoch for epoch, _ in sink.consuming_lost_for] == [1]
    await asyncio.to_thread(broker.node.close_connections)
    await until(lambda: not link.state.connected, 10, "the loss seen")
    await until(lambda: link.state.connected and link.state.resting, 20, "a link at rest")
    assert [epoch for epoch, _ in sink.consuming_lost_for] == [1]
    link.consume(5)
    await sink.has(2)
    assert sink.deliveries[1].epoch == 2


@pytest.mark.rabbitmq
@pytest.mark.parametrize("broker", ["rabbitmq-classic"], indirect=True)
@pytest.mark.parametrize("ordered", [False, True])
@contract
async def test_an_auto_delete_input_keeps_its_epoch(broker, ordered):
    """The broker would delete it with what is in it, so its epoch goes on, and every message arrives."""
    broker.order(ordered)
    channel = await broker.channel()
    await channel.ask("queue_declare", queue=broker.topology.input, durable=True, auto_delete=True)
    link, sink = await broker.started(prefetch=5)
    await fill(link, sink, broker.topology.input, 20)
    await sink.has(5)
    link.end_epoch()
    link.ack(1, 5, multiple=True)
    await sink.has(10)
    link.ack(1, 10, multiple=True)
    link.consume(5)
    await sink.has(15)
    link.ack(1, 15, multiple=True)
    await sink.has(20)
    assert sink.bodies == [b"%d" % number for number in range(20)]
    assert not sink.consuming_lost_for
    assert link.state.consuming
    assert any("a pause" in warning for warning in link.state.warnings) is ordered
