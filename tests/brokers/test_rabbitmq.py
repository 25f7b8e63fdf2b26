"""What only RabbitMQ can do to us: restarts, freezes, alarms, closed channels, refusals, limits."""

import asyncio
import contextlib
import itertools
import os
import subprocess
from collections.abc import AsyncIterator

import pika
import pytest
from msgspec.structs import replace

from mqworker.amqp.fingerprint import without_delivery_count
from mqworker.amqp.properties import Properties
from mqworker.brokers.base import BrokerRefused, BrokerUnavailable, Publication
from mqworker.brokers.rabbitmq import (
    amqp_connection,
    anchor,
    exchanges,
    reconnector,
    topology_recovery,
    upkeep,
)
from mqworker.brokers.rabbitmq import sender as sender_module
from mqworker.brokers.rabbitmq.admin import RabbitAdmin
from mqworker.brokers.rabbitmq.amqp_connection import RawProperties
from mqworker.brokers.rabbitmq.channel import Channel
from mqworker.brokers.rabbitmq.link import RabbitLink
from mqworker.brokers.rabbitmq.placer import Placer
from mqworker.brokers.rabbitmq.reconnector import retry_delay
from mqworker.brokers.rabbitmq.sender import Sender
from mqworker.config.model import BrokerConfig, TlsConfig
from tests.brokers.harness import Recorder, contract
from tests.brokers.rabbit import RabbitHarness, both_kinds, on_both_kinds
from tests.support.loop import on_loop
from tests.support.ports import free_port
from tests.support.waiting import AMPLE, Patience, until, within

pytestmark = pytest.mark.rabbitmq
PUBLISH_IDS = itertools.count(1)


@pytest.fixture
def node(rabbit):
    """The session's node, which lives afterwards."""
    yield rabbit
    rabbit.thaw()
    if not rabbit.running():  # a test that failed has killed it: the next ones need it
        rabbit.kill()
        rabbit.start()


@pytest.fixture
def broker(node, request):
    """A harness on the session's node, with classic queues unless a test chooses others."""
    return RabbitHarness(node, getattr(request, "param", "classic"))


@pytest.fixture
def soon(monkeypatch):
    """Links connect again without the pauses that grow."""
    monkeypatch.setattr(reconnector, "retry_delay", lambda _failures, **_: 0.1)


async def back(link, deadline=20):
    """Wait until a link is whole again."""
    await until(lambda: link.state.connected and link.state.consuming, deadline, "the link back")


async def evaluate(harness: RabbitHarness, expression: str) -> str:
    return await asyncio.to_thread(harness.node.eval, expression)


ALARMS = {  # expressions that raise an alarm, and that end it; rabbitmqctl would take seconds for each
    "disk": (
        "rabbit_disk_monitor:set_disk_free_limit(1000000000000000)",
        'rabbit_disk_monitor:set_disk_free_limit("1MB")',
    ),
    "memory": (
        "vm_memory_monitor:set_vm_memory_high_watermark(0.000001)",
        "vm_memory_monitor:set_vm_memory_high_watermark(0.4)",
    ),
}


@contextlib.asynccontextmanager
async def alarmed(harness: RabbitHarness, alarm: str) -> AsyncIterator[None]:
    """Have the broker read from no connection that publishes; one that stays so silences all tests after this one."""
    begin, end = ALARMS[alarm]
    try:
        await evaluate(harness, begin)
        yield
    finally:
        await evaluate(harness, end)


@contextlib.asynccontextmanager
async def silenced(harness: RabbitHarness, queue: str) -> AsyncIterator[None]:
    """Keep a queue's process from answering, like a quorum queue without a leader."""
    process = (
        f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),'
        "P = case amqqueue:get_pid(Q) of {Name, _} -> whereis(Name); Pid -> Pid end,"
    )
    await evaluate(harness, f"{process} sys:suspend(P).")
    try:
        yield
    finally:
        await evaluate(harness, f"{process} sys:resume(P).")


@contract
async def test_one_connection_back_brings_the_other(broker, monkeypatch):
    """A link does not wait for the longer wait: the first connection that is back has the other retried at once."""
    monkeypatch.setattr("mqworker.brokers.rabbitmq.reconnector.STABLE_AFTER", 0.0)  # a short session counts as good too
    link, sink = await broker.started(prefetch=5)
    waits = iter([600.0])
    monkeypatch.setattr("mqworker.brokers.rabbitmq.reconnector.retry_delay", lambda *_, **__: next(waits, 0.2))
    await asyncio.to_thread(broker.node.close_connections)
    await until(lambda: sink.consuming_lost_for, 5, "the loss seen")
    await back(link)


@pytest.mark.kills_broker
@on_loop
async def test_broker_killed_and_started_again(node, soon):
    """SIGKILL of the broker voids the epoch; the link reconnects, and what was confirmed but not acked is there."""
    refused = node.log().count("unknown delivery tag")  # other tests have the node too, and one does that
    async with both_kinds(node) as harnesses:
        started = [(broker.topology.input, *await broker.started(prefetch=5)) for broker in harnesses.values()]
        for name, link, sink in started:
            link.publish(1, Publication("", name, Properties(delivery_mode=2).encode(), b"kept"))
            assert await sink.answer(1) == ""
            await sink.has(1)
        node.kill()
        for name, link, sink in started:
            await until(lambda sink=sink: sink.consuming_lost_for, 5, "the loss seen")
            await until(lambda link=link: not link.state.connected, 5, "the state")
            link.publish(2, Publication("", name, b"", b"early"))
            assert sink.answers[2]
        node.spawn()
        for _, link, sink in started:
            await back(link, 90)
            deliveries = await sink.has(2)
            assert deliveries[1].body == b"kept"
            assert (deliveries[1].epoch, deliveries[1].tag) == (2, 1)
            link.ack(1, 1, multiple=False)
            assert link.stale_acks == 1
            link.ack(2, 1, multiple=False)
            assert link.state.reconnects >= 2
    assert node.log().count("unknown delivery tag") == refused


@pytest.mark.kills_broker
@pytest.mark.parametrize("broker", ["quorum"], indirect=True)
@contract
async def test_what_a_queue_that_was_just_made_confirms_outlives_its_broker(broker, soon):
    """RabbitMQ loses what a quorum queue confirms in its first second, if it is killed then; so that is waited out."""
    link, sink = await broker.started()  # paused
    queues = (broker.topology.input, broker.topology.dead, broker.topology.output.queue)
    for number, queue in enumerate(queues):
        link.publish(number, Publication("", queue, Properties(delivery_mode=2).encode(), b"kept"))
    link.publish(len(queues), Publication("", broker.topology.input, b"", b"later", delay=1 << 17))  # not in this test
    for number in range(len(queues) + 1):
        assert await sink.answer(number) == ""
    broker.node.kill()
    await until(lambda: not link.state.connected, 5, "the loss seen")
    broker.node.spawn()
    await until(lambda: link.state.connected, 90, "the link back")
    for queue in (*queues, f"{broker.topology.input}.retry.{1 << 17}s"):
        await broker.counts(queue, 1, 25)


