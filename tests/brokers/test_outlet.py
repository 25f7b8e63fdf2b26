"""What every broker must do for a source: the contract of `mqworker.brokers.outlet`, for each implementation."""

import asyncio
import contextlib
from uuid import uuid4

import msgspec
import pytest

from mqworker.amqp.properties import Properties
from mqworker.brokers import open_outlet
from mqworker.brokers.base import BrokerRefused, Publication
from mqworker.brokers.outlet import Inlet, Outlet
from mqworker.brokers.rabbitmq import outlet as rabbit_outlet
from mqworker.brokers.rabbitmq import reconnector
from mqworker.brokers.rabbitmq.queues import TYPE
from mqworker.brokers.records import PositionRecord
from mqworker.brokers.sqlite import outlet as sqlite_outlet
from mqworker.config.model import BrokerConfig
from tests.brokers.harness import Common, contract
from tests.support.waiting import AMPLE, until


class Recorder:
    """An OutletSink that records everything."""

    def __init__(self) -> None:
        self.waited: list[tuple[str, bool]] = []
        self.records: list[PositionRecord | None] = []  # as it was opened
        self.reasons: list[str] = []
        self.confirms: list[int] = []
        self.stores: list[int] = []
        self.depths: list[int] = []
        self.losses: list[str] = []

    def waits(self, reason: str, *, standby: bool) -> None:
        self.waited.append((reason, standby))

    def opened(self, record: PositionRecord | None) -> None:
        self.records.append(record)

    def blocked(self, reason: str) -> None:
        self.reasons.append(reason)

    def confirmed(self, number: int) -> None:
        assert number > (self.confirms or [0])[-1]
        self.confirms.append(number)

    def stored(self, number: int) -> None:
        assert number > (self.stores or [0])[-1]
        self.stores.append(number)

    def depth(self, messages: int) -> None:
        self.depths.append(messages)

    def lost(self, reason: str) -> None:
        self.losses.append(reason)

    async def has(self, confirmed: int = 0, stored: int = 0) -> None:
        await until(
            lambda: (self.confirms or [0])[-1] >= confirmed and (self.stores or [0])[-1] >= stored,
            20,
            f"{confirmed} confirmed and {stored} stored, not {self.confirms[-1:]} and {self.stores[-1:]}",
        )


class Place:
    """Where one source publishes on the broker of a test; opens Outlets, and closes them."""

    def __init__(self, broker: Common) -> None:
        self.broker = broker
        name = uuid4().hex[:8]
        queue = broker.topology.input
        self.inlet = Inlet(queue, f"{queue}.source.{name}", f"{queue}.lock.{name}", broker.topology.queue_type)
        self._open: list[Outlet] = []

    def make(self) -> tuple[Outlet, Recorder]:
        sink = Recorder()
        outlet = open_outlet(BrokerConfig(url=self.broker.url), self.inlet, sink, "contract")
        self._open.append(outlet)
        outlet.start()
        return outlet, sink

    async def opened(self) -> tuple[Outlet, Recorder]:
        outlet, sink = self.make()
        await until(lambda: sink.records, 20, f"an open outlet; it waits: {sink.waited}")
        return outlet, sink

    async def close(self) -> None:
        for outlet in self._open:
            await outlet.close(2)
        with contextlib.suppress(BrokerRefused):
            await self.broker.make_admin().delete(self.inlet.position, AMPLE)

    def item(self, number: int) -> Publication:
        block = Properties(message_id=f"m{number}", delivery_mode=2).encode()
        return Publication("", self.inlet.queue, block, b"%d" % number)


def record(number: int, position: object = msgspec.UNSET) -> bytes:
    return msgspec.json.encode(PositionRecord(number, number if position is msgspec.UNSET else position))


def at_a_place(test):
    """Run a test with a Place, and close that."""

    async def placed(broker):
        place = Place(broker)
        try:
            await test(place)
        finally:
            await place.close()

    placed.__name__, placed.__doc__ = test.__name__, test.__doc__
    return contract(placed)


