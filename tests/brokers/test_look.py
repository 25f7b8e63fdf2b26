"""Looks at and moves of many messages in RabbitMQ's queues: order, number, delivery counts, and what is left alone."""

import asyncio

import pytest

from mqworker.amqp.headers import redeliveries
from mqworker.amqp.properties import Properties
from mqworker.broker_admin.verbs import Verbs
from mqworker.brokers.base import DROP, STOP, BrokerRefused, BrokerUnavailable, Publication
from mqworker.brokers.rabbitmq import look
from mqworker.brokers.rabbitmq.look import FIRST, LARGEST, MOST, PORTION, portion_size
from mqworker.brokers.rabbitmq.queues import queue_arguments
from mqworker.brokers.rabbitmq.taker import sight
from mqworker.config.model import BrokerConfig, Config, InputConfig, StageConfig
from tests.brokers.harness import contract
from tests.brokers.rabbit import RabbitHarness
from tests.support.waiting import AMPLE

rabbitmq = pytest.mark.rabbitmq
KINDS = pytest.mark.parametrize(
    "broker", [pytest.param(kind, marks=rabbitmq) for kind in ("classic", "quorum")], indirect=True
)
QUORUM = pytest.mark.parametrize("broker", [pytest.param("quorum", marks=rabbitmq)], indirect=True)
ALL = 10_000  # messages that a look goes through at most


@pytest.fixture
def broker(rabbit, request):
    """A harness with one type of queue."""
    return RabbitHarness(rabbit, request.param)


@pytest.fixture
def small_portions(monkeypatch):
    """Have each consumer take few, as if the messages were large."""
    monkeypatch.setattr(look, "PORTION", 1000)


async def filled(broker: RabbitHarness, count: int, *, auto_delete: bool = False, **arguments) -> str:
    """Make the dead-letter queue, with so many numbered messages."""
    channel, dead = await broker.channel(), broker.topology.dead
    if broker.topology.queue_type == "quorum":
        arguments = queue_arguments(channel.connection, "quorum") | arguments
    await channel.ask("queue_declare", queue=dead, durable=True, auto_delete=auto_delete, arguments=arguments)
    await more(broker, range(count))
    return dead


async def more(broker: RabbitHarness, numbers: range) -> None:
    properties = [Properties(message_id=str(number), delivery_mode=2) for number in numbers]
    for each in properties:
        each.headers.update({"unsorted": 1, "b": 2})  # a quorum queue sorts them
    messages = [(each.encode(), b"%d" % number) for each, number in zip(properties, numbers, strict=True)]
    assert not any(await broker.make_admin().send_many(broker.topology.dead, messages, AMPLE))


async def output(broker: RabbitHarness) -> str:
    """Make another queue and return its name."""
    queue = broker.topology.output.queue
    await (await broker.channel()).ask("queue_declare", queue=queue, durable=True)
    return queue


async def seen(broker: RabbitHarness, queue: str = "") -> tuple[list[int], set[int]]:
    """Look at everything; returns the numbers, and how often they were delivered before."""
    found = await broker.make_admin().peek(queue or broker.topology.dead, ALL, AMPLE)
    assert [each.position for each in found] == list(range(len(found)))
    return [int(each.body) for each in found], {redeliveries(Properties.decode(each.properties)) for each in found}


def counted(broker: RabbitHarness, *counts: int) -> set[int]:
    """Return the delivery counts to expect: a classic queue keeps none."""
    return set(counts) if broker.topology.queue_type == "quorum" else {0}


@KINDS
@contract
async def test_looks_keep_order_and_number(broker):
    """Each look shows all in their order, and counts as one delivery; what arrives meanwhile stays behind them."""
    dead = await filled(broker, 1500)
    for nth in range(3):
        assert await seen(broker) == (list(range(1500)), counted(broker, nth))
    arriving = []

    def show(_properties, body):
        if body == b"1000":
            arriving.append(asyncio.create_task(more(broker, range(1500, 1550))))
        return False

    assert await broker.make_admin().peek(dead, ALL, AMPLE, show) == []
    await arriving[0]
    numbers, delivered = await seen(broker)
    assert numbers == list(range(1550))
    assert delivered <= counted(broker, 0, 1, 4), "what arrived meanwhile may have been delivered, too"