@contract
async def test_frozen_broker_shows_in_time(broker):
    """A frozen broker is noticed within 15 s, and everything works again after it resumes."""
    link, sink = await broker.started(prefetch=5)
    broker.node.freeze()
    try:
        link.publish(1, Publication("", broker.topology.output.queue, b"", b"x"))
        with within(15, "the freeze seen, the publication given up and the deliveries void"):
            await until(lambda: not link.state.connected, 15, "the freeze seen")
            await until(lambda: sink.publishes_lost_for, 15, "the publication given up")
            await until(lambda: sink.consuming_lost_for, 15, "the deliveries void")
    finally:
        broker.node.thaw()
    await back(link, 40)


@contract
async def test_all_connections_closed_by_an_operator(broker, soon):
    """close_all_connections costs an epoch each time and nothing else."""
    link, sink = await broker.started(prefetch=5)
    for number in range(3):
        await asyncio.to_thread(broker.node.close_connections)
        await until(lambda n=number: len(sink.consuming_lost_for) > n, 5, "the loss")
        await back(link)
    await broker.publish(broker.topology.input, b"", b"x")
    await sink.has(1)
    assert [epoch for epoch, _ in sink.consuming_lost_for] == [1, 2, 3]


@contract
async def test_queue_deleted_under_the_consumer(broker):
    """A deleted input queue voids the epoch; it is created again and consumed."""
    link, sink = await broker.started(prefetch=5)
    await broker.publish(broker.topology.input, b"", b"x")
    await sink.has(1)
    await broker.make_admin().delete(broker.topology.input, AMPLE)
    await until(lambda: sink.consuming_lost_for, 5, "the loss")
    link.ack(1, 1, multiple=False)
    await back(link)
    await broker.publish(broker.topology.input, b"", b"y")
    await sink.has(2)
    assert sink.deliveries[1].epoch == 2
    assert link.state.reconnects == 0


@contract
async def test_lost_bindings_of_the_input_are_told_until_messages_come_that_way_again(broker):
    """An input that was deleted and made again is a problem until a message comes through the exchange of before."""
    channel = await broker.channel()
    name, exchange = broker.topology.input, f"{broker.topology.input}.events"
    await channel.ask("exchange_declare", exchange=exchange, exchange_type="topic")
    await channel.ask("queue_declare", queue=name, durable=True)
    await channel.ask("queue_bind", queue=name, exchange=exchange, routing_key="#")
    link, sink = await broker.started(prefetch=5)
    channel.raw.basic_publish(exchange, "a.b", b"bound", RawProperties())
    await sink.has(1)
    link.ack(1, 1, multiple=False)
    assert (link.state.unbound, link.state.problem) == ((), "")
    await broker.make_admin().delete(name, AMPLE)
    await until(lambda: sink.consuming_lost_for, 5, "the loss")
    await back(link)
    assert link.state.unbound == (exchange,)
    assert repr(exchange) in link.state.problem
    await broker.publish(name, b"", b"through the default exchange")
    await sink.has(2)
    assert link.state.unbound == (exchange,)
    await channel.ask("queue_bind", queue=name, exchange=exchange, routing_key="#")
    channel.raw.basic_publish(exchange, "a.b", b"bound again", RawProperties())
    await sink.has(3)
    assert (link.state.unbound, link.state.problem) == ((), "")
    await channel.ask("exchange_delete", exchange=exchange)


@on_loop
async def test_a_silent_output_costs_the_answer_on_its_depth_alone(node, monkeypatch):
    """The link works on, an answer comes when the queue is no longer silent, and so it does on another connection."""
    monkeypatch.setattr(amqp_connection, "ANSWER_DEADLINE", 4.0)
    await on_both_kinds(node, ask_a_silent_output)


async def ask_a_silent_output(broker: RabbitHarness) -> None:
    link, sink = await broker.started(prefetch=5)
    async with silenced(broker, broker.topology.output.queue):
        link.ask_output_depth()
        began = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() - began > 6, 60, "more than an answer's deadline")
        await broker.publish(broker.topology.input, b"", b"x")
        await sink.has(1)
        assert not sink.depths

    def answered() -> list[int]:
        link.ask_output_depth()  # changes nothing while the first has no answer; one of a quorum queue was given up
        return sink.depths

    await until(answered, 10, "the answer")
    assert (link.state.reconnects, sink.consuming_lost_for) == (0, [])
    async with silenced(broker, broker.topology.output.queue):
        link.ask_output_depth()
        link._consuming.connection.abort("the test")
        await until(lambda: sink.consuming_lost_for, 10, "the loss seen")
    await back(link)
    sink.depths.clear()
    await until(answered, 10, "an answer on the new connection")


@on_loop
async def test_upkeep_of_a_queue_that_does_not_answer_costs_the_link_nothing(node, monkeypatch):
    """A dead-letter queue that is silent for longer than any deadline neither ends a connection nor hides the depth."""
    monkeypatch.setattr(reconnector, "PING_EVERY", 1.0)
    monkeypatch.setattr(amqp_connection, "ANSWER_DEADLINE", 4.0)
    monkeypatch.setattr(upkeep, "PATIENCE", 1.0)
    monkeypatch.setattr(upkeep, "ROUND", 3.0)
    await on_both_kinds(node, keep_up_a_silent_queue)


async def keep_up_a_silent_queue(broker: RabbitHarness) -> None:
    link, sink = await broker.started(prefetch=5)
    async with silenced(broker, broker.topology.dead):
        began = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() - began > 6, 60, "more than an answer's deadline")
        await broker.publish(broker.topology.input, b"", b"x")
        await sink.has(1)
        link.consume(0)
        await until(lambda: not link.state.consuming, 10, "holding back")
        await broker.publish(broker.topology.input, b"", b"y")
        await until(lambda: link.depth() == 1, 20, "the depth")
    assert (link.state.reconnects, sink.consuming_lost_for, sink.publishes_lost_for) == (0, [], [])
    stuck = link._recovery._upkeep._stuck
    assert len(stuck) <= 1  # one channel for the queue, however often it was its turn
    await until(lambda: not stuck, 30, "the queue to be asked again, now that it answers")


@pytest.mark.parametrize("alarm", ALARMS)
@contract
async def test_alarm_blocks_publishing_and_loses_nothing(broker, alarm, monkeypatch):
    """During an alarm (disk, memory) publications wait until it ends, beyond their deadline; acks still work."""
    link, sink = await broker.started(prefetch=5, confirm_deadline=1)
    await broker.publish(broker.topology.input, b"", b"x")
    await sink.has(1)
    async with alarmed(broker, alarm):
        link.publish(1, Publication("", broker.topology.output.queue, b"", b"x"))
        await until(lambda: link.state.blocked, 5, "blocked")
        assert "alarm" in link.state.reason
        link.ack(1, 1, multiple=False)
        looks, sweep = [], link._publishing.check_deadlines
        monkeypatch.setattr(link._publishing, "check_deadlines", lambda now: (looks.append(now), sweep(now)))
        await until(lambda: len(looks) >= 4, 20, "looks at the deadline until it is over three times")
        assert 1 not in sink.answers
        assert not sink.publishes_lost_for
        assert (await asyncio.to_thread(broker.node.queue, broker.topology.input))["messages"] == 0
    assert await sink.answer(1) == ""
    await until(lambda: not link.state.blocked, 5, "unblocked")
    assert link.state.reconnects == 0


