"""`Topology.ordered`: one consumer at a time, and what comes, comes in order, whoever dies and whatever is lost."""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

import msgspec
import pytest

from mqworker.brokers.base import Publication
from mqworker.brokers.rabbitmq import amqp_connection, reconnector
from mqworker.brokers.rabbitmq.channel import Channel
from tests.brokers.harness import Recorder, contract
from tests.brokers.rabbit import RabbitHarness, on_both_kinds
from tests.brokers.test_epochs import fill
from tests.chaos.proxy import TO_BROKER, TO_SERVICE, Proxy
from tests.chaos.wire import Wire
from tests.support.loop import on_loop
from tests.support.rabbitmq import major_version
from tests.support.waiting import until

PREFETCH, ACKED, COUNT = 10, 3, 60
on_either_input = pytest.mark.parametrize("made_by_others", [False, True])
on_ours = pytest.mark.parametrize(
    "made_by_others", [False, pytest.param(True, marks=pytest.mark.release)]
)  # it takes long


def on_rabbitmq(*types: str) -> Callable:
    """Run a test on these types of queue of RabbitMQ alone; on both by default."""
    brokers = [f"rabbitmq-{each}" for each in types or ("classic", "quorum")]

    def mark(test: Callable) -> Callable:
        return pytest.mark.rabbitmq(pytest.mark.parametrize("broker", brokers, indirect=True)(test))

    return mark


def numbers(*which: int) -> list[bytes]:
    return [b"%d" % number for number in range(*which)]


async def foreign(broker) -> None:
    """Make the input as others would, without a single active consumer."""
    if not hasattr(broker, "node"):
        pytest.skip("the embedded broker has one kind of queue")
    channel = await broker.channel()
    arguments = {"x-queue-type": broker.topology.queue_type}
    await channel.ask("queue_declare", queue=broker.topology.input, durable=True, arguments=arguments)


async def filled(broker, count: int, *, made_by_others: bool = False) -> None:
    """Make Links of an ordered stage from now on, and have numbers in their input, which others may have made."""
    broker.order()
    if made_by_others:
        await foreign(broker)
    filler, answers = await broker.started()
    await fill(filler, answers, broker.topology.input, count)
    await filler.close(5)


class Acking(Recorder):
    """Acks all that comes."""

    link = None

    def delivered(self, delivery) -> None:
        super().delivered(delivery)
        self.link.ack(delivery.epoch, delivery.tag, multiple=False)


def following(broker, **config) -> tuple:
    """Return an ordered Link that has been started and acks what comes, and its Recorder."""
    sink = Acking()
    sink.link = link = broker.make_link(sink, **config)
    link.consume(PREFETCH, PREFETCH)
    link.start()
    return link, sink


@contextlib.asynccontextmanager
async def holder(broker, heartbeat: int = 3) -> AsyncIterator[int]:
    """The pid of a process that has the first PREFETCH messages behind ACKED, and keeps them."""
    topology = msgspec.json.encode(broker.topology).decode()
    arguments = (broker.url, topology, str(PREFETCH), str(ACKED), str(heartbeat))
    command = [sys.executable, "-m", "tests.support.holder", *arguments]
    child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        for number in numbers(PREFETCH + ACKED):
            assert await child.stdout.readline() == number + b"\n"
        yield child.pid
    finally:
        with contextlib.suppress(ProcessLookupError):  # the test has killed it
            child.kill()
        await child.wait()


@on_either_input
@contract
async def test_another_link_goes_on_in_order_after_a_kill(broker, made_by_others, monkeypatch):
    """While one consumes, the other gets nothing; 5 s after it is killed the other has everything, in its order."""
    monkeypatch.setattr(reconnector, "PING_EVERY", 1.0)  # and so looks at the queue
    await filled(broker, COUNT, made_by_others=made_by_others)
    async with holder(broker) as pid:
        link, sink = following(broker)
        await until(lambda: link.state.connected and link.state.waits, 15, "the other one waits")
        assert broker.topology.input in link.state.waits
        os.kill(pid, signal.SIGSTOP)
        await broker.publish(broker.topology.input, b"", b"%d" % COUNT)
        await until(lambda: link.depth() == COUNT + 1 - ACKED - PREFETCH, 15, "another look at the queue")
        assert not sink.bodies  # the other one is alive, so it keeps what it has
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await sink.has(1, 10)
        assert time.monotonic() - killed < 5
    await sink.has(COUNT + 1 - ACKED, 10)
    assert sink.bodies == numbers(ACKED, COUNT + 1)
    assert [each.redelivered for each in sink.deliveries] == [n < PREFETCH for n in range(COUNT + 1 - ACKED)]
    await until(lambda: not link.state.waits, 10, "it waits for nobody")
    assert link.state.consuming


