"""What every broker must do: the contract of `mqworker.brokers.base`, run against each implementation."""

import asyncio
import random
import struct

import pytest

from mqworker.amqp import headers
from mqworker.amqp.fingerprint import fingerprint
from mqworker.amqp.properties import Headers, Properties
from mqworker.brokers.base import DROP, BrokerRefused, BrokerUnavailable, Publication
from mqworker.brokers.rabbitmq import reconnector
from tests.brokers.harness import Recorder, contract
from tests.support.waiting import AMPLE, until


def block(**properties) -> bytes:
    return Properties(delivery_mode=2, **properties).encode()


def plain(message: tuple[bytes, bytes]) -> tuple[Properties, bytes]:
    """Return a taken message without the header that quorum queues add."""
    properties = Properties.decode(message[0])
    properties.headers.pop("x-delivery-count", None)
    return properties, message[1]


def header_block(name: bytes, field: bytes) -> bytes:
    table = bytes((len(name),)) + name + field
    return struct.pack(">HI", 1 << 13 | 1 << 12, len(table)) + table + b"\x02"


def nested(depth: int) -> bytes:
    field = b"V"
    for _ in range(depth):
        field = b"F" + struct.pack(">I", 2 + len(field)) + b"\x01n" + field
    return field


@contract
async def test_messages_arrive_whole_and_in_order(broker):
    """A message is delivered with its own bytes; tags count from 1 within the epoch."""
    link, sink = await broker.started(prefetch=10)
    for number in range(5):
        await broker.publish(broker.topology.input, block(message_id=f"m{number}"), b"body %d" % number)
    deliveries = await sink.has(5)
    assert sink.bodies == [b"body %d" % number for number in range(5)]
    assert [delivery.tag for delivery in deliveries] == [1, 2, 3, 4, 5]
    assert {delivery.epoch for delivery in deliveries} == {1}
    assert not any(delivery.redelivered for delivery in deliveries)
    assert deliveries[0].routing_key == broker.topology.input
    assert Properties.decode(deliveries[0].properties).message_id == "m0"
    link.ack(1, 5, multiple=True)


@contract
async def test_acks_settle_and_the_rest_comes_back(broker):
    """Acked messages are gone; the others come back, marked as redelivered, when the link closes."""
    link, sink = await broker.started(prefetch=10)
    for number in range(1, 7):
        await broker.publish(broker.topology.input, b"", b"%d" % number)
    await sink.has(6)
    link.ack(1, 3, multiple=True)
    link.ack(1, 5, multiple=False)
    await link.close(AMPLE)
    assert link.state.connected is False
    await broker.counts(broker.topology.input, 2)
    other, again = await broker.started(prefetch=10)
    deliveries = await again.has(2)
    assert sorted(again.bodies) == [b"4", b"6"]
    assert all(delivery.redelivered for delivery in deliveries)
    other.ack(1, 2, multiple=True)


@contract
async def test_released_messages_are_given_out_again(broker):
    """Released messages come back at once, marked as redelivered."""
    link, sink = await broker.started(prefetch=10)
    await broker.publish(broker.topology.input, b"", b"again")
    await sink.has(1)
    link.release(1, [1])
    deliveries = await sink.has(2)
    assert deliveries[1].redelivered
    assert (deliveries[1].body, deliveries[1].tag) == (b"again", 2)
    link.ack(1, 2, multiple=False)


@contract
async def test_a_message_that_comes_back_has_its_fingerprint(broker):
    """Also one with headers, which a quorum queue then sorts: so what killed its Consumer is recognised."""
    link, sink = await broker.started(prefetch=5)
    properties = Properties(message_id="1", headers=Headers({"tenant": "b", "Shard": 7, "é": True, "a": [1]})).encode()
    await broker.publish(broker.topology.input, properties, b"body")
    (first,) = await sink.has(1)
    link.release(first.epoch, [first.tag])
    again = (await sink.has(2))[1]
    assert again.redelivered
    prints = {fingerprint(each.properties, each.body) for each in (first, again)}
    assert prints == {fingerprint(properties, b"body")}