@contract
async def test_closing_during_an_alarm_is_bounded(broker):
    """A link that closes while the broker reads nothing ends within its deadline."""
    link, _ = await broker.started(prefetch=5)
    async with alarmed(broker, "disk"):
        link.publish(1, Publication("", broker.topology.output.queue, b"", b"x"))
        await until(lambda: link.state.blocked, 5, "blocked")
        async with asyncio.timeout(20):  # else it waits for the end of the alarm
            await link.close(1)


@pytest.mark.parametrize("size", [1, 32 << 20])
@contract
async def test_confirm_deadline_without_an_alarm(broker, size):
    """A publication not confirmed in time, or not even taken, costs the publishing connection and nothing else."""
    link, sink = await broker.started(prefetch=5, confirm_deadline=1)
    broker.node.freeze()
    try:
        link.publish(1, Publication("", broker.topology.output.queue, b"", bytes(size)))
        await until(lambda: sink.publishes_lost_for, 7, "the publication given up")
        assert not sink.consuming_lost_for
    finally:
        broker.node.thaw()
    await back(link)
    link.publish(2, Publication("", broker.topology.output.queue, b"", bytes(size)))
    assert await sink.answer(2, AMPLE) == ""


@contract
async def test_output_that_disappears_is_made_again(broker, monkeypatch):
    """A publication into a deleted exchange or queue is refused; ours is created again, and no channel loops."""
    monkeypatch.setattr(topology_recovery, "REPAIR_EVERY", 0.5)
    link, sink = await broker.started()
    output = broker.topology.output
    publication = Publication(output.exchange, output.routing_key, b"", b"x")
    assert await placed(link, sink, publication) == 0
    channel = await broker.channel()
    await channel.ask("exchange_delete", exchange=output.exchange)
    await channel.ask("queue_delete", queue=output.queue)
    async with asyncio.timeout(AMPLE):
        await placed(link, sink, publication)
    assert len(sink.publishes_lost_for) <= 1
    await broker.counts(output.queue, 1)


@pytest.mark.parametrize("kind", ["topic", "fanout", "headers"])
@contract
async def test_an_exchange_of_any_type_is_used_as_found(broker, kind):
    """Results reach their queue through an exchange that others declared, and nobody is warned."""
    output = broker.topology.output
    channel = await broker.channel()
    await channel.ask("exchange_declare", exchange=output.exchange, exchange_type=kind, durable=True)
    link, sink = await broker.started()
    link.publish(1, Publication(output.exchange, output.routing_key, b"", b"x"))
    assert await sink.answer(1) == ""
    await broker.counts(output.queue, 1)
    assert link.state.warnings == ()


@contract
async def test_a_delaying_exchange_is_not_asked_for_a_route(broker, monkeypatch):
    """Such an exchange returns what it delivers later: it is recognised by its type, and confirms alone count.

    The plugin is not here: an exchange without a binding stands for the moment at which it has no route yet.
    """
    monkeypatch.setattr(exchanges, "DELAYING", "topic")
    output = broker.topology.output
    channel = await broker.channel()
    await channel.ask("exchange_declare", exchange=output.exchange, exchange_type="topic", durable=True)
    link, sink = await broker.started()
    assert "delays messages" in link.state.warnings[0]
    await channel.ask("queue_unbind", queue=output.queue, exchange=output.exchange, routing_key=output.routing_key)
    link.publish(1, Publication(output.exchange, output.routing_key, b"", b"x"))
    assert await sink.answer(1) == ""
    link.publish(2, Publication("", "no such queue", b"", b"x"))
    assert await sink.answer(2)


@contract
async def test_an_exchange_that_returns_what_it_delivers_repeats_nothing_for_ever(broker, monkeypatch):
    """If results come back although their queue is bound, they soon go straight to the queue, and are placed."""
    monkeypatch.setattr(topology_recovery, "REPAIR_EVERY", 0.1)
    output = broker.topology.output
    send, straight = Sender.send, []

    def send_and_return(sender, pending):
        send(sender, pending)
        publication = pending.publication
        if publication.mandatory and publication.exchange:
            returned = pika.spec.Basic.Return(312, "NO_ROUTE", publication.exchange, publication.routing_key)
            sender._on_return(None, returned, RawProperties(publication.properties), publication.body)
        elif not publication.exchange:
            straight.append(publication)

    monkeypatch.setattr(Sender, "send", send_and_return)
    link, sink = await broker.started()
    for number in itertools.count(1):
        link.publish(number, Publication(output.exchange, output.routing_key, b"", b"x"))
        if not await sink.answer(number):
            break
        assert number < 50
        await asyncio.sleep(0.1)
    assert straight[-1].routing_key == output.queue
    assert "straight to the queue" in link.state.warnings[0]
    link.publish(100, Publication(output.exchange, output.routing_key, b"", b"the next one"))
    assert await sink.answer(100) == ""
    await broker.counts(output.queue, number + 1)  # all of those that were returned, too
    link.publish(101, Publication(output.exchange, "chosen by a handler", b"", b"x"))
    assert await sink.answer(101) == ""


@contract
async def test_thousands_of_returns_cost_the_loop_a_few_looks_each(broker, monkeypatch):
    """A handler that yields as many parts without a route does not stop everything else while they come back."""
    link, sink = await broker.started()
    looks = []

    class Noted(dict):
        def __contains__(self, number):
            looks.append(number)
            return super().__contains__(number)

    sender, queue = link._publishing._sender, broker.topology.output.queue
    monkeypatch.setattr(sender, "_returned", Noted())
    for number in range(1, 2001):
        link.publish(number, Publication("", queue, b"", b"x"))
    for _ in range(2000):  # as if they came before the first confirm
        sender._on_return(None, pika.spec.Basic.Return(312, "NO_ROUTE", "", queue), RawProperties(b"\0\0"), b"x")
    await until(lambda: len(sink.answers) == 2000, 30, "all answers")
    assert all(sink.answers.values())
    assert len(looks) < 20 * 2000


@contract
async def test_each_part_of_many_has_longer_than_the_one_before(broker):
    """So those at the end do not cost the connection while the others are confirmed one by one."""
    link, sink = await broker.started()
    parts = [Publication("", broker.topology.output.queue, b"", b"x" * (1 << 20))] * 3
    link.publish_together((1, 2, 3), parts)
    since = [pending.since for pending in link._publishing._sender._sent.values()]
    assert since[1] - since[0] > 1
    assert since[2] - since[0] > 2
    assert [await sink.answer(number) for number in (1, 2, 3)] == [""] * 3