@at_a_place
async def test_what_was_stored_last_is_what_the_next_one_begins_with(place):
    """Items arrive in order, each once; the record of the last is read by the next life, with any JSON value in it."""
    outlet, sink = await place.opened()
    assert sink.records == [None]
    for number in range(1, 1201):
        outlet.send(place.item(number), record(number, {"row": [number, "ü"]}))
    await sink.has(1200, 1200)
    await outlet.close(AMPLE)
    _, other = await place.opened()
    assert other.records[0] == PositionRecord(1200, {"row": [1200, "ü"]})
    assert not sink.losses
    taken = [Properties.decode((await place.broker.take(place.inlet.queue))[0]).message_id for _ in range(3)]
    assert taken == ["m1", "m2", "m3"]


@at_a_place
async def test_an_item_without_a_record_and_a_record_without_an_item(place):
    """Only what has a record moves the position; a record alone counts once all before it are confirmed."""
    outlet, sink = await place.opened()
    outlet.send(place.item(1), record(1))
    outlet.send(place.item(2), None)
    await sink.has(2, 1)
    outlet.store(record(2, None))
    await sink.has(2, 2)
    await outlet.close(AMPLE)
    _, other = await place.opened()
    assert other.records == [PositionRecord(2, None)]


@pytest.fixture
def eager(monkeypatch):
    """Look more often whether the lock is free, and less long whether a record comes back."""
    monkeypatch.setattr(rabbit_outlet, "STANDBY", (0.2, 0.4))
    monkeypatch.setattr(rabbit_outlet, "BACK", 0.5)


@pytest.mark.usefixtures("eager")
@at_a_place
async def test_one_has_the_lock_and_the_next_one_stands_by(place):
    """The second one is told who runs the source, and takes over when the first one ends."""
    outlet, sink = await place.opened()
    _, other = place.make()
    await until(lambda: other.waited, 20, "the second one to wait")
    assert other.waited[0][1], other.waited
    assert not other.records
    outlet.send(place.item(1), record(1))
    await sink.has(1, 1)
    await outlet.close(AMPLE)
    await until(lambda: other.records, 20, "the second one to take over")
    assert other.records == [PositionRecord(1, 1)]


@at_a_place
async def test_sources_of_other_names_do_not_meet(place):
    """Lock and position belong to a name."""
    outlet, sink = await place.opened()
    outlet.send(place.item(1), record(1))
    await sink.has(1, 1)
    another = Place(place.broker)
    another.inlet = msgspec.structs.replace(another.inlet, queue=place.inlet.queue)
    try:
        _, other = await another.opened()
        assert other.records == [None]
    finally:
        for each in another._open:
            await each.close(2)
        await place.broker.make_admin().delete(another.inlet.position, AMPLE)


@at_a_place
async def test_how_much_the_queue_holds(place):
    """The answer counts what was confirmed before the question."""
    outlet, sink = await place.opened()
    for number in range(1, 4):
        outlet.send(place.item(number), None)
    await sink.has(3)
    outlet.ask_depth()
    await until(lambda: sink.depths, 20, "an answer")
    assert sink.depths == [3]