@on_either_input
@contract
async def test_another_link_goes_on_in_order_after_a_close(broker, made_by_others):
    """What a link had unsettled when it closed comes first, and nothing of the hundreds that it had just acked."""
    await filled(broker, 2000, made_by_others=made_by_others)
    one, first = await broker.started()
    one.consume(1000, 1000)
    await first.has(1000)
    link, sink = following(broker)
    await until(lambda: link.state.waits, 15, "the other one waits")
    for tag in range(1, 901):
        one.ack(1, tag, multiple=False)
    await first.has(1900, 20)
    await one.close(5)
    await sink.has(1100, 20)
    assert sink.bodies == numbers(900, 2000)


@pytest.mark.rabbitmq
@on_ours
@on_loop
async def test_another_link_goes_on_in_order_once_the_broker_gives_a_stopped_one_up(rabbit, made_by_others):
    """A stopped process keeps what it has until the broker misses its heartbeats; then the other one has it first."""
    await on_both_kinds(rabbit, partial(follow_a_stopped_one, made_by_others=made_by_others))


async def follow_a_stopped_one(broker: RabbitHarness, *, made_by_others: bool) -> None:
    await filled(broker, COUNT, made_by_others=made_by_others)
    async with holder(broker, heartbeat=2) as pid:
        os.kill(pid, signal.SIGSTOP)
        link, sink = following(broker)
        await sink.has(COUNT - ACKED, 60)
        assert sink.bodies == numbers(ACKED, COUNT)
    await until(lambda: not link.state.waits, 10, "it waits for nobody")


@pytest.mark.rabbitmq
@on_ours
@on_loop
async def test_one_link_alone_keeps_the_order_over_a_connection_that_falls_silent(rabbit, made_by_others, monkeypatch):
    """What the broker still holds for a connection that we have given up is not overtaken by what stands behind it."""
    monkeypatch.setattr(reconnector, "PING_EVERY", 1.0)
    monkeypatch.setattr(amqp_connection, "ANSWER_DEADLINE", 2.0)  # far sooner than the broker misses two heartbeats
    await on_both_kinds(rabbit, partial(fall_silent, made_by_others=made_by_others))


async def fall_silent(broker: RabbitHarness, *, made_by_others: bool) -> None:
    await filled(broker, COUNT, made_by_others=made_by_others)
    proxy = Proxy(broker.node.port, Wire())
    try:
        sink = Recorder()
        link = broker.make_link(sink, url=broker.url.replace(f":{broker.node.port}", f":{proxy.port}"), heartbeat=3)
        link.consume(PREFETCH, PREFETCH)
        link.start()
        await sink.has(PREFETCH)
        proxy.halt(TO_BROKER, TO_SERVICE)
        await until(lambda: sink.consuming_lost_for, 30, "the connection given up")
        settled = PREFETCH
        while settled < COUNT + PREFETCH:
            await sink.has(settled + 1, 60)
            link.ack(2, settled + 1 - PREFETCH, multiple=False)
            settled += 1
    finally:
        proxy.close()
    assert sink.bodies == numbers(PREFETCH) + numbers(COUNT)
    assert [epoch for epoch, _ in sink.consuming_lost_for] == [1]


@pytest.mark.rabbitmq
@on_ours
@on_loop
async def test_two_that_begin_at_one_moment_do_not_both_begin(rabbit, made_by_others):
    """However their requests meet, one of two has the first messages; the other one goes on in order behind it."""
    await on_both_kinds(rabbit, partial(begin_two, made_by_others=made_by_others))