@contract
async def test_a_channel_on_which_a_queue_refuses_everything_is_replaced(broker, monkeypatch):
    """Nobody is told of it, nothing becomes ambiguous, and what is published afterwards is confirmed or refused."""
    monkeypatch.setattr(sender_module, "RENEW_AFTER", 0.5)
    channel = await broker.channel()
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await channel.ask("queue_declare", queue=broker.topology.dead, durable=True, arguments=full)
    link, sink = await broker.started()
    dead, other = (Publication("", name, b"", b"x") for name in (broker.topology.dead, broker.topology.input))
    link.publish(1, dead)
    assert not await sink.answer(1)
    link.publish(2, dead)
    assert "nacked" in await sink.answer(2)
    first, states = link._publishing._sender, len(sink.states)
    await until(lambda: link._publishing._sender not in (None, first), 10, "another channel")
    link.publish(3, dead)
    link.publish(4, other)
    assert "nacked" in await sink.answer(3)
    assert not await sink.answer(4)
    assert await broker.take(broker.topology.dead)
    link.publish(5, dead)
    assert not await sink.answer(5)
    assert sink.publishes_lost_for == []
    assert all(state.connected for state in sink.states[states:])


@contract
async def test_a_replaced_channel_is_kept_until_its_answers_have_come(broker, monkeypatch):
    """What waits for its answer when another channel takes over is not published twice, and is not ambiguous."""
    monkeypatch.setattr(sender_module, "RENEW_AFTER", 0.5)
    channel = await broker.channel()
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await channel.ask("queue_declare", queue=broker.topology.dead, durable=True, arguments=full)
    link, sink = await broker.started()
    dead, other = (Publication("", name, b"", b"x") for name in (broker.topology.dead, broker.topology.output.queue))
    link.publish(1, dead)
    link.publish(2, dead)
    assert "nacked" in await sink.answer(2)
    publishing = link._publishing
    first, numbers = publishing._sender, range(3, 23)
    async with silenced(broker, other.routing_key):
        for number in numbers:
            link.publish(number, other)
        await until(lambda: publishing._sender is not first, 10, "another channel")
    assert [await sink.answer(number) for number in numbers] == [""] * len(numbers)
    assert sink.publishes_lost_for == []
    await until(lambda: not publishing._replaced._senders, 10, "the old channel to be closed")
    link.publish(30, other)
    assert await sink.answer(30) == ""
    await broker.counts(broker.topology.output.queue, len(numbers) + 1)


