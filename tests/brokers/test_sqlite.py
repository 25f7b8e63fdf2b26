"""The embedded broker: routing, leases, delays, files. What each fault does to it is in test_sqlite_faults."""

import asyncio
import os
import sqlite3
import stat
import time

import pytest
from msgspec.structs import astuple

from mqworker.amqp.properties import Properties
from mqworker.brokers.base import (
    DROP,
    Bindings,
    BrokerRefused,
    BrokerUnavailable,
    Placement,
    Publication,
    Topology,
)
from mqworker.brokers.sqlite import admin as admin_module
from mqworker.brokers.sqlite import choosing
from mqworker.brokers.sqlite.admin import SqliteAdmin
from mqworker.brokers.sqlite.writer import POLL
from tests.support.sqlite_link import TOPOLOGY, opened
from tests.support.waiting import AMPLE, until

HOSTILE = ["'; DROP TABLE message; --", 'a"b', "ü ☃", "a\0b", "%_*?", "../../x", "x" * 200]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "broker.db"


def stored(path, query="SELECT body FROM content ORDER BY id"):
    with sqlite3.connect(path) as db:
        rows = [row[0] for row in db.execute(query)]
    db.close()
    return rows


async def _modes(path):
    async with opened(path) as (link, sink):
        assert await sink.placed(link, b"1") == ""
        return {found.name: stat.S_IMODE(found.stat().st_mode) for found in [*path.parent.iterdir(), path.parent]}


def test_modes(path):
    """Only the owner can read the file, its log, its index or its folder, whatever the umask."""
    old = os.umask(0)
    try:
        modes = asyncio.run(_modes(path))
    finally:
        os.umask(old)
    assert modes == {"broker.db": 0o600, "broker.db-wal": 0o600, "broker.db-shm": 0o600, "folder": 0o700}


def test_life_of_a_message(path):
    """A message is delivered once, in order, with its bytes unchanged, and is gone when acked."""

    async def scene():
        async with opened(path) as (link, sink):
            for number in range(5):
                sink.publish(link, b"\0%d" % number)
            link.consume(3)
            await until(lambda: len(sink.deliveries) == 3, 5, "three deliveries")
            assert [delivery.tag for delivery in sink.deliveries] == [1, 2, 3]
            assert {(d.exchange, d.routing_key, d.redelivered, d.properties) for d in sink.deliveries} == {
                ("", "in", False, b"\0\0")
            }
            link.ack(1, 2, multiple=True)
            await until(lambda: len(sink.deliveries) == 5, 5, "the others")
            link.ack(1, 5, multiple=True)
            link.ack(7, 5, multiple=True)
            await until(lambda: link.depth() == 0, 5, "an empty queue")
            assert sink.bodies == [b"\0%d" % number for number in range(5)]

    asyncio.run(scene())
    assert stored(path) == []


def test_what_no_file_can_hold_is_refused_for_its_size(path, monkeypatch):
    """A publication beyond the limit is refused as too large, one without a route for another reason."""
    monkeypatch.setattr("mqworker.brokers.sqlite.store.MAX_SIZE", 1000)

    async def scene():
        async with opened(path) as (link, sink):
            assert "too large" in await sink.placed(link, b"x" * 1000)
            assert "returned" in await sink.placed(link, b"x", "no such queue")
            assert sink.too_large == {1}

    asyncio.run(scene())


def test_one_failure_harms_no_neighbour(path, caplog):
    """A delivery that makes its receiver raise does not hold back those that came with it."""

    async def scene():
        async with opened(path) as (link, sink):
            for number in range(5):
                sink.publish(link, b"%d" % number)
            received, sink.delivered = sink.delivered, lambda one: received(one) if one.body != b"1" else 1 / 0
            link.consume(10)
            await until(lambda: sink.bodies == [b"0", b"2", b"3", b"4"], 5, "the others")

    asyncio.run(scene())
    assert "ZeroDivisionError" in caplog.text


def test_routes(path):
    """An exchange routes by its binding, the default one by name; the unroutable is refused, or dropped on request."""

    async def scene():
        async with opened(path) as (link, sink):
            assert await sink.placed(link, b"bound", "key", "exchange") == ""
            assert "no queue" in await sink.placed(link, b"x", "other", "exchange")
            assert "no exchange" in await sink.placed(link, b"x", "key", "nowhere")
            assert "no queue" in await sink.placed(link, b"x", "nowhere")
            assert "no queue" in await sink.placed(link, b"x", "nowhere", delay=1)
            assert "UTF-8" in await sink.placed(link, b"x", "\udcff")
            assert await sink.placed(link, b"x", "nowhere", mandatory=False) == ""

    asyncio.run(scene())
    assert stored(path) == [b"bound"]


