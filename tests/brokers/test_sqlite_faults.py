"""The embedded broker when things go wrong: killed processes, contention, a full disk, a damaged or replaced file."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter

import pytest

from mqworker.brokers.base import BrokerUnavailable, Placement, Topology
from mqworker.brokers.sqlite import writer as writer_module
from mqworker.brokers.sqlite.admin import SqliteAdmin
from mqworker.brokers.sqlite.file import File
from mqworker.brokers.sqlite.link import SqliteLink
from mqworker.brokers.sqlite.session import Session
from tests.support.sqlite_link import Recorder, opened
from tests.support.waiting import AMPLE, until, wait_for


@pytest.fixture
def path(tmp_path):
    return tmp_path / "broker.db"


@contextlib.contextmanager
def process(verb, path):
    child = subprocess.Popen([sys.executable, "-m", "tests.support.sqlite_link", verb, path], stdout=subprocess.PIPE)
    try:
        yield child
    finally:
        child.kill()
        child.wait(60)
        child.stdout.close()


def ask(path, query, *values):
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        return db.execute(query, values).fetchall()


def test_killed_owner(path, monkeypatch):
    """What a killed process held is delivered again at once and in order, even before it is reaped."""
    ticks, tick = [], Session.tick
    monkeypatch.setattr(Session, "tick", lambda self: (tick(self), ticks.append(self)))

    async def scene():
        async with opened(path) as (link, sink):
            for body in (b"1", b"2", b"3"):
                await sink.placed(link, body)
            with process("hold", path) as child:
                assert child.stdout.readline() == b"3\n"
                await sink.placed(link, b"4")
                os.kill(child.pid, signal.SIGSTOP)
                link.consume(9)
                ticks.clear()
                await until(lambda: len(ticks) >= 2, 10, "two looks: a stopped owner keeps what it has")
                assert sink.bodies in ([], [b"4"])
                os.kill(child.pid, signal.SIGKILL)
                await until(lambda: len(sink.deliveries) == 4, 5, "the lease's end")
        held = [(d.body, d.redelivered) for d in sink.deliveries if d.body != b"4"]
        assert held == [(b"1", True), (b"2", True), (b"3", True)]

    asyncio.run(scene())


@pytest.mark.parametrize("changed", ["boot = 'former'", "started = started + 1"])
def test_owner_of_another_life(path, changed):
    """A lease from before a reboot, or of an earlier process with the same pid, is void."""

    async def scene():
        async with opened(path) as (link, sink), opened(path) as (other, _):
            await sink.placed(link, b"1")
            other.consume(1)
            await until(lambda: ask(path, "SELECT 1 FROM message WHERE owner NOT NULL"), 5, "the lease")
            ask(path, f"UPDATE owner SET {changed} WHERE id = (SELECT owner FROM message)")
            link.consume(1)
            await until(lambda: sink.deliveries, 5, "the delivery")
            assert sink.deliveries[0].redelivered

    asyncio.run(scene())


def test_leases_taken_away(path):
    """A Link whose registration is gone reports its deliveries as void, and acks none of them."""

    async def scene():
        async with opened(path) as (link, sink):
            await sink.placed(link, b"1")
            link.consume(1)
            await until(lambda: sink.deliveries, 5, "the delivery")
            ask(path, "DELETE FROM owner")
            ask(path, "UPDATE message SET owner = NULL")
            link.ack(1, 1, multiple=False)
            await until(lambda: len(sink.deliveries) == 2, 5, "the delivery again")
            assert [epoch for epoch, _ in sink.voided] == [1]
            assert (sink.deliveries[1].epoch, sink.deliveries[1].tag) == (2, 1)
            assert link.state.reconnects == 1

    asyncio.run(scene())


def test_killed_while_publishing(path):
    """After each of 20 kills at random points everything that was confirmed is there, and the file is sound."""
    chance = random.Random(7)
    confirmed: Counter[bytes] = Counter()
    for _ in range(20):
        with process("publish", path) as child:
            first = b"".join(child.stdout.readline() for _ in range(chance.randint(1, 400)))
            child.kill()
            lines = (first + child.stdout.read()).rpartition(b"\n")[0].split()
        confirmed.update(lines)
        found = Counter(row[0] for row in ask(path, "SELECT body FROM content"))
        assert ask(path, "PRAGMA integrity_check") == [("ok",)]
        assert lines
        assert not confirmed - found
        assert ask(path, "SELECT count(*) FROM message") == [(found.total(),)]


def test_contention(path):
    """Four processes use one file at once: nothing is refused or lost, no lock is noticed, the sums are right."""
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(process("relay", path)) for _ in range(4)]
        answers = [list(map(int, child.communicate(timeout=180)[0].split())) for child in children]
    assert [answer[1:] for answer in answers] == [[0, 0, 0]] * 4
    counts = dict(ask(path, "SELECT q.name, count(*) FROM message m JOIN queue q ON q.id = m.queue GROUP BY 1"))
    assert counts.get("in", 0) + counts["out"] == sum(answer[0] for answer in answers)
    assert counts["out"] > 100
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]


def test_kept_lock(path, monkeypatch):
    """While another process holds the lock, publishes are refused in time and acks are kept; afterwards all goes on."""
    monkeypatch.setattr(writer_module, "LOCKED", 0.5)

    async def scene():
        async with opened(path) as (link, sink):
            await sink.placed(link, b"1")
            link.consume(1)
            await until(lambda: sink.deliveries, 5, "the delivery")
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                link.ack(1, 1, multiple=False)
                assert "locked" in await sink.placed(link, b"2")
                await until(lambda: link.state.blocked, 5, "blocked")
                assert "fuser" in link.state.reason
            await until(lambda: not link.state.blocked, 5, "unblocked")
            assert await sink.placed(link, b"3") == ""
            await until(lambda: len(sink.deliveries) == 2, 5, "the delivery")
            assert (sink.bodies, sink.voided) == ([b"1", b"3"], [])

    asyncio.run(scene())


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]
    if not mount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    yield folder
    subprocess.run([umount, "--lazy", folder], check=True, timeout=60)


def test_full_disk(small_disk):
    """On a full disk publishes are refused, nothing unstored is confirmed; with space again all goes on, acks too."""
    path = small_disk / "broker.db"

    async def scene():
        async with opened(path) as (link, sink):
            await sink.placed(link, b"first")
            link.consume(1)
            await until(lambda: sink.deliveries, 5, "the delivery")
            link.consume(0)
            (small_disk / "ballast").write_bytes(bytes(512 << 10))
            reasons = [await sink.placed(link, b"%5d" % number + bytes(20_000)) for number in range(200)]
            assert "" in reasons
            refused = [reason for reason in reasons if reason]
            assert refused
            assert all("full" in reason for reason in refused)
            stored = {row[0][:5] for row in ask(path, "SELECT body FROM content")} - {b"first"}
            assert stored == {b"%5d" % number for number, reason in enumerate(reasons) if not reason}
            link.ack(1, 1, multiple=False)
            (small_disk / "ballast").unlink()
            await until(lambda: not link.state.blocked, 5, "unblocked")
            assert await sink.placed(link, b"last") == ""
            assert ask(path, "SELECT count(*) FROM content WHERE body = ?", b"first") == [(0,)]
            assert (sink.voided, sink.lost) == ([], [])

    asyncio.run(scene())


def test_replaced_file(path):
    """When the file is replaced, publications are refused or lost, never confirmed; then the new file is used."""

    async def scene():
        async with opened(path) as (link, sink):
            await sink.placed(link, b"old")
            link.consume(1)
            await until(lambda: sink.deliveries, 5, "the delivery")
            for found in list(path.parent.iterdir()):
                found.unlink()
            other = File(path)  # another process is faster to make a new one
            log = (path.parent / "broker.db-wal").stat().st_ino
            publish_id = sink.publish(link, b"into the deleted one")
            await until(lambda: sink.voided and sink.lost, 5, "the loss")
            assert publish_id not in sink.confirmed_ids
            assert "deleted" in sink.voided[0][1]
            await until(lambda: link.state.connected, 5, "the new file")
            assert await sink.placed(link, b"new") == ""
            assert (path.parent / "broker.db-wal").stat().st_ino == log
            other.close()
        assert ask(path, "SELECT body FROM content") == [(b"new",)]

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"not a database at all" * 100, "damaged or not an mqworker broker"), (None, "another program")],
)
def test_foreign_file(path, content, words):
    """A damaged file, or a database of another program, is left unchanged, and the reason states what to do."""
    if content is None:
        ask(path, "CREATE TABLE theirs (x)")
        content = path.read_bytes()
    path.write_bytes(content)

    async def scene():
        sink = Recorder()
        link = SqliteLink(path, Topology("in", Placement("out"), "dead"), sink, name="test")
        link.start()
        await until(lambda: sink.states, 5, "a state")
        assert words in link.state.reason
        assert str(path) in link.state.reason
        assert words in await sink.placed(link, b"x")
        admin = SqliteAdmin(path)
        with pytest.raises(BrokerUnavailable, match=words):
            await admin.queue("in", AMPLE)
        await admin.close()
        await link.close(AMPLE)

    asyncio.run(scene())
    assert path.read_bytes() == content


def test_damaged_pages(path):
    """A file with a sound head and damaged pages is reported as damaged; nothing is confirmed, delivered or cut off."""

    async def scene():
        async with opened(path) as (link, sink):
            for _ in range(50):
                sink.publish(link, bytes(5000))
            await until(lambda: len(sink.confirmed_ids) == 50, 5, "confirms")
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))
        sink = Recorder()
        link = SqliteLink(path, Topology("in", None, "in.dlq"), sink, name="test")
        link.start()
        link.consume(10)
        await until(lambda: sink.states and "damaged" in link.state.reason, 5, "the reason")
        assert await sink.placed(link, b"x")
        assert (link.state.connected, sink.deliveries) == (False, [])
        await link.close(AMPLE)
        assert path.stat().st_size == size

    asyncio.run(scene())


def test_admin_deadline(path):
    """A request that is not answered in time is not carried out later."""

    async def scene():
        admin = SqliteAdmin(path)
        async with opened(path):
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
                db.execute("BEGIN IMMEDIATE")
                with pytest.raises(BrokerUnavailable):
                    await admin.send("in", b"\0\0", b"late", 0.3)
            await admin.send("in", b"\0\0", b"next", AMPLE)
        await admin.close()

    asyncio.run(scene())
    assert ask(path, "SELECT body FROM content") == [(b"next",)]


def test_dead_admin(path):
    """The reply queue of a killed admin is removed by the remaining processes."""
    code = (
        "import asyncio, sys, pathlib; from mqworker.brokers.sqlite.admin import SqliteAdmin;"
        "asyncio.run(SqliteAdmin(pathlib.Path(sys.argv[1])).call('in', b'', b'', 60))"
    )

    async def scene():
        async with opened(path):
            child = subprocess.Popen([sys.executable, "-c", code, path])  # noqa: ASYNC220 - it must be killed
            replies = "SELECT 1 FROM queue WHERE name LIKE 'mqworker.reply.%'"
            try:
                await until(lambda: ask(path, replies), 10, "the reply queue")
            finally:
                child.kill()
                child.wait(AMPLE)
            await until(lambda: not ask(path, replies), 5, "its removal")

    asyncio.run(scene())


def test_loop_without_close(path):
    """The writer outlives a loop that was closed before the Link, without an error."""

    async def careless():
        sink = Recorder()
        link = SqliteLink(path, Topology("in", None, "in.dlq"), sink, name="test")
        link.start()
        await until(lambda: link.state.connected, 5, "connecting")
        return link

    link = asyncio.run(careless())
    link._writer.commands.put(writer_module.Close(time.monotonic() + 5))
    wait_for(lambda: not link._writer.is_alive(), 5, "the thread's end")