@contract
async def test_full_queue_refuses(broker):
    """A queue that rejects publishes causes a refusal, not a loss."""
    link, sink = await broker.started()
    channel = await broker.channel()
    queue = f"{broker.topology.input}.full"
    await channel.ask("queue_declare", queue=queue, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    try:
        for publish_id in range(1, 6):
            link.publish(publish_id, Publication("", queue, b"", b"x"))
            await sink.answer(publish_id)
        assert sink.answers[1] == ""
        assert "nacked" in sink.answers[5]
    finally:
        await channel.ask("queue_delete", queue=queue)


@contract
async def test_too_large_is_refused(broker):
    """What exceeds the configured size, or a frame, is not sent; the answer is immediate."""
    link, sink = await broker.started(max_message_size=1000)
    link.publish(1, Publication("", broker.topology.output.queue, b"", b"x" * 1001))
    link.publish(2, Publication("", broker.topology.output.queue, b"\0\0" * 70_000, b""))
    link.publish(3, Publication("", "k" * 300, b"", b""))
    assert "too large" in sink.answers[1]
    assert "too large" in sink.answers[2]
    assert "cannot be published" in sink.answers[3]
    assert sink.too_large == {1, 2}


@contract
async def test_smaller_limit_of_the_broker_is_found_out(broker):
    """What the broker finds too large is refused for its size, at the cost of one channel for each connection."""
    large = Publication("", broker.topology.output.queue, b"", b"x" * 200_000)
    await asyncio.to_thread(broker.node.limit_messages, 100_000)
    try:
        link, sink = await broker.started()
        link.publish(1, large)
        assert "refused by the broker" in await sink.answer(1)
        await until(lambda: link.state.connected, 5, "the next channel")
        link.publish(2, large)
        assert "the broker takes 100000" in sink.answers[2]
        link.publish(3, replace(large, routing_key="no.such.queue", body=b""))
        assert "returned" in await sink.answer(3)
        assert sink.too_large == {1, 2}
        assert link.state.reconnects == 0
    finally:
        await asyncio.to_thread(broker.node.limit_messages)
    await asyncio.to_thread(broker.node.close_connections)
    await until(lambda: not link.state.connected, 5, "the loss seen")
    await until(lambda: link.state.connected, 20, "the link back")
    link.publish(4, large)
    assert await sink.answer(4) == ""


@contract
async def test_a_publication_that_kills_channels_is_found(broker):
    """One bad publication among good ones is refused after a while; the good ones are placed."""
    link, sink = await broker.started()
    queue = broker.topology.output.queue
    bad = Properties(expiration="soon").encode()
    publications = {
        publish_id: Publication("", queue, bad if publish_id == 3 else b"", b"%d" % publish_id)
        for publish_id in range(1, 6)
    }
    todo = set(publications)
    patience = Patience(15)
    while todo:
        assert not patience.over()
        await until(lambda: link.state.connected, 10, "a channel")
        losses = len(sink.publishes_lost_for)
        for publish_id in sorted(todo):
            link.publish(publish_id, publications[publish_id])
        await until(lambda n=losses, t=todo: t <= set(sink.answers) or len(sink.publishes_lost_for) > n, 10, "answers")
        todo = {
            publish_id
            for publish_id in todo
            if publish_id not in sink.answers or "not sent" in sink.answers[publish_id]
        }
        for publish_id in todo:
            sink.answers.pop(publish_id, None)
    assert "refused by the broker" in sink.answers[3]
    assert [sink.answers[publish_id] for publish_id in (1, 2, 4, 5)] == [""] * 4
    assert link.state.reconnects == 0


class Consumed:
    """Acks every delivery at once."""

    def __init__(self, link, sink) -> None:
        self._link, self._sink, self._acked = link, sink, 0

    async def up_to(self, count: int) -> None:
        """Wait until this many were delivered and acked in total."""
        while self._acked < count:
            await self._sink.has(self._acked + 1)
            for delivery in self._sink.deliveries[self._acked :]:
                self._link.ack(delivery.epoch, delivery.tag, multiple=False)
                self._acked += 1


@pytest.mark.parametrize("broker", ["quorum"], indirect=True)
@contract
async def test_the_prefetch_on_a_quorum_queue_stays_until_its_channel_ends(broker):
    """A changed prefetch moves no message; holding back stops deliveries; a new channel uses the newest value."""
    link, sink = await broker.started()
    bodies = [b"%d" % number for number in range(2000)]
    for number, body in enumerate(bodies, 1):
        link.publish(number, Publication("", broker.topology.input, b"", body))
    await until(lambda: len(sink.answers) == 2000, 30, "all stored")
    consumed = Consumed(link, sink)
    link.consume(2, fixed=16)
    await consumed.up_to(100)
    for count, wish in ((300, 128), (500, 4), (700, 64)):
        link.consume(wish, fixed=wish)
        await consumed.up_to(count)
        assert link.state.fixed_prefetch == 16
    await consumed.up_to(2000)
    assert sink.bodies == bodies
    assert not any(delivery.redelivered for delivery in sink.deliveries)
    link.consume(0)
    await until(lambda: not link.state.consuming, 5, "holding back")
    await broker.publish(broker.topology.input, b"", b"held back")
    await broker.counts(broker.topology.input, 1)
    link.consume(128, fixed=64)
    await consumed.up_to(501)
    assert link.state.fixed_prefetch == 16
    await asyncio.to_thread(broker.node.close_connections)
    await until(lambda: sink.consuming_lost_for, 5, "the loss")
    await back(link)
    assert link.state.fixed_prefetch == 64


DROPS = "drops its oldest messages when it holds 7 messages"


@pytest.mark.parametrize(
    ("properties", "fixed", "told"),
    [
        ({"x-queue-type": "quorum", "x-max-length": 7, "x-overflow": "reject-publish"}, 16, ["is of type quorum"]),
        ({"x-queue-type": "quorum", "x-delivery-limit": 30}, 16, ["drops a message after 30 deliveries", "is of type"]),
        ({"x-queue-type": "quorum", "x-single-active-consumer": True}, 16, ["is of type quorum"]),
        ({"x-max-priority": 5, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "a 'b' c"}, 0, []),
        ({"x-queue-type": "classic", "x-message-ttl": 10**7}, 0, ["drops messages after 10000 s"]),
        ({"x-message-ttl": 10**7, "x-dead-letter-exchange": ""}, 0, ["drops messages after 10000 s, or moves them"]),
        ({"x-max-length": 7}, 0, [DROPS]),
        ({"x-expires": 10**7}, 0, ["deletes it, with its messages, when it is unused for 10000 s"]),
        ({"auto_delete": True, "x-max-length": 7, "x-max-priority": 2}, 16, ["is auto-delete", DROPS]),
        ({"durable": False, "auto_delete": True}, 16, ["is not durable", "is auto-delete"]),
        ({"durable": False, "x-max-length": 7}, 0, ["is not durable", DROPS]),
        ({}, 0, []),
    ],
)
@contract
async def test_what_a_queue_is_is_found_out_whatever_else_it_has(broker, properties, fixed, told):
    """A queue that others made has its kind recognised; what it may cost is told, what costs nothing is not."""
    flags = {"durable": True} | {name: value for name, value in properties.items() if not name.startswith("x-")}
    arguments = {name: value for name, value in properties.items() if name.startswith("x-")}
    channel = await broker.channel()
    await channel.ask("queue_declare", queue=broker.topology.input, **flags, arguments=arguments)
    link, sink = await broker.started()
    warnings = [warning for warning in link.state.warnings if repr(broker.topology.input) in warning]
    assert len(warnings) == len(told)
    for what in told:
        assert any(what in warning for warning in warnings), (what, warnings)
    assert link.state.auto_delete is bool(properties.get("auto_delete"))
    link.consume(4, fixed=16)
    await broker.publish(broker.topology.input, b"", b"x")
    await sink.has(1)
    await until(lambda: link.state.consuming, 10, "the consumer")  # its first message may be here before the report
    assert link.state.fixed_prefetch == fixed
    await channel.ask("queue_declare", queue=broker.topology.input, **flags, arguments=arguments)


@contract
async def test_a_stream_is_refused_as_input(broker):
    """A stream is named as what it is, nothing is taken from it, and a queue in its place is consumed."""
    channel = await broker.channel()
    arguments = {"x-queue-type": "stream"}
    await channel.ask("queue_declare", queue=broker.topology.input, durable=True, arguments=arguments)
    await broker.publish(broker.topology.input, b"", b"x")
    sink = Recorder()
    link = broker.make_link(sink)
    link.consume(5)
    link.start()
    await until(lambda: "is a stream" in link.state.reason, 10, "the reason")
    assert not link.state.connected
    await channel.ask("queue_delete", queue=broker.topology.input)
    await back(link, 60)
    await broker.publish(broker.topology.input, b"", b"y")
    await sink.has(1)
    assert sink.bodies == [b"y"]


@contract
async def test_another_connections_queue_is_refused_as_input(broker):
    """An exclusive queue is named as such, and consumed once it is gone and made again."""
    theirs = await broker.another_connection()
    channel = await Channel.open(theirs)
    await channel.ask("queue_declare", queue=broker.topology.input, exclusive=True)
    sink = Recorder()
    link = broker.make_link(sink)
    link.consume(5)
    link.start()
    await until(lambda: "is exclusive to another connection" in link.state.reason, 10, "the reason")
    await theirs.shutdown(2)
    await back(link, 60)


@pytest.mark.parametrize("durable", [True, False])
@contract
async def test_an_auto_delete_input_outlives_all_that_we_do(broker, durable):
    """While we live, an auto-delete queue is never without a consumer: every message arrives, through all changes."""
    channel = await broker.channel()
    await channel.ask("queue_declare", queue=broker.topology.input, durable=durable, auto_delete=True)
    link, sink = await broker.started()
    for number in range(1, 1001):
        link.publish(number, Publication("", broker.topology.input, b"", b"%d" % number))
    await until(lambda: len(sink.answers) == 1000, 30, "all stored")
    consumed = Consumed(link, sink)
    for count, prefetch in ((50, 2), (200, 64), (300, 1), (400, 16)):
        link.consume(prefetch, fixed=prefetch)
        await consumed.up_to(count)
        link.consume(0)
        await until(lambda: not link.state.consuming, 10, "holding back")
        await consumed.up_to(len(sink.deliveries))
        held = len(sink.deliveries)
        status = await channel.ask("queue_declare", queue=broker.topology.input, passive=True)
        assert status.consumer_count == 1
        assert len(sink.deliveries) == held
    link.consume(16, fixed=16)
    await consumed.up_to(1000)
    assert sorted(map(int, sink.bodies)) == list(range(1, 1001))
    assert not sink.consuming_lost_for


@contract
async def test_a_message_that_an_anchor_holds_is_not_held_too_long(broker, monkeypatch):
    """While we hold back, the anchor gives its message back from time to time, and nobody loses it."""
    monkeypatch.setattr(anchor, "RETURN_EVERY", 0.05)
    channel = await broker.channel()
    await channel.ask("queue_declare", queue=broker.topology.input, durable=True, auto_delete=True)
    link, sink = await broker.started(prefetch=1)
    link.consume(0)
    await until(lambda: not link.state.consuming, 10, "holding back")
    await broker.publish(broker.topology.input, b"", b"x")
    returned = []
    monkeypatch.setattr(anchor.Anchor, "_give_back", counting(anchor.Anchor._give_back, returned))
    await until(lambda: len(returned) >= 3, 10, "three returns")
    link.consume(1)
    assert (await sink.has(1))[0].redelivered
    assert sink.bodies == [b"x"]


def counting(call, calls):
    """Return `call`, noting each use in `calls`."""

    def counted(*arguments):
        calls.append(arguments)
        return call(*arguments)

    return counted


@contract
async def test_other_arguments_are_a_warning(broker):
    """A queue found with other properties is used; a warning names the queue and what follows."""
    channel = await broker.channel()
    await channel.ask("queue_declare", queue=broker.topology.input, durable=True, arguments={"x-queue-type": "quorum"})
    await channel.ask("queue_declare", queue=broker.topology.dead, durable=True, arguments={"x-max-length": 5})
    link, sink = await broker.started(prefetch=5)
    first, second = link.state.warnings
    assert broker.topology.input in first
    assert "is of type quorum, configured is classic" in first
    assert broker.topology.dead in second
    assert "drops its oldest messages when it holds 5 messages" in second
    await broker.publish(broker.topology.input, b"", b"x")
    await sink.has(1)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://guest:s3cret@127.0.0.1:{port}/", "login"),
        ("amqp://guest:guest@127.0.0.1:{port}/nowhere", "virtual host"),
        ("amqp://guest:s3cret@127.0.0.1:1/", "cannot be reached"),
        ("amqps://guest:s3cret@127.0.0.1:{port}/", "TLS"),
        ("amqp://guest:s3cret@127.0.0.1:99999/", "is malformed"),
        ("amqp://guest:s3cret@no-such-host.invalid/", "cannot be reached"),
    ],
)
@contract
async def test_reasons_are_sentences_without_secrets(broker, url, says):
    """Whatever keeps a link from its broker is reported with its cause, but without the password."""
    config = BrokerConfig(url=url.format(port=broker.node.port))
    sink = Recorder()
    link = RabbitLink(config, broker.topology, sink, name="refused")
    link.start()
    try:
        await until(lambda: says in link.state.reason, 8, f"a reason with {says!r}")
        assert not link.state.connected
    finally:
        await link.close(1)
    assert "s3cret" not in repr(sink.states)
    admin = RabbitAdmin(config)
    with pytest.raises((BrokerUnavailable, BrokerRefused), match=says):
        await admin.queue("q", AMPLE)
    await admin.close()