async def begin_two(broker: RabbitHarness, *, made_by_others: bool) -> None:
    for _ in range(5):
        await filled(broker, COUNT, made_by_others=made_by_others)
        links = [await broker.started() for _ in range(2)]
        for link, _ in links:
            link.consume(PREFETCH, PREFETCH)
        sinks = [sink for _, sink in links]
        await until(lambda sinks=sinks: any(sink.deliveries for sink in sinks), 10, "one has begun")
        (one, first), (two, second) = links if sinks[0].deliveries else links[::-1]
        await first.has(PREFETCH)
        one.ack(1, ACKED, multiple=True)
        await first.has(PREFETCH + ACKED)
        assert first.bodies == numbers(PREFETCH + ACKED)
        assert not second.deliveries
        one.end_epoch()
        for tag in range(1, COUNT - ACKED + 1):
            await second.has(tag, 10)
            two.ack(second.deliveries[-1].epoch, tag, multiple=False)
        assert second.bodies == numbers(ACKED, COUNT)
        assert one.state.resting
        await asyncio.gather(one.close(5), two.close(5))


@on_rabbitmq("classic")
@on_either_input
@contract
async def test_a_queue_of_others_with_the_name_of_the_lock_is_refused(broker, made_by_others):
    """Nothing is consumed, and the queue is named, until it is gone; where no lock is needed, it is in nobody's way."""
    await filled(broker, COUNT, made_by_others=made_by_others)
    channel, lock = await broker.channel(), f"{broker.topology.input}.order"
    await channel.ask("queue_declare", queue=lock, durable=True)
    link, sink = following(broker)
    if made_by_others:
        await until(lambda: f"queue {lock!r} is in the way" in link.state.reason, 15, "the queue named")
        assert not link.state.consuming
        assert not link.state.waits
        await channel.ask("queue_delete", queue=lock)
    await sink.has(COUNT, 20)
    assert sink.bodies == numbers(COUNT)
    await link.close(5)
    await channel.ask("queue_delete", queue=lock)


@on_rabbitmq("classic")
@contract
async def test_a_lock_that_somebody_else_has_is_named(broker):
    """The stage waits for whoever has it, also while nobody consumes the input, and then goes on."""
    await filled(broker, COUNT, made_by_others=True)
    lock = f"{broker.topology.input}.order"
    other = await broker.another_connection()
    channel = await Channel.open(other)
    await channel.ask("queue_declare", queue=lock, exclusive=True, arguments={"x-queue-type": "classic"})
    link, sink = following(broker)
    await until(lambda: lock in link.state.waits, 15, "the lock named")
    assert not sink.deliveries
    await other.shutdown(5)
    await sink.has(COUNT, 20)
    assert sink.bodies == numbers(COUNT)


@contract
async def test_the_consumer_stays_as_it_began(broker):
    """No wish for another prefetch, or for none, and no release replaces it or moves a message."""
    await filled(broker, 200)
    link, sink = await broker.started()
    acked = 0
    for wish in (4, 100, 2, 4):
        link.consume(wish, wish)
        for _ in range(40):
            await sink.has(acked + 1)
            link.release(1, [acked + 1])
            acked += 1
            link.ack(1, acked, multiple=False)
    assert sink.bodies[:160] == numbers(160)
    if hasattr(broker, "node"):  # a change harms no order in the embedded broker
        assert link.state.fixed_prefetch == 4
        link.consume(0)
        await sink.has(164)
        assert link.state.consuming
        assert len(sink.deliveries) == 164
    assert not any(delivery.redelivered for delivery in sink.deliveries)
    assert not sink.consuming_lost_for


@on_rabbitmq("quorum")
@pytest.mark.parametrize(("second", "third"), [(20, range(20)), (5, range(5, 10))])
@contract
async def test_a_prefetch_that_shrinks_between_epochs_reorders_a_quorum_queue(broker, second, third):
    """A fact of the broker on which the design rests: what came back goes out first, in the order of coming back."""
    await filled(broker, COUNT)
    link, sink = await broker.started()
    began = 0
    for prefetch, expected in ((20, range(20)), (second, range(second)), (second, third)):
        link.consume(prefetch, prefetch)
        await sink.has(began + prefetch)
        assert sink.bodies[began:] == [b"%d" % number for number in expected]
        began += prefetch
        link.end_epoch()
        await until(lambda: link.state.resting, 10, "the end of the epoch")