def test_bindings(path):
    """An input is bound by patterns; an output that is an exchange alone needs somebody who has bound a queue."""
    results = Placement("", "results", "done")
    topology = Topology("frames", results, "frames.dlq", bindings=Bindings("cameras", ("cam.*.frame", "cam.#")))

    async def scene():
        async with opened(path, topology) as (link, sink):
            link.consume(5)
            assert await sink.placed(link, b"one", "cam.1.frame", "cameras") == ""  # once, though both bindings match
            assert await sink.placed(link, b"two", "cam", "cameras") == ""
            assert "no queue" in await sink.placed(link, b"x", "other", "cameras")
            assert "no exchange 'results'" in await sink.placed(link, b"x", "done", "results")
            await until(lambda: sink.bodies == [b"one", b"two"], 5, "the frames")
            bound = Topology("sink", None, "sink.dlq", bindings=Bindings("results", ("done",)))
            async with opened(path, bound) as (other, taken):
                other.consume(5)
                assert await sink.placed(link, b"result", "done", "results") == ""
                await until(lambda: taken.bodies == [b"result"], 5, "the result")

    asyncio.run(scene())


def test_result_settles(path):
    """A result and its input's ack are one step, after which the ack has no effect; a refused one settles nothing."""

    async def scene():
        async with opened(path) as (link, sink):
            await sink.placed(link, b"a")
            await sink.placed(link, b"b")
            link.consume(2)
            await until(lambda: len(sink.deliveries) == 2, 5, "deliveries")
            assert await sink.placed(link, b"A", "key", "exchange", settles=(1, 1)) == ""
            assert stored(path) == [b"b", b"A"]
            link.ack(1, 1, multiple=False)
            assert await sink.placed(link, b"B", "nowhere", settles=(1, 2))
            assert await sink.placed(link, b"C", "key", "exchange", settles=(9, 2)) == ""
            assert stored(path) == [b"b", b"A", b"C"]

    asyncio.run(scene())


def test_several_results_are_stored_together(path):
    """They and their input's ack are one step; when one is refused, none is stored."""

    async def scene():
        async with opened(path) as (link, sink):
            await sink.placed(link, b"a")
            await sink.placed(link, b"b")
            link.consume(2)
            await until(lambda: len(sink.deliveries) == 2, 5, "deliveries")
            each = [Publication("exchange", "key", b"\0\0", body, settles=(1, 1)) for body in (b"A", b"B")]
            lost = Publication("", "nowhere", b"\0\0", b"C", settles=(1, 1))
            link.publish_together((101, 102, 103), (*each, lost))
            await until(lambda: len(sink.refusals) == 3, 5, "refusals")
            assert list(sink.refusals) == [101, 102, 103]
            assert stored(path) == [b"a", b"b"]
            link.publish_together((104, 105), each)
            await until(lambda: {104, 105} <= set(sink.confirmed_ids), 5, "confirms")
            assert stored(path) == [b"b", b"A", b"B"]

    asyncio.run(scene())


def test_release(path):
    """What is released, or held when the Link closes, is ready again in its old place, marked as redelivered."""

    async def scene():
        async with opened(path) as (link, sink):
            for body in (b"1", b"2", b"3"):
                await sink.placed(link, body)
            link.consume(2)
            await until(lambda: len(sink.deliveries) == 2, 5, "deliveries")
            link.consume(0)
            await until(lambda: not link.state.consuming, 5, "not consuming")
            link.release(1, [1])
        async with opened(path) as (link, sink):
            link.consume(5)
            await until(lambda: len(sink.deliveries) == 3, 5, "deliveries")
            assert [(d.body, d.redelivered) for d in sink.deliveries] == [(b"1", True), (b"2", True), (b"3", False)]

    asyncio.run(scene())


def test_wake_up(path, monkeypatch):
    """A message from another connection is delivered within a few polls, long before the next tick."""
    monkeypatch.setattr("mqworker.brokers.sqlite.writer.TICK", 600.0)

    async def scene():
        async with opened(path) as (link, sink), opened(path) as (other, publisher):
            link.consume(1)
            await until(lambda: link._writer._poll == POLL[1], 5, "it to poll at its slowest")
            await publisher.placed(other, b"x")
            await until(lambda: sink.deliveries, 20 * POLL[1], "the delivery")

    asyncio.run(scene())