@contract
async def test_acks_of_another_epoch_or_twice_are_dropped(broker):
    """A late, early or repeated ack changes nothing."""
    link, sink = await broker.started(prefetch=10)
    await broker.publish(broker.topology.input, b"", b"one")
    await sink.has(1)
    link.ack(0, 1, multiple=False)
    link.ack(0, 1, multiple=True)
    link.release(0, [1])
    link.ack(1, 1, multiple=False)
    link.ack(1, 1, multiple=False)
    link.release(1, [1])
    await broker.publish(broker.topology.input, b"", b"two")
    await sink.has(2)
    assert sink.bodies == [b"one", b"two"]
    assert not sink.consuming_lost_for
    link.ack(1, 2, multiple=True)


@contract
async def test_publications_are_confirmed_and_stored(broker):
    """A confirmed publication is in its queue, byte for byte, by the default exchange and by a binding."""
    link, sink = await broker.started()
    output = broker.topology.output
    properties = block(message_id="m")
    link.publish(1, Publication("", output.queue, properties, b"direct"))
    link.publish(2, Publication(output.exchange, output.routing_key, properties, b"bound"))
    assert [await sink.answer(1), await sink.answer(2)] == ["", ""]
    taken = [plain(await broker.take(output.queue)) for _ in range(2)]
    assert taken == [plain((properties, b"direct")), plain((properties, b"bound"))]


@contract
async def test_large_publications_among_small_ones_are_stored_in_order_and_unharmed(broker):
    """Whatever a body's size, each publication is stored as it is, in the order of publishing, and answered once."""
    link, sink = await broker.started()
    queue, mib = broker.topology.output.queue, random.Random(1).randbytes(1 << 20)
    bodies = [b"1", mib * 24, b"2", mib, mib * 3 + b"x", b"", mib * 8, b"3"]
    for number, body in enumerate(bodies):
        link.publish(number, Publication("", queue, block(message_id=str(number)), body))
    assert [await sink.answer(number, AMPLE) for number in range(len(bodies))] == [""] * len(bodies)
    for body in bodies:
        assert (await broker.take(queue))[1] == body