@pytest.mark.usefixtures("eager")
@at_a_place
async def test_a_question_soon_after_an_answer_is_answered_soon(place):
    """A source that may send little after each answer asks often: no question waits for anything else to happen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_outlet, "LOOK", 3600.0)
        outlet, sink = await place.opened()
        for asked in range(1, 6):
            outlet.ask_depth()
            await until(lambda n=asked: len(sink.depths) == n, 20, "an answer")


@at_a_place
async def test_a_queue_that_is_deleted_loses_the_outlet_and_the_next_one_makes_it_again(place):
    """What cannot be placed ends this life, and says why; nothing is skipped."""
    outlet, sink = await place.opened()
    await place.broker.make_admin().delete(place.inlet.queue, AMPLE)
    outlet.send(place.item(1), record(1))
    await until(lambda: sink.losses, 20, "the loss")
    assert len(sink.losses) == 1
    assert place.inlet.queue in sink.losses[0]
    assert not sink.stores
    _, other = await place.opened()
    assert other.records == [None]


@pytest.mark.usefixtures("eager")
@at_a_place
async def test_no_record_is_no_record(place):
    """A position queue that holds something else begins anew."""
    outlet, _ = await place.opened()
    await outlet.close(AMPLE)
    await place.broker.publish(place.inlet.position, b"", b"hello")
    _, other = await place.opened()
    assert other.records == [None]


@pytest.mark.rabbitmq
@pytest.mark.parametrize("broker", ["rabbitmq-classic", "rabbitmq-quorum"], indirect=True)
@at_a_place
async def test_a_lost_connection_is_told_once_and_is_the_end(place):
    """The lock is gone with it: the Outlet does not try to go on."""
    outlet, sink = await place.opened()
    outlet.send(place.item(1), record(1))
    await sink.has(1, 1)
    await asyncio.to_thread(place.broker.node.close_connections)
    await until(lambda: sink.losses, 20, "the loss")
    await until(outlet._reconnector._task.done, 20, "the end of its attempts")
    _, other = await place.opened()
    assert other.records == [PositionRecord(1, 1)]
    assert len(sink.losses) == 1
    assert len(sink.records) == 1


@pytest.mark.rabbitmq
@pytest.mark.parametrize("broker", ["rabbitmq-classic"], indirect=True)
@at_a_place
async def test_the_newest_of_two_records_counts(place):
    """A broker that was killed may keep two; the higher number wins, in whatever order they are."""
    outlet, _ = await place.opened()
    await outlet.close(AMPLE)
    admin = place.broker.make_admin()
    await admin.delete(place.inlet.position, AMPLE)
    channel = await place.broker.channel()
    await channel.ask("queue_declare", queue=place.inlet.position, durable=True)
    for number in (8, 9, 7):
        await place.broker.publish(place.inlet.position, b"", record(number))
    _, other = await place.opened()
    assert other.records == [PositionRecord(9, 9)]


def test_records_alone_are_no_queue_while_nothing_is_stored(tmp_path):
    """Ticks that yield nothing, on a full disk: the newest record waits, and stands for those before it."""
    inlet = Inlet("in", "in.source.a", "in.lock.a")
    writer = sqlite_outlet._Writer(tmp_path / "broker.db", inlet, Recorder(), lambda _: None, "test")
    for number in range(1, 5000):
        writer.commands.put(sqlite_outlet._Send(None, record(number), 1))
    writer._receive(0)
    assert writer._pending == [sqlite_outlet._Send(None, record(4999), 4999)]


@pytest.mark.rabbitmq
@pytest.mark.parametrize("broker", ["rabbitmq-quorum"], indirect=True)
def test_no_limit_of_deliveries_drops_the_record(broker, monkeypatch):
    """A queue that drops a message after two deliveries keeps the record, through idle times and fruitless lives."""
    taken = 0

    async def counted(channel, name, **how):
        nonlocal taken
        taken += how["take"]
        return await touch(channel, name, **how)

    touch = rabbit_outlet.touch
    monkeypatch.setattr(rabbit_outlet, "touch", counted)
    monkeypatch.setattr(reconnector, "PING_EVERY", 0.1)
    monkeypatch.setattr(rabbit_outlet, "TAKE_EVERY", 0.1)

    @at_a_place
    async def test(place):
        arguments = {TYPE: "quorum", "x-delivery-limit": 2, "x-max-length": 1}
        channel = await place.broker.channel()
        await channel.ask("queue_declare", queue=place.inlet.position, durable=True, arguments=arguments)
        outlet, sink = await place.opened()
        outlet.send(place.item(1), record(1))
        await sink.has(1, 1)
        before = taken
        await until(lambda: taken >= before + 4, 20, "idle times in which the record was taken")
        await outlet.close(AMPLE)
        for _ in range(4):
            outlet, sink = await place.opened()
            assert sink.records == [PositionRecord(1, 1)]
            await outlet.close(AMPLE)

    test(broker)


@pytest.mark.rabbitmq
@pytest.mark.parametrize("broker", ["rabbitmq-classic"], indirect=True)
@at_a_place
async def test_a_record_that_comes_back_after_the_lock_is_found(place):
    """What a predecessor had fetched is not there yet when its lock is free: that is no source without a position."""
    outlet, sink = await place.opened()
    outlet.send(place.item(1), record(1))
    await sink.has(1, 1)
    await outlet.close(AMPLE)
    fetched = await place.broker.channel()
    assert await fetched.get(place.inlet.position)
    _, other = place.make()
    await asyncio.sleep(rabbit_outlet.BACK / 4)  # long enough for it to read, if it does not wait
    fetched.close()
    await until(lambda: other.records, 20, "the record")
    assert other.records == [PositionRecord(1, 1)]