def test_delay(path, monkeypatch):
    """A delayed message waits in its retry queue for its time, which a jump of the wall clock does not change."""

    async def scene():
        async with opened(path) as (link, sink):
            link.consume(5)
            began = time.monotonic()
            await sink.placed(link, b"later", delay=1)
            await sink.placed(link, b"not today", delay=10_000)
            admin = SqliteAdmin(path)
            waiting = await admin.queue("in.retry.10000", AMPLE)
            await admin.close()
            assert waiting is not None
            assert waiting.messages == 1
            real = time.time
            monkeypatch.setattr(time, "time", lambda: real() + 3600)
            await until(lambda: sink.deliveries, 5, "the delivery")
            assert time.monotonic() - began >= 1
            assert [astuple(delivery)[2:] for delivery in sink.deliveries] == [(b"\0\0", b"later", False, "", "in")]

    asyncio.run(scene())


@pytest.mark.parametrize(("wall", "arrives"), [(-1, True), (3600, False)])
def test_delay_over_a_reboot(path, wall, arrives):
    """After a reboot the wall clock shows how much of a delay remains."""

    async def scene():
        async with opened(path) as (link, sink):
            await sink.placed(link, b"later", delay=3000)
        with sqlite3.connect(path) as db:
            db.execute("UPDATE delayed SET boot = 'former', due = 0, due_wall = ?", (time.time() + wall,))
        db.close()
        async with opened(path) as (link, sink):
            link.consume(1)
            await until(lambda: link.state.consuming, 5, "consuming")
            assert bool(sink.deliveries) == arrives

    asyncio.run(scene())
    if not arrives:
        left = stored(path, "SELECT due FROM delayed")[0] - time.clock_gettime(time.CLOCK_BOOTTIME)
        assert 2900 < left <= 3000


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(path, name):
    """A queue, exchange or routing key may have any name; it never becomes part of a statement."""

    async def scene():
        topology = Topology("in", Placement(name, name, name), name + ".dlq")
        async with opened(path, topology) as (link, sink):
            assert await sink.placed(link, b"x", name, name) == ""
            admin = SqliteAdmin(path)
            assert [each.body for each in await admin.peek(name, 9, AMPLE)] == [b"x"]
            assert await admin.delete(name, AMPLE) == 1
            await admin.close()

    asyncio.run(scene())


def test_deleted_input(path):
    """An input queue that is deleted under a stage is created again, and the stage goes on."""

    async def scene():
        admin = SqliteAdmin(path)
        async with opened(path) as (link, sink):
            link.consume(1)
            await until(lambda: link.state.consuming, 5, "consuming")
            await admin.delete("in", AMPLE)
            await until(lambda: "in" in stored(path, "SELECT name FROM queue"), 5, "the queue")
            await admin.send("in", b"\0\0", b"x", AMPLE)
            await until(lambda: sink.deliveries, 5, "the delivery")
        await admin.close()

    asyncio.run(scene())


def test_idle(path):
    """A Link with nothing to do uses almost no processor time."""

    async def scene():
        async with opened(path) as (link, _):
            link.consume(10)
            await until(lambda: link.state.consuming, 5, "consuming")
            began, before = time.monotonic(), time.process_time()
            await asyncio.sleep(2)  # what is measured
            return (time.process_time() - before) / (time.monotonic() - began)

    assert asyncio.run(scene()) < 0.02  # 0.002 when measured alone


def test_admin_looks(path):
    """Looking at a queue changes nothing; a missing one is None or refused."""

    async def scene():
        async with opened(path) as (link, sink):
            admin = SqliteAdmin(path)
            await admin.send("in", b"\0\0", b"1", AMPLE)
            await admin.send("in", b"\0\0", b"2", AMPLE)
            for _ in range(2):
                assert await admin.peek("in", 9, AMPLE) == [(0, b"\0\0", b"1"), (1, b"\0\0", b"2")]
            link.consume(1)
            await until(lambda: sink.deliveries, 5, "the delivery")
            assert not sink.deliveries[0].redelivered
            info = await admin.queue("in", AMPLE)
            assert (info.messages, info.consumers) == (1, 1)
            assert await admin.purge("in", AMPLE) == 1
            assert await admin.queue("nowhere", AMPLE) is None
            for question in (admin.purge, admin.delete):
                with pytest.raises(BrokerRefused, match="nowhere"):
                    await question("nowhere", AMPLE)
            with pytest.raises(BrokerRefused, match="nowhere"):
                await admin.send("nowhere", b"\0\0", b"", AMPLE)
            await admin.close()
        assert stored(path) == [b"1"]  # the leased one was not purged

    asyncio.run(scene())


