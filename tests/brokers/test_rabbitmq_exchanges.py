"""Inputs that are bound to an exchange, and outputs that are an exchange alone, on RabbitMQ."""

import asyncio
import itertools
from uuid import uuid4

import msgspec
import pytest

from mqworker.brokers.base import Bindings, Placement, Publication, Topology
from mqworker.brokers.rabbitmq import exchanges, reconnector, topology_recovery
from mqworker.brokers.rabbitmq.amqp_connection import Lost, RawProperties
from mqworker.brokers.rabbitmq.fast_frames import encode_publish
from mqworker.brokers.rabbitmq.queues import attempt
from tests.brokers.harness import Recorder, contract
from tests.brokers.rabbit import RabbitHarness
from tests.support.rabbitmq import Rights
from tests.support.waiting import Patience, until

pytestmark = pytest.mark.rabbitmq


class Exchanges(RabbitHarness):
    """A stage between two exchanges that others declare: `cameras` and `results`."""

    def __init__(self, node) -> None:
        super().__init__(node)
        unique = uuid4().hex[:8]
        self.cameras, self.results = f"{unique}.cameras", f"{unique}.results"
        self.use()

    def use(self, *, source: str = "", target: str = "") -> None:
        """Use a topology that gives these types for its exchanges."""
        name = self.topology.input
        bindings = Bindings(self.cameras, ("cam.*.frame", "all.#"), source)
        output = Placement("", self.results, "detected", target)
        self.topology = Topology(name, output, f"{name}.dlq", "classic", bindings)

    async def declare(self, *names: str, kind: str = "topic") -> None:
        channel = await self.channel()
        for name in names:
            await channel.ask("exchange_declare", exchange=name, exchange_type=kind, durable=True)

    async def exists(self, exchange: str) -> bool:
        connection = await self.connection()
        try:
            await attempt(connection, "exchange_declare", exchange=exchange, passive=True)
        except Lost:
            return False
        return True

    async def send(self, exchange: str, key: str, body: bytes) -> None:
        channel = await self.channel()
        channel.raw.basic_publish(exchange, key, body, RawProperties())
        await channel.ping()

    async def close(self) -> None:
        channel = await self.channel()
        for exchange in (self.cameras, self.results):
            await channel.ask("exchange_delete", exchange=exchange)
        self.topology = Topology(self.topology.input, Placement(f"{self.results}.q", self.results), self.topology.dead)
        await super().close()


@pytest.fixture
def broker(rabbit):
    """A stage between two exchanges."""
    return Exchanges(rabbit)


@contract
async def test_an_input_is_bound_as_configured(broker):
    """Messages come by each binding, and no others."""
    await broker.declare(broker.cameras, broker.results)
    link, sink = await broker.started(prefetch=5)
    for key in ("cam.1.frame", "cam.1.other", "all", "all.x.y"):
        await broker.send(broker.cameras, key, key.encode())
    await sink.has(3)
    assert sink.bodies == [b"cam.1.frame", b"all", b"all.x.y"]
    assert (link.state.warnings, link.state.problem) == ((), "")


@contract
async def test_a_routing_key_that_is_not_utf_8_is_delivered_as_text(broker):
    """The message can pass on to a Consumer, in which the key has escapes."""
    await broker.declare(broker.cameras, broker.results)
    link, sink = await broker.started(prefetch=5)
    channel = await broker.channel()
    key = b"all.\xff".decode(errors="surrogateescape")
    frames = encode_publish(channel.number, broker.cameras, key, b"", b"x", mandatory=True, frame_max=4096)
    channel.connection.send_frames(frames)
    (delivery,) = await sink.has(1)
    assert msgspec.json.decode(msgspec.json.encode(delivery.routing_key)) == r"all.\xff"
    assert link.state.connected


@contract
async def test_bindings_of_the_configuration_come_back(broker, monkeypatch):
    """Whether the queue or the exchange was deleted: messages come again, and nobody has to confirm anything."""
    monkeypatch.setattr(reconnector, "PING_EVERY", 0.2)
    await broker.declare(broker.cameras, broker.results)
    link, sink = await broker.started(prefetch=5)
    await broker.send(broker.cameras, "all", b"1")
    await sink.has(1)
    channel = await broker.channel()
    await channel.ask("queue_delete", queue=broker.topology.input)
    await until(lambda: sink.consuming_lost_for, 10, "the loss")
    await until(lambda: link.state.connected and link.state.consuming, 20, "the link back")
    assert link.state.problem == ""
    await broker.send(broker.cameras, "all", b"2")
    await sink.has(2)
    await channel.ask("exchange_delete", exchange=broker.cameras)
    await until(lambda: "does not exist" in link.state.reason, 10, "a missing exchange told")
    assert link.state.problem == link.state.reason
    await broker.declare(broker.cameras)
    await until(lambda: link.state.reason == "", 10, "the input bound again")
    assert link.state.problem == ""
    await broker.send(broker.cameras, "cam.9.frame", b"3")
    await sink.has(3)