@contract
async def test_several_hosts_are_tried(broker):
    """The next URL in the list is tried when one does not answer."""
    config = BrokerConfig(url=("amqp://guest:guest@127.0.0.1:1/", broker.url))
    sink = Recorder()
    link = RabbitLink(config, broker.topology, sink, name="several")
    link.start()
    try:
        await until(lambda: link.state.connected, 10, "the second host")
    finally:
        await link.close(2)


@contract
async def test_after_a_loss_the_next_host_has_its_turn(broker, soon, monkeypatch):
    """A host that has had a good connection is not the first to be tried again: it may be the one that has died."""
    monkeypatch.setattr(reconnector, "STABLE_AFTER", 0.0)  # a short session counts as good too
    writers = []
    other = await asyncio.start_server(lambda _, writer: writers.append(writer) or writer.close(), "127.0.0.1", 0)
    url = f"amqp://127.0.0.1:{other.sockets[0].getsockname()[1]}"
    link = RabbitLink(BrokerConfig(url=("amqp://127.0.0.1:1", broker.url, url)), broker.topology, Recorder(), name="x")
    link.start()
    try:
        await until(lambda: link.state.connected, 10, "the second host")
        assert not writers
        broker.node.close_connections()
        await until(lambda: len(writers) >= 2, 10, "both connections at the third")
        await until(lambda: link.state.connected, 20, "the second host again")
    finally:
        await link.close(2)
        other.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


@contract
async def test_no_answer_from_a_host_is_bounded(broker, monkeypatch):
    """A peer that accepts and sends nothing, or garbage, costs at most five seconds each time."""
    assert reconnector.CONNECT_DEADLINE == 5
    monkeypatch.setattr(reconnector, "CONNECT_DEADLINE", 1.0)  # as little, and sooner
    writers = []

    def garbage(_reader, writer):
        writers.append(writer)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + os.urandom(100))

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    try:
        for listener, says in ((server, "does not speak AMQP"), (silent, "did not answer in time")):
            port = listener.sockets[0].getsockname()[1]
            link = RabbitLink(BrokerConfig(url=f"amqp://127.0.0.1:{port}"), broker.topology, Recorder(), name="odd")
            link.start()
            await until(lambda link=link, says=says: says in link.state.reason, 3, says)
            await link.close(1)
    finally:
        for opened in (*writers, server, silent):
            opened.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


@contract
async def test_a_host_that_does_not_answer_keeps_no_question_from_the_next_host(broker):
    """Behind a silent host, a question is answered by its deadline, and the next one does not try the silent one."""
    await broker.started()
    writers = []
    silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    url = f"amqp://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    admin = RabbitAdmin(BrokerConfig(url=(url, broker.url)))
    try:
        assert await admin.queue(broker.topology.input, 5.0) is not None
        assert len(writers) == 1
        for connection in admin._shared.requests:
            connection.abort("the test ends it")
        assert await admin.queue(broker.topology.input, AMPLE) is not None
        assert len(writers) == 1
    finally:
        await admin.close()
        for opened in (*writers, silent):
            opened.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def placed(link, sink, publication: Publication) -> int:
    """Publish again and again, as a ledger does, until confirmed; return how often the result was ambiguous."""
    unknown = 0
    while True:
        publish_id, lost = next(PUBLISH_IDS), len(sink.publishes_lost_for)
        link.publish(publish_id, publication)
        await until(
            lambda publish_id=publish_id, lost=lost: publish_id in sink.answers or len(sink.publishes_lost_for) > lost,
            20,
            "an answer",
        )
        if sink.answers.get(publish_id) == "":
            return unknown
        unknown += publish_id not in sink.answers
        await asyncio.sleep(0.1)  # the pace of a ledger


@on_loop
async def test_a_queue_that_does_not_answer_is_kept_apart_until_it_does(node, soon, monkeypatch):
    """A silent queue costs two deadlines; then the others are served beside it, and it too once it answers again."""
    monkeypatch.setattr("mqworker.brokers.rabbitmq.destinations.RETRY_SILENT", (0.5, 1.0))
    await on_both_kinds(node, publish_to_a_silent_queue)