def test_admin_moves(path):
    """Each message is moved, dropped or left as requested; a refused move leaves everything unchanged."""

    def wanted(_, body):
        return {b"1": Publication("exchange", "key", b"\0\0", b"moved"), b"2": DROP}.get(body)

    async def scene():
        admin = SqliteAdmin(path)
        async with opened(path):
            for body in (b"1", b"2", b"3", b"1"):
                await admin.send("in", b"\0\0", body, AMPLE)
            assert await admin.move("in", 3, wanted, AMPLE) == 2
            assert stored(path) == [b"3", b"1", b"moved"]
            with pytest.raises(BrokerRefused, match="no queue"):
                await admin.move("in", 9, lambda *_: Publication("", "nowhere", b"\0\0", b""), AMPLE)
            assert stored(path) == [b"3", b"1", b"moved"]
        await admin.close()

    asyncio.run(scene())


def test_a_move_holds_no_lock_while_it_reads(path):
    """Others write meanwhile; what they take is left to them, and what is chosen is moved in bounded transactions."""

    async def scene():
        admin = SqliteAdmin(path)
        async with opened(path):
            for body in (b"1", b"2", b"3", b"4"):
                await admin.send("in", b"\0\0", body, AMPLE)

            def wanted(_, body):
                if body == b"3":
                    other = sqlite3.connect(path, timeout=0, isolation_level=None)
                    other.execute("UPDATE message SET owner = 1 WHERE id = (SELECT min(id) FROM message)")
                    other.close()
                return Publication("exchange", "key", b"\0\0", b"moved " + body) if body != b"2" else DROP

            assert await admin.move("in", 9, wanted, AMPLE, most=3) == 3
            assert stored(path) == [b"1", b"moved 3", b"moved 4"]
        await admin.close()

    asyncio.run(scene())


@pytest.mark.parametrize(("count", "size", "moves"), [(3, 1000, 1), (4, 40, 2)])
def test_a_move_stores_bounded_transactions(path, monkeypatch, count, size, moves):
    """Each ends at so many messages, or so many bytes, and begins only when something is to be moved."""
    monkeypatch.setattr(admin_module, "MOVED", count)
    monkeypatch.setattr(choosing, "AT_ONCE", size)
    begun = []

    class Moving:
        def begins(self, some):
            return not begun.append(some)

        def moved(self, some):
            begun[-1] = some

    async def scene():
        admin = SqliteAdmin(path)
        async with opened(path):
            for body in (b"1", b"2", b"3", b"4"):
                await admin.send("in", b"\0\0", 20 * body, AMPLE)
            keep = Publication("exchange", "key", b"\0\0", bytes(20))
            assert (
                await admin.move("in", 4, lambda _, body: keep if body[0] != 50 else None, AMPLE, moving=Moving()) == 3
            )
            assert await admin.move("in", 1, lambda *_: None, AMPLE, moving=Moving()) == 0
        await admin.close()

    asyncio.run(scene())
    assert (len(begun), sum(begun)) == (moves, 3)


def test_admin_calls(path):
    """A call returns the reply to its own request, and leaves no queue behind; without one it ends at its deadline."""

    async def answer(link, sink):
        link.consume(2)
        await until(lambda: len(sink.deliveries) == 2, 5, "the requests")
        for delivery in sink.deliveries:
            request = Properties.decode(delivery.properties)
            reply = Properties(correlation_id=request.correlation_id).encode()
            link.publish(delivery.tag, Publication("", request.reply_to, reply, delivery.body.upper(), mandatory=False))
            link.ack(delivery.epoch, delivery.tag, multiple=False)

    async def scene():
        admin = SqliteAdmin(path)
        async with opened(path) as (link, sink):
            *replies, _ = await asyncio.gather(
                admin.call("in", b"", b"a", AMPLE), admin.call("in", b"", b"b", AMPLE), answer(link, sink)
            )
            assert [[body for _, body in each] for each in replies] == [[b"A"], [b"B"]]
            with pytest.raises(BrokerUnavailable, match="nobody has replied from"):
                await admin.call("out", b"", b"a", 1.0)
        await admin.close()

    asyncio.run(scene())
    assert set(stored(path, "SELECT name FROM queue")) == {TOPOLOGY.input, TOPOLOGY.dead, "out"}
    assert stored(path, "SELECT count(*) FROM owner") == [0]