@pytest.mark.parametrize("missing", ["cameras", "results"])
@contract
async def test_an_exchange_that_is_missing_is_waited_for(broker, missing):
    """It is not made here, because its owner may want it otherwise; the reason says who must do what."""
    await broker.declare(*{broker.cameras, broker.results} - {getattr(broker, missing)})
    sink = Recorder()
    link = broker.make_link(sink)
    link.consume(5)
    link.start()
    await until(lambda: "does not exist" in link.state.reason, 10, "the reason")
    assert repr(getattr(broker, missing)) in link.state.reason
    assert "`type`" in link.state.reason
    assert not link.state.connected
    await broker.declare(getattr(broker, missing), kind="fanout")
    await until(lambda: link.state.connected and link.state.consuming, 60, "the link")
    assert link.state.warnings == ()


@contract
async def test_an_exchange_with_a_type_is_made(broker):
    """Of the type that the configuration names; an existing one of another type is used, with a warning."""
    broker.use(source="topic", target="fanout")
    await broker.declare(broker.cameras, kind="direct")
    link, sink = await broker.started(prefetch=5)
    (warning,) = link.state.warnings
    assert warning == f"exchange {broker.cameras!r} is of type direct, configured is topic: it is used as found"
    channel = await broker.channel()
    await channel.ask("queue_declare", queue=f"{broker.results}.q", durable=True)
    await channel.ask("queue_bind", queue=f"{broker.results}.q", exchange=broker.results, routing_key="whatever")
    link.publish(1, Publication(broker.results, "detected", b"", b"x"))
    assert await sink.answer(1) == ""
    await broker.counts(f"{broker.results}.q", 1)


def pings(monkeypatch) -> list[None]:
    """Return a list that grows each time after bindings were made again, which is soon now."""
    monkeypatch.setattr(reconnector, "PING_EVERY", 0.2)
    make_again, made = exchanges.InputBindings.make_again, []

    async def noted(bindings, connection):
        await make_again(bindings, connection)
        made.append(None)

    monkeypatch.setattr(exchanges.InputBindings, "make_again", noted)
    return made


@contract
async def test_making_bindings_again_leaves_no_error_in_the_brokers_log(broker, monkeypatch):
    """What is in place is bound again without a refusal, whatever the type of the exchange."""
    made = pings(monkeypatch)
    await broker.declare(broker.cameras, broker.results, kind="fanout")
    await broker.started(prefetch=5)
    errors = f"exchange '{broker.cameras}'"
    await until(lambda: errors in broker.node.log(), 10, "the refusal by which its type was found at the connect")
    count = len(made)
    await until(lambda: len(made) >= count + 3, 20, "bindings made again")
    assert broker.node.log().count(errors) == 1


@contract
async def test_a_binding_that_is_refused_is_a_warning_and_not_tried_again(broker, monkeypatch):
    """When the right to bind is withdrawn, the other pings go on, and whoever operates it reads what to do by hand."""
    made = pings(monkeypatch)
    await broker.declare(broker.cameras, broker.results)
    node, user = broker.node, f"user-{uuid4().hex[:8]}"
    node.allow(user, "x", Rights(".*", ".*", ".*"))
    admin_url, broker.url = broker.url, broker.url.replace("guest:guest", f"{user}:x")
    link, sink = await broker.started(prefetch=5)
    broker.url = admin_url
    await asyncio.to_thread(node.permit, user, Rights(".*", ".*", r"\.in"))
    await until(lambda: len(link.state.warnings) == 2, 20, "a warning for each key")
    assert all("bind it by hand" in warning for warning in link.state.warnings)
    before, count = node.log().count("ACCESS_REFUSED"), len(made)
    await until(lambda: len(made) >= count + 3, 20, "further pings")
    assert node.log().count("ACCESS_REFUSED") == before
    await broker.publish(broker.topology.input, b"", b"x")
    await sink.has(1)
    assert sink.consuming_lost_for == []
    await link.close(2)
    node.eval(f'rabbit_auth_backend_internal:delete_user(<<"{user}">>, <<"test">>)')


@contract
async def test_a_name_is_never_taken_from_the_owner_of_an_exchange(broker, monkeypatch):
    """Without a `type` none is made here, even if the exchange vanishes while it is being looked at."""
    await broker.declare(broker.cameras, broker.results)
    channel, ask = await broker.channel(), exchanges.attempt

    async def late(connection, method, **arguments):
        if method == "exchange_declare" and not arguments.get("passive"):
            await channel.ask("exchange_delete", exchange=arguments["exchange"])
        return await ask(connection, method, **arguments)

    monkeypatch.setattr(exchanges, "attempt", late)
    link = broker.make_link(Recorder())
    link.start()
    await until(lambda: "does not exist" in link.state.reason, 10, "the reason")
    assert repr(broker.results) in link.state.reason
    assert not await broker.exists(broker.results)