async def publish_to_a_silent_queue(broker: RabbitHarness) -> None:
    link, sink = await broker.started(prefetch=5)
    output, dead = (Publication("", name, b"", b"x") for name in (broker.topology.output.queue, broker.topology.dead))
    loop = asyncio.get_running_loop()
    link._publishing._deadline = deadline = 2.0
    async with silenced(broker, output.routing_key):
        silent = asyncio.create_task(placed(link, sink, output))
        await asyncio.gather(*(placed(link, sink, dead) for _ in range(20)))
        await until(lambda: any("no answer for" in reason for reason in sink.answers.values()), 20, "it is kept apart")
        losses, unknown = len(sink.publishes_lost_for), 0
        while len(sink.publishes_lost_for) < losses + 1:  # it was tried again, alone
            began = loop.time()
            ambiguous = sum(await asyncio.gather(*(placed(link, sink, dead) for _ in range(20))))
            if loop.time() - began < deadline:  # else the machine was too busy for one that answers
                unknown += ambiguous
        assert unknown == 0
        assert not silent.done()
    await asyncio.wait_for(silent, 20)


@on_loop
async def test_a_silent_queue_is_found_also_beside_one_that_refuses_everything(node, soon, monkeypatch):
    """Although the channel is replaced again and again, and what has no answer is on a channel of before."""
    monkeypatch.setattr(sender_module, "RENEW_AFTER", 0.5)
    await on_both_kinds(node, publish_beside_a_full_queue)


async def publish_beside_a_full_queue(broker: RabbitHarness) -> None:
    channel = await broker.channel()
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}
    await channel.ask("queue_declare", queue=broker.topology.dead, durable=True, arguments=full)
    link, sink = await broker.started(prefetch=5)
    output, dead = (Publication("", name, b"", b"x") for name in (broker.topology.output.queue, broker.topology.dead))
    await placed(link, sink, dead)
    link._publishing._deadline = 3.0
    refused = asyncio.create_task(placed(link, sink, dead))
    first = link._publishing._sender
    async with silenced(broker, output.routing_key):
        silent = asyncio.create_task(placed(link, sink, output))
        await until(lambda: link._publishing._sender not in (None, first), 10, "another channel")
        await until(lambda: any("no answer for" in reason for reason in sink.answers.values()), 30, "it is kept apart")
        assert not silent.done()
    await asyncio.wait_for(silent, 20)
    assert await broker.take(broker.topology.dead)
    await asyncio.wait_for(refused, 20)


@on_loop
async def test_a_question_without_an_answer_costs_only_itself(node):
    """Requests to a queue that does not answer end by their deadlines; a reply that others wait for still arrives."""
    await on_both_kinds(node, ask_a_silent_queue)


async def ask_a_silent_queue(broker: RabbitHarness) -> None:
    link, sink = await broker.started(prefetch=5)
    admin, dead = broker.make_admin(), broker.topology.dead
    waiting = asyncio.create_task(admin.call(broker.topology.input, b"", b"question", 2 * AMPLE))
    request = Properties.decode((await sink.has(1))[0].properties)
    async with silenced(broker, dead):
        questions = [
            lambda: admin.purge(dead, 1),
            lambda: admin.send(dead, b"", b"x", 1),
            lambda: admin.peek(dead, 5, 1),
        ]
        if broker.topology.queue_type == "classic":  # RabbitMQ answers for a quorum queue, with zeroes
            questions.append(lambda: admin.queue(dead, 1))
        for ask in questions:
            with pytest.raises(BrokerUnavailable, match="did not answer within 1 s"):
                await ask()
            assert await admin.queue(broker.topology.input, AMPLE) is not None
        assert not waiting.done()
        answer = Properties(correlation_id=request.correlation_id).encode()
        link.publish(1, Publication("", request.reply_to, answer, b"answer", mandatory=False))
        assert (await waiting)[0][1] == b"answer"
    await until(lambda: len(admin._shared.requests) == 1, 5, "the connections that were given up closed")
    await admin.send(dead, b"", b"x", AMPLE)


@contract
async def test_a_frozen_broker_answers_each_question_by_its_deadline(broker):
    """Each request to a frozen broker fails in time, even while others wait, and succeeds afterwards."""
    await broker.started()
    admin = broker.make_admin()
    assert await admin.queue(broker.topology.input, AMPLE) is not None
    broker.node.freeze()
    try:
        with within(4, "the answers"):
            asked = [admin.queue(broker.topology.input, 1), admin.peek(broker.topology.dead, 5, 1.5)]
            told = await asyncio.gather(*asked, return_exceptions=True)
            with pytest.raises(BrokerUnavailable):
                await admin.queue(broker.topology.input, 1)
        assert [type(error) for error in told] == [BrokerUnavailable] * 2
    finally:
        broker.node.thaw()
    assert await admin.queue(broker.topology.input, AMPLE) is not None


@pytest.mark.parametrize("limit", [{}, {"x-delivery-limit": 20}, {"x-delivery-limit": 1}, {"x-delivery-limit": 0}])
@contract
async def test_looking_into_a_limited_queue_loses_nothing(broker, limit):
    """Where a look counts as a delivery and deliveries are limited, looks and choices keep every message.

    Without a limit of its own, a quorum queue has one of 20 on RabbitMQ 4.
    """
    dead = broker.topology.dead
    channel = await broker.channel()
    arguments = {"x-queue-type": "quorum", "x-max-length": 3} | limit
    await channel.ask("queue_declare", queue=dead, durable=True, arguments=arguments)
    sent = [Properties(message_id=str(number), delivery_mode=2).encode() for number in range(3)]
    for properties in sent:
        await broker.publish(dead, properties, b"dead")
    admin = broker.make_admin()
    for _ in range(15):
        assert len(await admin.peek(dead, 10, AMPLE)) == 3
        assert await admin.move(dead, 10, lambda *_: None, AMPLE) == 0
    found = [message[1] for message in await admin.peek(dead, 10, AMPLE)]
    assert sorted(map(without_delivery_count, found)) == sent


async def limited(broker, limit: int, properties: bytes, count: int = 3) -> None:
    """Make a dead-letter queue with a delivery limit and put messages into it."""
    channel = await broker.channel()
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": limit}
    await channel.ask("queue_declare", queue=broker.topology.dead, durable=True, arguments=arguments)
    await broker.publish(broker.topology.dead, properties, *(b"%d" % number for number in range(count)))


@contract
async def test_looks_into_a_limited_queue_that_fail_lose_nothing(broker):
    """Whether a replay is refused or its target does not answer: what was taken for it is put back as new in time."""
    dead, target = broker.topology.dead, broker.topology.output.queue
    await limited(broker, 2, b"")
    channel, admin = await broker.channel(), broker.make_admin()
    await channel.ask("queue_declare", queue=target, durable=True)

    def replay(where: str):
        return lambda _, body: Publication("", where, b"", body) if body == b"2" else None

    for _ in range(6):
        with pytest.raises(BrokerRefused, match="NO_ROUTE"):
            await admin.move(dead, 10, replay("nowhere"), AMPLE)
    async with silenced(broker, target):
        for _ in range(4):
            with pytest.raises(BrokerUnavailable):
                await admin.move(dead, 10, replay(target), 2)
    assert sorted(message.body for message in await admin.peek(dead, 10, AMPLE)) == [b"0", b"1", b"2"]