@KINDS
@pytest.mark.parametrize("every", [1, 27])
@contract
async def test_a_move_in_several_portions_keeps_the_order(broker, small_portions, every):
    """What is moved or dropped is gone, and arrives in order; the others are in their order, delivered once more."""
    dead, to = await filled(broker, 800), await output(broker)

    def wanted(properties, body):
        if int(body) % every or int(body) < 100:
            return None
        return DROP if int(body) % 4 == 1 else Publication("", to, properties, body)

    gone = [number for number in range(100, 800) if number % every == 0]
    left = [number for number in range(800) if number not in set(gone)]
    assert await broker.make_admin().move(dead, ALL, wanted, AMPLE) == len(gone)
    assert await broker.count(dead) == len(left)
    assert await seen(broker) == (left, counted(broker, 1))
    assert (await seen(broker, to))[0] == [number for number in gone if number % 4 != 1]


@KINDS
@pytest.mark.parametrize("removed", [8, 300])
@contract
async def test_what_ends_a_look_leaves_the_rest_in_place(broker, removed):
    """STOP, the limit, a refused publication and a fault of the visitor leave what they have not removed, in order."""
    dead, admin = await filled(broker, 500), broker.make_admin()
    await output(broker)

    def drops(_properties, body):
        return DROP if int(body) < removed else STOP

    assert await admin.move(dead, ALL, drops, AMPLE, most=3) == 3
    if broker.topology.queue_type == "quorum":
        (head,) = await admin.peek(dead, 1, AMPLE)
        assert not redeliveries(Properties.decode(head.properties)), "none but those that were removed was touched"
    assert await admin.move(dead, ALL, drops, AMPLE) == removed - 3
    assert [int(each.body) for each in await admin.peek(dead, 10, AMPLE)] == list(range(removed, removed + 10))
    with pytest.raises(BrokerRefused, match="NO_ROUTE"):
        await admin.move(dead, ALL, lambda properties, body: Publication("", "nowhere", properties, body), AMPLE)
    with pytest.raises(ZeroDivisionError):
        await admin.move(dead, ALL, lambda _, body: DROP if 1 // (400 - int(body)) else None, AMPLE)
    assert (await seen(broker))[0] == [number for number in range(removed, 500) if number != 399]


@pytest.mark.parametrize("broker", [pytest.param("classic", marks=rabbitmq)], indirect=True)
@contract
async def test_what_was_put_back_is_counted_when_a_look_has_ended(broker):
    """Also behind thousands of single acks: the next one would find an empty queue (before, in every second run)."""
    dead, there, admin = await filled(broker, ALL), await output(broker), broker.make_admin()

    def wanted(properties, body):
        return Publication("", there, properties, body) if int(body) % 2 else None

    assert await admin.move(dead, ALL + 1, wanted, AMPLE, together=50) == ALL / 2
    assert (await admin.queue(dead, AMPLE)).messages == ALL / 2


@QUORUM
@contract
async def test_looks_at_many_in_a_limited_queue_lose_nothing(broker, small_portions):
    """However often they are looked at, none is dropped; those that are put back as new come once."""
    dead = await filled(broker, 60, **{"x-delivery-limit": 20})
    admin = broker.make_admin()
    for nth in range(23):
        if nth % 2:
            assert await admin.move(dead, ALL, lambda _, body: STOP if body == b"30" else None, AMPLE) == 0
        else:
            numbers, delivered = await seen(broker)
            assert sorted(numbers) == list(range(60))
            assert max(delivered) <= 11


@QUORUM
@pytest.mark.parametrize("limit", [0, 1])
@contract
async def test_where_one_look_could_drop_many_it_drops_none(broker, small_portions, limit):
    """Also where a message may be given out once or twice, each look, whole or stopped, keeps all."""
    dead = await filled(broker, 60, **{"x-delivery-limit": limit})
    admin = broker.make_admin()
    for _ in range(3):
        assert await admin.peek(dead, ALL, AMPLE, lambda _, body: STOP if body == b"30" else False) == []
        assert sorted((await seen(broker))[0]) == list(range(60))


@pytest.mark.parametrize("broker", [pytest.param("classic", marks=rabbitmq)], indirect=True)
@contract
async def test_no_consumer_where_it_would_cost_something(broker, monkeypatch):
    """A queue that would vanish with our consumer, has a single active one, or is consumed, is not consumed."""
    monkeypatch.setattr(look, "ConsumingLook", None)
    channel = await broker.channel()
    for extra in ({"auto_delete": True}, {"x-single-active-consumer": True}, {}):
        dead = await filled(broker, 20, **extra)
        if not extra:
            await channel.ask("basic_qos", prefetch_count=1)
            await channel.ask("basic_consume", queue=dead, on_message_callback=lambda *_: None)
        assert (await seen(broker))[0] == list(range(0 if extra else 1, 20))
        assert await broker.count(dead) == (20 if extra else 19)
        await channel.ask("queue_delete", queue=dead)


@QUORUM
@contract
async def test_a_look_ends_where_others_have_taken_the_rest(broker, monkeypatch):
    """Messages that were there when a look began, and are gone, cost it a moment, not the time until its deadline."""
    dead, admin = await filled(broker, 20), broker.make_admin()

    async def as_if_more(*arguments):
        return (await sight(*arguments))._replace(ready=30)

    monkeypatch.setattr("mqworker.brokers.rabbitmq.admin.sight", as_if_more)
    assert len(await admin.peek(dead, ALL, AMPLE)) == 20
    assert (await seen(broker))[0] == list(range(20))


@QUORUM
@pytest.mark.parametrize("limit", [-1, 20])
@contract
async def test_a_look_shows_whether_deliveries_are_limited(broker, limit):
    """Who asks for a queue after a look learns whether looks are to be rare."""
    arguments = {} if limit < 0 else {"x-delivery-limit": limit}
    dead, admin = await filled(broker, 3, **arguments), broker.make_admin()
    await admin.peek(dead, ALL, AMPLE)
    info = await admin.queue(dead, AMPLE)
    assert info is not None
    assert (info.messages, info.limited) == (3, limit > 0)


@KINDS
@contract
async def test_two_verbs_at_once_see_all(broker):
    """Of two looks at one queue neither hides a letter from the other; one that has no time left fails."""
    dead = await filled(broker, 300)
    stage = StageConfig(input=InputConfig(queue=broker.topology.input), jobs=("a:b",))
    verbs = Verbs(Config(stages={"s": stage}, broker=BrokerConfig(url=broker.url)))
    try:
        letters = verbs.letters
        looks = [letters.dlq_list(AMPLE, "s"), letters.dlq_list(AMPLE, "s"), verbs.receive(AMPLE, dead, 100, [])]
        first, second, received = await asyncio.gather(*looks)
        assert [first["total"], second["total"], len(received)] == [300, 300, 100]
        async with verbs._locks.alone(dead, AMPLE):
            with pytest.raises(BrokerUnavailable):
                await letters.dlq_drop(0.1, "s")
        assert await letters.dlq_replay(AMPLE, "s", dry=True, limit=250) == 250
        (listed,) = (await letters.dlq_list(AMPLE, "s", 1))["dead_letters"]
        assert await letters.dlq_show(AMPLE, "s", [listed["id"]]), "the id is the same whenever it is looked at"
        assert await letters.dlq_drop(AMPLE, "s") == 300
    finally:
        await verbs._admin.close()


@pytest.mark.parametrize(
    ("left", "consumers", "came", "size", "expected"),
    [
        (5, MOST, 0, 0, 5),
        (10_000, MOST, 0, 0, FIRST),
        (9992, 29, 8, 8 * 300, 9992),
        (1_000_000, 29, 8, 8 * 300, LARGEST),
        (800, 29, 8, 8 << 20, PORTION >> 20),  # of 1 MiB each
        (9992, 29, 8, 8 << 20, 345),  # the 29 that are left share what is left
        (3, 29, 8, 8 << 30, 1),
        (1, 0, 8, 0, 1),
    ],
)
def test_a_consumer_gets_what_fits(left, consumers, came, size, expected):
    """Each consumer gets what PORTION bytes are by the sizes so far, but enough that no more than MOST are needed."""
    assert portion_size(left, consumers, came, size) == expected