@contract
async def test_an_exchange_of_results_that_comes_back_is_noticed(broker, monkeypatch):
    """After one result was returned and the repair failed, the reason stays until the owner is back, and no longer."""
    monkeypatch.setattr(reconnector, "PING_EVERY", 0.2)
    monkeypatch.setattr(topology_recovery, "REPAIR_EVERY", 0.0)
    await broker.declare(broker.cameras, broker.results)
    link, sink = await broker.started(prefetch=5)
    channel = await broker.channel()
    await channel.ask("exchange_delete", exchange=broker.results)
    link.publish(1, Publication(broker.results, "detected", b"", b"x"))
    assert await sink.answer(1)
    await until(lambda: repr(broker.results) in link.state.reason, 10, "the reason")
    await broker.declare(broker.results)
    await until(lambda: link.state.reason == "", 10, "the exchange seen")
    assert link.state.connected


@contract
async def test_what_concerns_results_is_not_said_of_an_input(broker, monkeypatch):
    """An exchange that delays, or to which nobody can publish directly, is a good source."""
    monkeypatch.setattr(exchanges, "DELAYING", "topic")
    await broker.declare(broker.results, kind="fanout")
    await broker.declare(broker.cameras)
    link, _ = await broker.started(prefetch=5)
    assert link.state.warnings == ()
    await link.close(2)
    channel = await broker.channel()
    await channel.ask("exchange_delete", exchange=broker.cameras)
    await channel.ask("exchange_declare", exchange=broker.cameras, exchange_type="direct", durable=True, internal=True)
    link, _ = await broker.started(prefetch=5)
    assert link.state.warnings == ()


@contract
async def test_another_type_than_configured_is_a_warning(broker):
    """Also where the configuration says direct, which is what an output with a queue is by default."""
    broker.use(source="direct")
    await broker.declare(broker.cameras, broker.results)
    link, _ = await broker.started(prefetch=5)
    (warning,) = link.state.warnings
    assert warning == f"exchange {broker.cameras!r} is of type topic, configured is direct: it is used as found"


@contract
async def test_an_exchange_with_a_long_name_is_used_as_found(broker):
    """The broker cuts its answer at 255 bytes, before it says what differs."""
    broker.results = f"{broker.results}.{'x' * 255}"[:253]
    broker.use()
    await broker.declare(broker.cameras, broker.results, kind="fanout")
    link, _ = await broker.started(prefetch=5)
    assert link.state.warnings == ()


async def refused_often(link, sink, publication: Publication) -> None:
    """Publish until the topology was repaired six times because of it, which would be in vain each time."""
    patience = Patience(30)
    for number in itertools.count(100):
        link.publish(number, publication)
        assert "NO_ROUTE" in await sink.answer(number)
        if link.state.repairs >= 6:
            return
        assert not patience.over(), "six repairs"


@contract
async def test_a_result_nobody_has_bound_a_queue_for_is_refused_until_somebody_has(broker, monkeypatch):
    """It never goes anywhere else, however often it is returned: not to a queue, and not without `mandatory`."""
    monkeypatch.setattr(topology_recovery, "REPAIR_EVERY", 0.0)
    await broker.declare(broker.cameras, broker.results)
    link, sink = await broker.started(prefetch=5)
    await refused_often(link, sink, Publication(broker.results, "detected", b"", b"x"))
    channel = await broker.channel()
    await channel.ask("queue_declare", queue=f"{broker.results}.q", durable=True)
    await channel.ask("queue_bind", queue=f"{broker.results}.q", exchange=broker.results, routing_key="*")
    link.publish(7, Publication(broker.results, "detected", b"", b"x"))
    assert await sink.answer(7) == ""
    await broker.counts(f"{broker.results}.q", 1)


@contract
async def test_a_routing_key_without_a_queue_changes_nothing_for_the_others(broker, monkeypatch):
    """A handler's own key that nobody has bound is refused each time; the others stay with their exchange."""
    monkeypatch.setattr(topology_recovery, "REPAIR_EVERY", 0.0)
    await broker.declare(broker.cameras, broker.results)
    name = f"{broker.results}.q"
    output = Placement(name, broker.results, "detected")
    broker.topology = Topology(broker.topology.input, output, broker.topology.dead)
    link, sink = await broker.started(prefetch=5)
    await refused_often(link, sink, Publication(broker.results, "nobody's", b"", b"x"))
    link.publish(7, Publication(broker.results, "detected", b"", b"y"))
    assert await sink.answer(7) == ""
    assert link.state.warnings == ()
    assert await broker.exists(broker.results)
    await broker.counts(name, 1)
