"""What differs between versions of RabbitMQ: the same promises hold on each (`scripts/test --rabbitmq 4`)."""

import asyncio
import re

import pytest
from msgspec.structs import replace

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import DROP, Publication
from mqworker.brokers.rabbitmq.amqp_connection import Lost
from mqworker.brokers.rabbitmq.queues import delay_arguments, delay_queue
from tests.brokers.harness import contract
from tests.brokers.rabbit import RabbitHarness
from tests.support.loop import on_loop
from tests.support.rabbitmq import Rights, temporary
from tests.support.waiting import AMPLE, until

pytestmark = pytest.mark.rabbitmq


@pytest.fixture
def broker(rabbit, request):
    """A harness on the session's node, with classic queues unless a test chooses others."""
    return RabbitHarness(rabbit, getattr(request, "param", "classic"))


@pytest.fixture
def quorum_by_default(broker):
    """The name of a virtual host in which queues are quorum by default; the harness is there."""
    name, node = "quorum-by-default", broker.node
    node.eval(f'rabbit_vhost:add(<<"{name}">>, #{{default_queue_type => <<"quorum">>}}, <<"test">>)')
    node.permit("guest", Rights(".*", ".*", ".*"), name)
    broker.url = node.url(name)
    yield name
    node.eval(f'rabbit_vhost:delete(<<"{name}">>, <<"test">>)')


@pytest.fixture(scope="module")
def modern(rabbit, tmp_path_factory):
    """A node as later versions are by default: its metadata are in Khepri, and nothing deprecated is permitted."""
    features = ("amqp_address_v1", "global_qos", "queue_master_locator", "ram_node_type", "transient_nonexcl_queues")
    config = tuple(f"deprecated_features.permit.{feature} = false" for feature in features)
    node = temporary(tmp_path_factory.mktemp("modern") / "node", config=config)
    node.ctl("enable_feature_flag", "--experimental", "khepri_db")
    yield node
    node.close()


async def kinds(harness: RabbitHarness, vhost: str) -> dict[str, str]:
    """Return the type of each queue of the harness, as the broker lists it."""
    listed = await asyncio.to_thread(
        harness.node.eval,
        "[{binary_to_atom(element(4, amqqueue:get_name(Q)), utf8), amqqueue:get_type(Q)} ||"
        f' Q <- rabbit_amqqueue:list(<<"{vhost}">>)]',
    )
    unique = harness.topology.input.partition(".")[0]
    found = re.findall(r"{'?([^',]+)'?, *rabbit_(\w+)_queue}", listed)
    return {name: kind for name, kind in found if name.startswith(unique)}


@pytest.mark.parametrize("broker", ["classic", "quorum"], indirect=True)
@contract
async def test_our_queues_have_the_configured_type_whatever_the_virtual_hosts_default(broker, quorum_by_default):
    """In a virtual host whose queues are quorum by default, ours are as configured, and dead letters can be handled."""
    topology = broker.topology
    link, sink = await broker.started()
    assert link.state.warnings == ()
    ours = dict.fromkeys((topology.input, topology.dead, topology.output.queue), topology.queue_type)
    assert await kinds(broker, quorum_by_default) == ours
    await broker.publish(topology.dead, Properties(message_id="dead").encode(), b"dead")
    admin = broker.make_admin()
    for _ in range(25):
        assert [peeked.body for peeked in await admin.peek(topology.dead, 5, AMPLE)] == [b"dead"]
    again = Publication("", topology.input, b"", b"again")
    assert await admin.move(topology.dead, 5, lambda *_: again, AMPLE) == 1
    link.consume(5)
    await sink.has(1)
    assert sink.bodies == [b"again"]


@pytest.mark.parametrize("broker", ["quorum"], indirect=True)
@contract
async def test_our_quorum_queues_return_a_message_as_often_as_it_takes(broker):
    """Neither the input nor the dead-letter queue that we make drops a message for its number of deliveries."""
    link, sink = await broker.started(prefetch=1)
    await broker.publish(broker.topology.input, b"", b"x")
    for count in range(1, 31):
        deliveries = await sink.has(count)
        link.release(deliveries[-1].epoch, [deliveries[-1].tag])
    await sink.has(31)
    await broker.publish(broker.topology.dead, b"", b"dead")
    admin = broker.make_admin()
    for _ in range(30):
        assert await admin.move(broker.topology.dead, 5, lambda *_: None, AMPLE) == 0
    assert await admin.move(broker.topology.dead, 5, lambda *_: DROP, AMPLE) == 1