@on_rabbitmq("classic")
@contract
async def test_what_an_input_means_for_an_ordered_stage_is_told(broker):
    """A queue that others made is used as found; whether others can come later, and when it drops, is known."""
    broker.order()
    channel = await broker.channel()
    single = {"x-single-active-consumer": True}
    for arguments, alone, limit in (
        ({}, False, -1),
        (single, True, -1),
        ({"x-queue-type": "quorum"} | single, True, -1 if major_version() == 3 else 20),
        ({"x-queue-type": "quorum", "x-delivery-limit": 7}, False, 7),
    ):
        await channel.ask("queue_declare", queue=broker.topology.input, durable=True, arguments=arguments)
        link, _ = await broker.started(prefetch=5)
        told = [warning for warning in link.state.warnings if "no single active consumer" in warning]
        assert bool(told) is not alone
        assert link.state.delivery_limit == limit
        await link.close(5)
        await channel.ask("queue_delete", queue=broker.topology.input)
    link, _ = await broker.started(prefetch=5)
    assert (link.state.warnings, link.state.delivery_limit) == ((), -1)


@on_rabbitmq()
@contract
async def test_several_results_are_stored_in_their_order_whatever_is_refused(broker):
    """A part is sent when the one before is stored, and nothing behind a refused one is, however often it is tried."""
    broker.order()
    link, sink = await broker.started()
    channel = await broker.channel()
    queue, ids = f"{broker.topology.input}.full", itertools.count(1)
    arguments = {"x-queue-type": broker.topology.queue_type, "x-max-length": 1, "x-overflow": "reject-publish"}
    await channel.ask("queue_declare", queue=queue, durable=True, arguments=arguments)
    left, stored, refusals = numbers(8), [], 0
    try:
        while left or stored != numbers(8):
            together = list(itertools.islice(ids, len(left)))
            link.publish_together(together, [Publication("", queue, b"", body) for body in left])
            await until(lambda ids=together: all(each in sink.answers for each in ids), 10, "an answer to each")
            refused = [bool(sink.answers[each]) for each in together]
            assert refused == sorted(refused), "nothing is stored behind a refused one"
            refusals += sum(refused)
            left = left[refused.count(False) :]
            while (message := await channel.get(queue)) is not None:
                channel.raw.basic_ack(message[0].delivery_tag)
                stored.append(message[2])
            assert stored == numbers(len(stored))
    finally:
        await channel.ask("queue_delete", queue=queue)
    assert refusals
    assert not sink.publishes_lost_for


@contract
async def test_no_result_behind_a_refused_one_is_stored(broker):
    """Of three results whose second has no route the third is refused too: published again, it comes behind it."""
    broker.order()
    link, sink = await broker.started()
    queue = broker.topology.output.queue
    places = (queue, "no.such.queue", queue)
    link.publish_together((1, 2, 3), [Publication("", place, b"", b"x") for place in places])
    answers = [await sink.answer(publish_id) for publish_id in (1, 2, 3)]
    embedded = not hasattr(broker, "node")  # which stores all or none
    assert [bool(answer) for answer in answers] == [embedded, True, True]
    await broker.counts(queue, 0 if embedded else 1)
    link.publish_together((4, 5), [Publication("", queue, b"", b"%d" % number) for number in (4, 5)])
    assert [await sink.answer(publish_id) for publish_id in (4, 5)] == ["", ""]
    await broker.counts(queue, 2 if embedded else 3)


@on_rabbitmq()
@contract
async def test_results_that_were_not_sent_when_the_connection_is_lost_are_refused(broker, monkeypatch):
    """Only what is on its way may be stored; what stands behind it was not sent, and each one is answered once."""
    monkeypatch.setattr(reconnector, "PING_EVERY", 1.0)
    broker.order()
    link, sink = await broker.started()
    queue = broker.topology.output.queue
    broker.node.freeze()
    try:
        with monkeypatch.context() as short:
            short.setattr(amqp_connection, "ANSWER_DEADLINE", 1.0)  # nothing answers anyway
            link.publish_together((1, 2, 3), [Publication("", queue, b"", b"x")] * 3)
            await until(lambda: sink.publishes_lost_for, 20, "the connection given up")
    finally:
        broker.node.thaw()
    assert sink.answers.keys() == {2, 3}
    assert all(sink.answers.values())
    await until(lambda: link.state.connected, 40, "the link back")
    link.publish_together((4, 5), [Publication("", queue, b"", b"x")] * 2)
    assert [await sink.answer(publish_id) for publish_id in (4, 5)] == ["", ""]
    assert sink.answers.keys() == {2, 3, 4, 5}