@contract
async def test_publications_that_belong_together_are_stored_in_their_order(broker):
    """Each has its own answer."""
    link, sink = await broker.started()
    queue = broker.topology.output.queue
    link.publish_together(range(1, 6), [Publication("", queue, block(message_id="m"), b"%d" % n) for n in range(5)])
    assert [await sink.answer(number) for number in range(1, 6)] == [""] * 5
    assert [plain(await broker.take(queue))[1] for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


@contract
async def test_every_publication_of_many_is_answered_once(broker):
    """A thousand publications, some without a route, get exactly one answer each, and the right one."""
    link, sink = await broker.started()
    output = broker.topology.output
    for publish_id in range(1, 1001):
        key = output.queue if publish_id % 100 else "nowhere"
        link.publish(publish_id, Publication("", key, block(message_id=str(publish_id)), b"x"))
    await until(lambda: len(sink.answers) == 1000, 20, "a thousand answers")
    assert [publish_id for publish_id, answer in sink.answers.items() if answer] == list(range(100, 1001, 100))
    await broker.counts(output.queue, 990)


@contract
async def test_a_publication_without_a_route_is_refused(broker):
    """Without a queue, a mandatory publication is refused; another one is confirmed, and gone."""
    link, sink = await broker.started()
    link.publish(1, Publication("", "no.such.queue", b"", b"x"))
    link.publish(2, Publication("no.such.exchange", "key", b"", b"x"))
    link.publish(3, Publication("", "no.such.queue", b"", b"x", mandatory=False))
    link.publish(4, Publication(broker.topology.output.exchange, "no.such.key", b"", b"x"))
    assert await sink.answer(1)
    assert await sink.answer(2)
    assert await sink.answer(3) == ""
    assert await sink.answer(4)
    assert not sink.publishes_lost_for


@contract
async def test_what_cannot_go_out_is_refused_at_once(broker):
    """With or without a connection, the answer does not wait for the broker."""
    sink = Recorder()
    early = broker.make_link(sink)
    early.publish(1, Publication("", broker.topology.output.queue, b"", b"x"))
    assert sink.answers[1]
    link, sink = await broker.started()
    await link.close(AMPLE)
    link.publish(2, Publication("", broker.topology.output.queue, b"", b"x"))
    assert sink.answers[2]


@contract
async def test_prefetch_bounds_what_is_unsettled(broker):
    """At most `prefetch` are unsettled; a change takes effect and never exceeds the larger value."""
    link, sink = await broker.started(prefetch=4)
    for number in range(40):
        await broker.publish(broker.topology.input, b"", b"%d" % number)
    await sink.has(4)
    settled, limit = 0, 4

    async def settle(count: int) -> None:
        nonlocal settled
        for _ in range(count):
            await sink.has(settled + 1)
            settled += 1
            link.ack(1, settled, multiple=False)
            await asyncio.sleep(0.01)
            assert len(sink.deliveries) - settled <= limit

    await settle(4)
    limit = 10
    link.consume(10)
    await sink.has(settled + 10)
    await settle(2)
    link.consume(2)  # ten are out, and two may be
    await settle(12)
    limit = 2
    await settle(6)
    assert len(sink.deliveries) - settled <= 2
    link.consume(0)
    await until(lambda: not link.state.consuming, 5, "the consumer cancelled")
    held = len(sink.deliveries)
    await settle(held - settled)
    await broker.counts(broker.topology.input, 40 - held)
    assert not sink.consuming_lost_for
    link.consume(5)
    await sink.has(held + 5)
    assert sink.deliveries[held].tag == held + 1
    limit = 5
    await settle(40 - settled)
    assert sorted(int(body) for body in sink.bodies) == list(range(40))  # a quorum queue may mix them at a cancel


@contract
async def test_a_delayed_publication_comes_to_the_input_when_due(broker):
    """`delay` holds a message for that many seconds, counted among the delayed, then the input queue has it."""
    link, sink = await broker.started(prefetch=5)
    admin = broker.make_admin()
    before = asyncio.get_running_loop().time()
    link.publish(1, Publication("", broker.topology.input, block(message_id="late"), b"late", delay=1))
    link.publish(2, Publication("", broker.topology.input, b"", b"now"))
    link.publish(3, Publication("", broker.topology.input, b"", b"not today", delay=1 << 17))
    assert [await sink.answer(number) for number in (1, 2, 3)] == ["", "", ""]
    assert await admin.delayed(broker.topology.input, AMPLE) in {1, 2}  # on a slow machine the first may be through
    deliveries = await sink.has(2)
    assert sink.bodies == [b"now", b"late"]
    assert asyncio.get_running_loop().time() - before >= 0.9
    assert await admin.delayed(broker.topology.input, AMPLE) == 1
    assert Properties.decode(deliveries[1].properties).message_id == "late"
    link.ack(1, 2, multiple=True)


@pytest.mark.parametrize(
    "field",
    [b"T" + struct.pack(">Q", 1_700_000_000_000), nested(900), b"D\x02" + struct.pack(">i", 75)],
    ids=["milliseconds", "nested", "decimal"],
)
@contract
async def test_foreign_headers_pass_byte_for_byte(broker, field):
    """Header tables that break client libraries pass unchanged in both directions, and cost no connection."""
    link, sink = await broker.started(prefetch=5)
    properties = header_block(b"odd", field)
    await broker.publish(broker.topology.input, properties, b"x")
    delivery = (await sink.has(1))[0]
    link.publish(1, Publication("", broker.topology.output.queue, delivery.properties, delivery.body))
    assert await sink.answer(1) == ""
    link.ack(1, 1, multiple=False)
    taken = await broker.take(broker.topology.output.queue)
    assert plain(taken) == plain((properties, b"x")) == plain((delivery.properties, b"x"))
    assert field in delivery.properties
    assert field in taken[0]
    assert not sink.consuming_lost_for


@contract
async def test_large_bodies_and_empty_ones(broker):
    """Bodies of any size within the limit arrive complete."""
    link, sink = await broker.started(prefetch=5)
    bodies = [b"", bytes(range(256)) * 4096, b"x"]
    for publish_id, body in enumerate(bodies, 1):
        link.publish(publish_id, Publication("", broker.topology.input, b"", body))
    await sink.has(3)
    assert sink.bodies == bodies
    link.ack(1, 3, multiple=True)


@contract
async def test_the_state_says_how_things_are(broker, monkeypatch):
    """A link is connected, or has a reason why not, and reports its queue's depth."""
    monkeypatch.setattr(reconnector, "PING_EVERY", 1.0)  # and so looks at the depth
    link, sink = await broker.started()
    assert sink.states[-1] == link.state
    assert not link.state.reason
    assert not link.state.warnings
    for _ in range(3):
        await broker.publish(broker.topology.input, b"", b"x")
    await until(lambda: link.depth() == 3, 8, "the depth")
    await link.close(AMPLE)
    assert link.state.reason


@contract
async def test_the_depth_of_the_output_is_what_was_stored_before_the_question(broker):
    """Each question is answered with the ready messages, of which confirmed ones are some; the consumer is unharmed."""
    link, sink = await broker.started(prefetch=1)
    output = broker.topology.output.queue

    async def depth() -> int:
        before = len(sink.depths)
        link.ask_output_depth()
        link.ask_output_depth()  # changes nothing: the first has no answer yet
        await until(lambda: len(sink.depths) > before, AMPLE, "the depth of the output")
        return sink.depths[-1]

    assert await depth() == 0
    for number in range(1, 4):
        link.publish(number, Publication("", output, b"", b"x"))
        assert await sink.answer(number) == ""
        assert await depth() == number
    await broker.take(output)
    assert await depth() == 2
    await broker.make_admin().delete(output, AMPLE)
    assert await depth() == 0
    assert len(sink.depths) == 6
    await broker.publish(broker.topology.input, b"", b"still consuming")
    await sink.has(1)
    assert not sink.consuming_lost_for


@contract
async def test_a_missing_output_counts_as_empty_until_it_is_back(broker):
    """Questions while the queue is missing, and after it was made again, are answered."""
    link, sink = await broker.started()
    output = broker.topology.output.queue
    await broker.make_admin().delete(output, AMPLE)
    link.ask_output_depth()
    await until(lambda: sink.depths, AMPLE, "an answer")
    assert sink.depths == [0]
    other, _ = await broker.started()  # makes the queue again
    other.publish(1, Publication("", output, b"", b"x"))

    def stored() -> bool:
        link.ask_output_depth()
        return sink.depths[-1] == 1

    await until(stored, AMPLE, "the depth of the new queue")


@contract
async def test_dead_letters_are_counted(broker):
    """Each question is answered with the ready ones; also when the queue is missing."""
    link, sink = await broker.started(prefetch=1)
    dead = broker.topology.dead
    for number in (1, 2):
        link.publish(number, Publication("", dead, b"", b"x"))
        assert await sink.answer(number) == ""
    link.ask_dead_depth()
    link.ask_dead_depth()  # changes nothing: the first has no answer yet
    await until(lambda: sink.dead_depths, AMPLE, "the number of dead letters")
    await broker.make_admin().delete(dead, AMPLE)
    link.ask_dead_depth()
    await until(lambda: len(sink.dead_depths) > 1, AMPLE, "the number without the queue")
    assert sink.dead_depths == [2, 0]


@contract
async def test_existing_topology_is_used(broker):
    """A second link uses what the first one declared and shares the queue with it."""
    await broker.started(prefetch=1)
    other, _ = await broker.started(prefetch=1)
    assert not other.state.warnings
    info = await broker.make_admin().queue(broker.topology.input, AMPLE)
    assert info.consumers == 2


@contract
async def test_admin_knows_purges_and_deletes_queues(broker):
    """The admin reports what a queue holds, empties it and deletes it; a missing one is None or refused."""
    link, _ = await broker.started()
    admin = broker.make_admin()
    queue = broker.topology.dead
    for _ in range(3):
        await admin.send(queue, b"", b"x", AMPLE)
    info = await admin.queue(queue, AMPLE)
    assert (info.name, info.messages, info.consumers) == (queue, 3, 0)
    assert await admin.purge(queue, AMPLE) == 3
    await admin.send(queue, b"", b"x", AMPLE)
    assert await admin.delete(queue, AMPLE) == 1
    assert await admin.queue(queue, AMPLE) is None
    for question in (admin.delete(queue, AMPLE), admin.purge(queue, AMPLE), admin.peek(queue, 1, AMPLE)):
        with pytest.raises(BrokerRefused, match=f"there is no queue '{queue}'; `mqworker queues list`"):
            await question
    with pytest.raises(BrokerRefused):
        await admin.send(queue, b"", b"x", AMPLE)
    assert link.state.connected


@contract
async def test_admin_sends_many(broker):
    """Many messages are stored in their order, each confirmed; without the queue, each is refused with a reason."""
    await broker.started()
    admin, queue = broker.make_admin(), broker.topology.dead
    messages = [(block(message_id=f"run.{number}"), b"%d" % number) for number in range(300)]
    assert await admin.send_many(queue, messages, AMPLE) == [""] * 300
    found = await admin.peek(queue, 1000, AMPLE)
    assert [plain(each[1:]) for each in found] == [
        (Properties.decode(properties), body) for properties, body in messages
    ]
    told = await admin.send_many("no.such.queue", messages[:3], AMPLE)
    assert len(told) == 3
    assert all("returned" in why and "no.such.queue" in why for why in told), told


@contract
async def test_admin_calls_and_waits_for_the_reply(broker):
    """A call reaches the queue with a reply address, and returns what is sent there."""
    link, sink = await broker.started(prefetch=5)
    admin = broker.make_admin()
    call = asyncio.create_task(admin.call(broker.topology.input, block(message_id="q"), b"question", AMPLE))
    delivery = (await sink.has(1))[0]
    request = Properties.decode(delivery.properties)
    assert request.message_id == "q"
    for publish_id, correlation in enumerate(("another", request.correlation_id), 1):
        answer = block(correlation_id=correlation)
        link.publish(publish_id, Publication("", request.reply_to, answer, correlation.encode(), mandatory=False))
    link.ack(1, 1, multiple=False)
    ((properties, body),) = await call
    assert body == request.correlation_id.encode()
    assert Properties.decode(properties).correlation_id == request.correlation_id


@contract
async def test_admin_calls_and_waits_for_all_parts_of_the_reply(broker):
    """A message that yields has one reply for each result, in any order, and perhaps twice."""
    link, sink = await broker.started(prefetch=5)
    call = asyncio.create_task(broker.make_admin().call(broker.topology.input, b"", b"question", AMPLE))
    request = Properties.decode((await sink.has(1))[0].properties)
    for publish_id, part in enumerate((2, 1, 2, 3), 1):
        told = Properties(correlation_id=request.correlation_id)
        told.headers[headers.PART], told.headers[headers.PARTS] = part, 3
        answer = Publication("", request.reply_to, told.encode(), b"%d" % part, mandatory=False)
        link.publish(publish_id, answer)
        assert await sink.answer(publish_id) == ""
    link.ack(1, 1, multiple=False)
    assert [body for _, body in await call] == [b"1", b"2", b"3"]


@contract
async def test_parts_of_two_attempts_are_not_mixed(broker):
    """Results of an attempt that yields another number are a new answer."""
    link, sink = await broker.started(prefetch=5)
    call = asyncio.create_task(broker.make_admin().call(broker.topology.input, b"", b"question", AMPLE))
    request = Properties.decode((await sink.has(1))[0].properties)
    for publish_id, (part, parts) in enumerate([(1, 3), (2, 3), (1, 2), (2, 2)], 1):
        answer = Properties(correlation_id=request.correlation_id)
        answer.headers[headers.PART], answer.headers[headers.PARTS] = part, parts
        body = b"%d of %d" % (part, parts)
        link.publish(publish_id, Publication("", request.reply_to, answer.encode(), body, mandatory=False))
        assert await sink.answer(publish_id) == ""
    link.ack(1, 1, multiple=False)
    assert [body for _, body in await call] == [b"1 of 2", b"2 of 2"]


@contract
async def test_admin_questions_end_by_their_deadline(broker):
    """A call that nobody answers raises BrokerUnavailable in time, and the next request works."""
    await broker.started()
    admin = broker.make_admin()
    before = asyncio.get_running_loop().time()
    with pytest.raises(BrokerUnavailable):
        await admin.call(broker.topology.input, b"", b"question", 0.3)
    assert asyncio.get_running_loop().time() - before < 20  # else it has no end: nobody answers
    assert await admin.queue(broker.topology.input, AMPLE) is not None


@contract
async def test_admin_looks_and_changes_nothing(broker):
    """Looking twice shows the same messages in the same order, and all of them stay."""
    await broker.started()
    admin = broker.make_admin()
    for number in range(5):
        await broker.publish(broker.topology.dead, block(message_id=str(number)), b"%d" % number)
    first = await admin.peek(broker.topology.dead, 3, AMPLE)
    assert [(peeked.position, peeked.body) for peeked in first] == [(0, b"0"), (1, b"1"), (2, b"2")]
    await broker.counts(broker.topology.dead, 5)
    everything = await admin.peek(broker.topology.dead, 100, AMPLE)
    assert [peeked.body for peeked in everything] == [b"0", b"1", b"2", b"3", b"4"]
    await broker.counts(broker.topology.dead, 5)
    assert await admin.peek(broker.topology.output.queue, 5, AMPLE) == []
    with pytest.raises(BrokerRefused):
        await admin.peek("no.such.queue", 5, AMPLE)


@contract
async def test_admin_moves_drops_and_leaves(broker):
    """Each message read through is moved, dropped or left, as requested."""
    await broker.started()
    admin = broker.make_admin()
    dead, output = broker.topology.dead, broker.topology.output.queue
    for number in range(6):
        await broker.publish(dead, block(message_id=str(number)), b"%d" % number)

    def wanted(properties, body):
        assert Properties.decode(properties).message_id == body.decode()
        if body in {b"1", b"4"}:
            return Publication("", output, properties, b"moved " + body)
        return DROP if body == b"2" else None

    assert await admin.move(dead, 5, wanted, AMPLE, most=2) == 2
    assert await admin.move(dead, 3, wanted, AMPLE) == 1
    await broker.counts(dead, 3)
    assert [peeked.body for peeked in await admin.peek(dead, 10, AMPLE)] == [b"0", b"3", b"5"]
    assert [(await broker.take(output))[1] for _ in range(2)] == [b"moved 1", b"moved 4"]


@contract
async def test_admin_never_drops_what_it_cannot_place(broker):
    """A message whose new place does not exist stays where it was."""
    await broker.started()
    admin = broker.make_admin()
    await broker.publish(broker.topology.dead, b"", b"precious")
    with pytest.raises(BrokerRefused):
        await admin.move(broker.topology.dead, 5, lambda *_: Publication("", "no.such.queue", b"", b"x"), AMPLE)
    await broker.counts(broker.topology.dead, 1)