@contract
async def test_a_message_that_is_put_back_as_new_goes_to_its_queue_alone(broker):
    """It is sent to nobody whom its first publisher named, and in the name of nobody else."""
    elsewhere = broker.topology.output.queue
    channel, admin = await broker.channel(), broker.make_admin()
    await channel.ask("queue_declare", queue=elsewhere, durable=True)
    properties = Properties(message_id="m", user_id="guest")
    properties.headers["CC"] = [elsewhere]
    await limited(broker, 2, properties.encode())
    assert (await channel.ask("queue_purge", queue=elsewhere)).message_count == 3
    for _ in range(6):
        assert len(await admin.peek(broker.topology.dead, 10, AMPLE)) == 3
    assert await broker.count(elsewhere) == 0
    (found, *_) = await admin.peek(broker.topology.dead, 1, AMPLE)
    assert Properties.decode(found.properties).message_id == "m"


@contract
async def test_of_many_only_what_was_returned_or_nacked_is_refused(broker):
    """Each publication has an answer of its own: ids tell which ones had no route, and a full queue nacks some."""
    await broker.started()
    channel, there = await broker.channel(), broker.topology.dead
    placer = Placer(channel, 1 << 20)
    await placer.start()

    def publications(*messages: tuple[str, str | None]) -> list[Publication]:
        return [Publication("", queue, Properties(message_id=name).encode(), b"x") for queue, name in messages]

    mixed = [("nowhere" if number % 3 else there, str(number)) for number in range(30)]
    told = await placer.place_all(publications(*mixed))
    assert ["NO_ROUTE" in why for why in told] == [queue == "nowhere" for queue, _ in mixed]
    assert [why == "" for why in told] == [queue == there for queue, _ in mixed]
    await broker.counts(there, 10)
    unknown = await placer.place_all(publications((there, None), ("nowhere", None), (there, "1")))
    assert ["NO_ROUTE" in why for why in unknown] == [True, True, False], "which of those without an id, nobody knows"
    full = f"{broker.topology.input}.retry.1s"
    arguments = {"x-max-length": 5, "x-overflow": "reject-publish"}
    await channel.ask("queue_declare", queue=full, durable=True, arguments=arguments)
    told = await placer.place_all(publications(*[(full, str(number)) for number in range(200)]))
    assert sum("nacked" in why for why in told) >= 100
    await broker.counts(full, told.count(""))


@contract
async def test_a_message_that_cannot_be_put_back_as_new_spoils_no_look(broker):
    """It just goes back, and the others are renewed, hundreds in one look, none twice."""
    await limited(broker, 6, b"", 200)
    await broker.publish(broker.topology.dead, b"", b"x" * 100)
    admin = broker.make_admin(max_message_size=99)
    for _ in range(5):
        assert len(await admin.peek(broker.topology.dead, 1000, AMPLE)) == 201
    fresh = [message.body for message in await broker.make_admin().peek(broker.topology.dead, 1000, AMPLE)]
    assert len(fresh) == len(set(fresh)) == 201


@pytest.fixture(scope="module")
def tls(rabbit, tmp_path_factory):
    """A port at which the node takes TLS as `localhost`, and the certificate."""
    folder, port = tmp_path_factory.mktemp("tls"), free_port()
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run(["openssl", "req", "-x509", *key, *names, *files], check=True, capture_output=True, timeout=60)
    cert = folder / "cert.pem"
    options = f'{{cacertfile, "{cert}"}}, {{certfile, "{cert}"}}, {{keyfile, "{folder / "key.pem"}"}}'
    rabbit.eval(
        "{ok, _} = application:ensure_all_started(ssl),"
        f'rabbit_networking:start_ssl_listener({{"127.0.0.1", {port}}}, [{options}], 1)'
    )
    return port, cert


@on_loop
async def test_tls_checks_who_the_broker_is(rabbit, tls):
    """amqps works with the right authority and host name, and with nothing else."""
    port, certificate = tls
    topology = RabbitHarness(rabbit).topology
    for host, ca, says in (
        ("localhost", str(certificate), ""),
        ("localhost", "", "TLS"),
        ("127.0.0.1", str(certificate), "TLS"),
        ("localhost", "/no/such/file.pem", "[broker.tls]"),
    ):
        url = f"amqps://guest:s3cret@{host}:{port}/" if says else f"amqps://guest:guest@{host}:{port}/"
        link = RabbitLink(BrokerConfig(url=url, tls=TlsConfig(ca=ca)), topology, Recorder(), name="tls")
        link.start()
        if says:
            await until(lambda link=link, says=says: says in link.state.reason, 8, f"{host} {ca}: {says}")
            assert "s3cret" not in link.state.reason
        else:
            await until(lambda link=link: link.state.connected, 8, "a TLS connection")
        await link.close(2)


@pytest.fixture
def impatient(rabbit):
    """A node that closes channels whose messages are not settled within a second."""

    def limit(timeout: int, look_every: int) -> None:  # milliseconds
        rabbit.eval(
            f"application:set_env(rabbit, consumer_timeout, {timeout}),"
            f"application:set_env(rabbit, channel_tick_interval, {look_every})"
        )

    limit(1000, 500)
    yield rabbit
    limit(1_800_000, 60_000)


@pytest.mark.parametrize("queue_type", [pytest.param("classic", marks=pytest.mark.release), "quorum"])
@on_loop
async def test_ack_timeout_costs_an_epoch(impatient, queue_type):
    """A message held too long costs its channel; the next epoch receives it, on the same connection."""
    broker = RabbitHarness(impatient, queue_type)
    link, sink = await broker.started(prefetch=5)
    await broker.publish(broker.topology.input, b"", b"slow")
    await sink.has(1)
    await until(lambda: sink.consuming_lost_for, 10, "the timeout")
    assert "timeout" in sink.consuming_lost_for[0][1] or "timed out" in sink.consuming_lost_for[0][1]
    link.ack(1, 1, multiple=False)
    deliveries = await sink.has(2)
    assert (deliveries[1].epoch, deliveries[1].tag) == (2, 1)
    assert deliveries[1].redelivered
    link.ack(2, 1, multiple=False)
    assert link.state.reconnects == 0
    await broker.close()


def test_waits_are_jittered_and_bounded():
    """The first wait is 0.1 to 1 s, no wait is above 30 s, and a refusal waits at least 5 s."""
    assert all(0.1 <= retry_delay(1, refused=False) <= 1 for _ in range(100))
    assert all(0.1 <= retry_delay(1000, refused=False) <= 30 for _ in range(100))
    assert max(retry_delay(20, refused=False) for _ in range(200)) > 15
    assert all(5 <= retry_delay(1, refused=True) <= 10 for _ in range(100))
    assert all(5 <= retry_delay(1000, refused=True) <= 30 for _ in range(100))