@pytest.mark.parametrize("broker", ["quorum"], indirect=True)
@contract
async def test_quorum_queues_that_were_made_on_rabbitmq_3_are_used_as_found(broker):
    """After an upgrade of the broker our queues lack the argument that lifts its new limit: they work as before."""
    topology = broker.topology
    channel = await broker.channel()
    for name in (topology.input, topology.dead, topology.output.queue):
        await channel.ask("queue_declare", queue=name, durable=True, arguments={"x-queue-type": "quorum"})
    link, sink = await broker.started(prefetch=5)
    assert link.state.warnings == ()
    link.publish(1, Publication("", topology.input, b"", b"x"))
    await sink.has(1)
    link.publish(2, Publication("", topology.dead, b"", b"dead"))
    link.publish(3, Publication(topology.output.exchange, topology.output.routing_key, b"", b"result"))
    assert [await sink.answer(number) for number in (2, 3)] == ["", ""]
    link.ack(1, 1, multiple=False)
    admin = broker.make_admin()
    for _ in range(25):
        assert [peeked.body for peeked in await admin.peek(topology.dead, 5, AMPLE)] == [b"dead"]


@contract
async def test_the_delay_queue_of_an_earlier_version_is_used_as_found(broker):
    """A delay queue that was declared without a delivery limit delays as before, on every version of RabbitMQ."""
    name = broker.topology.input
    channel = await broker.channel()
    arguments = delay_arguments(name, 1)
    await channel.ask("queue_declare", queue=delay_queue(name, 1), durable=True, arguments=arguments)
    link, sink = await broker.started(prefetch=5)
    link.publish(1, Publication("", name, b"", b"later", delay=1))
    assert await sink.answer(1) == ""
    await sink.has(1)
    assert link.state.reconnects == 0
    assert sink.publishes_lost_for == []


@pytest.mark.rabbitmq_only(4, because="RabbitMQ 3 takes 128 MiB by default")
@on_loop
async def test_what_is_above_the_default_limit_is_refused_for_its_size(modern):
    """RabbitMQ 4 takes at most 16 MiB: a larger message is refused as too large, and the limit is remembered."""
    harness = RabbitHarness(modern)
    link, sink = await harness.started()
    fits = Publication("", harness.topology.dead, b"", b"x" * (16 << 20))
    link.publish(1, fits)
    assert await sink.answer(1, AMPLE) == ""
    large = replace(fits, body=fits.body + b"x")
    link.publish(2, large)
    assert "refused by the broker" in await sink.answer(2, AMPLE)
    await until(lambda: link.state.connected, 10, "the next channel")
    link.publish(3, large)
    assert "the broker takes 16777216" in sink.answers[3]
    assert sink.too_large == {2, 3}
    await harness.close()


@pytest.mark.rabbitmq_only(4, because="RabbitMQ 3.10 cannot deny a feature")
@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
@on_loop
async def test_no_feature_is_used_that_later_versions_deny(modern, queue_type):
    """A whole Link and an Admin work on a node with Khepri that denies what is deprecated, such as transient queues."""
    harness = RabbitHarness(modern, queue_type)
    link, sink = await harness.started(prefetch=5)
    link.publish(1, Publication("", harness.topology.input, b"", b"later", delay=1))
    await sink.has(1)
    link.ack(1, 1, multiple=True)
    asked = asyncio.create_task(harness.make_admin().call(harness.topology.input, b"", b"question", AMPLE))
    request = Properties.decode((await sink.has(2))[1].properties)
    answer = Properties(correlation_id=request.correlation_id).encode()
    link.publish(2, Publication("", str(request.reply_to), answer, b"answer", mandatory=False))
    assert (await asked)[0][1] == b"answer"
    assert link.state.reconnects == 0
    await harness.close()


@pytest.mark.rabbitmq_only(4, because="RabbitMQ 3.10 cannot deny a feature")
@on_loop
async def test_where_transient_queues_are_denied_ours_are_made_durable(modern):
    """A transient declaration of the input is refused to others there; ours is durable, and nobody is warned."""
    harness = RabbitHarness(modern)
    channel = await harness.channel()
    with pytest.raises(Lost, match="transient_nonexcl_queues"):
        await channel.ask("queue_declare", queue=harness.topology.input, durable=False)
    link, _ = await harness.started(prefetch=5)
    assert link.state.warnings == ()
    await harness.close()
